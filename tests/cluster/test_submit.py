"""The commands that ask a cluster, against a real head node with its Job API."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.nodes import free_ports
from distaug.cluster import submit
from distaug.cluster.jobs import Cluster
from distaug.cluster.private import ADDRESS
from distaug.errors import ClusterError, JobError
from distaug.spec.job import JobSpec
from distaug.spec.load import dump_job, parse_job
from distaug.train.world import SoloWorld
from tests.cluster.heads import head
from tests.train.jobs import run_job, small_job

PATIENCE_S = 120


def long_job(runs: Path) -> dict[str, Any]:
    return small_job(runs, train={"epochs": 40, "shards": 2}, stop={"patience_epochs": None})


def command(folder: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "distaug", *argv],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=os.environ | environment,
    )


def wait_for(what: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.3)
    raise AssertionError("did not happen")


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("head:8265", "the address head:8265 has no scheme: give http://head:8265"),
        ("ray://head:10001", "is not that of a dashboard"),
        ("http://", "is not that of a dashboard"),
        ("http://head:port", "is not that of a dashboard"),
        ("http://me:secret@head:8265", "holds a password"),
        ("", "which cluster"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)
    with pytest.raises(JobError, match=error) as caught:
        Cluster(address)
    assert "secret" not in str(caught.value)


def test_a_cluster_that_is_not_there_is_told_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(ClusterError, match="no cluster answers at http://127.0.0.1:"):
        Cluster(f"http://127.0.0.1:{free_ports(1)[0]}/")
    assert time.monotonic() - began < 5


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    cache = str(tmp_path_factory.getbasetemp() / "cache")
    with head(tmp_path_factory.mktemp("head"), DISTAUG_CACHE=cache) as address:
        yield address


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """Return a user's folder with a job in it."""
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "job.yaml").write_text(dump_job(JobSpec.model_validate(long_job(tmp_path / "runs"))))
    return folder


@pytest.mark.ray
def test_from_the_queue_to_the_result(address: str, user: Path) -> None:
    short = ["--set", "train.epochs=2"]
    # With what a browser shows behind it.
    sent = command(user, "submit", "job.yaml", "--address", f"{address}/#/jobs", "--follow", *short)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    first, *said = sent.stdout.splitlines()
    assert first.startswith("small-") and any(line.startswith("epoch 2/2") for line in said)
    assert "data.source digits needs no files of yours" in sent.stderr and "files 1, packed" in sent.stderr
    assert json.loads((user.parent / "runs" / first / "result.json").read_text())["state"] == "finished"

    (row,) = json.loads(command(user, "status", first, "--json", **{ADDRESS: address}).stdout)
    assert row["state"] == "finished" and row["epoch"] == row["epochs"] == 2 and row["left_s"] is None
    assert 0 < row["top1"] <= 1 and row["images_per_second"] > 0 and row["place"].endswith(f"/runs/{first}")
    table = command(user, "status", "--address", address).stdout
    assert first in table and "finished" in table and "2/2" in table
    assert "epoch 2/2" in command(user, "logs", first, "--address", address).stdout
    over = command(user, "cancel", first, "--address", address)
    assert over.returncode == 5 and f"{first} has ended already" in over.stderr
    unknown = command(user, "logs", "nobody", "--address", address)
    assert (
        unknown.returncode == 5 and f"there is no run 'nobody' on the cluster at {address}; it knows" in unknown.stderr
    )
    assert "distaug-versions" not in table


@pytest.mark.ray
def test_a_study_goes_the_same_way(address: str, user: Path, tmp_path: Path) -> None:
    variants = {"plain": {}, "smoothed": {"train.label_smoothing": 0.3}}
    # Its base is a file beside it, which the head node never sees.
    study = {"name": "both", "base": "job.yaml", "variants": variants, "seeds": [0]}
    (user / "study.yaml").write_text(json.dumps(study))
    options = ["--address", address, "--set", "train.epochs=1"]
    relative = command(user, "submit", "study.yaml", *options)
    assert relative.returncode == 2 and "studies_dir: studies is relative" in relative.stderr
    refused = command(user, "submit", "job.yaml", "--quick", *options)
    assert refused.returncode == 2 and "job.yaml is a job; studies have a smaller version" in refused.stderr

    sent = command(user, "submit", "study.yaml", "--follow", *options, "--set", f"studies_dir={tmp_path / 'studies'}")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    name, *said = sent.stdout.splitlines()
    assert name.startswith("both-") and "study: run 2 of 2: smoothed-s0, about" in "\n".join(said)
    found = json.loads((tmp_path / "studies" / name / "results.json").read_text())
    assert [(run["run"], run["state"]) for run in found["runs"]] == [("plain-s0", "done"), ("smoothed-s0", "done")]
    (row,) = json.loads(command(user, "status", name, "--json", "--address", address).stdout)
    assert row["state"] == "finished" and row["place"].endswith(f"/studies/{name}") and row["epoch"] == 1


@pytest.mark.ray
@pytest.mark.slow
def test_cancelled_and_resumed_it_ends_in_the_same_weights(address: str, user: Path, tmp_path: Path) -> None:
    def status(name: str) -> dict[str, Any]:
        rows: list[dict[str, Any]] = json.loads(command(user, "status", name, "--json", "--address", address).stdout)
        return rows[0]

    name = f"mine-{secrets.token_hex(2)}"
    sent = command(user, "submit", "job.yaml", "--address", address, "--name", name)
    assert sent.stdout.split() == [name]
    again = command(user, "submit", "job.yaml", "--address", address, "--name", name)
    assert again.returncode == 5 and f"run '{name}' is on this cluster already" in again.stderr
    wait_for(lambda: status(name)["epoch"])
    cancelled = command(user, "cancel", name, "--address", address)
    assert cancelled.returncode == 0 and "after step" in cancelled.stdout and "the state is saved" in cancelled.stdout
    assert status(name)["state"] == "stopped"
    assert list((tmp_path / "runs" / name / "checkpoints").glob("*/manifest.json"))

    resumed = command(user, "resume", name, "--address", address)
    assert resumed.stdout.split() == [f"{name}.2"]
    wait_for(lambda: status(name)["state"] == "finished")
    result = json.loads((tmp_path / "runs" / name / "result.json").read_text())
    undisturbed = run_job(SoloWorld(), long_job(tmp_path / "alone"))["result"]
    assert result["weights_digest"] == undisturbed.weights_digest
    assert result["restarts"] == 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_failed_job_ends_with_its_own_exit_code(address: str, user: Path) -> None:
    sent = command(user, "submit", "job.yaml", "--address", address, "--follow", "--set", "model.name=nowhere:net")
    assert sent.returncode == 2 and "distaug: model.name" in sent.stdout and "nowhere" in sent.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_data_and_code_beside_the_job_travel_with_it(address: str, user: Path, tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    for place, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        file = user / "pictures" / str(label) / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        _save(image * 15, file)
    (user / "nets.py").write_text(
        "from torch import nn\n\n\n"
        "def net(num_classes, widths):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))\n"
    )
    sets = ["data.source=folder", "data.path=pictures", "model.name=nets:net", "train.epochs=1"]
    argv = [word for one in sets for word in ("--set", one)]
    sent = command(user, "submit", "job.yaml", "--address", address, "--follow", *argv)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert "data.path pictures travels with the job" in sent.stderr


def _save(pixels: Any, file: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels.astype("uint8")).convert("RGB").save(file)


@pytest.mark.ray
@pytest.mark.slow
def test_what_cannot_work_is_refused_before_it_is_in_the_queue(
    address: str, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(Cluster(address).jobs())
    relative = command(user, "submit", "job.yaml", "--address", address, "--set", "runs_dir=runs")
    assert relative.returncode == 2 and "runs_dir: runs is relative" in relative.stderr
    missing = command(
        user, "submit", "job.yaml", "--address", address, "--set", "data.source=folder", "--set", "data.path=nowhere"
    )
    assert missing.returncode == 3 and "data.path: nowhere is not in the working directory" in missing.stderr
    job = parse_job((user / "job.yaml").read_text(), filename="job.yaml")
    large = job.model_copy(update={"cluster": job.cluster.model_copy(update={"env": {"A": "x" * 70_000}})})

    def send(job: JobSpec) -> str:
        return submit.submit(job, Cluster(address), unique=True, working_dir=user, say=print)

    with pytest.raises(JobError, match="jobs of up to 64,000 can be submitted"):
        send(large)
    here = submit._version
    for name in ("distaug", "torch", "ray"):
        monkeypatch.setattr(submit, "_version", lambda asked, name=name: "9.9" if asked == name else here(asked))
        with pytest.raises(ClusterError, match=rf"has other versions: {name} [\d.]+ there and 9.9 here"):
            send(job)
    assert len(Cluster(address).jobs()) == before


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_with_a_token(user: Path, tmp_path: Path) -> None:
    token = secrets.token_hex(32)
    mine = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    with head(tmp_path, **mine, DISTAUG_CACHE=os.environ["DISTAUG_CACHE"]) as address:
        argv = ["submit", "job.yaml", "--address", address, "--follow", "--set", "train.epochs=1"]
        for wrong in ({"RAY_AUTH_MODE": "disabled"}, mine | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}):
            refused = command(user, *argv, **wrong)
            assert (
                refused.returncode == 5 and "refuses this token, or there is none: set RAY_AUTH_MODE" in refused.stderr
            )
            assert token not in refused.stderr
        sent = command(user, *argv, **mine)
        assert sent.returncode == 0 and "epoch 1/1" in sent.stdout, sent.stdout + sent.stderr
        nothing = command(user, "status", "--address", address, RAY_AUTH_MODE="token", HOME=str(tmp_path))
        assert nothing.returncode == 5 and "refuses this token, or there is none" in nothing.stderr
