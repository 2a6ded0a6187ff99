"""Class folders: both layouts, whatever lies about in them, and what is refused."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from distaug.data.folder import FolderSource
from distaug.data.source import TEST, TRAIN, VAL
from distaug.errors import DataError

MakeFolder = Callable[..., Path]


def open_folder(path: Path, said: list[str] | None = None) -> FolderSource:
    return FolderSource(str(path), (said if said is not None else []).append)


def test_classes_are_the_folders_in_order_and_files_go_by_name(make_folder: MakeFolder) -> None:
    source = open_folder(make_folder({"dog": 2, "cat": 3}))
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [0, 0, 0, 1, 1]
    assert set(source.parts.tolist()) == {TRAIN}
    assert [source.name(i) for i in (0, 4)] == ["cat/000.png", "dog/001.png"]
    assert source.reference(4) == source.root / "dog" / "001.png"


@pytest.mark.parametrize("val", ["val", "valid", "validation", "dev", "Val"])
def test_folders_named_after_the_sets(make_folder: MakeFolder, val: str) -> None:
    counts = {"train/cat": 2, "train/dog": 1, f"{val}/cat": 1, f"{val}/dog": 1, "test/cat": 1, "test/dog": 2}
    source = open_folder(make_folder(counts))
    assert source.parts.tolist() == [TRAIN] * 3 + [VAL] * 2 + [TEST] * 3
    assert source.labels.tolist() == [0, 0, 1, 0, 1, 0, 1, 1]
    assert source.name(3) == f"{val}/cat/000.png"


def test_a_class_may_be_called_train(make_folder: MakeFolder) -> None:
    source = open_folder(make_folder({"train": 2, "bus": 1, "test": 1}))
    assert source.classes == ("bus", "test", "train")
    assert set(source.parts.tolist()) == {TRAIN}


def test_hidden_and_foreign_files_are_left_out(make_folder: MakeFolder, said: list[str]) -> None:
    root = make_folder({"cat": 1, "dog": 1, ".git": 1, "cat/.thumbs": 1, "__MACOSX/cat": 1})
    (root / "cat" / ".hidden.png").write_bytes(b"x")
    (root / "cat" / "._000.png").write_bytes(b"x")
    (root / "dog" / "notes.txt").write_text("x")
    (root / "dog" / "README").write_text("x")
    (root / "labels.csv").write_text("x")
    source = open_folder(root, said)
    assert source.classes == ("cat", "dog") and len(source.labels) == 2
    assert len(said) == 1 and "2 files" in said[0] and ".txt" in said[0]


def test_pictures_lie_at_any_depth_and_endings_in_any_case(make_folder: MakeFolder) -> None:
    root = make_folder({"cat/indoors/2024": 1, "cat/outdoors": 1, "dog": 1})
    (root / "dog" / "000.png").rename(root / "dog" / "000.PNG")
    source = open_folder(root)
    assert [source.name(i) for i in range(3)] == [
        "cat/indoors/2024/000.png",
        "cat/outdoors/000.png",
        "dog/000.PNG",
    ]


def test_links_are_followed_but_not_in_circles(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1, "elsewhere/dogs": 2}, name="a")
    data = make_folder({"cat": 1}, name="b")
    (data / "dog").symlink_to(root / "elsewhere" / "dogs")
    (data / "cat" / "back").symlink_to(data / "cat")
    assert open_folder(data).labels.tolist() == [0, 1, 1]


def test_names_of_any_bytes_can_be_shown(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1, "dog": 1})
    os.rename(root / "cat" / "000.png", os.fsencode(root / "cat") + b"/\xff odd\nname.png")
    name = open_folder(root).name(0)
    assert name.encode().decode() == name and "odd" in name


def test_unknown_folders_beside_the_sets_are_named(make_folder: MakeFolder, said: list[str]) -> None:
    counts = {"train/cat": 1, "train/dog": 1, "unlabelled/x": 1}
    source = open_folder(make_folder(counts), said)
    assert source.classes == ("cat", "dog")
    assert "unlabelled" in said[0]


def test_classes_that_differ_between_the_sets_are_refused_by_name(make_folder: MakeFolder) -> None:
    counts = {"train/cat": 1, "train/dog": 1, "train/owl": 1, "val/cat": 1, "val/dog": 1, "val/eel": 1}
    with pytest.raises(DataError, match=r"train \(3\) and val \(3\) differ .*only in train: owl; only in val: eel"):
        open_folder(make_folder(counts))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"cat": 1}, "one class only .cat."),
        ({"cat": 1, "dog": 0}, "class folder .*dog holds no pictures"),
        ({"train/cat": 1, "train/dog": 0}, "class folder .*train/dog holds no pictures"),
        ({"val/cat": 1, "val/dog": 1}, "no folder `train`"),
        ({"train/cat": 1, "train/dog": 1, "val": 3}, "val holds no class folders .3 other files."),
        ({"train/cat": 1, "train/dog": 1, "val/cat": 1, "dev/cat": 1}, "two folders for val"),
        ({}, "does not exist"),
    ],
)
def test_folders_that_cannot_be_used(make_folder: MakeFolder, counts: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_folder(make_folder(counts))


def test_pictures_without_class_folders_are_refused(make_folder: MakeFolder) -> None:
    root = make_folder({"flat": 3})
    with pytest.raises(DataError, match="holds no class folders .3 other files.; put the pictures of each class"):
        open_folder(root / "flat")


def test_missing_path_names_the_part_that_exists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"does not exist; the part of it that does is {tmp_path}"):
        open_folder(tmp_path / "no" / "such")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        open_folder(tmp_path / "file")


def test_content_follows_pixels_and_names_but_not_place_or_time(make_folder: MakeFolder, tmp_path: Path) -> None:
    def content(path: Path) -> str:
        return open_folder(path).content(print)

    root = make_folder({"cat": 2, "dog": 2})
    before = content(root)
    os.utime(root / "cat" / "000.png", (1, 1))
    assert content(root) == before
    moved = root.rename(tmp_path / "moved")
    assert content(moved) == before
    data = (moved / "cat" / "000.png").read_bytes()
    (moved / "cat" / "000.png").write_bytes(data[:-1] + b"x")
    changed = content(moved)
    assert changed != before
    (moved / "cat" / "000.png").write_bytes(data)
    assert content(moved) == before
    (moved / "cat" / "000.png").rename(moved / "cat" / "005.png")
    assert content(moved) != before


def test_files_are_not_read_again_unless_they_changed(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder({"cat": 2, "dog": 2})
    before = open_folder(root).content(print)
    with monkeypatch.context() as patch:
        patch.setattr("distaug.data.node._read_all", lambda files: pytest.fail("read again"))
        assert open_folder(root).content(print) == before
    # The same size and modification time as before: the change time tells.
    file = root / "cat" / "000.png"
    stat, data = file.stat(), file.read_bytes()
    file.write_bytes(data[:-1] + b"x")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert open_folder(root).content(print) != before
