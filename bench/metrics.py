"""What watching a run costs: images per second with and without scrapes, and a hub fed by a thousand ranks.

    python -m bench.metrics scrapes             # 1,000 scrapes of a run with a core to spare, in turns with none
    python -m bench.metrics scrapes --workers 2 --per-second 2 --count 200   # with every core of two training
    python -m bench.metrics ranks --ranks 1000  # pushes of simulated ranks through a real hub and a real endpoint

Each result is kept in bench/results/metrics.json, under a name of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.overhead import machine

RESULTS = Path(__file__).parent / "results" / "metrics.json"
LEAST_RATIO = 0.99
TURN_S = 4.0
JOB = """
name: scraped
data: {source: synthetic, image_size: 32, synthetic: {samples: 20000, classes: 10}}
augment: {preset: weak}
model: {name: smallnet}
train: {epochs: 100000, global_batch: 64}
checkpoint: {every_epochs: 100000}
stop: {patience_epochs: null}
cluster: {workers: WORKERS, cpus_per_worker: 1, gpus_per_worker: 0}
"""


def keep(name: str, result: dict[str, Any]) -> None:
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(kept | {name: result | {"machine": machine()}}, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def scrape(url: str) -> tuple[str, float]:
    """Return what the endpoint says, and how long it took."""
    began = time.perf_counter()
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    return text, time.perf_counter() - began


def number(text: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{"))


def steps_and_seconds(text: str) -> tuple[float, float]:
    """Return steps of all ranks so far, and the seconds that they took."""
    return number(text, "distaug_step_seconds_count"), number(text, "distaug_step_seconds_sum")


def scrapes(workers: int, per_second: float, count: int) -> dict[str, Any]:
    """Train on one core for each worker, and by turns scrape the run or leave it alone."""
    with tempfile.TemporaryDirectory(prefix="distaug-bench-") as folder:
        job = Path(folder) / "job.yaml"
        job.write_text(JOB.replace("WORKERS", str(workers)) + f"runs_dir: {folder}/runs\n")
        environment = os.environ | {"DISTAUG_CACHE": f"{folder}/cache"}
        with (Path(folder) / "out.txt").open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "distaug", "run", str(job)], stdout=out, stderr=out, env=environment
            )
        try:
            announcement = Path(folder) / "runs" / "targets" / "scraped.json"
            while not announcement.exists():
                assert process.poll() is None, (Path(folder) / "out.txt").read_text()
                time.sleep(0.1)
            url = f"http://{json.loads(announcement.read_text())[0]['targets'][0]}/metrics"
            while number(scrape(url)[0], "distaug_steps_total") < 100:  # also lets the machine warm up
                time.sleep(0.5)
            speeds: dict[bool, list[float]] = {False: [], True: []}
            taken: list[float] = []
            each = round(per_second * TURN_S)
            while len(taken) < count:
                for scraped in (False, True):
                    first, began = steps_and_seconds(scrape(url)[0]), time.monotonic()
                    for place in range(each if scraped else 0):
                        time.sleep(max(0.0, began + place * TURN_S / each - time.monotonic()))
                        taken.append(scrape(url)[1])
                    time.sleep(max(0.0, began + TURN_S - time.monotonic()))
                    last = steps_and_seconds(scrape(url)[0])
                    speeds[scraped].append(64 * (last[0] - first[0]) / (last[1] - first[1]))
        finally:
            process.terminate()
            process.wait(60)
    without, scraped_too = (statistics.median(speeds[which]) for which in (False, True))
    return {
        "ratio": round(scraped_too / without, 4),
        "images_per_second": {"without": round(without, 1), "with": round(scraped_too, 1)},
        "workers": workers,
        "turns": len(speeds[True]),
        "scrapes": len(taken),
        "scrapes_per_second": each / TURN_S,
        "scrape_ms": {"median": round(1000 * statistics.median(taken), 2), "max": round(1000 * max(taken), 2)},
    }


def ranks(count: int, seconds: float) -> dict[str, Any]:
    """Push from simulated ranks as often as real ones do, look as the driver does, and scrape."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    import ray

    from distaug.cluster.hub import Hub
    from distaug.cluster.worker import push_every_s
    from distaug.spec.metrics import MetricsSpec
    from distaug.telemetry.board import Board
    from distaug.telemetry.exporter import serve
    from distaug.telemetry.meter import Meter
    from distaug.telemetry.progress import Progress
    from distaug.telemetry.usage import usage

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")

    class Measured(Hub):
        def cost(self) -> tuple[float, float]:
            return sum(os.times()[:2]), usage("cpu")["distaug_host_memory_pss_bytes"]

    hub = ray.remote(num_cpus=0)(Measured).remote()
    meter = Meter(0)
    place: dict[str, Any] = {
        "phase": "train", "epoch": 0, "epochs": 9, "steps": 10**6, "global_batch": count * 32, "loss": 1.0, "lr": 0.1,
        "scale": None, "skipped": 0, "rank_images": 32, "saved_bytes": 0, "device": "cpu", "world_size": count,
        "shards": count, "restarts": 0, "patience_left": 3, "goodput": 0.9,
    }  # fmt: skip
    pushes, over, every = [0], threading.Event(), push_every_s(count)

    def push() -> None:
        step = 0
        while not over.is_set():
            began, step = time.monotonic(), step + 1
            done = Progress(**place, step=step, wait_seconds=0.1 * step, augment_seconds=0.1 * step)
            meter.note(done)
            stats = meter.stats()
            ray.get([hub.push.remote(replace(stats, rank=rank, process=str(rank))) for rank in range(count)])
            pushes[0] += count
            over.wait(max(0.0, began + every - time.monotonic()))

    board, looks, taken, text = Board("simulated"), [], [], ""
    with tempfile.TemporaryDirectory() as folder, serve(board, MetricsSpec(), Path(folder) / "t.json", print):
        url = f"http://{json.loads((Path(folder) / 't.json').read_text())[0]['targets'][0]}/metrics"
        thread = threading.Thread(target=push)
        began, (used, _) = time.monotonic(), ray.get(hub.cost.remote())
        thread.start()
        while time.monotonic() - began < seconds:
            look = time.perf_counter()
            board.take(ray.get(hub.look.remote()).ranks)
            looks.append(time.perf_counter() - look)
            if len(looks) % 5 == 0:
                text, duration = scrape(url)
                taken.append(duration)
            time.sleep(0.2)
        (spent, memory), wall = ray.get(hub.cost.remote()), time.monotonic() - began
        over.set()
        thread.join()
    ray.shutdown()
    return {
        "ranks": count,
        "push_every_s": round(every, 2),
        "pushes_per_second": round(pushes[0] / wall, 1),
        "series": sum(not line.startswith("#") for line in text.splitlines()),
        "scrape_bytes": len(text),
        "scrape_ms": {"median": round(1000 * statistics.median(taken), 1), "max": round(1000 * max(taken), 1)},
        "look_ms": {"median": round(1000 * statistics.median(looks), 1), "max": round(1000 * max(looks), 1)},
        "hub_cores": round((spent - used) / wall, 3),
        "hub_pss_bytes": memory,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    scraped = commands.add_parser("scrapes")
    scraped.add_argument(
        "--workers", type=int, default=1, help="each on a core; with one a core is left for the driver"
    )
    scraped.add_argument("--per-second", type=float, default=5.0)
    scraped.add_argument("--count", type=int, default=1000)
    simulated = commands.add_parser("ranks")
    simulated.add_argument("--ranks", type=int, default=1000)
    simulated.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    if arguments.command == "ranks":
        keep(f"ranks-{arguments.ranks}", ranks(arguments.ranks, arguments.seconds))
        return 0
    result = scrapes(arguments.workers, arguments.per_second, arguments.count)
    keep(f"scrapes-{arguments.workers}-workers", result)
    return int(result["ratio"] < LEAST_RATIO)


if __name__ == "__main__":
    sys.exit(main())
