"""Data sets in an object store: one copy a node, whole or absent."""

import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from s3fs import S3FileSystem

from distaug.data import fetch
from distaug.data.fetch import at_hand, fetched
from distaug.data.node import cache_root
from distaug.data.open import open_data
from distaug.errors import DataError, JobError, StorageError
from distaug.spec.conflicts import conflicts
from distaug.spec.data import DataSpec
from distaug.spec.job import JobSpec
from distaug.store.objects import ObjectPath
from distaug.store.place import place
from tests.buckets import Proxy
from tests.data.test_parquet import write


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTAUG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twenty pictures of two classes."""
    root = tmp_path / "pictures"
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (100 * label, 10 * number, 0)).save(root / name / f"{number}.png")
    return root


def upload(folder: Path, url: str) -> str:
    S3FileSystem(use_listings_cache=False).put(str(folder), url, recursive=True)
    return url


def spec(path: str | Path, source: str = "folder") -> DataSpec:
    return DataSpec.model_validate({"source": source, "path": str(path), "val_fraction": 0.2})


def test_a_path_is_left_alone(tmp_path: Path) -> None:
    assert fetched("data/x", pytest.fail) == "data/x" and at_hand("nowhere")
    assert fetched(f"file://{tmp_path}", pytest.fail) == str(tmp_path)


def test_a_folder_tree_is_fetched_once_and_is_the_same_data(pictures: Path, bucket: str, proxy: Proxy) -> None:
    url, said = upload(pictures, f"{bucket}/sets/pictures"), list[str]()
    S3FileSystem.clear_instance_cache()  # so that this process goes through the proxy too
    assert not at_hand(url)
    first = open_data(spec(url), log=said.append)
    assert first.digest == open_data(spec(pictures)).digest
    assert len([line for line in said if "fetching" in line]) == 1 and f"fetching {url}: 20 files" in said[0]
    assert at_hand(url)
    gets = [line for line in proxy.requests if line.startswith("GET") and line.endswith(".png")]
    assert len(gets) == 20
    assert open_data(spec(url), log=pytest.fail).digest == first.digest
    assert len([line for line in proxy.requests if line.startswith("GET") and line.endswith(".png")]) == 20


def ask(url: str) -> list[str]:
    said: list[str] = []
    fetched(url, said.append)
    return [line for line in said if line.startswith("fetching")]


def test_of_several_processes_one_fetches(pictures: Path, bucket: str) -> None:
    url = upload(pictures, f"{bucket}/pictures")
    with multiprocessing.get_context("spawn").Pool(3) as processes:
        said = processes.map(ask, [url] * 3, chunksize=1)
    assert len([line for lines in said for line in lines]) == 1


def test_a_copy_that_was_removed_is_fetched_again_and_a_change_is_seen(pictures: Path, bucket: str) -> None:
    url = upload(pictures, f"{bucket}/pictures")
    copy = Path(fetched(url, lambda line: None))
    assert copy.name == "pictures" and copy.is_relative_to(cache_root())
    os.rename(copy, copy.with_name("gone"))
    assert not at_hand(url) and fetched(url, lambda line: None) == str(copy) and copy.is_dir()
    before = open_data(spec(url)).digest
    Image.new("RGB", (8, 8), (1, 2, 3)).save(pictures / "cat" / "0.png")
    S3FileSystem(use_listings_cache=False).put_file(str(pictures / "cat" / "0.png"), f"{url}/cat/0.png")
    assert Path(fetched(url, lambda line: None)) != copy
    assert open_data(spec(url)).digest == open_data(spec(pictures)).digest != before


def test_an_older_copy_goes_unless_a_process_may_still_read_it(pictures: Path, bucket: str) -> None:
    url, copies = upload(pictures, f"{bucket}/pictures"), list[Path]()
    for colour, of_another in ((1, True), (2, False), (3, False)):
        Image.new("RGB", (8, 8), (colour, 2, 3)).save(pictures / "cat" / "0.png")
        S3FileSystem(use_listings_cache=False).put_file(str(pictures / "cat" / "0.png"), f"{url}/cat/0.png")
        if of_another:
            with multiprocessing.get_context("spawn").Pool(1) as process:
                assert process.map(ask, [url])[0]
        copies.append(Path(fetched(url, lambda line: None)) if not of_another else next(cache_root().rglob("pictures")))
    assert len(set(copies)) == 3 and [copy.exists() for copy in copies] == [False, True, True]
    other = upload(pictures, f"{bucket}/other")
    assert Path(fetched(other, lambda line: None)).exists() and copies[1].exists(), "of another URL"


def test_what_a_fetch_has_brought_is_not_fetched_again(pictures: Path, bucket: str, proxy: Proxy) -> None:
    url = upload(pictures, f"{bucket}/pictures")
    S3FileSystem.clear_instance_cache()  # so that this process goes through the proxy too
    proxy.refuse = lambda line: (403, "AccessDenied") if line.endswith("/dog/7.png") else None
    with pytest.raises(StorageError, match="refuses it"):
        fetched(url, lambda line: None)
    proxy.refuse = lambda line: None
    proxy.requests.clear()
    copy = Path(fetched(url, lambda line: None))
    assert [line.rpartition("/pictures/")[2] for line in proxy.requests if line.endswith(".png")] == ["dog/7.png"]
    assert sorted(path.name for path in copy.parent.iterdir()) == ["pictures"]
    assert open_data(spec(url)).digest == open_data(spec(pictures)).digest


def test_one_connection_that_is_cut_ends_nothing(pictures: Path, bucket: str, proxy: Proxy) -> None:
    url = upload(pictures, f"{bucket}/pictures")
    S3FileSystem.clear_instance_cache()  # so that this process goes through the proxy too
    proxy.cut, proxy.cuts = re.compile(r"GET .*\.png"), 2
    assert len(list(Path(fetched(url, lambda line: None)).rglob("*.png"))) == 20 and proxy.cuts == 0


def test_a_file_that_is_a_folder_too_is_named(pictures: Path, bucket: str) -> None:
    url = upload(pictures, f"{bucket}/pictures")
    file = place(f"{url}/cat")
    assert isinstance(file, ObjectPath)
    file.write_bytes(b"both")
    with pytest.raises(DataError, match=r"holds a file 'cat' and files below that name.*rename or remove one"):
        fetched(url, lambda line: None)


def test_one_parquet_file_and_a_folder_of_them(bucket: str, tmp_path: Path) -> None:
    file = write(tmp_path / "sets" / "train.parquet", [0, 1] * 10)
    upload(file.parent, f"{bucket}/sets")
    digests = {open_data(spec(where, "parquet")).digest for where in (file, f"{bucket}/sets/train.parquet")}
    digests.add(open_data(spec(f"{bucket}/sets", "parquet")).digest)
    assert len(digests) == 1


def test_where_there_is_nothing(bucket: str) -> None:
    with pytest.raises(DataError, match=rf"data.path = {bucket}/none holds no files"):
        open_data(spec(f"{bucket}/none"))
    with pytest.raises(DataError, match="holds no files"):
        open_data(spec(f"{bucket}-not/none"))
    with pytest.raises(JobError, match="unknown scheme"):
        open_data(spec("https://host/set"))


def test_a_kill_leaves_no_half_copy(pictures: Path, bucket: str, proxy: Proxy) -> None:
    url = upload(pictures, f"{bucket}/pictures")
    proxy.hold = re.compile(r"GET .*/dog/7\.png")
    code = "import sys; from distaug.data.fetch import fetched; fetched(sys.argv[1], print)"
    process = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.DEVNULL)
    try:
        assert proxy.held.wait(60)
    finally:
        process.kill()
        process.wait()
    assert not at_hand(url) and list(cache_root().rglob("*.png")), "it was in the middle of it"
    proxy.hold = None
    copy = Path(fetched(url, lambda line: None))
    assert len(list(copy.rglob("*.png"))) == 20 and not list(cache_root().rglob("*.partial"))


def test_a_set_that_changes_while_it_is_fetched_is_refused(
    pictures: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload(pictures, f"{bucket}/pictures")
    late = place(f"{url}/cat/0.png")
    assert isinstance(late, ObjectPath)
    copy = fetch._fetch

    def changing(*arguments: object) -> None:
        late.write_bytes(b"something else")
        copy(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fetch, "_fetch", changing)
    with pytest.raises(DataError, match="changed while it was fetched"):
        fetched(url, lambda line: None)
    assert not at_hand(url)


def test_a_full_disk_is_told(pictures: Path, bucket: str, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pictures / "cat" / "big.png").write_bytes(os.urandom(5_000_000))
    url = upload(pictures, f"{bucket}/pictures")
    monkeypatch.setenv("DISTAUG_CACHE", str(small_disk))
    with pytest.raises(StorageError, match=r"cannot write the data of s3://.*No space left.*DISTAUG_CACHE"):
        fetched(url, lambda line: None)
    assert not at_hand(url)


def test_nothing_is_downloaded_into_a_store() -> None:
    data = {"source": "mnist", "path": "s3://bucket/mnist", "download": True}
    job = JobSpec.model_validate({"data": data, "model": {"name": "smallnet"}})
    assert [path for path, *_ in conflicts(job)] == ["data.download"]
