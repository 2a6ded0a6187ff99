"""What it costs when a node of a cluster dies, is taken away, or comes: a job on real Ray nodes, all on this machine.

    python bench/nodes.py --n 3

Each node is a `ray start` in namespaces of its own (processes, mounts, host name), at an address of the loopback
network and with a private folder for Ray: nodes share nothing but what those of a cluster share. Killing the first
process of a node ends all of it at once. Making namespaces needs root. The job runs on the workers [1, 3], submitted
through Ray's Job API, and every event falls in mid-epoch; the final weights must be those of an undisturbed run in one
process. Results are kept in bench/results/nodes.json; the exit status is 1 when any run differs.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent.absolute()
RESULTS = BENCH / "results"
PATIENCE_S = 300.0
SHARDS = 6
STEPS = 200
EPOCHS = 2
SAVE_EVERY_S = 5.0
EVENTS = ("dies", "comes", "is taken away")


def job(**cluster: Any) -> dict[str, Any]:
    """Return a job whose events fall in mid-epoch: two long epochs, everything on that could depend on the ranks."""
    return {
        "name": "drill",
        "data": {"source": "synthetic", "synthetic": {"samples": STEPS * 48 * 10 // 9 + 20}},
        "augment": {"ops": [{"crop": {"padding": 2}}, {"flip": {}}]},
        "mix": {"mixup": {"alpha": 0.4}, "cutmix": {}},
        "model": {"name": "counted:Network", "options": {"widths": [8, 8, 16]}},
        "train": {"epochs": EPOCHS, "global_batch": 48, "shards": SHARDS, "ema": {"decay": 0.9}, "clip_norm": 1.0},
        "stop": {"patience_epochs": None},
        "checkpoint": {"every_minutes": SAVE_EVERY_S / 60},
        "precision": "fp32",
        "cluster": {"cpus_per_worker": 1, "gpus_per_worker": 0, "collective_timeout_s": 60} | cluster,
    }


def can_make_nodes() -> str:
    """Return why this machine cannot make nodes of its own; empty when it can."""
    if not shutil.which("unshare"):
        return "no `unshare` here (util-linux)"
    tried = subprocess.run(["unshare", "--mount", "--uts", "--pid", "--fork", "true"], capture_output=True, text=True)
    return tried.stderr.strip()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


class Cluster:
    """A head without cores, and nodes that are added, killed and drained.

    Args:
        folder: Gets what the nodes say.
        environment: Of all nodes, on top of this process's own.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self._nodes = folder, dict[str, subprocess.Popen[bytes]]()
        self._numbers = itertools.count(1)
        self._network = f"127.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}"
        # Short, because Ray puts sockets below it, whose paths may have 107 bytes.
        self._ray = Path(tempfile.mkdtemp(prefix="dn-", dir="/tmp"))
        own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        self._environment = os.environ | own | environment
        self._environment.pop("RAY_ADDRESS", None)
        port, self._dashboard, client = free_ports(3)
        self._address = f"{self._network}.1:{port}"
        head = [f"--port={port}", f"--dashboard-host={self._network}.1", f"--dashboard-port={self._dashboard}"]
        head += [f"--ray-client-server-port={client}", f"--temp-dir={self._ray}"]
        self._start("head", 0, ["--head", *head])

    def _start(self, name: str, cpus: int, options: Sequence[str], mounts: Sequence[str] = ()) -> None:
        number = next(self._numbers)
        (agent,) = free_ports(1)
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--num-cpus={cpus}", *options]
        ray += [f"--node-ip-address={self._network}.{number}", f"--dashboard-agent-listen-port={agent}"]
        ray += ["--object-store-memory=100000000", "--disable-usage-stats"]
        inside = [f"hostname {name}", f"mount -t tmpfs none {self._ray}", *mounts, 'exec "$@"']
        namespaces = ["--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
        with (self.folder / f"{name}.txt").open("w") as out:
            self._nodes[name] = subprocess.Popen(
                ["unshare", *namespaces, "sh", "-ec", "; ".join(inside), "sh", *ray],
                stdout=out,
                stderr=out,
                env=self._environment,
                cwd=self.folder,
            )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Wait until jobs can be submitted, and take everything down in the end."""
        from ray._raylet import GcsClient
        from ray.job_submission import JobSubmissionClient

        try:
            url = f"http://{self._network}.1:{self._dashboard}"
            self.jobs = self.wait_for(lambda: _unless(ConnectionError, lambda: JobSubmissionClient(url)))
            self._gcs = GcsClient(address=self._address)
            yield
        finally:
            for name in list(self._nodes):
                self.kill(name)
            shutil.rmtree(self._ray, ignore_errors=True)

    def add(self, *names: str, mounts: Sequence[str] = (), label: str = "") -> None:
        """Add nodes of one core each, and wait until Ray has them.

        Args:
            names: Their host names.
            mounts: Commands of the shell that change what they see of the file system.
            label: Of the form key=value.
        """
        options = [f"--address={self._address}", *([f"--labels={label}"] if label else [])]
        for name in names:
            self._start(name, 1, options, mounts)

        def there() -> bool:
            for name in names:
                if self._nodes[name].poll() is not None:  # Ray gives a node 30 s to start, on however busy a machine
                    self._start(name, 1, options, mounts)
            return set(names) <= self.alive().keys()

        self.wait_for(there)

    def alive(self) -> dict[str, str]:
        """Return the ids of the nodes that Ray has, by host name."""
        known = self._gcs.get_all_node_info().items()
        return {info.node_manager_hostname: node.hex() for node, info in known if info.state == 0}

    def kill(self, name: str) -> None:
        """End a node as a power cut does: all its processes at once."""
        node = self._nodes.pop(name)
        children = Path(f"/proc/{node.pid}/task/{node.pid}/children")
        for first in children.read_text().split() if children.exists() else []:
            os.kill(int(first), signal.SIGKILL)
        node.kill()  # takes its child along, should that have come just now
        node.wait(PATIENCE_S)

    def drain(self, name: str, deadline_s: float) -> None:
        """Announce that a node will be taken away, as a cloud's notice of preemption is announced."""
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = int(1000 * (time.time() + deadline_s))
        accepted, why = self._gcs.drain_node(self.alive()[name], reason, "a drill", deadline)
        if not accepted:
            raise RuntimeError(why)

    def wait_for(self, what: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
        limit = time.monotonic() + patience_s
        while time.monotonic() < limit:
            if found := what():
                return found
            time.sleep(0.1)
        raise TimeoutError(f"did not happen in {patience_s:.0f} s; what the nodes said is in {self.folder}")


def _unless(error: type[Exception], make: Callable[[], Any]) -> Any:
    try:
        return make()
    except error:
        return None


class Run:
    """A job that is submitted to a cluster.

    Args:
        cluster: The cluster.
        folder: Storage that all nodes share: gets the runs, and the working directory of the submission.
        spec: The job.
    """

    def __init__(self, cluster: Cluster, folder: Path, spec: dict[str, Any]) -> None:
        self._cluster, self.root = cluster, folder / "runs" / spec["name"]
        self._passes = folder / "passes.txt"
        work = folder / "work"
        work.mkdir(parents=True)
        shutil.copy(BENCH / "counted.py", work)
        cluster_section = spec["cluster"] | {"env": {"FORWARD_PASSES": str(self._passes)}}
        (work / "job.yaml").write_text(
            json.dumps(spec | {"runs_dir": str(folder / "runs"), "cluster": cluster_section})  # JSON is YAML
        )
        self._id = cluster.jobs.submit_job(
            entrypoint=f"{sys.executable} -m distaug run job.yaml; echo exit code $?",
            runtime_env={"working_dir": str(work)},
        )

    def said(self) -> str:
        """Return what the command has said."""
        return str(self._cluster.jobs.get_job_logs(self._id))

    def attempts(self) -> list[dict[str, Any]]:
        """Return the starts of the training so far: position, time and number of ranks."""
        file = self.root / "logs" / "attempts.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [start for line in lines if "started_at" in (start := json.loads(line))]

    def passes(self) -> list[tuple[str, int, float]]:
        """Return process, number of ranks and time of each forward pass on rank 0."""
        lines = self._passes.read_text().split("\n")[:-1] if self._passes.exists() else []
        return [(pid, int(ranks), float(at)) for pid, ranks, at in map(str.split, lines)]

    def lost_steps(self) -> list[int]:
        """Return for each start but the last how many of its steps had to be done again."""
        begun = [start["epoch"] * STEPS + start["step"] for start in self.attempts()]
        done: dict[str, float] = {}
        for process, ranks, _ in self.passes():
            done[process] = done.get(process, 0) + ranks / SHARDS
        # A process that was killed may have been in the middle of a step.
        whole = [int(steps + 1e-6) for steps in done.values()]
        return [begun[i] + whole[i] - begun[i + 1] for i in range(len(begun) - 1)]

    def pauses(self) -> list[float]:
        """Return for each start but the first the seconds without a step before it."""
        passes = self.passes()
        return [new[2] - old[2] for old, new in zip(passes, passes[1:], strict=False) if new[0] != old[0]]

    def end(self) -> int:
        """Wait for the command; return its exit code."""
        self._cluster.wait_for(lambda: self._cluster.jobs.get_job_status(self._id).is_terminal())
        return int(self.said().rsplit("exit code", 1)[1].split()[0])

    def digest(self) -> str:
        """Return the digest of the final weights."""
        return str(json.loads((self.root / "result.json").read_text())["weights_digest"])


def alone(folder: Path, spec: dict[str, Any]) -> str:
    """Return the digest of the weights that the job ends with in one process that nothing disturbs."""
    folder.mkdir(parents=True)
    shutil.copy(BENCH / "counted.py", folder)
    (folder / "job.json").write_text(json.dumps(spec | {"runs_dir": "runs"}))
    said = subprocess.run(
        [sys.executable, "-m", "distaug.train", "job.json"], cwd=folder, capture_output=True, text=True
    )
    if said.returncode:
        raise RuntimeError(said.stderr[-3000:])
    return str(json.loads((folder / "runs" / spec["name"] / "result.json").read_text())["weights_digest"])


def drill(cluster: Cluster, run: Run, number: int, dice: random.Random) -> list[dict[str, Any]]:
    """Let a node die, another one come, and a third be taken away, each in the middle of an epoch; return the times."""
    first, second, new = f"n{number}a", f"n{number}b", f"n{number + 1}a"
    events: list[dict[str, Any]] = []

    def train_on() -> None:
        starts = len(events) + 1
        cluster.wait_for(lambda: len(run.attempts()) == starts and len(run.passes()) > before + 60)
        time.sleep(dice.uniform(0, SAVE_EVERY_S))

    before = 0
    for kind, act in (
        ("dies", lambda: cluster.kill(first)),
        ("comes", lambda: cluster.add(new)),
        ("is taken away", lambda: cluster.drain(second, 60)),
    ):
        train_on()
        before = len(run.passes())
        act()
        at = time.time()
        cluster.wait_for(lambda: len(run.attempts()) == len(events) + 2)
        start = run.attempts()[-1]
        events.append(
            {"kind": kind, "workers": start["world_size"], "back_after_s": round(start["started_at"] - at, 2)}
        )
    return events


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=3, help="runs, each with one event of each kind")
    asked = parser.parse_args()
    if why := can_make_nodes():
        parser.error(why)
    dice, events = random.Random(0), list[dict[str, Any]]()
    same = 0
    with tempfile.TemporaryDirectory(prefix="distaug-nodes-", ignore_cleanup_errors=True) as name:
        folder, spec = Path(name), job(workers=[1, 3])
        digest = alone(folder / "alone", spec)
        print(f"undisturbed in one process: weights {digest[:12]}", flush=True)
        cluster = Cluster(folder, {"DISTAUG_CACHE": str(folder / "cache")})
        with cluster.running():
            cluster.add("n0a", "n0b", "n0c")
            for number in range(asked.n):
                run = Run(cluster, folder / f"run-{number}", spec)
                found = drill(cluster, run, number, dice)
                code = run.end()
                if code:
                    raise RuntimeError(run.said())
                equal = run.digest() == digest
                same += equal
                for event, lost, pause in zip(found, run.lost_steps(), run.pauses(), strict=True):
                    events.append(event | {"lost_steps": lost, "pause_s": round(pause, 2), "same_bits": equal})
                    print(json.dumps(events[-1]), flush=True)
                # What was taken away has left by itself.
                cluster.add(f"n{number + 1}b")
        machine = json.loads((run.root / "result.json").read_text())
    kept = {
        "machine": machine["machine"],
        "versions": machine["versions"] | {"ray": ray_version()},
        "runs": asked.n,
        "same_bits": same,
        "saves_every_s": SAVE_EVERY_S,
        "by_event": {
            kind: {
                key: statistics.median(event[key] for event in events if event["kind"] == kind)
                for key in ("back_after_s", "pause_s", "lost_steps")
            }
            for kind in EVENTS
        },
        "events": events,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "nodes.json").write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(kept["by_event"], indent=1))
    return int(same != asked.n)


def ray_version() -> str:
    import ray

    return ray.__version__


if __name__ == "__main__":
    sys.exit(main())
