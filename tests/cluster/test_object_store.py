"""Runs and data in an object store, from end to end, against a real S3 API: the store is the only home of a run."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from s3fs import S3FileSystem

import distaug
from distaug.cluster import status
from distaug.compress.artifact import open_artifact
from distaug.errors import JobError, StorageError
from distaug.report.run import write_report
from distaug.spec.conflicts import check
from distaug.spec.job import JobSpec
from distaug.spec.load import dump_job
from distaug.store import checkpoint, records
from distaug.store.records import Result
from distaug.store.rundir import RunDir
from distaug.train.claim import claim
from distaug.train.local import train
from distaug.train.world import SoloWorld
from tests.buckets import Proxy
from tests.train.jobs import Watcher, run_job, small_job

PATIENCE_S = 500
# The lock's time is cut short, since the one that is killed holds it for that long.
TRAIN = """
import sys
from distaug.store import lease
lease.LENT_S = 3.0
from distaug.train.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def job_in(runs: str | Path, **changes: Any) -> JobSpec:
    return JobSpec.model_validate(small_job(Path("x"), **changes) | {"runs_dir": str(runs)})


def command(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run the command as a user would; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "distaug", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == code and "Traceback" not in done.stdout, done.stdout
    return done.stdout


def test_a_run_in_a_store_is_the_same_run(bucket: str, tmp_path: Path) -> None:
    job = job_in(f"{bucket}/runs")
    result, same = train(job), train(job_in(tmp_path / "runs"))
    assert result.weights_digest == same.weights_digest and result.test == same.test
    run = RunDir.find(f"{bucket}/runs/small")
    assert Result.read(run.result_file) == result and not run.in_use()
    assert [record.train_loss for record in records.read(run.history_file)] == [
        record.train_loss for record in records.read(tmp_path / "runs" / "small" / "history.jsonl")
    ]
    assert [status.of_run(one).state for one in status.runs(f"{bucket}/runs")] == ["finished"]
    assert [one.name for one in status.runs(f"{bucket}/runs/small")] == ["small"]
    watcher = Watcher()
    assert train(job, watcher) == result and watcher.steps == 0, "a finished run is not trained again"
    with pytest.raises(JobError, match=rf"in {bucket}/runs was made by a different job:\n  seed: 0 in the run, 1 now"):
        claim(job_in(f"{bucket}/runs", seed=1))

    classifier = distaug.load(f"{bucket}/runs/small")
    assert classifier.evaluate()["top1"] == result.test["top1"] if result.test else pytest.fail("no test set")
    assert len(classifier.predict(np.zeros((1, 32, 32, 3), np.uint8))) == 1
    page = write_report(run)
    assert str(page) == f"{bucket}/runs/small/report/index.html"
    assert b"Held-out" in page.read_bytes() or b"Test set" in page.read_bytes()
    assert not list(tmp_path.glob("s3*")) and not Path("s3:").exists()


def test_a_stopped_run_goes_on_to_the_same_bits(bucket: str, tmp_path: Path) -> None:
    whole = run_job(SoloWorld(), small_job(tmp_path))["result"].weights_digest
    job = small_job(Path("x")) | {"runs_dir": f"{bucket}/runs"}
    stopped = run_job(SoloWorld(), job, stop_after=7)
    assert stopped["error"].exit_code == 130
    resumed = run_job(SoloWorld(), job)
    assert resumed["steps"] == 3 and resumed["result"].weights_digest == whole and resumed["result"].restarts == 1


@pytest.mark.parametrize("file", [pytest.param("model.safetensors", marks=pytest.mark.slow), "manifest.json"])
def test_a_kill_in_the_middle_of_an_upload_costs_no_bit(bucket: str, proxy: Proxy, tmp_path: Path, file: str) -> None:
    changes: dict[str, Any] = {"train": {"epochs": 4}}
    whole = run_job(SoloWorld(), small_job(tmp_path, **changes))["result"].weights_digest
    job = job_in(f"{bucket}/runs", **changes)
    (tmp_path / "job.yaml").write_text(dump_job(job))
    proxy.hold = re.compile(rf"PUT /.*/epoch-0002-step-0000000/{file}")
    process = subprocess.Popen([sys.executable, "-c", TRAIN, "job.yaml"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        assert proxy.held.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    proxy.hold = None
    run = RunDir.find(f"{bucket}/runs/small")
    left = checkpoint.newest(run.checkpoints, warn=pytest.fail)
    assert left is not None and left.epoch == 1, "what was being put does not exist"
    if file == "manifest.json":
        assert (run.checkpoints / "epoch-0002-step-0000000" / "model.safetensors").is_file()
    limit = time.monotonic() + 30
    while run.in_use():
        assert time.monotonic() < limit, "a dead owner holds the run for ever"
        time.sleep(0.2)
    result = train(job)
    assert result.weights_digest == whole and result.restarts == 1
    assert [record.epoch for record in records.read(run.history_file)] == list(range(4))


@pytest.mark.slow
def test_a_compression_works_in_a_store(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distaug.compress import measure, stage
    from distaug.report.compression import draw

    monkeypatch.setattr(measure, "_SECONDS", 0.1)
    stages = [
        {"channels": {"ratio": 0.25, "finetune_epochs": 1, "distill": 0.5}},
        {"int8": {"calibration_images": 256}},
    ]
    gate = {"max_accuracy_drop": 100.0, "min_agreement": 0.0, "min_logit_snr_db": -100.0}
    job = job_in(
        f"{bucket}/runs",
        data={"per_class": None},
        train={"epochs": 1},
        compress={"stages": stages, "gate": gate},
    )
    train(job)
    run, job, _ = claim(job)
    trained: list[str] = []

    def fit(asked: JobSpec) -> Result:
        trained.append(asked.runs_dir)
        return train(asked)

    def interrupted(asked: JobSpec) -> Result:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.compress(job, run, interrupted, lambda line: None)
    rows: list[str] = []
    done = stage.compress(job, run, fit, lambda line: None, lambda row: rows.append(row.name))
    assert done.artifact == "int8" and trained == [f"{bucket}/runs/small/compressed/finetune"]
    assert open_artifact(f"{bucket}/runs/small/compressed/model.onnx").metadata["stage"] == "int8"
    assert "channels/model.json" in run.compressed.files() and not (run.compressed / "finetune").exists()
    assert {path.name for path in draw(run.compressed)} == {"tradeoff.png", "channels.png"}
    assert b"int8" in write_report(run).read_bytes()
    # What is done is not done again, whichever machine is asked.
    again = stage.compress(job, run, interrupted, lambda line: None)
    assert [row.sha256 for row in again.rows] == [row.sha256 for row in done.rows]


def test_event_files_are_refused(bucket: str) -> None:
    with pytest.raises(JobError, match=r"metrics\.tensorboard: event files grow line by line"):
        check(job_in(f"{bucket}/runs", metrics={"tensorboard": True}))


def dead(bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    return bucket


def without_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    return bucket


def absent(bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    return f"{bucket}-not"


@pytest.mark.parametrize(
    ("make", "says"),
    [(dead, "cannot be reached"), (without_credentials, "no credentials"), (absent, "there is no bucket")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_store_that_cannot_be_used_is_told_at_once(
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[str, pytest.MonkeyPatch], str],
    says: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    where, began = make(bucket, monkeypatch), time.monotonic()
    (tmp_path / "job.yaml").write_text(dump_job(job_in(f"{where}/runs")))
    out = command(tmp_path, "run", "job.yaml", code=StorageError.exit_code)
    assert says in out and len(out.splitlines()) == 1, out
    assert time.monotonic() - began < 60  # half a minute, on a machine that has something else to do


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("seen", [".lock-000001", ".shared-"], ids=["before its workers", "with its workers"])
def test_a_driver_that_was_followed_starts_nothing(bucket: str, tmp_path: Path, seen: str) -> None:
    (tmp_path / "job.yaml").write_text(dump_job(job_in(f"{bucket}/runs")))
    root = RunDir(f"{bucket}/runs", "small").root
    assert not isinstance(root, Path)
    driver = subprocess.Popen(
        [sys.executable, "-m", "distaug", "run", "job.yaml"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while not any(path.name.startswith(seen) for path in root.iterdir()):
            assert driver.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)  # It looks once more before it believes that the lock is its own.
        other = {"pid": 7, "host": "else", "token": "theirs", "until": time.time() + 600}
        (root / ".lock-000002").write_bytes(json.dumps(other).encode())
        out, _ = driver.communicate(timeout=PATIENCE_S)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == StorageError.exit_code and "is that of pid 7 on host else by now" in out, out
    assert not [name for name in root.files() if not name.startswith((".lock", ".shared"))], "nothing is written"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_everything_from_the_command_line(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTAUG_CACHE", str(tmp_path / "cache"))
    data, dice = tmp_path / "pictures", np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (data / name).mkdir(parents=True)
        for number in range(150):
            pixels = dice.integers(100 * label, 100 * label + 100, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(data / name / f"{number}.png")
    S3FileSystem(use_listings_cache=False).put(str(data), f"{bucket}/pictures", recursive=True)
    sets = {"source": "folder", "path": f"{bucket}/pictures", "test_fraction": 0.2, "per_class": None}
    compress = {
        "stages": [{"magnitude": {"targets": [0.3], "finetune_epochs": 1}}],
        "gate": {"max_accuracy_drop": 100.0},
    }
    changes: dict[str, Any] = {"data": sets, "train": {"epochs": 3, "shards": 2}, "cluster": {"workers": 2}}
    (tmp_path / "job.yaml").write_text(dump_job(job_in(f"{bucket}/runs", compress=compress, **changes)))

    out = command(tmp_path, "run", "job.yaml")
    assert out.count(f"fetching {bucket}/pictures") == 1 and f"report: {bucket}/runs/small/report/index.html" in out
    run = f"{bucket}/runs/small"
    alone = train(job_in(tmp_path / "alone", **changes | {"data": sets | {"path": str(data)}}))
    digest = Result.read(RunDir.find(run).result_file).weights_digest
    assert digest == alone.weights_digest, "two workers, from the store, are one worker in a folder"
    assert "has finished before" in command(tmp_path, "resume", run)
    assert json.loads(command(tmp_path, "evaluate", run, "--json").partition("{")[2].join(("{", "")))["samples"] == 60
    assert "light" in command(tmp_path, "predict", run, str(data / "light" / "0.png"))
    assert "light" in command(tmp_path, "predict", f"{run}/compressed/model.onnx", str(data / "light" / "0.png"))
    assert command(tmp_path, "report", run).strip() == f"{run}/report/index.html"
    assert "magnitude-30" in command(tmp_path, "compress", run)
    assert "finished" in command(tmp_path, "status", f"{bucket}/runs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "cache", "job.yaml", "pictures"]
