"""What the parts share: the recipe and its variants, the clock, the results, the machine."""

import functools
import json
import platform
import shutil
import statistics
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from distaug.spec.job import JobSpec
from distaug.spec.load import load_job
from distaug.store.checkpoint import versions
from distaug.store.whole import write_whole
from distaug.train.claim import claim
from distaug.train.device import available_cores, usable_gpus
from distaug.train.precision import Precision
from distaug.train.reporter import LocalReporter
from distaug.train.setup import setup
from distaug.train.state import Training
from distaug.train.world import SoloWorld

RESULTS = Path(__file__).resolve().parents[1] / "results"
RECIPE = RESULTS.parents[1] / "jobs" / "cifar10_resnet18.yaml"
GPU = usable_gpus() > 0
Changes = Mapping[str, Any]

SHRUNK = (
    "data={source: synthetic, image_size: 16, synthetic: {samples: 200}}",
    "model={name: smallnet, options: {widths: [8, 8, 16]}}",
    "train.global_batch=40",
    "cluster.cpus_per_worker=1",
)
BASE: Changes = {"precision": "bf16", "data.batches": "device", "train.exact": "false"}
"""What the variants change."""
WAYS: dict[str, Changes] = {
    "bf16": {},
    "fp32": {"precision": "fp32"},
    "tf32": {"precision": "tf32"},
    "fp16": {"precision": "fp16"},
    "stream": {"data.batches": "stream"},
    "exact": {"train.exact": "true"},
}


@dataclass(frozen=True)
class Bench:
    """What was asked for."""

    data: Path | None
    out: Path
    runs: Path
    shrink: bool
    epochs: int | None
    end: float
    """When the time is up, on the monotonic clock."""

    def left(self) -> float:
        return self.end - monotonic()

    def job(self, name: str, changes: Changes | None = None, *, epochs: int | None = None) -> JobSpec:
        """Return the recipe with changes; of another length, all that is counted in epochs is scaled with it."""
        recipe = load_job(RECIPE)
        whole, start, off = recipe.train.epochs, recipe.stop.start_epoch, recipe.mix.off_after_epoch
        assert isinstance(start, int) and off is not None
        epochs = epochs or whole
        sets = {
            "runs_dir": self.runs,
            "train.epochs": epochs,
            "train.schedule.warmup_epochs": f"{recipe.train.schedule.warmup_epochs * epochs / whole:g}",
            "mix.off_after_epoch": round(off * epochs / whole),
            "stop.start_epoch": round(start * epochs / whole),
            **(changes or {}),
        }
        data = SHRUNK if self.shrink else (f"data.path={self.data}",)
        return load_job(RECIPE, [*data, *(f"{path}={value}" for path, value in sets.items())], name=name)

    def keep(self, part: str, entry: Mapping[str, Any], *, done: bool = True) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        head = {"done": done, "shrunk": self.shrink, "recipe": RECIPE.name, "machine": machine()}
        write_whole(self.out / f"gpu_{part}.json", (json.dumps({**head, **entry}, indent=1) + "\n").encode())


@functools.cache
def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    found = {"cpu": names[0] if names else platform.processor(), "cores": available_cores(), "gpu": None}
    if GPU:
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(ask, capture_output=True, text=True).stdout.strip() if shutil.which(ask[0]) else None
        gpu = torch.cuda.get_device_properties(0)
        found |= {"gpu": gpu.name, "gpu_memory_bytes": gpu.total_memory, "driver": driver}
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        found |= {"nccl": ".".join(map(str, torch.cuda.nccl.version()))}
    return found | {"versions": versions()}


def say(text: str) -> None:
    print(text, flush=True)


def told(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def summary(values: list[float]) -> dict[str, Any]:
    three = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {"n": len(values)} | {name: round(value, 4) for name, value in three.items()}


def opened(job: JobSpec) -> Training:
    """Make a training in this process, ready for its first step."""
    run, claimed, _ = claim(job)
    return setup(claimed, run, SoloWorld(), LocalReporter())


def take_up(t: Training) -> None:
    """Switch this process to the arithmetic of one of the trainings in it: torch keeps that for all together."""
    Precision(t.precision.name, t.device)
    torch.use_deterministic_algorithms(bool(t.job.train.exact) and t.device.type == "cuda", warn_only=True)
