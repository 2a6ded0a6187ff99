"""Seconds through Ray: from the command to the first training step, and from a killed worker to training again.

    python bench/ray_times.py first-step --n 7
    python bench/ray_times.py recovery --n 5

Both sides run in turns: `python -m distaug run JOB` and `minimal_ray.py`, the script that one would write by hand. They
train the same network on two workers with one core each, the same batch, 100 steps an epoch, a checkpoint after each
epoch, and the same number of retries. Kept in bench/results/ray_times.json.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

import ray
from faults import workers_of
from minimal_ray import BATCH, STEPS
from overhead import keep, summary

BENCH = Path(__file__).parent.absolute()
PATIENCE_S = 180
MOST = {"first-step": 1.15, "recovery": 1.2}

# The network notes the time of its steps itself (see minimal_ray.py), the same on both sides. The product takes it as
# any user's own network, so nothing in it is changed or waited for in another way than in a real run.
JOB = {
    # A tenth is held out for validation.
    "data": {"source": "synthetic", "synthetic": {"samples": STEPS * 2 * BATCH * 10 // 9 + 10}},
    "model": {"name": "minimal_ray:Network"},
    "train": {"epochs": 100_000, "global_batch": 2 * BATCH, "optimizer": {"lr": 0.01, "lr_per_samples": None}},
    "precision": "fp32",
    "stop": {"patience_epochs": None},
    "cluster": {"workers": 2, "cpus_per_worker": 1, "gpus_per_worker": 0, "retries": 3},
}
COMMANDS = {
    "distaug": [sys.executable, "-m", "distaug", "run", "job.json"],
    "minimal": [sys.executable, str(BENCH / "minimal_ray.py"), "storage"],
}


class Started:
    """A side that runs in a folder of its own."""

    def __init__(self, side: str, folder: Path, cache: Path) -> None:
        (folder / "job.json").write_text(json.dumps(JOB))  # JSON is YAML.
        self.times = folder / "times.txt"
        environment = os.environ | {
            "PYTHONPATH": str(BENCH),
            "PYTHONUNBUFFERED": "1",
            "DISTAUG_CACHE": str(cache),
            "STEP_TIMES": str(self.times),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
        }
        self.output = folder / "output.txt"
        with self.output.open("w") as output:
            self.began = time()
            self.process = subprocess.Popen(
                COMMANDS[side], cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def steps(self) -> list[tuple[int, float]]:
        """Return (process id of rank 0, time) of the beginning of each step so far."""
        if not self.times.exists():
            return []
        # The last line may not be whole yet.
        lines = [line.split() for line in self.times.read_text().split("\n")[:-1]]
        return [(int(pid), float(when)) for pid, when in lines]

    def second_step(self, known: set[int]) -> float:
        """Return when the second step of an unknown process begins: its first is done then."""

        def begun() -> list[float]:
            return [when for pid, when in self.steps() if pid not in known][1:]

        return float(self.wait_for(begun)[0])

    def wait_for(self, what: Callable[[], Any]) -> Any:
        limit = monotonic() + PATIENCE_S
        while monotonic() < limit and self.process.poll() is None:
            if found := what():
                return found
            sleep(0.05)
        raise RuntimeError(f"did not happen; exit code {self.process.poll()}\n{self.output.read_text()[-3000:]}")

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def started(side: str, cache: Path) -> Iterator[Started]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        running = Started(side, Path(folder), cache)
        try:
            yield running
        finally:
            running.end()


def first_step(side: str, cache: Path, chance: random.Random) -> float:
    """Return the seconds from the start of the process until its first step is done."""
    with started(side, cache) as running:
        return running.second_step(set()) - running.began


def recovery(side: str, cache: Path, chance: random.Random) -> float:
    """Return the seconds from kill -9 of rank 1 until the restarted workers have done a step."""
    with started(side, cache) as running:
        running.wait_for(lambda: len(running.steps()) > 2 * STEPS)  # There is a checkpoint to go on from.
        sleep(chance.uniform(0, 1))
        first = {pid for pid, _ in running.steps()}
        (victim,) = set(workers_of(running.process.pid)) - first
        killed = time()
        os.kill(victim, signal.SIGKILL)
        return running.second_step(first) - killed


MEASURES = {"first-step": first_step, "recovery": recovery}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("--n", type=int, default=5, help="runs of each side (at least 2)")
    asked = parser.parse_args()
    chance, seconds = random.Random(0), {side: [] for side in COMMANDS}
    with tempfile.TemporaryDirectory() as cache:
        # Not counted: from now on both sides find their files in memory, and distaug its pictures decoded.
        for side in COMMANDS:
            first_step(side, Path(cache), chance)
        for turn in range(asked.n):
            for side in COMMANDS if turn % 2 == 0 else reversed(COMMANDS):
                seconds[side].append(MEASURES[asked.what](side, Path(cache), chance))
                print(f"{side} {seconds[side][-1]:.2f} s", flush=True)
    measured = {side: summary(values) for side, values in seconds.items()}
    ratio = measured["distaug"]["median"] / measured["minimal"]["median"]
    for side, numbers in measured.items():
        low, high = numbers["quartiles"]
        print(f"{side} {numbers['median']:.2f} s  quartiles {low:.2f} to {high:.2f}  n {numbers['n']}")
    print(f"ratio of medians {ratio:.3f} (at most {MOST[asked.what]})")
    keep("ray_times", asked.what, {"seconds": measured, "ratio_of_medians": round(ratio, 4), "ray": ray.__version__})


if __name__ == "__main__":
    main()
