"""Files in an object store, against a real S3 API."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import ClientTimeout
from s3fs import S3FileSystem

from distaug.errors import StorageError
from distaug.store import lines, objects
from distaug.store.objects import ObjectPath
from distaug.store.place import place
from distaug.store.whole import remove_folder, remove_tree, write_folder, write_whole
from tests.buckets import Proxy


def at(url: str) -> ObjectPath:
    found = place(url)
    assert isinstance(found, ObjectPath)
    return found


def test_files_come_and_go(bucket: str) -> None:
    folder = at(f"{bucket}/runs")
    file = folder / "deep" / "file"
    assert not folder.exists() and not file.exists() and list(folder.iterdir()) == [] and folder.files() == {}
    write_whole(file, b"old")
    write_whole(file, b"new and longer")
    assert file.read_bytes() == b"new and longer" and file.files()[""]["size"] == 14
    assert file.is_file() and not file.is_dir() and folder.is_dir() and not folder.is_file()
    write_whole(folder / "other", b"")
    assert sorted(path.name for path in folder.iterdir()) == ["deep", "other"]
    assert [str(path) for path in folder.glob("*/file")] == [str(file)]
    assert sorted(folder.files()) == ["deep/file", "other"] and list(file.files()) == [""]
    file.unlink()
    file.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError) as missing:
        file.read_bytes()
    assert missing.value.filename == str(file)
    remove_tree(folder)
    remove_tree(folder)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["team[1]", "team*", "tea?1", "[!x]*"])
def test_no_character_of_a_name_is_a_pattern(bucket: str, name: str) -> None:
    others = at(f"{bucket}/team1/runs/a/job.yaml")
    others.write_bytes(b"others'")
    runs = at(f"{bucket}/{name}/runs")
    assert list(runs.glob("*/job.yaml")) == []
    for run in ("a", "b[2]"):
        write_folder(runs / run, {"job.yaml": b"", "[a]*": b""}, seal="job.yaml")
    assert sorted(path.parent.name for path in runs.glob("*/job.yaml")) == ["a", "b[2]"]
    assert sorted(runs.files()) == ["a/[a]*", "a/job.yaml", "b[2]/[a]*", "b[2]/job.yaml"]
    remove_folder(runs / "a", seal="job.yaml")
    assert sorted(runs.files()) == ["b[2]/[a]*", "b[2]/job.yaml"]
    remove_tree(at(f"{bucket}/{name}"))
    assert list(at(bucket).files()) == ["team1/runs/a/job.yaml"]


def test_a_pattern_is_matched_part_by_part(bucket: str) -> None:
    folder = at(f"{bucket}/runs")
    for name in ("a/job.yaml", "a/deep/job.yaml", "job.yaml", ".x.tmp", "a/.x.tmp", "b/xjob.yaml"):
        (folder / name).write_bytes(b"")
    assert [str(path) for path in folder.glob("*/job.yaml")] == [f"{folder}/a/job.yaml"]
    assert [str(path) for path in folder.glob(".*.tmp")] == [f"{folder}/.x.tmp"]


def test_what_marks_a_folder_is_no_file_of_it(bucket: str) -> None:
    client = S3FileSystem(use_listings_cache=False)
    for key in ("set/", "set/cat/", "set/cat/1"):
        client.call_s3("put_object", Bucket=bucket.removeprefix("s3://"), Key=key, Body=b"")
    assert list(at(f"{bucket}/set").files()) == ["cat/1"]
    remove_tree(at(f"{bucket}/set"))
    assert not at(f"{bucket}/set").exists()


@pytest.mark.parametrize("size", [10, 5 * 2**20])
def test_a_content_whose_connection_is_cut_is_asked_for_again(
    bucket: str, proxy: Proxy, tmp_path: Path, size: int
) -> None:
    S3FileSystem.clear_instance_cache()  # so that this process goes through the proxy too
    file, content = at(f"{bucket}/file"), b"x" * size
    file.write_bytes(content)
    proxy.cut, proxy.cuts = re.compile("GET .*/file"), 2
    assert file.read_bytes() == content
    proxy.cuts = 2
    file.fetch(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content
    proxy.cuts = 100
    with pytest.raises(StorageError, match="the store cannot be reached"):
        file.read_bytes()


def test_a_new_file_is_never_an_old_one(bucket: str) -> None:
    file = at(f"{bucket}/lock")
    file.write_bytes(b"mine", new=True)
    with pytest.raises(FileExistsError):
        file.write_bytes(b"yours", new=True)
    assert file.read_bytes() == b"mine"


def test_what_another_process_wrote_is_seen_at_once(bucket: str) -> None:
    file = at(f"{bucket}/runs/a")
    assert not file.exists() and list(at(f"{bucket}/runs").iterdir()) == []
    other = (
        "import sys; from distaug.store.place import place\n"
        "place(sys.argv[1]).write_bytes(b'1'); place(sys.argv[1] + 'b').write_bytes(b'')"
    )
    subprocess.run([sys.executable, "-c", other, str(file)], check=True)
    assert file.read_bytes() == b"1" and len(list(at(f"{bucket}/runs").iterdir())) == 2


def test_the_seal_is_put_last_and_removed_first(bucket: str, proxy: Proxy) -> None:
    S3FileSystem.clear_instance_cache()  # so that this process goes through the proxy too
    folder = at(f"{bucket}/model")
    write_folder(folder, {"seal": b"1", "a": b"2", "b": b"3"}, seal="seal")
    puts = [line.rpartition("/")[2] for line in proxy.requests if line.startswith("PUT")]
    assert sorted(puts[:2]) == ["a", "b"] and puts[2:] == ["seal"]
    proxy.requests.clear()
    write_folder(folder, {"seal": b"1", "c": b"2"}, seal="seal")
    changes = [line for line in proxy.requests if not line.startswith(("GET", "HEAD"))]
    assert changes[0].startswith("DELETE") and changes[0].endswith("/model/seal")
    assert sorted(folder.files()) == ["c", "seal"], "nothing of the old folder is left"
    remove_folder(folder, seal="seal")
    remove_folder(folder, seal="seal")
    assert not folder.exists()


def test_lines_are_added_to_whole_lines(bucket: str) -> None:
    file = at(f"{bucket}/history.jsonl")
    assert lines.read(file) == []
    lines.append(file, b"1\n")
    write_whole(file, file.read_bytes() + b"torn")
    assert lines.read(file) == [b"1\n"]
    lines.append(file, b"2\n")
    assert file.read_bytes() == b"1\n2\n"


@pytest.mark.parametrize("key", ["a/../../x", "a//x", "./x"])
def test_names_that_could_leave_a_folder_are_refused(bucket: str, key: str) -> None:
    S3FileSystem(use_listings_cache=False).call_s3(
        "put_object", Bucket=bucket.removeprefix("s3://"), Key=f"data/{key}", Body=b""
    )
    with pytest.raises(StorageError, match="can be no file's name"):
        at(f"{bucket}/data").files()


def test_a_bucket_that_is_not_there(bucket: str) -> None:
    for act in (at(f"{bucket}-not/x").check_bucket, lambda: at(f"{bucket}-not/x").write_bytes(b"")):
        with pytest.raises(StorageError, match=r"there is no bucket 'bucket-\w+-not'; make it"):
            act()


def test_whoever_may_only_use_a_name_need_not_ask_about_the_bucket(bucket: str, proxy: Proxy) -> None:
    S3FileSystem.clear_instance_cache()  # so that this process goes through the proxy too
    name = bucket.removeprefix("s3://")

    def refuse(line: str) -> tuple[int, str] | None:
        allowed = f"/{name}/runs/a" in line or (line.startswith(f"GET /{name}?") and "prefix=runs%2Fa" in line)
        return None if allowed else (403, "AccessDenied")

    proxy.refuse = refuse
    at(f"{bucket}/runs/a").check_bucket()
    with pytest.raises(StorageError, match=r"refuses it .*must allow to list, read, write and remove"):
        at(f"{bucket}/other").check_bucket()


def test_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    S3FileSystem.clear_instance_cache()
    path = at(f"{bucket}/x")
    for act in (
        path.exists,
        path.is_file,
        path.read_bytes,
        lambda: path.write_bytes(b""),
        lambda: list(path.iterdir()),
    ):
        with pytest.raises(StorageError, match="no credentials.*set AWS_ACCESS_KEY_ID"):
            act()


def test_a_store_that_cannot_be_reached_is_told_in_time(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    S3FileSystem.clear_instance_cache()
    path, began = at(f"{bucket}/x"), time.monotonic()
    with pytest.raises(StorageError, match="cannot be reached .*AWS_ENDPOINT_URL"):
        path.is_file()
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_googles_store_that_takes_a_request_and_does_not_answer_is_told_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gcsfs = pytest.importorskip("gcsfs")
    limits = at("gs://bucket/x").storage_options["requests_timeout"]
    assert limits.sock_connect == 5 and limits.sock_read == 10, "its client asks six times"
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=pause))
    limits = ClientTimeout(total=None, sock_connect=0.2, sock_read=0.2)
    monkeypatch.setitem(objects._OPTIONS["gs"], "requests_timeout", limits)
    with socket.create_server(("127.0.0.1", 0)) as hole:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{hole.getsockname()[1]}")
        monkeypatch.setitem(objects._OPTIONS["gs"], "token", "anon")
        monkeypatch.setitem(objects._OPTIONS["gs"], "retry_timeout", 0.2)
        gcsfs.GCSFileSystem.clear_instance_cache()
        path, began = at("gs://bucket/x"), time.monotonic()
        for act in (path.is_file, lambda: path.write_bytes(b"x")):
            with pytest.raises(StorageError, match="gs://bucket/x: the store cannot be reached"):
                act()
    assert time.monotonic() - began < 30 and 0 < sum(pauses[:5]) < 40
    gcsfs.GCSFileSystem.clear_instance_cache()
