"""A real Prometheus with the shipped configuration, on a real run: on this machine, and submitted to a Ray cluster."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.nodes import free_ports
from distaug.spec.job import JobSpec
from distaug.spec.load import dump_job
from tests.cluster.heads import head
from tests.deploy.queries import DASHBOARDS, DEPLOY, expressions, rules, series
from tests.train.jobs import small_job

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not shutil.which("prometheus"), reason="no Prometheus here: apt-get install prometheus"),
]

RUN = "watched"
LOOK_EVERY_S = 2.0
GONE_AFTER_S = 45.0
"""Ray forgets a series 20 to 30 s after it was shown last."""
NOT_ON_A_CPU = ("distaug_gpu_", "rank:distaug_gpu_memory", "distaug_scaler_scale")


@contextmanager
def process(command: list[str | Path], folder: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command with its output in a file, and end it."""
    with (folder / f"{name}.txt").open("w") as out:
        started = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, text=True)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(60)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def ask(port: int, what: str, **parameters: str) -> Any:
    url = f"http://127.0.0.1:{port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)["data"]


def wait_for(what: Callable[[], Any], seconds: float) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            if found := what():
                return found
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"did not happen within {seconds:.0f} s")


class Watch:
    """A Prometheus of its own, and what its answers were.

    Args:
        folder: Holds the runs; gets the configuration as the checkout has it.
        ray: Ray's folder, of which the configuration knows the default.
    """

    def __init__(self, folder: Path, ray: Path) -> None:
        home = folder / "deploy" / "prometheus"
        shutil.copytree(DEPLOY / "prometheus", home)
        config = home / "prometheus.yml"
        config.write_text(config.read_text().replace("/tmp/ray/", f"{ray}/"))
        (self.port,) = free_ports(1)
        self.command = [
            shutil.which("prometheus") or "",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        self.expressions = {key: query for file in DASHBOARDS for key, query in expressions(file, RUN).items()}
        self.expressions |= rules("record")
        # An alert's expression finds nothing while all is well; what it reads must be there.
        for name, query in rules("alert").items():
            self.expressions |= {f"{name}: {read}": read for read in series(query) | {"up"}}
        self.labels: dict[str, set[tuple[tuple[str, str], ...]]] = {key: set() for key in self.expressions}
        self.fired: set[str] = set()

    def look(self) -> None:
        """Ask every expression."""
        for key, query in self.expressions.items():
            for found in ask(self.port, "query", query=query)["result"]:
                self.labels[key].add(comparable(found["metric"]))
        self.fired |= {a["labels"]["alertname"] for a in ask(self.port, "alerts")["alerts"] if a["state"] == "firing"}

    def unhealthy(self) -> list[str]:
        """Return the rules that cannot be worked out."""
        groups = ask(self.port, "rules")["groups"]
        return [rule["lastError"] for group in groups for rule in group["rules"] if rule["health"] != "ok"]

    def targets(self) -> list[dict[str, Any]]:
        return ask(self.port, "targets", state="active")["activeTargets"]


def comparable(labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Leave out where it was scraped, and the values of those labels whose short moments a look may miss."""
    kept = {key: value for key, value in labels.items() if key not in ("job", "instance")}
    return tuple(sorted((key, "" if key in ("state", "phase", "stage") else value) for key, value in kept.items()))


def write_job(folder: Path) -> None:
    job = small_job(
        folder / "runs",
        RUN,
        data={"per_class": None},
        train={"epochs": 1000, "shards": 2},
        stop={"patience_epochs": 900, "time_budget_min": 0.6},
        compress={"stages": [{"channels": {"ratio": 0.3, "finetune_epochs": 5}}, {"int8": {}}]},
        cluster={"workers": 2},
    )
    job["compress"]["gate"] = {"max_accuracy_drop": 100.0}
    (folder / "job.yaml").write_text(dump_job(JobSpec.model_validate(job)))


@contextmanager
def local(folder: Path) -> Iterator[Callable[[], bool]]:
    """Run the job on this machine; yields whether it has ended."""
    with process([sys.executable, "-m", "distaug", "run", folder / "job.yaml"], folder, "run") as run:
        yield lambda: run.poll() is not None
        assert run.poll() == 0, (folder / "run.txt").read_text()
        assert not list((folder / "runs" / "targets").iterdir()), "the run's announcement outlives it"


@contextmanager
def submitted(folder: Path) -> Iterator[Callable[[], bool]]:
    """Submit the job to a cluster of its own; yields whether it has ended."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    with head(folder, ray=ray_folder(folder)) as address:
        client = wait_for(lambda: JobSubmissionClient(address), 60)
        entry = f"cd {folder} && {sys.executable} -m distaug run job.yaml"
        job = client.submit_job(entrypoint=entry)
        try:
            yield lambda: client.get_job_status(job).is_terminal()
            assert client.get_job_status(job) == JobStatus.SUCCEEDED, client.get_job_logs(job)
        finally:
            (folder / "run.txt").write_text(client.get_job_logs(job))


def ray_folder(folder: Path) -> Path:
    # Short, because Ray puts sockets below it, whose paths may have 107 bytes.
    return Path("/tmp") / f"distaug-{os.getpid()}-{folder.name}"


def watched(way: Callable[[Path], Any], folder: Path) -> Watch:
    """Watch one run from before its start until nothing is left of it."""
    write_job(folder)
    watch = Watch(folder, ray_folder(folder))
    try:
        with process(watch.command, folder, "prometheus"):
            wait_for(lambda: ask(watch.port, "query", query="vector(1)"), 30)
            with way(folder) as ended:
                while not ended():
                    watch.look()
                    time.sleep(LOOK_EVERY_S)
                assert watch.unhealthy() == []
                # The last states are seen, then nothing any more, and nothing fires for it.
                since = time.monotonic()
                gone = f'distaug_state{{run="{RUN}"}}'
                while ask(watch.port, "query", query=gone)["result"] or time.monotonic() - since < 15:
                    assert time.monotonic() - since < GONE_AFTER_S, "the run's series outlive it"
                    watch.look()
                    time.sleep(LOOK_EVERY_S)
                if way is submitted:
                    assert {target["health"] for target in watch.targets()} == {"up"}
                else:
                    assert watch.targets() == []
                time.sleep(10)  # two more evaluations of the rules
                assert ask(watch.port, "alerts")["alerts"] == []
    finally:
        shutil.rmtree(ray_folder(folder), ignore_errors=True)
    return watch


@pytest.fixture(scope="module")
def watches(tmp_path_factory: pytest.TempPathFactory) -> list[Watch]:
    os.environ["DISTAUG_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")
    # Side by side, since most of it is waiting.
    ways = (local, submitted)
    with ThreadPoolExecutor(len(ways)) as pool:
        return list(pool.map(watched, ways, [tmp_path_factory.mktemp(way.__name__) for way in ways]))


def answered(watch: Watch) -> set[str]:
    return {key for key, labels in watch.labels.items() if labels}


@pytest.mark.parametrize("way", [0, 1], ids=["local", "on Ray"])
def test_every_expression_answers(watches: list[Watch], way: int) -> None:
    watch = watches[way]
    silent = {key: watch.expressions[key] for key in watch.expressions.keys() - answered(watch)}
    assert {key: query for key, query in silent.items() if not any(part in query for part in NOT_ON_A_CPU)} == {}


def test_both_ways_give_the_same_series(watches: list[Watch]) -> None:
    one, other = watches
    for key, query in one.expressions.items():
        if query != "up":  # only a local target is one run's
            assert one.labels[key] == other.labels[key], query


def test_nothing_fires_for_a_run_that_ends_well(watches: list[Watch]) -> None:
    assert [watch.fired for watch in watches] == [set(), set()]
