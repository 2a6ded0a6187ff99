"""Parquet files in the Hugging Face layout: sets by file name, class names, labels, and what is refused."""

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distaug.data.decode import load
from distaug.data.parquet import ParquetSource
from distaug.data.source import TEST, TRAIN, VAL
from distaug.errors import DataError

Noise = Callable[..., np.ndarray]


def png(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "png")
    return out.getvalue()


def write(
    file: Path,
    labels: Sequence[int | None],
    names: Sequence[str] | None = ("cat", "dog"),
    pictures: Sequence[bytes | None] | None = None,
    group: int = 3,
) -> Path:
    """Write one file; without `pictures` each is a grey that tells its row."""
    if pictures is None:
        pictures = [png(np.full((4, 4, 3), row, np.uint8)) for row in range(len(labels))]
    images = [{"bytes": data, "path": f"{row}.png"} for row, data in enumerate(pictures)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), "label": pa.array(labels, pa.int64())})
    if names is not None:
        features = {"label": {"names": list(names), "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=group)
    return file


def test_one_file_is_all_training(tmp_path: Path) -> None:
    source = ParquetSource(str(write(tmp_path / "test.parquet", [0, 1, 1, 0])))
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [0, 1, 1, 0]
    assert source.parts.tolist() == [TRAIN] * 4
    assert source.name(3) == "test.parquet row 3"


@pytest.mark.parametrize(
    "names",
    [
        (
            "train-00000-of-00002.parquet",
            "train-00001-of-00002.parquet",
            "validation.parquet",
            "test.parquet",
        ),
        ("data/train/0.parquet", "data/train/1.parquet", "data/valid/0.parquet", "data/test/0.parquet"),
        ("Train_a.parquet", "Train_b.parquet", "my-dev.parquet", "x.test.parquet"),
    ],
)
def test_file_and_folder_names_say_the_set(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name, labels in zip(names, ([0, 1], [1], [0, 0], [1, 1, 1]), strict=True):
        write(tmp_path / "set" / name, labels)
    write(tmp_path / "set" / ".hidden" / "train.parquet", [1] * 9)
    source = ParquetSource(str(tmp_path / "set"))
    assert source.parts.tolist() == [TRAIN] * 3 + [VAL] * 2 + [TEST] * 3
    assert source.labels.tolist() == [0, 1, 1, 0, 0, 1, 1, 1]
    assert source.name(2).endswith("row 0")


def test_files_that_name_no_set_are_all_training(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.parquet", [0, 1])
    assert ParquetSource(str(tmp_path)).parts.tolist() == [TRAIN] * 4


def test_pictures_are_the_same_one_by_one_and_in_order(tmp_path: Path, noise: Noise) -> None:
    pictures = [noise(4, 5, seed) for seed in range(10)]
    for name, rows in (("train-0", slice(0, 7)), ("train-1", slice(7, 10))):
        chosen = pictures[rows]
        write(tmp_path / f"{name}.parquet", [0] * len(chosen), pictures=[png(picture) for picture in chosen])
    source = ParquetSource(str(tmp_path))
    for i, reference in enumerate(source.references()):
        assert np.array_equal(load(reference, 100), pictures[i])
        assert np.array_equal(load(source.reference(i), 100), pictures[i])
    assert i == 9
    assert source.scattered_bytes == sum(file.stat().st_size for file in tmp_path.glob("*.parquet"))


def test_a_row_without_a_picture_is_damaged_not_fatal(tmp_path: Path) -> None:
    pictures = [png(np.zeros((2, 2, 3), np.uint8)), None]
    source = ParquetSource(str(write(tmp_path / "a.parquet", [0, 1], pictures=pictures)))
    assert list(source.references())[1] == b"" == source.reference(1).read()


def test_without_names_the_labels_are_the_names(tmp_path: Path) -> None:
    source = ParquetSource(str(write(tmp_path / "a.parquet", [0, 3, 1], names=None)))
    assert source.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1, 2], ("cat", "dog"), r"label of row 2 is 2, allowed are 0 to 1 .*; 1 rows"),
        ([0, -1, -1], ("cat", "dog"), r"label of row 1 is -1, allowed are 0 to 1 .*; 2 rows"),
        ([0, -1], None, r"label of row 1 is -1, allowed are 0 and up"),
        ([0, None, 1, None], ("cat", "dog"), "2 rows have no label, the first is row 1"),
    ],
)
def test_bad_labels_are_refused(
    tmp_path: Path, labels: list[int | None], names: tuple[str, ...] | None, message: str
) -> None:
    source = ParquetSource(str(write(tmp_path / "a.parquet", labels, names)))
    with pytest.raises(DataError, match=message):
        _ = source.labels


def test_other_columns_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"img": [b"x"], "label": [0]}), file)
    with pytest.raises(DataError, match="no column `image`; its columns are img, label"):
        ParquetSource(str(file))
    pq.write_table(pa.table({"image": [b"x"], "label": [0]}), file)
    with pytest.raises(DataError, match="column `image` is binary, not struct"):
        ParquetSource(str(file))
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": "p"}], "label": ["cat"]}), file)
    with pytest.raises(DataError, match="column `label` is string, not whole numbers"):
        ParquetSource(str(file))


def test_files_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "names" / "train.parquet", [0], ("cat", "dog"))
    write(tmp_path / "names" / "test.parquet", [0], ("dog", "cat"))
    with pytest.raises(DataError, match="class names of train.parquet and test.parquet differ: 2 .cat, dog"):
        ParquetSource(str(tmp_path / "names"))
    write(tmp_path / "some" / "train.parquet", [0])
    write(tmp_path / "some" / "extra.parquet", [0])
    with pytest.raises(DataError, match=r"1 of 2 files do not say which set they hold \(extra.parquet\)"):
        ParquetSource(str(tmp_path / "some"))
    write(tmp_path / "both" / "train-test.parquet", [0])
    with pytest.raises(DataError, match="speaks of train and test"):
        ParquetSource(str(tmp_path / "both"))
    write(tmp_path / "none" / "test.parquet", [0])
    with pytest.raises(DataError, match="no training file"):
        ParquetSource(str(tmp_path / "none"))


def test_missing_or_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        ParquetSource(str(tmp_path / "gone"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no file that ends in \.parquet"):
        ParquetSource(str(tmp_path / "empty"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 this is not")
    with pytest.raises(DataError, match="not a Parquet file that can be read"):
        ParquetSource(str(tmp_path / "bad.parquet"))


def test_content_follows_labels_but_not_names_or_times(tmp_path: Path) -> None:
    def content(path: Path) -> str:
        return ParquetSource(str(path)).content(print)

    file = write(tmp_path / "a.parquet", [0, 1])
    before = content(file)
    os.utime(file, (1, 1))
    assert content(file) == before
    assert content(file.rename(tmp_path / "b.parquet")) == before
    assert content(write(tmp_path / "b.parquet", [1, 1])) != before
    assert ParquetSource(str(tmp_path / "b.parquet")).labels.tolist() == [1, 1]
