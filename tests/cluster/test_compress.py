"""The compression of the real command on a real Ray: killed while it fine-tunes, and gone on with."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from distaug.compress import measure
from distaug.compress.stage import compress
from distaug.model import registry
from distaug.store.checkpoint import weights_digest
from distaug.store.rundir import RunDir
from distaug.train.local import train
from tests.cluster.test_fit import end, start, wait_for, write_job
from tests.train.jobs import small_job

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# The real command, but that what a file costs is measured for a moment only, as in this process.
_SECONDS = 0.1
_QUICK = f"""
import sys
from distaug.cli import main
from distaug.compress import measure
measure._SECONDS = {_SECONDS}
sys.exit(main())
"""


def pruned_job(runs: Path) -> dict[str, Any]:
    stages = [{"channels": {"ratio": 0.3, "finetune_epochs": 10, "distill": 0.5}}]
    section = {"stages": stages, "gate": {"max_accuracy_drop": 100.0}}
    return small_job(runs, train={"shards": 2}, compress=section, cluster={"workers": 2})


def test_killed_while_it_fine_tunes_it_ends_in_the_same_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_job(tmp_path, pruned_job(Path("runs")))
    disturbed, alone = RunDir(tmp_path / "runs", "small"), RunDir(tmp_path / "alone", "small")
    process = start(tmp_path, "run", "job.yaml", program=("-c", _QUICK))
    history = disturbed.compressed / "finetune" / "channels" / "history.jsonl"
    wait_for(lambda: history.exists() and len(history.read_text().splitlines()) >= 2, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # The same training, fine-tuned in this process alone and from the beginning.
    shutil.copytree(disturbed.root, alone.root, ignore=shutil.ignore_patterns("finetune"))
    monkeypatch.setattr(measure, "_SECONDS", _SECONDS)
    compress(alone.load_job(), alone, train, lambda line: None)
    code, out = end(start(tmp_path, "run", "job.yaml", "--json", program=("-c", _QUICK)), tmp_path)
    assert code == 0, out
    assert "has finished before" in out and "going on from epoch" in out and out.count("compress: fp32:") == 1
    digests = [weights_digest(registry.load(r.compressed / "channels")[0].state_dict()) for r in (alone, disturbed)]
    assert digests[0] == digests[1]
    result = json.loads(disturbed.result_file.read_text())
    assert [row["name"] for row in result["artifacts"]] == ["fp32", "channels"]
    assert (disturbed.compressed / "tradeoff.png").exists() and not history.exists()
