"""The endpoints of two real runs at once; tests/cluster/test_fit.py has that of one through the kill of a worker."""

import json
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.test_fit import end, start, wait_for, write_job
from tests.train.jobs import small_job

pytestmark = pytest.mark.ray


def job(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    fields = {"train": {"epochs": 12, "shards": 2}, "stop": {"patience_epochs": None}}
    made = small_job(Path("runs"), **fields, cluster={"workers": 2, "collective_timeout_s": 30.0})
    return made | {"name": name, "runs_dir": str(folder / "runs")} | changes


@pytest.mark.slow
def test_two_runs_at_once_are_told_apart(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "other")]
    processes = []
    for folder in folders:
        folder.mkdir()
        write_job(folder, job(tmp_path, folder.name, cluster={"workers": 1}))
        processes.append(start(folder, "run", "job.yaml"))
    files = [tmp_path / "runs" / "targets" / f"{folder.name}.json" for folder in folders]
    wait_for(lambda: all(file.exists() for file in files), processes[0])
    assert files[0].read_text() != files[1].read_text()
    for file in files:
        ((target,),) = [entry["targets"] for entry in json.loads(file.read_text())]
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        assert f'run="{file.stem}"' in text
        assert text.count("run=") == text.count(f'run="{file.stem}"')
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process, folder in zip(processes, folders, strict=True):
        assert end(process, folder)[0] == 130
    assert not any(file.exists() for file in files)
