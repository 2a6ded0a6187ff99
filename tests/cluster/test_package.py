"""What travels with a submitted job."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from distaug.cluster import package
from distaug.cluster.package import JOB_FILE, Order, pack
from distaug.errors import DataError, JobError
from distaug.spec.job import JobSpec
from distaug.spec.load import parse_job


def job(data: str = "{source: digits}", more: str = "") -> JobSpec:
    return parse_job(f"data: {data}\nmodel: {{name: smallnet}}\n{more}", filename="job.yaml")


def names(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "user"
    made_up = ("nets.py", "data/train.parquet", "data/runs/1.png", "runs/old/job.yaml", "venv/lib.py")
    for name in (*made_up, ".env", ".ssh/id", "__pycache__/nets.pyc"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    return made


def test_without_git_all_but_environments_caches_and_runs(folder: Path, tmp_path: Path) -> None:
    packed = pack(Order.of(job()), folder, tmp_path / "p.zip")
    assert names(tmp_path / "p.zip") == {"nets.py", "data/train.parquet", JOB_FILE} and packed.files == 2
    # In what the job names, nothing is left out: a class may have any name.
    (folder / "data" / "linked").symlink_to(folder / "runs")
    (folder / "data" / "circle").symlink_to(folder / "data")
    pack(Order.of(job("{source: folder, path: data}")), folder, tmp_path / "p.zip")
    assert {"data/runs/1.png", "data/linked/old/job.yaml"} < names(tmp_path / "p.zip")
    assert not any("circle" in name for name in names(tmp_path / "p.zip"))


def test_in_a_repository_the_files_as_they_lie_there(folder: Path, tmp_path: Path) -> None:
    git = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e"]
    (folder / ".gitignore").write_text("runs\ndata\nvenv\n__pycache__\n.ssh\n.env\n")
    (folder / "gone.py").write_text("")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    (folder / "nets.py").write_text("changed")
    (folder / "new.py").write_text("")
    (folder / "gone.py").unlink()
    (folder / ".keys").write_text("secret")
    pack(Order.of(job()), folder, tmp_path / "p.zip")
    assert names(tmp_path / "p.zip") == {".gitignore", "nets.py", "new.py", JOB_FILE}
    with zipfile.ZipFile(tmp_path / "p.zip") as archive:
        assert archive.read("nets.py") == b"changed"
        assert parse_job(archive.read(JOB_FILE).decode(), filename="job.yaml") == job()

    # Data beside the code travels although git ignores it, and what else the job names.
    (folder / "runs/old/model").mkdir()
    (folder / "runs/old/model/model.json").write_text("{}")
    more = "train: {distill: {teacher: runs/old/model}}"
    packed = pack(Order.of(job("{source: parquet, path: data}", more)), folder, tmp_path / "q.zip")
    assert {"data/train.parquet", "runs/old/model/model.json"} < names(tmp_path / "q.zip")
    assert packed.data == "data.path data travels with the job: 0.0 MB of at most 105 MB"


def make_studies(folder: Path) -> None:
    for name in (
        *("results/mine/study.yaml", "results/mine/results.json", "results/mine/runs/a-s0/result.json"),
        *("results/notes.md", "only/study.yaml", "only/a.py", "other/results.json", "study.yaml", "results.json"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


NO_RUNS = {"results/notes.md", "only/study.yaml", "only/a.py", "other/results.json", "study.yaml", "results.json"}


def test_folders_of_studies_stay_here(tmp_path: Path) -> None:
    make_studies(tmp_path / "user")
    pack(Order.of(job()), tmp_path / "user", tmp_path / "p.zip")
    assert names(tmp_path / "p.zip") == {*NO_RUNS, JOB_FILE}


def test_folders_of_studies_travel_where_git_knows_them(tmp_path: Path) -> None:
    folder = tmp_path / "user"
    make_studies(folder)
    git = ["git", "-C", str(folder)]
    subprocess.run([*git, "init", "-q"], check=True)
    pack(Order.of(job()), folder, tmp_path / "p.zip")
    assert names(tmp_path / "p.zip") == {*NO_RUNS, JOB_FILE}
    kept = {"results/mine/study.yaml", "results/mine/results.json"}
    subprocess.run([*git, "add", *kept], check=True)
    pack(Order.of(job()), folder, tmp_path / "q.zip")
    assert names(tmp_path / "q.zip") == {*NO_RUNS, *kept, JOB_FILE}, "but not its runs"


def test_the_same_files_make_the_same_package(folder: Path, tmp_path: Path) -> None:
    pack(Order.of(job()), folder, tmp_path / "a.zip")
    (folder / "nets.py").touch()
    pack(Order.of(job()), folder, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{source: digits}", "data.source digits needs no files of yours"),
        ("{source: parquet, path: /data/x}", "data.path /data/x is expected on every node"),
        ("{source: parquet, path: s3://b/x}", "data.path s3://b/x is a URL: each node fetches it once"),
        ("{source: parquet, path: ./data}", "data.path ./data travels with the job: 0.0 MB of at most 105 MB"),
    ],
    ids=["embedded", "absolute", "URL", "beside"],
)
def test_it_says_where_the_nodes_find_the_data(data: str, words: str, folder: Path, tmp_path: Path) -> None:
    assert pack(Order.of(job(data)), folder, tmp_path / "p.zip").data == words


def test_what_cannot_travel_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="data.path: pictures is not in the working directory"):
        pack(Order.of(job("{source: folder, path: pictures}")), folder, tmp_path / "p.zip")
    with pytest.raises(JobError, match=r"data.path: \.\./x leads out of the working directory"):
        pack(Order.of(job("{source: folder, path: ../x}")), folder, tmp_path / "p.zip")
    monkeypatch.setattr(package, "LIMIT_BYTES", 10)
    with pytest.raises(JobError, match="the largest: data 0.0 MB, nets.py 0.0 MB"):
        pack(Order.of(job()), folder, tmp_path / "p.zip")
