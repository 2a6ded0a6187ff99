"""A fault drill: short runs, each with one event at a random moment, must end in the bits of an undisturbed run.

    python bench/faults.py --events 20

The events: kill -9 of a random rank, kill -9 of the driver (then `distaug resume`), SIGTERM to the driver (then
`distaug resume`), and SIGSTOP of a random rank for three seconds. Runs have 2 or 3 Ray Train workers and save in
mid-epoch every 1.2 s. Results are kept in bench/results/faults.json; the exit status is 1 when any run differs.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
KINDS = ("kill rank", "kill driver", "SIGTERM", "SIGSTOP")
DRIVERS = {"kill driver": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
"""The kinds after which `distaug resume` has to go on."""
EPOCHS = 24
SAVE_EVERY_S = 1.2
PATIENCE_S = 180.0
JOB = f"""
name: drill
data: {{source: digits, test_fraction: 0.2, per_class: 24}}
augment: {{ops: [{{crop: {{padding: 2}}}}, {{flip: {{}}}}]}}
mix: {{mixup: {{alpha: 0.4}}, cutmix: {{}}}}
model: {{name: smallnet, options: {{widths: [8, 8, 16]}}}}
train: {{epochs: {EPOCHS}, global_batch: 48, shards: 6, ema: {{decay: 0.9}}, clip_norm: 1.0}}
stop: {{patience_epochs: null}}
checkpoint: {{every_epochs: {EPOCHS}, every_minutes: {SAVE_EVERY_S / 60}}}
precision: fp32
cluster: {{cpus_per_worker: 1, gpus_per_worker: 0, collective_timeout_s: 30}}
"""


def workers_of(driver: int) -> list[int]:
    """Return the process ids of the Ray Train workers below a driver."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:
                continue  # It has just ended.

    def descends(pid: int) -> bool:
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    return sorted(pid for pid, title in titles.items() if "RayTrainWorker" in title and descends(pid))


class Run:
    """One run in a folder of its own, through the command line.

    Args:
        folder: Where it lives.
        workers: Number of Ray Train workers.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder, self.workers = folder, workers
        self.root = folder / "runs" / "drill"
        folder.mkdir(parents=True)
        (folder / "job.yaml").write_text(JOB)
        self.before = 0

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start `distaug run`, or the command given."""
        self.before = len(self.attempts())
        command = command or ("run", "job.yaml", "--workers", str(self.workers))
        with (self.folder / "out.txt").open("a") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "distaug", *command], cwd=self.folder, stdout=out, stderr=out
            )

    def attempts(self) -> list[dict[str, Any]]:
        """Return the starts of the training so far: position and time."""
        file = self.root / "logs" / "attempts.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [start for line in lines if "started_at" in (start := json.loads(line))]

    def wait_for(self, what: Callable[[], bool], process: subprocess.Popen[bytes]) -> bool:
        """Wait until something holds; False when the command ended before."""
        limit = time.monotonic() + PATIENCE_S
        while time.monotonic() < limit:
            if what():
                return True
            if process.poll() is not None:
                return False
            time.sleep(0.02)
        raise TimeoutError(f"nothing happened in {PATIENCE_S:.0f} s; see {self.folder}/out.txt")

    def end(self, process: subprocess.Popen[bytes], code: int) -> None:
        """Wait for the command, which must exit with this code."""
        found = process.wait(PATIENCE_S)
        if found != code:
            raise AssertionError(f"exit code {found}, not {code}:\n{(self.folder / 'out.txt').read_text()}")

    def digest(self) -> str:
        """Return the digest of the final weights, once the history is seen to have every epoch once."""
        lines = (self.root / "history.jsonl").read_text().splitlines()
        epochs = [json.loads(line)["epoch"] for line in lines]
        if epochs != list(range(EPOCHS)):
            raise AssertionError(f"the history has the epochs {epochs}")
        digest: str = json.loads((self.root / "result.json").read_text())["weights_digest"]
        return digest

    def newest_save(self) -> float:
        """Return when the newest checkpoint came to be; the newest start of the training where there is none since."""
        saves = []
        for manifest in (self.root / "checkpoints").glob("*/manifest.json"):
            try:
                saves.append(manifest.stat().st_mtime)
            except OSError:
                continue  # It has just been replaced.
        return max([*saves, self.attempts()[-1]["started_at"]])


def strike(
    run: Run,
    process: subprocess.Popen[bytes],
    kind: str,
    moment: float,
    dice: random.Random,
    ready: Callable[[], bool] = lambda: True,
) -> tuple[float, float] | None:
    """Let one event happen to a command that trains; of the driver's, it is the end.

    Args:
        run: The run.
        process: The command, which `run.start` has just returned.
        kind: One of KINDS.
        moment: Seconds from the command's start of the training to the event.
        dice: Chooses the rank.
        ready: What must be so besides.

    Returns:
        When it happened, in seconds since 1970, and the seconds since the newest save; None when the training ended
        before its moment came.
    """
    run.wait_for(lambda: len(run.attempts()) > run.before, process)
    due = run.attempts()[run.before]["started_at"] + moment
    if run.wait_for(lambda: time.time() >= due and ready(), process) is False:
        run.end(process, 0)
        return None
    at, lost = time.time(), time.time() - run.newest_save()
    if kind in DRIVERS:
        process.send_signal(DRIVERS[kind])
        if process.wait(PATIENCE_S) == 0:
            return None  # It was just leaving.
        run.end(process, -signal.SIGKILL if kind == "kill driver" else 130)
    else:
        ranks = workers_of(process.pid)
        if len(ranks) != run.workers:
            run.end(process, 0)
            return None
        rank = dice.randrange(run.workers)
        if kind == "kill rank":
            os.kill(ranks[rank], signal.SIGKILL)
        else:
            os.kill(ranks[rank], signal.SIGSTOP)
            time.sleep(3)
            os.kill(ranks[rank], signal.SIGCONT)
    return at, lost


def disturb(run: Run, kind: str, moment: float, dice: random.Random) -> dict[str, Any] | None:
    """Train with one event.

    Args:
        run: A new run.
        kind: One of KINDS.
        moment: Seconds from the start of the training to the event.
        dice: Chooses the rank.

    Returns:
        What happened; None when the training ended before its moment came.
    """
    process = run.start()
    struck = strike(run, process, kind, moment, dice)
    if struck is None:
        return None
    at, lost = struck
    if kind in DRIVERS:
        process = run.start("resume", "drill")
    run.end(process, 0)
    again = run.attempts()[1:]
    if kind != "SIGSTOP" and not again:
        return None  # The result was written already, and nothing was left to do.
    event: dict[str, Any] = {
        "kind": kind,
        "workers": run.workers,
        "moment_s": round(moment, 2),
        "starts": len(again) + 1,
    }
    if kind != "SIGSTOP":
        event["resumed_at"] = [again[0]["epoch"], again[0]["step"]]
        event["back_after_s"] = round(again[0]["started_at"] - at, 2)
    if kind.startswith("kill"):
        event["lost_s"] = round(lost, 2)
    return event


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="write bench/results/faults.json")
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    events: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="distaug-drill-") as name:
        calm = Run(Path(name) / "calm", 2)
        calm.end(calm.start(), 0)
        digest = calm.digest()
        seconds = json.loads((calm.root / "result.json").read_text())["seconds"]
        print(f"undisturbed on 2 workers: {seconds:.1f} s of training, weights {digest[:12]}", flush=True)
        tried = 0
        while len(events) < arguments.events:
            kind, workers = KINDS[len(events) % len(KINDS)], dice.choice((2, 3))
            tried += 1
            run = Run(Path(name) / f"event-{tried}", workers)
            event = disturb(run, kind, dice.uniform(0, seconds), dice)
            if event is None:
                continue  # Three workers on two cores, or a noisy machine: this one was over before its event.
            event["same_bits"] = run.digest() == digest
            events.append(event)
            print(json.dumps(event), flush=True)
        machine = json.loads((calm.root / "result.json").read_text())
    same = sum(event["same_bits"] for event in events)
    print(f"{same} of {len(events)} runs ended in the same bits")
    lost = [event["lost_s"] for event in events if "lost_s" in event]
    if arguments.keep:
        kept = {
            "machine": machine["machine"],
            "versions": machine["versions"],
            "saves_every_s": SAVE_EVERY_S,
            "same_bits": same,
            "n": len(events),
            "most_lost_s": max(lost, default=None),
            "median_back_after_s": {
                kind: statistics.median(back)
                for kind in KINDS
                if (back := [e["back_after_s"] for e in events if e["kind"] == kind and "back_after_s" in e])
            },
            "events": events,
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "faults.json").write_text(json.dumps(kept, indent=1) + "\n")
    return int(same != len(events))


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    sys.exit(main())
