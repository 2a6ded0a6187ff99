"""From text to places: paths, URLs, and what is refused."""

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distaug.errors import JobError
from distaug.store.place import is_url, place


def test_a_path_is_absolute_and_a_file_url_is_that_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/her")
    assert place("runs") == place(Path("runs")) == tmp_path / "runs"
    assert place("~/runs") == Path("/home/her/runs")
    assert place("file:///data/with%20space/") == place("file://localhost/data/with space") == Path("/data/with space")
    assert (
        is_url("s3://bucket/x") and is_url("s3:/bucket/x") and not is_url("runs/s3") and not is_url(Path("s3://bucket"))
    )


def test_a_url_is_walked_like_a_path() -> None:
    runs = place("S3://bucket/a/runs/")
    file = runs / "one" / "job.yaml"
    assert str(file) == "s3://bucket/a/runs/one/job.yaml"
    assert (file.name, file.parent.name, str(file.parent.parent)) == ("job.yaml", "one", "s3://bucket/a/runs")
    assert file == place("s3://bucket/a/runs/one/job.yaml") != place("s3://other/a/runs/one/job.yaml")
    assert place(file) is file and pickle.loads(pickle.dumps(file)) == file
    with pytest.raises(TypeError):
        open(file)  # type: ignore[call-overload]  # a library that wants a real file must not get a strange one
    assert str(place("gs://bucket/runs")) == "gs://bucket/runs"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/runs", "unknown scheme ftp; give a path or a URL with file, s3 or gs"),
        ("s3://", "names no place in a bucket"),
        ("s3:///runs", "names no place in a bucket"),
        ("s3://bucket/a//b", "names no place in a bucket"),
        ("s3://bucket/a/../../other", "without `.` and `..`"),
        ("file://host/runs", "is on the host 'host'; give file:///path"),
        ("s3:/bucket/runs", "two slashes after `s3:`; give s3://bucket/folder"),
        ("GS:/bucket", "two slashes after `gs:`; give gs://bucket/folder"),
    ],
)
def test_what_is_no_place_is_refused(url: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        place(url)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("s3://AKIAXYZ:s3cr3t@bucket/runs", r"credentials in it.*\(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY\)"),
        ("s3://AKIAXYZ:ab/s3cr3t@bucket/runs", r"credentials in it.*AWS_SECRET_ACCESS_KEY"),
        ("gs://AKIAXYZ:s3cr3t@bucket/runs", r"credentials in it.*\(GOOGLE_APPLICATION_CREDENTIALS\)"),
        ("s3:/AKIAXYZ:s3cr3t@bucket/runs", "two slashes"),
        ("https://AKIAXYZ:s3cr3t@bucket/runs", "unknown scheme https"),
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str, advice: str) -> None:
    with pytest.raises(JobError, match=advice) as refused:
        place(url)
    assert "s3cr3t" not in str(refused.value) and "AKIAXYZ" not in str(refused.value)


@pytest.mark.parametrize(("scheme", "library"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_library_is_told_with_its_extra(scheme: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name == library else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(JobError, match=rf"needs {library}: pip install 'distaug\[{scheme}\]'"):
        place(f"{scheme}://bucket/runs")


def test_a_run_in_a_folder_does_not_load_the_libraries_of_the_stores() -> None:
    code = "import sys; from distaug.store.rundir import RunDir; RunDir('runs', 'a').exists(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert {"upath", "fsspec", "s3fs", "botocore", "gcsfs"}.isdisjoint(loaded)
