"""Embedded digits, torchvision's files, made-up pictures."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from distaug.data.arrays import DigitsSource, SyntheticSource, TorchvisionSource
from distaug.data.decode import load
from distaug.data.source import TEST, TRAIN
from distaug.errors import DataError
from distaug.spec.data import SyntheticSpec


def test_digits_are_all_there_enlarged_over_the_full_range() -> None:
    source = DigitsSource()
    assert np.bincount(source.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    pictures = np.stack([load(reference, 10_000) for reference in source.references()])
    assert pictures.shape == (1797, 32, 32, 3) and pictures.dtype == np.uint8
    assert pictures.min() == 0 and pictures.max() == 255
    small = pictures[:, :, :, 0].reshape(-1, 8, 4, 8, 4).mean((2, 4)) / 255 * 16
    assert np.corrcoef(small.ravel(), source._data.images.ravel())[0, 1] > 0.98
    assert abs(small.mean() - source._data.images.mean()) < 0.1


def test_made_up_pictures_are_the_same_one_by_one_and_in_order() -> None:
    source = SyntheticSource(SyntheticSpec(samples=300, classes=3), 10)
    pictures = list(source.references())
    assert len(pictures) == 360
    assert [source.parts.tolist().count(part) for part in (TRAIN, TEST)] == [300, 60]
    assert np.bincount(source.labels[:300]).tolist() == [100, 100, 100]
    for i in (0, 1, 255, 256, 359):
        assert np.array_equal(pictures[i], source.reference(i))
        assert pictures[i].shape == (10, 10, 3)
    assert len({picture.tobytes() for picture in pictures}) == 360
    assert not source.real


def test_made_up_pictures_can_be_learned() -> None:
    source = SyntheticSource(SyntheticSpec(samples=200, classes=4), 8)
    pictures = np.stack(list(source.references())).reshape(240, -1).astype(float)
    means = np.stack([pictures[:200][source.labels[:200] == c].mean(0) for c in range(4)])
    nearest = ((pictures[200:, None] - means) ** 2).sum(2).argmin(1)
    assert (nearest == source.labels[200:]).all()


def test_made_up_pictures_do_not_change() -> None:
    source = SyntheticSource(SyntheticSpec(samples=10, classes=2), 4)
    assert source.reference(7).sum(axis=(0, 1)).tolist() == [2168, 2253, 1948]


def write_mnist(root: Path, kind: str = "MNIST") -> None:
    rng = np.random.default_rng(0)
    folder = root / kind / "raw"
    folder.mkdir(parents=True)
    for name, count in (("train", 30), ("t10k", 10)):
        pixels = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        head = struct.pack(">4I", 0x803, count, 28, 28)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels.tobytes())


@pytest.mark.parametrize(("kind", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files_are_read(tmp_path: Path, kind: str, folder: str, said: list[str]) -> None:
    write_mnist(tmp_path, folder)
    source = TorchvisionSource(kind, str(tmp_path), False, said.append)
    assert source.parts.tolist() == [TRAIN] * 30 + [TEST] * 10
    assert source.labels[:11].tolist() == [*range(10), 0]
    assert len(source.classes) == 10
    picture = load(source.reference(31), 1000)
    raw = (tmp_path / folder / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    assert np.array_equal(picture[..., 1].ravel(), np.frombuffer(raw, np.uint8)[16 + 784 : 16 + 2 * 784])
    assert source.name(31) == f"{kind} test 1"
    assert source.published is not None


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write files in CIFAR-10's layout and make torchvision take them without their checksums."""
    folder = root / datasets.CIFAR10.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, _ in [*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list]:
        data = {"data": rng.integers(0, 256, (4, 3072), np.uint8), "labels": [0, 1, 2, 9]}
        (folder / name).write_bytes(pickle.dumps(data))
    names = [f"class {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    for field in ("train_list", "test_list"):
        listed = [[name, None] for name, _ in getattr(datasets.CIFAR10, field)]
        monkeypatch.setattr(datasets.CIFAR10, field, listed)
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": None})


def test_cifar_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    write_cifar(tmp_path, monkeypatch)
    source = TorchvisionSource("cifar10", str(tmp_path), False, said.append)
    assert source.parts.tolist() == [TRAIN] * 20 + [TEST] * 4
    assert source.classes[9] == "class 9"
    assert source.name(3) == "cifar10 train 3" and source.name(20) == "cifar10 test 0"
    raw = pickle.loads((tmp_path / "cifar-10-batches-py" / "test_batch").read_bytes())["data"][0]
    assert np.array_equal(source.reference(20), raw.reshape(3, 32, 32).transpose(1, 2, 0))


def test_missing_files_say_where_they_were_looked_for(tmp_path: Path, said: list[str]) -> None:
    with pytest.raises(DataError, match=rf"cifar10 is not in {tmp_path} \(7 files missing.*data.download: true"):
        TorchvisionSource("cifar10", str(tmp_path), False, said.append)


def test_default_place_is_in_the_cache(cache: Path, said: list[str]) -> None:
    with pytest.raises(DataError, match=f"mnist is not in {cache}/datasets"):
        TorchvisionSource("mnist", None, False, said.append)


def test_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(datasets.CIFAR100, "download", no_network)
    with pytest.raises(DataError, match="could not be downloaded: Network is unreachable; on a machine without"):
        TorchvisionSource("cifar100", str(tmp_path), True, said.append)
    assert "downloading cifar100" in said[0]


def test_download_fetches_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: write_mnist(tmp_path))
    source = TorchvisionSource("mnist", str(tmp_path), True, said.append)
    assert len(source.labels) == 40
    TorchvisionSource("mnist", str(tmp_path), True, said.append)
    assert len(said) == 1


def test_damaged_files_are_an_error_of_the_data(tmp_path: Path, said: list[str]) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(gzip.compress(b"x"))
    source = TorchvisionSource("mnist", str(tmp_path), False, said.append)
    with pytest.raises(DataError, match="damaged"):
        _ = source.labels


def test_nothing_disturbs_torchs_own_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(SyntheticSource(SyntheticSpec(samples=20, classes=2), 8).references())
    assert torch.equal(before, torch.get_rng_state())
