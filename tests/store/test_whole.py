"""Files and folders that are whole or absent."""

import errno
import os
from pathlib import Path

import pytest

from distaug.errors import StorageError
from distaug.store.whole import SAVING, remove_folder, write_folder, write_whole


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_whole(path, b"old")
    write_whole(path, b"new and longer")
    assert path.read_bytes() == b"new and longer"
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_file_gets_the_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_whole(tmp_path / "whole", b"")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_reader_holds_the_old_content_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    with path.open("rb") as reader:
        write_whole(path, b"new")
        assert reader.read() == b"old"


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_failing_write_keeps_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def failing(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(StorageError, match=r"needed 2,000 bytes, [\d,]+ bytes are free.*free some space"):
            write_whole(path, b"x" * 2000)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_really_full_disk(small_disk: Path) -> None:
    path = small_disk / "file"
    write_whole(path, b"old")
    with pytest.raises(StorageError, match=r"needed 5,000,000 bytes, 1,04\d,\d\d\d bytes are free"):
        write_whole(path, b"x" * 5_000_000)
    assert path.read_bytes() == b"old"
    assert os.listdir(small_disk) == ["file"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"x")
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "folder", {"a": b"", "seal": b""}, seal="seal")
    monkeypatch.undo()
    assert [name for name in os.listdir(tmp_path) if not name.startswith(SAVING)] == []
    write_folder(tmp_path / "folder", {"a": b"", "seal": b""}, seal="seal")
    assert os.listdir(tmp_path) == ["folder"]


def test_unwritable_and_impossible_places_are_named(read_only: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=rf"{read_only}.*make it writable for the user"):
        write_whole(read_only / "file", b"x")
    (tmp_path / "taken").touch()
    with pytest.raises(StorageError, match=r"taken.*Not a directory.*runs_dir"):
        write_whole(tmp_path / "taken" / "file", b"x")
    with pytest.raises(StorageError, match=r"missing.*No such file"):
        write_whole(tmp_path / "missing" / "file", b"x")


def test_the_seal_is_written_last_and_removed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed: list[tuple[str, list[str]]] = []
    replace = os.replace

    def noted(source: Path, target: Path) -> None:
        renamed.append((target.name, sorted(os.listdir(target.parent))))
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    folder = tmp_path / "folder"
    write_folder(folder, {"seal": b"1", "a": b"2", "b": b"3"}, seal="seal")
    [(name, beside)] = renamed
    assert name == "seal" and {"a", "b"} < set(beside) and "seal" not in beside
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"seal": b"1", "a": b"2", "b": b"3"}
    monkeypatch.setattr("shutil.rmtree", lambda path, ignore_errors: None)
    remove_folder(folder, seal="seal")
    assert sorted(os.listdir(folder)) == ["a", "b"]
    remove_folder(tmp_path / "none", seal="seal")


def test_a_folder_is_replaced_with_all_that_was_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_folder(folder, {"seal": b"1", "old": b""}, seal="seal")
    write_folder(folder, {"seal": b"2", "new": b""}, seal="seal")
    assert sorted(os.listdir(folder)) == ["new", "seal"]
    assert os.listdir(tmp_path) == ["model"]
