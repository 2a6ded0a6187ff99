"""The decoded cache: decoded once, whole or absent, shared, and left aside where it does not fit."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from distaug.data import build
from distaug.data.cache import Cache, _Places, open_cache
from distaug.data.decode import Slice, eval_view, load
from distaug.data.folder import FolderSource
from distaug.data.node import locked
from distaug.data.parquet import ParquetSource
from distaug.errors import DataError, StorageError
from distaug.spec.data import DataSpec

MakeFolder = Callable[..., Path]
Noise = Callable[..., np.ndarray]


def open_folder(path: Path, said: list[str] | None = None, **fields: object) -> Cache:
    log = (said if said is not None else []).append
    return open_cache(FolderSource(str(path), log), DataSpec(source="folder", path=str(path), **fields), log)


def decoded_lines(said: list[str]) -> list[str]:
    return [line for line in said if line.startswith("decoded")]


def left_in(cache: Path) -> list[str]:
    """Return what is in a cache folder beside locks and memos."""
    return sorted(entry.name for entry in cache.iterdir() if entry.suffix != ".lock" and entry.name != "memo")


def test_pictures_of_one_size_are_held_decoded(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 3, "dog": 2})
    cache = open_folder(root)
    assert cache.pixels is not None and cache.pixels.shape == (5, 3, 8, 8)
    for row in range(5):
        picture = np.asarray(Image.open(root / cache.name(row)))
        assert np.array_equal(cache.pixels[row].numpy().transpose(1, 2, 0), picture)
    assert cache.index["label"].tolist() == [0, 0, 0, 1, 1]
    assert cache.classes == ("cat", "dog") and cache.image_size == 8
    assert len(np.unique(cache.index["hash"], axis=0)) == 5


def test_sums_are_exact(make_folder: MakeFolder) -> None:
    cache = open_folder(make_folder({"cat": 3, "dog": 2}))
    assert cache.pixels is not None
    pixels = cache.pixels.to(torch.int64)
    assert np.array_equal(cache.index["sums"][:, 0], pixels.sum((2, 3)).numpy())
    assert np.array_equal(cache.index["sums"][:, 1], (pixels**2).sum((2, 3)).numpy())
    assert cache.index["counted"].tolist() == [64] * 5


def test_second_opening_decodes_nothing(make_folder: MakeFolder, said: list[str]) -> None:
    root = make_folder({"cat": 3, "dog": 2})
    first = open_folder(root, said)
    again = open_folder(root, said)
    assert len(decoded_lines(said)) == 1
    assert first.pixels is not None and again.pixels is not None
    assert torch.equal(first.pixels, again.pixels)
    assert again.classes == first.classes


def test_resolved_size_finds_what_auto_has_built(make_folder: MakeFolder, said: list[str]) -> None:
    root = make_folder({"cat": 1, "dog": 1})
    open_folder(root, said)
    open_folder(root, said, image_size=8, split_seed=3, val_fraction=0.5, max_damaged=0)
    assert len(decoded_lines(said)) == 1


def test_another_place_shares_the_pictures_and_another_pixel_does_not(
    make_folder: MakeFolder, tmp_path: Path, said: list[str], noise: Noise
) -> None:
    root = make_folder({"cat": 1, "dog": 1})
    open_folder(root, said)
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    open_folder(copy, said)
    assert len(decoded_lines(said)) == 1
    picture = np.asarray(Image.open(copy / "cat" / "000.png")).copy()
    picture[0, 0, 0] ^= 1
    Image.fromarray(picture).save(copy / "cat" / "000.png")
    changed = open_folder(copy, said)
    assert len(decoded_lines(said)) == 2
    assert changed.pixels is not None and changed.pixels[0, 0, 0, 0] == picture[0, 0, 0]


def test_asking_for_another_size_scales_once(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1, "dog": 1}, [(20, 30)])
    cache = open_folder(root, image_size=12)
    assert cache.pixels is not None and cache.pixels.shape == (2, 3, 12, 12)
    picture = np.asarray(Image.open(root / "cat" / "000.png"))
    assert np.array_equal(cache.pixels[0].numpy().transpose(1, 2, 0), eval_view(picture, 12, share=1))
    assert cache.index["counted"].tolist() == [
        600,
        600,
    ]  # the statistics are those of the pictures themselves
    auto = open_folder(root)
    assert auto.image_size == 224 and auto.pixels is not None


def test_different_sizes_are_indexed_and_left_to_be_decoded(make_folder: MakeFolder, said: list[str]) -> None:
    root = make_folder({"cat": 3, "dog": 2}, [(8, 8), (8, 8), (9, 12)])
    cache = open_folder(root, said)
    assert cache.pixels is None and cache.image_size == 224
    assert cache.index["size"].tolist() == [[8, 8], [8, 8], [9, 12], [8, 8], [8, 8]]
    assert cache.reference(2) == root / "cat" / "002.png"
    assert "different sizes" in said[0]
    small = open_folder(root, said, image_size=64)
    assert small.image_size == 64 and len(decoded_lines(said)) == 1  # the index serves any size


def test_uniform_test_set_beside_mixed_training_set_is_decoded_too(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 2, "train/b": 1}, [(8, 8), (4, 4)])
    for name in ("a", "b"):
        (root / "test" / name).mkdir(parents=True)
        shutil.copy(root / "train" / "a" / "000.png", root / "test" / name)
    assert open_folder(root).pixels is None


def test_sets_above_the_limit_are_not_kept(make_folder: MakeFolder, said: list[str], cache: Path) -> None:
    root = make_folder({"cat": 3, "dog": 3})
    needed = 6 * 3 * 8 * 8 / 2**30
    small = open_folder(root, said, cache_limit_gib=needed * 0.99)
    assert small.pixels is None and small.image_size == 8
    assert "6 pictures are too many" in said[0]
    enough = open_folder(root, said, cache_limit_gib=needed)
    assert enough.pixels is not None
    assert open_folder(root, said, cache_limit_gib=0).pixels is None
    assert len(decoded_lines(said)) == 2
    assert not list(cache.glob("*.tmp"))


def write_parquet(file: Path, pictures: list[np.ndarray]) -> None:
    rows = []
    for picture in pictures:
        out = io.BytesIO()
        Image.fromarray(picture).save(out, "png")
        rows.append({"bytes": out.getvalue(), "path": ""})
    pq.write_table(pa.table({"image": rows, "label": [i % 2 for i in range(len(rows))]}), file, row_group_size=2)


@pytest.mark.parametrize("limit", [1.0, 0.0])
def test_parquet_rows_of_different_sizes_are_laid_out_for_reading_one_by_one(
    tmp_path: Path, noise: Noise, limit: float
) -> None:
    pictures = [noise(4 + i, 5, i) for i in range(7)]
    write_parquet(tmp_path / "a.parquet", pictures)
    source = ParquetSource(str(tmp_path / "a.parquet"))
    spec = DataSpec(source="parquet", path="x", cache_limit_gib=limit)
    cache = open_cache(source, spec, print)
    for row in (3, 0, 6):
        assert isinstance(cache.reference(row), Slice) == (limit > 0)
        assert np.array_equal(load(cache.reference(row), 1000), pictures[row])


def damage(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).write_bytes(b"broken")


def test_damaged_pictures_are_left_out_counted_and_named(make_folder: MakeFolder, said: list[str]) -> None:
    root = make_folder({"cat": 4, "dog": 3})
    damage(root, ["cat/000.png", "dog/001.png"])
    cache = open_folder(root, said, max_damaged=2)
    assert [cache.name(row) for row in range(5)] == [
        *(f"cat/00{i}.png" for i in (1, 2, 3)),
        "dog/000.png",
        "dog/002.png",
    ]
    assert cache.pixels is not None and len(cache.pixels) == 5
    assert [name for name, _ in cache.damaged] == ["cat/000.png", "dog/001.png"]
    assert "2 of 7 pictures are damaged: cat/000.png (not a picture" in said[-1]
    open_folder(root, said, max_damaged=2)
    assert said.count(said[-1]) == 2 and len(decoded_lines(said)) == 1


def test_too_many_damaged_pictures_are_refused_with_names_and_limit(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 4, "dog": 8})
    damage(root, [f"dog/00{i}.png" for i in range(7)])
    with pytest.raises(DataError, match=r"7 of 12 .*dog/000.png.*dog/004.png.*; …\. data.max_damaged allows 6"):
        open_folder(root, max_damaged=6)
    assert len(open_folder(root, max_damaged=7).index) == 5


def test_nothing_but_damaged_pictures_is_refused(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1, "dog": 1})
    damage(root, ["cat/000.png", "dog/000.png"])
    for _ in range(2):
        with pytest.raises(DataError, match="2 of 2 pictures are damaged"):
            open_folder(root, max_damaged=10)


def test_larger_pictures_than_allowed_are_damaged(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 2, "dog": 1}, [(8, 8), (20, 20)])
    cache = open_folder(root, max_pixels=100)
    assert [why for _, why in cache.damaged] == ["20x20 is 400 pixels, more than data.max_pixels = 100"]
    assert open_folder(root).damaged == ()


def test_full_disk_is_told_beforehand_and_leaves_nothing(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    root = make_folder({"cat": 2, "dog": 2}, [(32, 32)])
    monkeypatch.setattr("distaug.data.build.free_bytes", lambda folder: 1234)
    with pytest.raises(StorageError, match=r"need 12,\d\d\d bytes in .*, 1,234 are free; point DISTAUG_CACHE"):
        open_folder(root)
    assert left_in(cache) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_disk_that_fills_up_while_writing_leaves_nothing(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, cache: Path, code: int
) -> None:
    def full(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    root = make_folder({"cat": 2, "dog": 2})
    with monkeypatch.context() as patch:
        patch.setattr("distaug.data.build.np.save", full)
        with pytest.raises(StorageError, match=rf"{os.strerror(code)} \([\d,]+ bytes needed, [\d,]+ free\)"):
            open_folder(root)
    assert left_in(cache) == []
    assert open_folder(root).pixels is not None


def test_cache_folder_that_cannot_be_made_is_a_storage_error(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("DISTAUG_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match="point DISTAUG_CACHE to a writable disk"):
        open_folder(make_folder({"cat": 1, "dog": 1}))


def test_interrupted_build_leaves_nothing_and_a_killed_one_is_cleared(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    root = make_folder({"cat": 1, "dog": 1})
    with monkeypatch.context() as patch:
        patch.setattr("distaug.data.build.os.rename", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_folder(root)
    assert left_in(cache) == []
    built = open_folder(root).folder
    shutil.rmtree(built)
    leftover = built.with_name(built.name + ".tmp")
    leftover.mkdir()
    (leftover / "pixels.bin").write_bytes(b"half")
    assert open_folder(root).pixels is not None
    assert not leftover.exists()


@pytest.mark.parametrize("file", [build.PIXELS, build.INDEX, build.META])
def test_a_folder_cut_short_is_built_again(make_folder: MakeFolder, said: list[str], file: str) -> None:
    root = make_folder({"cat": 1, "dog": 1})
    before = open_folder(root, said)
    assert before.pixels is not None
    expected = before.pixels.clone()
    path = before.folder / file
    path.write_bytes(path.read_bytes()[:-1])
    after = open_folder(root, said)
    assert after.pixels is not None and torch.equal(after.pixels, expected)
    assert len(decoded_lines(said)) == 2


def test_newer_format_is_refused_by_number(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1, "dog": 1})
    meta = open_folder(root).folder / build.META
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"format": 2}))
    with pytest.raises(DataError, match="has format 2, this version reads up to 1"):
        open_folder(root)


def test_mapped_pixels_cannot_reach_the_file(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1, "dog": 1})
    cache = open_folder(root)
    assert cache.pixels is not None
    before = (cache.folder / build.PIXELS).read_bytes()
    cache.pixels.zero_()
    assert (cache.folder / build.PIXELS).read_bytes() == before


OPENER = """
import sys
from distaug.data.cache import open_cache
from distaug.data.folder import FolderSource
from distaug.spec.data import DataSpec
path = sys.argv[1]
said = []
def log(line):
    said.append(line)
    print(line, flush=True)
cache = open_cache(FolderSource(path, log), DataSpec(source="folder", path=path), log)
print(sum(line.startswith("decoded") for line in said), int(cache.pixels.sum()), flush=True)
"""


def test_of_two_processes_at_once_one_decodes(make_folder: MakeFolder, cache: Path) -> None:
    root = make_folder({"cat": 4, "dog": 4})
    places = _Places(FolderSource(str(root), print), DataSpec(source="folder", path=str(root)), print)
    command = [sys.executable, "-c", OPENER, str(root)]
    with locked(places.lock, print, "testing"):  # until both of them stand before the lock
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for process in both:
            assert process.stdout is not None
            assert "waiting for another process" in process.stdout.readline()
        assert left_in(cache) == []
    answers = [process.communicate(timeout=120)[0].split("\n")[-2].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(int(decoded) for decoded, _ in answers) == [0, 1]
    assert answers[0][1] == answers[1][1]
    assert len(left_in(cache)) == 2  # the folder and the note
