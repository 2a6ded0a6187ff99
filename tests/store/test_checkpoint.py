"""Checkpoints: bits, choice, damage, retention, full disks and kills."""

import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distaug.errors import StorageError
from distaug.store import checkpoint, whole
from distaug.store.checkpoint import Checkpoint, weights_digest


def tensors(number: int, size: int = 8) -> dict[str, Tensor]:
    return {"w": torch.full((size,), float(number)), "steps": torch.tensor(number)}


def put(folder: Path, epoch: int, step: int = 0, score: float | None = None, keep_best: int = 1) -> Checkpoint:
    return checkpoint.save(
        folder,
        epoch=epoch,
        step=step,
        weights={"model": tensors(1000 * epoch + step)},
        state={"position": {"epoch": epoch, "step": step}},
        manifest={"job": "j", "score": score},
        keep_best=keep_best,
    )


def silent(message: str) -> None:
    raise AssertionError(f"unexpected warning: {message}")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def check(found: Checkpoint | None) -> Checkpoint:
    """The checkpoint is whole and its parts belong together."""
    assert found is not None
    number = 1000 * found.epoch + found.step
    assert found.weights("model")["steps"].item() == number
    assert found.weights("model")["w"].tolist() == [number] * len(found.weights("model")["w"])
    assert found.state() == {"position": {"epoch": found.epoch, "step": found.step}}
    return found


# --- what goes in comes out -----------------------------------------------------------------------


def awkward_tensors() -> dict[str, Tensor]:
    flat = torch.randn(60)
    pool = torch.arange(12)
    return {
        "conv": torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
        "transposed": torch.randn(3, 7).T,
        "first half": flat[:30].view(5, 6),
        "second half": flat[30:],
        "overlapping": pool[2:9],
        "pool": pool,
        "tied": flat,
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.empty(0, 4),
        "bf16": torch.randn(9).bfloat16(),
        "bool": torch.tensor([True, False]),
        "strange": torch.tensor([math.nan, -math.nan, math.inf, -0.0, 1e-45]),
        "double": torch.randn(2, dtype=torch.float64),
        "parameter": nn.Parameter(torch.randn(3)),
    }


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_weights_come_back_bit_by_bit_whatever_their_storage(tmp_path: Path) -> None:
    weights = awkward_tensors()
    before = {name: tensor.stride() for name, tensor in weights.items()}
    digest = weights_digest(weights)
    checkpoint.save(tmp_path, epoch=0, step=0, weights={"model": weights}, state={}, manifest={}, keep_best=1)
    found = checkpoint.newest(tmp_path, warn=silent)
    assert found is not None
    loaded = found.weights("model")
    assert loaded.keys() == weights.keys()
    for name, tensor in loaded.items():
        assert bits(tensor) == bits(weights[name]), name
        assert tensor.shape == weights[name].shape and tensor.dtype == weights[name].dtype
        assert tensor.is_contiguous() and type(tensor) is Tensor and not tensor.requires_grad
    assert weights_digest(loaded) == digest
    assert {name: tensor.stride() for name, tensor in weights.items()} == before, "saving changed the state"
    # One part writes nothing into another: no storage is shared any more.
    assert len({tensor.untyped_storage().data_ptr() for tensor in loaded.values() if tensor.numel()}) == 13


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_weights_on_a_gpu(tmp_path: Path) -> None:
    weights = {name: tensor.detach().cuda() for name, tensor in awkward_tensors().items()}
    state = {"m": weights["conv"]}
    checkpoint.save(tmp_path, epoch=0, step=0, weights={"model": weights}, state=state, manifest={}, keep_best=1)
    found = checkpoint.newest(tmp_path, warn=silent)
    assert found is not None
    assert weights_digest(found.weights("model")) == weights_digest(weights)
    assert found.state()["m"].device.type == "cpu"


def test_model_and_average_are_kept_apart(tmp_path: Path) -> None:
    weights = {"model": tensors(1), "ema": tensors(2)}
    saved = checkpoint.save(tmp_path, epoch=0, step=0, weights=weights, state={}, manifest={}, keep_best=1)
    assert names(saved.path) == ["ema.safetensors", "manifest.json", "model.safetensors", "state.pt"]
    assert saved.parts == ("model", "ema")
    assert saved.weights("ema")["steps"] == 2 and saved.weights("model")["steps"] == 1
    del weights["ema"]
    saved = checkpoint.save(tmp_path, epoch=0, step=1, weights=weights, state={}, manifest={}, keep_best=1)
    with pytest.raises(KeyError, match="holds model, not 'ema'"):
        saved.weights("ema")


def test_state_keeps_strides_and_leaves_the_rest_of_a_storage_behind(tmp_path: Path) -> None:
    model = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 8, 5, 5)).sum().backward()
    optimizer.step()
    huge = torch.zeros(1_000_000)
    state = {"optimizer": optimizer.state_dict(), "scaler": {}, "slice": huge[:3], "score": np.float64(0.5)}
    saved = checkpoint.save(
        tmp_path,
        epoch=0,
        step=0,
        weights={"model": model.state_dict()},
        state=state,
        manifest={},
        keep_best=1,
    )
    loaded = saved.state()
    momentum = loaded["optimizer"]["state"][0]["momentum_buffer"]
    original = optimizer.state[model.weight]["momentum_buffer"]
    assert torch.equal(momentum, original)
    assert momentum.stride() == original.stride() != momentum.contiguous().stride()
    assert loaded["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    assert type(loaded["score"]) is float
    assert (saved.path / "state.pt").stat().st_size < 100_000


def test_what_would_need_pickle_is_refused_when_saving_not_when_loading(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\] is a PosixPath"):
        checkpoint.save(
            tmp_path,
            epoch=0,
            step=0,
            weights={"model": tensors(0)},
            state={"a": [1, tmp_path]},
            manifest={},
            keep_best=1,
        )
    assert names(tmp_path) == []


def test_the_manifest_says_what_made_the_checkpoint(tmp_path: Path) -> None:
    saved = checkpoint.save(
        tmp_path,
        epoch=3,
        step=17,
        weights={"model": tensors(0)},
        state={},
        manifest={"job": "abc", "score": math.nan, "by epoch": {10: 1, 9: 2}},
        keep_best=1,
    )
    assert saved.path.name == "epoch-0003-step-0000017"
    written = json.loads((saved.path / "manifest.json").read_text())
    assert written == saved.manifest
    assert written["format"] == 1 and written["versions"]["torch"] == torch.__version__
    assert written["job"] == "abc" and written["by epoch"] == {"10": 1, "9": 2}
    assert written["score"] is None and saved.score is None
    assert (saved.epoch, saved.step) == (3, 17)
    found = checkpoint.newest(tmp_path, warn=silent)
    assert found == saved
    with pytest.raises(ValueError, match="epoch"):
        checkpoint.save(tmp_path, epoch=4, step=0, weights={}, state={}, manifest={"epoch": 5}, keep_best=1)


def test_files_are_not_read_again_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, 0)
    read: list[Path] = []
    plain = Path.read_bytes

    def noted(self: Path) -> bytes:
        read.append(self)
        return plain(self)

    monkeypatch.setattr(Path, "read_bytes", noted)
    put(tmp_path, 1)
    assert {path.name for path in read} == {"manifest.json"}


def test_a_digest_tells_every_difference() -> None:
    base = {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(2, 3)}
    digest = weights_digest(base)
    assert digest == weights_digest(dict(reversed(base.items())))
    assert digest == weights_digest({"a": base["a"], "b": torch.zeros(3, 2).T})
    others: list[dict[str, Tensor]] = [
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"], "b": torch.zeros(3, 2)},
        {"a": base["a"], "b": torch.zeros(2, 3, dtype=torch.int32)},
        {"a": base["a"], "b": -torch.zeros(2, 3)},
        {"a": torch.nextafter(base["a"], torch.tensor(9.0)), "b": base["b"]},
        {"a": base["a"]},
    ]
    assert len({digest, *map(weights_digest, others)}) == 1 + len(others)


# --- which one is used ----------------------------------------------------------------------------


def test_nothing_saved_is_no_error(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "none", warn=silent) is None
    assert checkpoint.newest(tmp_path, warn=silent) is None
    assert checkpoint.best(tmp_path, warn=silent) is None
    put(tmp_path, 0)
    assert checkpoint.best(tmp_path, warn=silent) is None


def test_newest_is_by_position_beyond_the_digits_of_the_name(tmp_path: Path) -> None:
    put(tmp_path, 9999, 9_999_999)
    put(tmp_path, 10_000, 0)
    assert check(checkpoint.newest(tmp_path, warn=silent)).epoch == 10_000
    put(tmp_path, 10_000, 10_000_000)
    assert check(checkpoint.newest(tmp_path, warn=silent)).step == 10_000_000


def test_best_is_the_highest_score_and_of_equal_ones_the_earlier(tmp_path: Path) -> None:
    for epoch, score in enumerate((-3.0, -1.0, -1.0, -2.0)):
        put(tmp_path, epoch, score=score, keep_best=9)
    put(tmp_path, 4, 7, score=None, keep_best=9)
    assert check(checkpoint.best(tmp_path, warn=silent)).epoch == 1


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated weights": (
        lambda p: truncate(p / "model.safetensors"),
        r"model.safetensors has [\d,]+ of [\d,]+ bytes",
    ),
    "grown weights": (lambda p: os.truncate(p / "model.safetensors", 100_000), r"has [\d,]+ of [\d,]+ bytes"),
    "flipped bit in the weights": (lambda p: flip(p / "model.safetensors"), "model.safetensors.*sha256"),
    "flipped bit in the state": (lambda p: flip(p / "state.pt"), "state.pt.*sha256"),
    "missing weights": (lambda p: (p / "model.safetensors").unlink(), "model.safetensors is missing"),
    "missing state": (lambda p: (p / "state.pt").unlink(), "state.pt is missing"),
    "a folder for a file": (
        lambda p: become_folder(p / "state.pt"),
        "state.pt: Is a directory",
    ),
    "truncated manifest": (lambda p: truncate(p / "manifest.json"), "manifest.json is not JSON"),
    "binary manifest": (
        lambda p: (p / "manifest.json").write_bytes(b"\xff\x00"),
        "manifest.json is not JSON",
    ),
    "empty manifest": (lambda p: (p / "manifest.json").write_bytes(b""), "manifest.json is not JSON"),
    "manifest of another kind": (lambda p: (p / "manifest.json").write_text("[1]"), "no format number"),
    "changed manifest": (
        lambda p: (p / "manifest.json").write_text((p / "manifest.json").read_text().replace("0.25", "0.75")),
        "not as it was written",
    ),
    "unreadable manifest": (
        lambda p: become_folder(p / "manifest.json"),
        "manifest.json: Is a directory",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_newest_is_reported_and_the_one_before_it_used(tmp_path: Path, kind: str) -> None:
    damage, reason = DAMAGE[kind]
    put(tmp_path, 1, score=0.125)
    last = put(tmp_path, 2, score=0.25)
    damage(last.path)
    for choose in (checkpoint.newest, checkpoint.best):
        warnings: list[str] = []
        assert check(choose(tmp_path, warn=warnings.append)).epoch == 1
        assert len(warnings) == 1 and str(last.path) in warnings[0]
        assert re.search(reason, warnings[0])


@pytest.mark.parametrize("kind", DAMAGE)
def test_without_any_valid_one_the_run_does_not_start_from_nothing(tmp_path: Path, kind: str) -> None:
    damage, reason = DAMAGE[kind]
    for saved in [put(tmp_path, epoch, score=0.25) for epoch in (1, 2)]:
        damage(saved.path)
    with pytest.raises(StorageError, match="(?s)none of the 2 checkpoints.*" + reason + ".*--name"):
        checkpoint.newest(tmp_path, warn=lambda message: None)


def test_a_checkpoint_without_manifest_does_not_exist(tmp_path: Path) -> None:
    put(tmp_path, 1)
    (put(tmp_path, 2).path / "manifest.json").unlink()
    assert check(checkpoint.newest(tmp_path, warn=silent)).epoch == 1


def test_damage_after_the_choice_is_noticed_when_loading(tmp_path: Path) -> None:
    chosen = put(tmp_path, 1)
    flip(chosen.path / "model.safetensors")
    truncate(chosen.path / "state.pt")
    with pytest.raises(StorageError, match="sha256"):
        chosen.weights("model")
    with pytest.raises(StorageError, match="state.pt has"):
        chosen.state()


def test_a_newer_format_is_refused_by_name_and_number_and_left_alone(tmp_path: Path) -> None:
    put(tmp_path, 1)
    newer = put(tmp_path, 2, score=0.5)
    manifest = newer.manifest | {"format": 7}
    (newer.path / "manifest.json").write_text(json.dumps(manifest))
    for choose in (checkpoint.newest, checkpoint.best):
        with pytest.raises(StorageError, match=r"epoch-0002-step-0000000 has format 7; .* up to 1"):
            choose(tmp_path, warn=silent)
    for epoch in (3, 4, 5):
        put(tmp_path, epoch)
    assert newer.path.is_dir()
    assert check(checkpoint.newest(tmp_path, warn=silent)).epoch == 5


def test_other_names_in_the_folder_are_nobodys_business(tmp_path: Path) -> None:
    mine = put(tmp_path, 1)
    copy = tmp_path / f"{mine.path.name} (copy)"
    shutil.copytree(mine.path, copy)
    (tmp_path / "epoch-0009-step-0000000").write_text("a file")
    (tmp_path / "notes.txt").write_text("mine")
    put(tmp_path, 2)
    assert check(checkpoint.newest(tmp_path, warn=silent)).epoch == 2
    assert copy.is_dir() and (tmp_path / "notes.txt").exists()


# --- which ones are kept --------------------------------------------------------------------------


def kept(folder: Path) -> list[tuple[int, int]]:
    found = [name.split("-") for name in names(folder)]
    return [(int(parts[1]), int(parts[3])) for parts in found]


def test_the_two_newest_and_the_best_stay(tmp_path: Path) -> None:
    after = []
    for epoch, score in enumerate((0.3, 0.9, 0.5, 0.7, 0.9, 0.1, 0.2), start=1):
        put(tmp_path, epoch, score=score)
        after.append([position[0] for position in kept(tmp_path)])
    assert after == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [2, 5, 6], [2, 6, 7]]


def test_keep_best_counts_and_unscored_ones_are_never_best(tmp_path: Path) -> None:
    scores = (0.3, None, 0.9, None, 0.7, 0.1, None, None)
    for epoch, score in enumerate(scores, start=1):
        put(tmp_path, epoch, score=score, keep_best=3)
    assert [epoch for epoch, _ in kept(tmp_path)] == [1, 3, 5, 7, 8]


def test_mid_epoch_saves_push_out_one_another_not_the_best(tmp_path: Path) -> None:
    put(tmp_path, 1, score=0.4)
    for step in (100, 200, 300):
        put(tmp_path, 1, step)
    assert kept(tmp_path) == [(1, 0), (1, 200), (1, 300)]


@pytest.mark.parametrize("kind", sorted(DAMAGE.keys() - {"unreadable manifest"}))
def test_what_lies_beyond_a_resumed_position_does_not_push_out_valid_ones(tmp_path: Path, kind: str) -> None:
    put(tmp_path, 1)
    put(tmp_path, 2)
    put(tmp_path, 3)
    for position in (2, 3):
        DAMAGE[kind][0](tmp_path / f"epoch-000{position}-step-0000000")
    put(tmp_path, 1, score=0.1)  # the run went back to its beginning, as nothing later was valid
    put(tmp_path, 1, 50)
    found = check(checkpoint.newest(tmp_path, warn=lambda message: None))
    assert (found.epoch, found.step) == (1, 50)
    put(tmp_path, 2)
    put(tmp_path, 3)
    put(tmp_path, 4)
    assert kept(tmp_path) == [(1, 0), (3, 0), (4, 0)]
    assert check(checkpoint.newest(tmp_path, warn=silent)).epoch == 4


def test_a_truncated_one_does_not_count_among_the_kept(tmp_path: Path) -> None:
    put(tmp_path, 1)
    truncate(put(tmp_path, 2).path / "model.safetensors")
    put(tmp_path, 3)
    assert kept(tmp_path) == [(1, 0), (3, 0)]


def test_saving_a_position_again_replaces_it(tmp_path: Path) -> None:
    put(tmp_path, 1)
    put(tmp_path, 2, score=0.5)
    again = checkpoint.save(
        tmp_path,
        epoch=2,
        step=0,
        weights={"model": tensors(77)},
        state={"again": True},
        manifest={"score": 0.6},
        keep_best=1,
    )
    assert kept(tmp_path) == [(1, 0), (2, 0)]
    found = checkpoint.newest(tmp_path, warn=silent)
    assert found == again and found.state() == {"again": True} and found.score == 0.6
    assert names(found.path) == ["manifest.json", "model.safetensors", "state.pt"]


def test_one_that_was_complete_but_not_renamed_replaces_the_older(tmp_path: Path) -> None:
    put(tmp_path / "run", 1)
    old = put(tmp_path / "run", 2)
    state = {"again": True}
    new = checkpoint.save(tmp_path / "other", epoch=2, step=0, weights={}, state=state, manifest={}, keep_best=1)
    new.path.rename(old.path.with_name(whole.SAVING + old.path.name))
    found = checkpoint.newest(tmp_path / "run", warn=silent)
    assert found is not None and found.state() == state
    put(tmp_path / "run", 3)
    assert names(tmp_path / "run") == ["epoch-0002-step-0000000", "epoch-0003-step-0000000"]
    assert Checkpoint(old.path, new.manifest).state() == state


# --- full and unwritable disks --------------------------------------------------------------------


def test_a_full_disk_leaves_nothing_half_written(small_disk: Path) -> None:
    folder = small_disk / "checkpoints"
    put(folder, 1)
    put(folder, 2)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(StorageError) as caught:
        checkpoint.save(
            folder,
            epoch=3,
            step=0,
            weights={"model": tensors(1), "ema": tensors(1, size=3_000_000)},
            state={},
            manifest={},
            keep_best=1,
        )
    message = str(caught.value)
    needed, free = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) bytes", message))
    assert str(folder) in message and "No space left" in message
    assert 12_000_000 < needed < 12_100_000 and 0 < free < 2_000_000
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before
    assert kept(folder) == [(1, 0), (2, 0)]
    assert check(checkpoint.newest(folder, warn=silent)).epoch == 2
    put(folder, 3)  # with less to write it goes on
    assert check(checkpoint.newest(folder, warn=silent)).epoch == 3


@pytest.mark.parametrize("fails", range(1, 12))
def test_a_failure_at_any_sync_leaves_the_earlier_ones_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    put(tmp_path, 1, score=0.9)
    put(tmp_path, 2)
    plain, calls = os.fsync, 0

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fails:
            raise OSError(28, os.strerror(28))
        plain(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        try:
            put(tmp_path, 3)
        except StorageError as error:
            assert "No space left" in str(error)
        else:
            assert calls < fails, "the failure was swallowed"
    check(checkpoint.newest(tmp_path, warn=silent))
    assert check(checkpoint.best(tmp_path, warn=silent)).epoch == 1
    put(tmp_path, 4)
    assert all(not name.startswith(".") for name in names(tmp_path))


def test_an_unwritable_folder_is_named(read_only: Path) -> None:
    with pytest.raises(StorageError, match=rf"cannot write in {read_only}.*make it writable"):
        put(read_only / "checkpoints", 1)


# --- kills ----------------------------------------------------------------------------------------

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")


def save_and_die(folder: str, epoch: int, step: int, score: float | None, kill_at: int) -> None:
    """Save, and end the process without any clearing up at the n-th operation on the file system."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in EVENTS:
            seen += 1
            if seen == kill_at:
                os._exit(9)

    sys.addaudithook(hook)
    put(Path(folder), epoch, step, score)


def save_for_ever(folder: str) -> None:
    path = Path(folder)
    found = checkpoint.newest(path, warn=silent)
    step = found.step if found else 0
    while True:
        step += 1
        checkpoint.save(
            path,
            epoch=0,
            step=step,
            weights={"model": tensors(step, size=50_000), "ema": tensors(step)},
            state={"position": {"epoch": 0, "step": step}},
            manifest={"score": None if step % 2 else random.random()},
            keep_best=2,
        )


@pytest.fixture(scope="module")
def processes() -> Iterator[multiprocessing.context.ForkServerContext]:
    """Fresh processes that have torch already: each starts within milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distaug.store.checkpoint", __name__])
    yield context


def ended(context: multiprocessing.context.ForkServerContext, *arguments: Any) -> int:
    process = context.Process(target=save_and_die, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.parametrize(
    "again", [pytest.param(False, id="new position"), pytest.param(True, id="same position", marks=pytest.mark.slow)]
)
def test_killed_at_every_operation(
    tmp_path: Path, processes: multiprocessing.context.ForkServerContext, again: bool
) -> None:
    """Whatever the moment, there is a valid checkpoint, at most one save back; the next one clears up."""
    start = tmp_path / "start"
    put(start, 1, score=0.5)
    put(start, 2, score=0.9)
    put(start, 3)
    epoch, step = (3, 0) if again else (3, 100)
    for kill_at in range(1, 200):
        folder = tmp_path / "folder"
        shutil.copytree(start, folder)
        code = ended(processes, str(folder), epoch, step, None, kill_at)
        found = check(checkpoint.newest(folder, warn=silent))
        assert (found.epoch, found.step) in ((3, 0), (epoch, step)), f"killed at operation {kill_at}"
        assert check(checkpoint.best(folder, warn=silent)).epoch == 2
        put(folder, 3, 200)
        assert len(names(folder)) == 3 and kept(folder)[-1] == (3, 200), f"killed at operation {kill_at}"
        shutil.rmtree(folder)
        if code == 0:
            break
    assert code == 0 and kill_at > 10, "the save was never reached whole, or the hook saw nothing"


def test_kill_9_in_a_loop_of_saves(tmp_path: Path, processes: multiprocessing.context.ForkServerContext) -> None:
    last = 0
    for round_number in range(12):
        process = processes.Process(target=save_for_ever, args=(str(tmp_path),))
        process.start()
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("epoch-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(random.Random(round_number).uniform(0, 0.05))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        found = check(checkpoint.newest(tmp_path, warn=silent))
        assert found.step >= last, "a kill took a finished checkpoint away"
        last = found.step
    put(tmp_path, 1)
    assert all(not name.startswith(whole.SAVING) for name in names(tmp_path))
    assert len(names(tmp_path)) <= 4
