"""A data set as a job sees it: three sets, statistics, digest, report, and what is refused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distaug.data.open import DataSet, open_data
from distaug.errors import DataError
from distaug.spec.data import DataSpec, SyntheticSpec

MakeFolder = Callable[..., Path]
Noise = Callable[..., np.ndarray]


def open_folder(path: Path, said: list[str] | None = None, **fields: object) -> DataSet:
    final_fit = bool(fields.pop("final_fit", False))
    spec = DataSpec(source="folder", path=str(path), **fields)
    return open_data(spec, final_fit=final_fit, log=(said if said is not None else []).append)


def test_digits_are_divided_as_asked() -> None:
    data = open_data(DataSpec(source="digits", test_fraction=0.2), log=lambda line: None)
    assert data.test is not None and data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (1293, 145, 359)
    assert data.image_size == 32 and data.cached and data.classes == tuple("0123456789")
    assert not data.report["synthetic"]
    assert sum(data.report["per_class"]["train"].values()) == 1293


def test_split_gives_pictures_labels_and_names(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 5, "dog": 5})
    data = open_folder(root, val_fraction=0.2)
    assert data.val is not None and len(data.train) == 8 and len(data.val) == 2
    pictures = data.train.pictures(torch.tensor([7, 0, 7]))
    for picture, i in zip(pictures, (7, 0, 7), strict=True):
        file = root / data.train.name(i)
        assert np.array_equal(picture.numpy().transpose(1, 2, 0), np.asarray(Image.open(file)))
        assert data.classes[data.train.labels[i]] == file.parent.name
    assert data.train.labels.dtype == torch.int64


def test_split_decodes_pictures_of_different_sizes(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 4, "dog": 4}, [(30, 20), (20, 30)])
    data = open_folder(root, image_size=16)
    assert not data.cached
    assert data.train.pictures(torch.tensor([1, 0])).shape == (2, 3, 16, 16)
    (root / data.train.name(1)).unlink()
    with pytest.raises(DataError, match=f"{data.train.name(1)} was sound when it was checked"):
        data.train.pictures(torch.tensor([1]))


def test_statistics_are_measured_on_the_training_set(make_folder: MakeFolder) -> None:
    data = open_folder(make_folder({"cat": 10, "dog": 10}), val_fraction=0.5)
    pixels = data.train.pictures(torch.arange(len(data.train))).double() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)
    assert data.mean == pytest.approx(mean.tolist(), abs=1e-12)
    assert data.std == pytest.approx(std.tolist(), abs=1e-12)


def test_statistics_of_different_sizes_weigh_pictures_alike(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 2, "dog": 1}, [(8, 8), (8, 8)])
    for name, size, grey in (("cat/000.png", 4, 0), ("cat/001.png", 50, 255), ("dog/000.png", 600, 102)):
        Image.new("RGB", (size, size), (grey,) * 3).save(root / name)
    data = open_folder(root, val_fraction=0.01, final_fit=True)
    assert data.mean == pytest.approx([(0 + 1 + 0.4) / 3] * 3)
    assert data.std == pytest.approx([np.std([0, 1, 0.4])] * 3)


def test_given_and_published_statistics_go_first(make_folder: MakeFolder) -> None:
    data = open_folder(make_folder({"cat": 2, "dog": 2}), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert data.mean == (0.1, 0.2, 0.3) and data.std == (0.4, 0.5, 0.6)


def test_pictures_of_one_colour_do_not_divide_by_zero(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 2, "dog": 2})
    for file in root.rglob("*.png"):
        Image.new("RGB", (8, 8), (9, 9, 9)).save(file)
    assert min(open_folder(root).std) > 0


def test_digest_follows_pixels_labels_and_splits_only(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"cat": 6, "dog": 6})
    before = open_folder(root).digest
    os.utime(root / "cat" / "000.png", (1, 1))
    moved = root.rename(tmp_path / "moved")
    assert open_folder(moved).digest == before
    assert open_folder(moved, image_size=8, max_damaged=0, batches="stream").digest == before
    Image.open(moved / "cat" / "000.png").save(moved / "cat" / "000.png", compress_level=0)
    assert open_folder(moved).digest == before  # other bytes, the same pixels
    changes: list[dict[str, object]] = [
        {"split_seed": 1},
        {"val_fraction": 0.4},
        {"test_fraction": 0.2},
        {"per_class": 2},
        {"image_size": 16},
        {"final_fit": True},
        {"cache_limit_gib": 0.0},
    ]
    digests = [open_folder(moved, **change).digest for change in changes]
    picture = np.asarray(Image.open(moved / "dog" / "003.png")).copy()
    picture[1, 2, 0] ^= 1
    Image.fromarray(picture).save(moved / "dog" / "003.png")
    digests.append(open_folder(moved).digest)
    (moved / "dog" / "003.png").rename(moved / "cat" / "009.png")
    digests.append(open_folder(moved).digest)
    (moved / "cat").rename(moved / "cow")
    digests.append(open_folder(moved).digest)
    assert len({before, *digests}) == len(digests) + 1


def test_report_is_plain_and_complete(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 6, "dog": 4}, [(8, 8), (9, 10)])
    (root / "cat" / "000.png").write_bytes(b"broken")
    report = open_folder(root, test_fraction=0.2).report
    assert json.loads(json.dumps(report)) == report
    assert report["per_class"] == {
        "train": {"cat": 3, "dog": 2},
        "val": {"cat": 1, "dog": 1},
        "test": {"cat": 1, "dog": 1},
    }
    assert report["sizes"] == {"train": 5, "val": 2, "test": 2}
    assert report["damaged"]["count"] == 1 and report["damaged"]["listed"][0][0] == "cat/000.png"
    assert report["picture_sizes"] == {"smallest": [8, 8], "largest": [9, 10]}
    assert report["source"] == "folder" and report["cached"] is False and report["image_size"] == 224


def test_made_up_pictures_say_so() -> None:
    spec = DataSpec(source="synthetic", image_size=8, synthetic=SyntheticSpec(samples=50, classes=5))
    data = open_data(spec, log=lambda line: None)
    assert data.report["synthetic"] is True
    assert data.test is not None and len(data.test) == 10


def test_final_fit_has_no_validation_set(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2})
    data = open_folder(root, final_fit=True)
    assert data.val is None and data.test is None and len(data.train) == 12
    assert len(open_folder(root).train) == 8


def test_thinning_out_leaves_validation_and_test_alone(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 20, "dog": 20})
    whole = open_folder(root, test_fraction=0.2)
    thin = open_folder(root, test_fraction=0.2, per_class=5, long_tail_ratio=5.0)
    assert thin.report["per_class"]["train"] == {"cat": 5, "dog": 1}
    assert whole.val and thin.val and whole.test and thin.test
    assert torch.equal(whole.val.rows, thin.val.rows) and torch.equal(whole.test.rows, thin.test.rows)


def copies(root: Path) -> None:
    """Repeat within train, stand in test too, stand under two labels."""
    shutil.copy(root / "train/cat/000.png", root / "train/cat/900.png")
    shutil.copy(root / "train/dog/001.png", root / "test/dog/901.png")
    shutil.copy(root / "train/cat/002.png", root / "train/dog/902.png")


def test_identical_pictures_are_told_and_kept_unless_dropped(make_folder: MakeFolder) -> None:
    counts = {f"{part}/{name}": 5 for part in ("train", "val", "test") for name in ("cat", "dog")}
    root = make_folder(counts)
    copies(root)
    said: list[str] = []
    kept = open_folder(root, said)
    assert len(kept.train) == 12
    found = kept.report["duplicates"]
    assert (found["within_train"], found["across_sets"], found["two_labels"], found["dropped"]) == (
        2,
        1,
        1,
        0,
    )
    line = next(line for line in said if "identical pictures:" in line)
    assert "train/cat/002.png (cat) = train: train/dog/902.png (dog)" in line
    assert "data.drop_duplicates: true" in line

    said.clear()
    dropped = open_folder(root, said, drop_duplicates=True)
    names = [dropped.train.name(i) for i in range(len(dropped.train))]
    gone = {"train/cat/900.png", "train/dog/001.png", "train/cat/002.png", "train/dog/902.png"}
    assert len(names) == 8 and not gone & set(names)
    assert "train/cat/000.png" in names
    assert dropped.test and len(dropped.test) == 11
    assert dropped.report["duplicates"]["dropped"] == 4
    assert any("left out of train: 4 (all copies where labels differ)" in line for line in said)


def test_same_pixels_in_another_shape_are_another_picture(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1, "dog": 1})
    Image.new("RGB", (4, 16), (5, 5, 5)).save(root / "cat" / "a.png")
    Image.new("RGB", (16, 4), (5, 5, 5)).save(root / "cat" / "b.png")
    said: list[str] = []
    open_folder(root, said)
    assert not any("identical pictures:" in line for line in said)


def test_class_emptied_by_dropping_is_refused_by_name(make_folder: MakeFolder) -> None:
    root = make_folder({"train/cat": 3, "train/dog": 1, "test/cat": 1, "test/dog": 1})
    shutil.copy(root / "train/dog/000.png", root / "test/dog/000.png")
    with pytest.raises(DataError, match="1 of 2 classes have no training pictures after .*: dog"):
        open_folder(root, drop_duplicates=True, val_fraction=0.3)


def test_class_with_damaged_pictures_only_is_refused_by_name(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 3, "dog": 1, "owl": 2})
    (root / "dog" / "000.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="1 of 3 classes have no training pictures: dog"):
        open_folder(root)


def test_class_absent_from_validation_is_only_told(make_folder: MakeFolder, said: list[str]) -> None:
    root = make_folder({"train/cat": 3, "train/dog": 3, "val/cat": 1, "val/dog": 0})
    data = open_folder(root, said)
    assert data.val is not None and len(data.val) == 1
    assert any("1 of 2 classes have no pictures in val: dog" in line for line in said)


def test_a_folder_needs_a_path() -> None:
    with pytest.raises(DataError, match="needs data.path"):
        open_data(DataSpec(source="folder"), log=lambda line: None)
