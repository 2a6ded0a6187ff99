"""What one GPU shows: speed, accuracy, waiting, augmentation, ranks that share it, Ray. From the project's folder:

    python -m bench.gpu --data PATH                                  # all parts in 9 minutes
    python -m bench.gpu --data PATH --parts accuracy --epochs 100    # one part with all the time
    python -m bench.gpu --shrink                                     # a small model, made-up pictures; a CPU will do

Each part runs in a process of its own, with its share of the time, and keeps gpu_<part>.json as it goes: one that was
cut short has `"done": false`. Only the part `ray` needs Ray, and says so where there is none.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from bench.gpu.lengths import accuracy, through_ray
from bench.gpu.pictures import pictures
from bench.gpu.shared import GPU, RESULTS, Bench, say
from bench.gpu.speed import throughput
from bench.gpu.waits import sync
from bench.gpu.worlds import worlds

PARTS: dict[str, tuple[Callable[[Bench], None], int]] = {
    "sync": (sync, 2),
    "throughput": (throughput, 4),
    "pictures": (pictures, 1),
    "worlds": (worlds, 3),
    "ray": (through_ray, 2),
    "accuracy": (accuracy, 4),
}
"""In the order of running, each with its weight: its share of the time that is left. The last one gets the rest."""
GRACE_S = 15.0


def run_part(name: str, minutes: float, out: Path) -> int:
    """Run one part in a process group of its own; kill that when it overruns its time. Return its exit code."""
    command = [sys.executable, "-m", "bench.gpu", *sys.argv[1:]]
    command += ["--parts", name, "--minutes", f"{minutes:.3f}", "--out", str(out)]
    process = subprocess.Popen(command, process_group=0)
    try:
        return process.wait(60 * minutes + GRACE_S)
    except subprocess.TimeoutExpired:
        say(f"{name}: killed, it did not end in time; what it had measured is kept")
        return 1
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> int:
    began = monotonic()
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder of CIFAR-10 as Parquet")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, by commas (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts together (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="length of the part accuracy (default: the recipe's, if it fits)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: bench/results; shrunk: a new one)")
    parser.add_argument("--shrink", action="store_true", help="a small model and a few made-up pictures")
    asked = parser.parse_args()
    if unknown := set(asked.parts.split(",")) - PARTS.keys():
        parser.error(f"--parts: there is no {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if not asked.shrink and not (asked.data and GPU):
        parser.error("needs --data PATH and a GPU that torch can use; --shrink needs neither")
    parts = [name for name in PARTS if name in asked.parts.split(",")]
    out = asked.out or (Path(tempfile.mkdtemp(prefix="gpu-results-")) if asked.shrink else RESULTS)
    end = began + 60 * asked.minutes
    if len(parts) == 1:
        with tempfile.TemporaryDirectory(prefix="gpu-runs-") as runs:
            data = Path(asked.data).absolute() if asked.data else None
            PARTS[parts[0]][0](Bench(data, out, Path(runs), asked.shrink, asked.epochs, end))
        return 0
    codes = {}
    for number, name in enumerate(parts):
        weights = [PARTS[part][1] for part in parts[number:]]
        codes[name] = run_part(name, (end - monotonic()) / 60 * weights[0] / sum(weights), out)
    failed = ", ".join(name for name, code in codes.items() if code)
    say(f"results in {out}; {f'these parts failed: {failed}' if failed else 'all parts ended well'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
