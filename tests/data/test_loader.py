"""Batches: the same bytes both ways, from any step on, for any number of ranks and loader processes."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distaug import draws
from distaug.data.balance import quotas, sample_ids
from distaug.data.decode import train_view
from distaug.data.loader import Batch, Loader, Way, choose_way
from distaug.data.open import DataSet, open_data
from distaug.data.shard import own_shards
from distaug.errors import ClusterError, DataError, JobError
from distaug.spec.data import DataSpec, SyntheticSpec

MakeFolder = Callable[..., Path]
CPU = torch.device("cpu")
NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
GPU = pytest.param("cuda", marks=NEEDS_GPU)


@pytest.fixture
def made_up() -> DataSet:
    """Return 180 training, 20 validation and 40 test pictures of 8x8."""
    spec = DataSpec(source="synthetic", image_size=8, synthetic=SyntheticSpec(samples=200, classes=4))
    return open_data(spec, log=lambda line: None)


@pytest.fixture
def mixed(make_folder: MakeFolder) -> DataSet:
    """Return 72 training and 8 validation pictures of different sizes, to be shown at 16x16."""
    root = make_folder({"cat": 40, "dog": 40}, [(20, 30), (30, 20), (24, 24)])
    return open_data(DataSpec(source="folder", path=str(root), image_size=16), log=lambda line: None)


def make(
    data: DataSet, way: Way = "device", rank: int = 0, world: int = 1, device: str = "cpu", **fields: object
) -> Loader:
    shards = int(str(fields.pop("shards", 4)))
    return Loader(
        data,
        device=torch.device(device),
        seed=5,
        global_batch=int(str(fields.pop("global_batch", 24))),
        shards=shards,
        own=own_shards(rank, world, shards),
        spec=DataSpec(source="synthetic", **fields),
        way=way,
        eval_batch=7,
        rank=rank,
        world=world,
    )


def flat(steps: list[list[Batch]]) -> list[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    return [(batch.shard, batch.images.cpu(), batch.labels.cpu(), batch.ids.cpu()) for step in steps for batch in step]


def assert_same(left: list[list[Batch]], right: list[list[Batch]]) -> None:
    assert len(left) == len(right) > 0
    for one, other in zip(flat(left), flat(right), strict=True):
        assert one[0] == other[0]
        for a, b in zip(one[1:], other[1:], strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("way", ["device", "stream"])
def test_batches_are_the_epochs_permutation_cut_into_shards(made_up: DataSet, way: Way) -> None:
    loader = make(made_up, way)
    order = draws.permutation(5, 3, 180)
    steps = list(loader.train(3))
    assert loader.steps_per_epoch == len(steps) == 7
    for step, batches in enumerate(steps):
        assert [batch.shard for batch in batches] == [0, 1, 2, 3]
        for batch in batches:
            start = step * 24 + batch.shard * 6
            assert torch.equal(batch.ids, order[start : start + 6])
            assert batch.images.dtype == torch.uint8 and batch.images.shape == (6, 3, 8, 8)
            assert torch.equal(batch.images, made_up.train.pictures(batch.ids))
            assert torch.equal(batch.labels, made_up.train.labels[batch.ids])


@pytest.mark.parametrize("balance", ["repeat_factor", "class_balanced"])
@pytest.mark.parametrize("way", ["device", "stream"])
def test_a_balanced_epoch_shows_some_pictures_more_than_once(way: Way, balance: str) -> None:
    spec = DataSpec(source="synthetic", image_size=8, synthetic=SyntheticSpec(samples=200, classes=4))
    data = open_data(spec.model_copy(update={"long_tail_ratio": 9.0}), log=lambda line: None)
    n, loader = len(data.train), make(data, way, balance=balance)
    quota = quotas(data.train.labels, DataSpec(source="synthetic", balance=balance))
    order = sample_ids(data.train.labels, quota, 5, 1)
    steps = list(loader.train(1))
    assert loader.steps_per_epoch == len(steps) == quota.sum() // 24 and order.max() >= n
    assert torch.equal(torch.cat([ids for *_, ids in flat(steps)]), order[: 24 * len(steps)])
    for _, images, labels, ids in flat(steps):
        assert torch.equal(images, data.train.pictures(ids % n)) and torch.equal(labels, data.train.labels[ids % n])


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_both_ways_give_the_same_bytes(made_up: DataSet, device: str) -> None:
    on_cpu = list(make(made_up).train(1))
    assert_same(on_cpu, list(make(made_up, "device", device=device).train(1)))
    assert_same(on_cpu, list(make(made_up, "stream", device=device).train(1)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_streamed_batches_survive_slow_kernels(made_up: DataSet) -> None:
    kept = []
    for batches in make(made_up, "stream", device="cuda").train(0):
        torch.cuda._sleep(2_000_000)
        kept.append(batches)
    assert_same(list(make(made_up).train(0)), kept)


@pytest.mark.parametrize("way", ["device", "stream"])
@pytest.mark.parametrize("world", [2, 3, 4, 7])
def test_ranks_share_what_one_rank_reads_alone(made_up: DataSet, way: Way, world: int) -> None:
    whole = list(make(made_up, way, shards=8).train(2))
    ranks = [list(make(made_up, way, rank, world, shards=8).train(2)) for rank in range(world)]
    joined = [[batch for own in step for batch in own] for step in zip(*ranks, strict=True)]
    assert_same(whole, joined)


@pytest.mark.parametrize("way", ["device", "stream"])
def test_epochs_differ_and_repeat(made_up: DataSet, way: Way) -> None:
    loader = make(made_up, way)
    first, second = list(loader.train(0)), list(loader.train(1))
    assert not torch.equal(first[0][0].ids, second[0][0].ids)
    assert_same(first, list(loader.train(0)))


@pytest.mark.parametrize("way", ["device", "stream"])
@pytest.mark.parametrize("start", [1, 6, 7])
def test_starting_in_mid_epoch_gives_the_tail(made_up: DataSet, way: Way, start: int) -> None:
    loader = make(made_up, way)
    whole, tail = list(loader.train(4)), list(loader.train(4, start))
    assert len(tail) == 7 - start
    if tail:
        assert_same(whole[start:], tail)


@pytest.mark.parametrize("way", ["device", "stream"])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_evaluation_shows_each_picture_once(made_up: DataSet, way: Way, world: int) -> None:
    for name, split in (("val", made_up.val), ("test", made_up.test)):
        assert split is not None
        found = sorted(
            (number, batch.ids.tolist(), batch.labels.tolist(), batch.images)
            for rank in range(world)
            for number, batch in make(made_up, way, rank, world, shards=8).evaluate(name)
        )
        assert [number for number, *_ in found] == list(range(-(-len(split) // 7)))
        assert [i for _, ids, *_ in found for i in ids] == list(range(len(split)))
        assert [label for _, _, labels, _ in found for label in labels] == split.labels.tolist()
        images = torch.cat([images for *_, images in found])
        assert torch.equal(images, split.pictures(torch.arange(len(split))))


def test_a_set_that_is_not_there_is_an_error(mixed: DataSet) -> None:
    with pytest.raises(DataError, match="no test set; see data.test_fraction"):
        make(mixed, "stream").evaluate("test")


def test_what_does_not_divide_is_refused(made_up: DataSet) -> None:
    with pytest.raises(DataError, match="180 pictures, fewer than one global batch of 200"):
        make(made_up, global_batch=200)
    with pytest.raises(JobError, match="24 cannot be divided among 5 shards"):
        make(made_up, shards=5)


def expected_crop(data: DataSet, root: Path, epoch: int, i: int) -> np.ndarray:
    uniforms = [float(draws.uniform(5, epoch, torch.tensor([i]), "resized_crop", k)) for k in range(4)]
    picture = Image.open(root / data.train.name(i % len(data.train)))
    return train_view(np.asarray(picture), 16, uniforms).transpose(2, 0, 1)


def test_pictures_of_different_sizes_are_cropped_by_their_own_draws(mixed: DataSet, tmp_path: Path) -> None:
    steps = list(make(mixed, "stream", loader_workers=0).train(3))
    assert len(steps) == 3
    for _, images, labels, ids in flat(steps):
        assert torch.equal(labels, mixed.train.labels[ids])
        for image, i in zip(images, ids.tolist(), strict=True):
            assert np.array_equal(image, expected_crop(mixed, tmp_path / "pictures", 3, i))


def test_each_use_of_a_picture_has_a_crop_of_its_own(make_folder: MakeFolder) -> None:
    root = make_folder({"common": 56, "rare": 4}, [(20, 30), (24, 24)])
    data = open_data(DataSpec(source="folder", path=str(root), image_size=16), log=lambda line: None)
    steps = flat(list(make(data, "stream", balance="class_balanced", loader_workers=0).train(3)))
    assert max(int(ids.max()) for *_, ids in steps) >= 2 * len(data.train), "the rare ones are used often"
    for _, images, labels, ids in steps:
        assert torch.equal(labels, data.train.labels[ids % len(data.train)])
        for image, i in zip(images, ids.tolist(), strict=True):
            assert np.array_equal(image, expected_crop(data, root, 3, i))


def test_evaluation_of_different_sizes_is_the_centre(mixed: DataSet) -> None:
    found = list(make(mixed, "stream", loader_workers=0).evaluate("val"))
    assert mixed.val is not None
    images = torch.cat([batch.images for _, batch in found])
    assert torch.equal(images, mixed.val.pictures(torch.arange(len(mixed.val))))


def test_loader_processes_change_no_pixel(mixed: DataSet) -> None:
    inline = make(mixed, "stream", loader_workers=0)
    expected = list(inline.train(1))
    for workers in (1, 3):
        loader = make(mixed, "stream", loader_workers=workers)
        try:
            assert_same(expected, list(loader.train(1)))
            assert_same(expected[1:], list(loader.train(1, 1)))
            assert_same(list(inline.train(2)), list(loader.train(2)))
            assert len(list(loader.evaluate("val"))) == 2
        finally:
            loader.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_lost_since_the_check_is_named(mixed: DataSet, tmp_path: Path, workers: int) -> None:
    lost = mixed.train.name(11)
    (tmp_path / "pictures" / lost).unlink()
    loader = make(mixed, "stream", loader_workers=workers)
    try:
        with pytest.raises(DataError, match=f"{lost} was sound when the data was checked"):
            list(loader.train(0))
    finally:
        loader.close()


def test_a_killed_loader_process_is_an_error_and_not_a_hang(mixed: DataSet) -> None:
    loader = make(mixed, "stream", loader_workers=1)
    try:
        steps = loader.train(0)
        next(steps)
        for process in loader._views._pool._processes.values():
            os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(ClusterError, match="one of 1 loader processes died"):
            list(steps)  # whoever was reading is told; the epoch may all have been read ahead by then
            list(loader.train(1))
    finally:
        loader.close()


def test_loader_processes_outlive_ctrl_c_and_end_with_the_loader(mixed: DataSet) -> None:
    loader = make(mixed, "stream", loader_workers=1)
    expected = list(loader.train(0))
    pids = list(loader._views._pool._processes)
    for pid in pids:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert_same(expected, list(loader.train(0)))
    assert list(loader._views._pool._processes) == pids
    loader.close()
    limit = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["made_up", "mixed"])
def test_leaving_early_stops_the_thread(kind: str, request: pytest.FixtureRequest) -> None:
    loader = make(request.getfixturevalue(kind), "stream", loader_workers=0)
    batches = loader.train(0)
    next(batches)
    start = time.monotonic()
    batches.close()
    assert time.monotonic() - start < 2
    assert not [thread for thread in threading.enumerate() if thread.name == "distaug-batches"]
    loader.close()


def test_waiting_for_data_is_measured(mixed: DataSet) -> None:
    batches = make(mixed, "stream", loader_workers=0).train(0)
    assert batches.wait_seconds == 0
    next(batches)
    first = batches.wait_seconds
    assert 0 < first < 30
    time.sleep(0.1)
    list(batches)
    assert first < batches.wait_seconds < 30


def test_way_is_chosen_by_what_is_held_and_what_fits(
    made_up: DataSet, mixed: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = DataSpec(source="synthetic")
    assert choose_way(made_up, spec, CPU) == "device"
    assert choose_way(mixed, spec, CPU) == "stream"
    assert choose_way(made_up, DataSpec(source="synthetic", batches="stream"), CPU) == "stream"
    with pytest.raises(DataError, match="data.batches is `device`, but the pictures have different sizes"):
        choose_way(mixed, DataSpec(source="synthetic", batches="device"), CPU)
    size = 240 * 3 * 8 * 8
    for free, way in ((size * 4, "device"), (size * 4 - 4, "stream")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10 * free))
        assert choose_way(made_up, spec, torch.device("cuda")) == way
    half = DataSpec(source="synthetic", device_memory_share=0.5)
    assert choose_way(made_up, half, torch.device("cuda")) == "device"
    forced = DataSpec(source="synthetic", batches="device", device_memory_share=0.01)
    assert choose_way(made_up, forced, torch.device("cuda")) == "device"


def test_no_copy_of_the_set_is_made_on_the_cpu(made_up: DataSet) -> None:
    for way in ("device", "stream"):
        loader = make(made_up, way)
        list(loader.train(0))
        assert loader._held == {}
    assert made_up.val is not None and made_up.train.pixels is made_up.val.pixels
