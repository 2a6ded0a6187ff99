"""The compression of the real command on a real Ray: killed while it fine-tunes, and gone on with."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from distaug.compress import measure
from distaug.compress.stage import compress
from distaug.model import registry
from distaug.spec.job import JobSpec
from distaug.store.checkpoint import weights_digest
from distaug.store.rundir import RunDir
from distaug.train.local import train
from tests.cluster.test_fit import end, start, wait_for, write_job
from tests.train.jobs import small_job

pytestmark = pytest.mark.ray


def pruned_job(runs: Path) -> dict[str, Any]:
    stages = [{"channels": {"ratio": 0.3, "finetune_epochs": 10, "distill": 0.5}}]
    section = {"stages": stages, "gate": {"max_accuracy_drop": 100.0}}
    return small_job(runs, train={"shards": 2}, compress=section, cluster={"workers": 2})


def test_killed_while_it_fine_tunes_it_ends_in_the_same_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_SECONDS", 0.1)
    alone = JobSpec.model_validate(pruned_job(tmp_path / "alone"))
    train(alone)
    run = RunDir(alone.runs_dir, alone.name)
    compress(run.load_job(), run, train, lambda line: None)
    write_job(tmp_path, pruned_job(Path("runs")))
    disturbed = RunDir(tmp_path / "runs", alone.name)
    process = start(tmp_path, "run", "job.yaml")
    history = disturbed.compressed / "finetune" / "channels" / "history.jsonl"
    wait_for(lambda: history.exists() and len(history.read_text().splitlines()) >= 2, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    code, out = end(start(tmp_path, "run", "job.yaml", "--json"), tmp_path)
    assert code == 0, out
    assert "has finished before" in out and "going on from epoch" in out and out.count("compress: fp32:") == 1
    digests = [weights_digest(registry.load(r.compressed / "channels")[0].state_dict()) for r in (run, disturbed)]
    assert digests[0] == digests[1]
    result = json.loads(disturbed.result_file.read_text())
    assert [row["name"] for row in result["artifacts"]] == ["fp32", "channels"]
    assert (disturbed.compressed / "tradeoff.png").exists() and not history.exists()
