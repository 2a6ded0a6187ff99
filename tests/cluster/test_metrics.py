"""The endpoint of real runs: through the kill of a worker, and of two runs at once."""

import json
import os
import signal
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from bench.faults import workers_of
from tests.cluster.test_fit import end, start, wait_for, write_job
from tests.train.jobs import small_job

pytestmark = pytest.mark.ray

Values = dict[tuple[str, str], float]


def scrape(announcement: Path) -> Values:
    """Return the values by name and rank or state."""
    ((target,),) = [entry["targets"] for entry in json.loads(announcement.read_text())]
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=2) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            series, value = line.rsplit(" ", 1)
            name, _, labels = series.partition("{")
            told = dict(part.split("=", 1) for part in labels.rstrip("}").split('",') if "=" in part)
            key = (told.get("rank") or told.get("state") or "").strip('"')
            found[name, key] = float(value)
    return found


class Scraper(threading.Thread):
    """Scrapes again and again, as long as the run announces an endpoint."""

    def __init__(self, announcement: Path) -> None:
        super().__init__(daemon=True)
        self.announcement, self.seen, self.missed, self.over = announcement, list[Values](), 0, False

    def run(self) -> None:
        while not self.over:
            if self.announcement.exists():
                try:
                    self.seen.append(scrape(self.announcement))
                except OSError:
                    self.missed += self.announcement.exists()
            time.sleep(0.1)

    def last(self, name: str, key: str = "") -> float | None:
        return self.seen[-1].get((name, key)) if self.seen else None


def job(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    fields = {"train": {"epochs": 12, "shards": 2}, "stop": {"patience_epochs": None}}
    made = small_job(Path("runs"), **fields, cluster={"workers": 2, "collective_timeout_s": 30.0})
    return made | {"name": name, "runs_dir": str(folder / "runs")} | changes


def test_a_killed_worker_is_seen_and_no_total_falls(tmp_path: Path) -> None:
    write_job(tmp_path, job(tmp_path, "small"))
    process = start(tmp_path, "run", "job.yaml")
    scraper = Scraper(tmp_path / "runs" / "targets" / "small.json")
    scraper.start()
    wait_for(lambda: (scraper.last("distaug_images_total") or 0) > 0, process)
    os.kill(workers_of(process.pid)[-1], signal.SIGKILL)
    wait_for(lambda: scraper.last("distaug_restarts_total") == 1, process)
    code, out = end(process, tmp_path)
    scraper.over = True
    scraper.join()
    assert code == 0, out
    assert scraper.missed <= 1, "the endpoint answers throughout, but for the moment in which it is taken down"
    for name in ("distaug_images_total", "distaug_steps_total", "distaug_step_seconds_count"):
        totals = [seen[name, ""] for seen in scraper.seen if (name, "") in seen]
        assert totals == sorted(totals) and totals[-1] > 0, name
    assert scraper.last("distaug_restarts_total") == 1
    ranks = [{rank for name, rank in seen if name == "distaug_rank_info"} for seen in scraper.seen]
    assert {"0", "1"} in ranks and all(found <= {"0", "1"} for found in ranks)
    assert not scraper.announcement.exists()


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
