"""What the engine costs: images per second against a plain DDP loop, and the memory of data per extra rank.

    python bench/overhead.py throughput                       # ResNet-18, bf16, 2 gloo ranks on this CPU
    python bench/overhead.py throughput --recipe smallnet --batch 256
    python bench/overhead.py throughput --recipe heavy        # RandAugment, erasing, Mixup and CutMix on all pictures
    python bench/overhead.py throughput --workers 1 --device cuda --batch 512 --steps 40
    python bench/overhead.py memory --data PATH               # without --data: 50,000 made-up pictures

Each result is kept in bench/results/overhead.json, under a name of its own.
"""

import argparse
import copy
import ctypes
import itertools
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from distaug.data.build import PIXELS
from distaug.data.loader import Loader
from distaug.data.open import DataSet, open_data
from distaug.spec.data import DataSpec
from distaug.spec.job import JobSpec
from distaug.train.claim import claim
from distaug.train.device import available_cores
from distaug.train.judge import check_finite
from distaug.train.reporter import LocalReporter
from distaug.train.setup import setup
from distaug.train.state import Training
from distaug.train.step import train_step
from distaug.train.watch import Watch
from distaug.train.world import SoloWorld, TorchWorld

RESULTS = Path(__file__).parent / "results"
LR, SMOOTHING = 0.01, 0.1
HEAVY = [{"crop": {}}, {"flip": {}}, {"randaugment": {}}, {"erase": {}}]
RECIPES: dict[str, dict[str, Any]] = {
    "weak": {"augment": {"preset": "weak"}, "model": {"name": "resnet18"}},
    "smallnet": {"augment": {"preset": "weak"}, "model": {"name": "smallnet"}},
    # What one trains with for long: all pictures changed by two operations, erased, and mixed; the ordinary stem.
    "heavy": {
        "augment": {"ops": HEAVY},
        "mix": {"mixup": {"alpha": 0.2}, "cutmix": {"alpha": 1.0}},
        "model": {"name": "resnet18", "stem": "standard"},
    },
}
PLAIN_BATCHES = 8  # Drawn once and used again and again: the plain loop pays nothing for its data.
WARM_UP_STEPS = 3
MOST_PER_EXTRA_RANK = 0.05
LEAST_RATIO = {"weak": 0.97, "smallnet": 0.97, "heavy": 0.93}


def machine() -> dict[str, Any]:
    """Return what a number was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": available_cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def summary(values: list[float]) -> dict[str, Any]:
    """Return n, median, quartiles and all values, rounded for the eye."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {
        "n": len(values),
        "median": round(middle, 4),
        "quartiles": [round(low, 4), round(high, 4)],
        "values": [round(value, 4) for value in values],
    }


def keep(file: str, name: str, entry: dict[str, Any]) -> None:
    """Put one result into a file of results, in place of an earlier one of its name."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{file}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(kept | {name: machine() | entry}, indent=1, sort_keys=True) + "\n")
    print(f"{path}: {name}")


def data_section(path: str | None, samples: int) -> dict[str, Any]:
    """Return the section `data`: Parquet files, or made-up pictures of the same shape as CIFAR-10's."""
    return {"source": "parquet", "path": path} if path else {"source": "synthetic", "synthetic": {"samples": samples}}


# Throughput.


def job_steps(t: Training) -> Iterator[None]:
    """Train without end; each step is all that `train_epoch` does for one.

    The reporter is the one without Ray. That of a Ray worker also sends a message about twice a second, unawaited.
    """
    watch = Watch(t.world, t.job.checkpoint.every_minutes)
    while True:
        t.tally.start(None, t.world)
        t.model.train()
        for shards in t.loader.train(t.epoch, t.step):
            train_step(t, t.epoch, t.step, shards)
            t.step += 1
            watch.look(stop=t.reporter.progress(t.progress("train")))
            yield
        check_finite(t)
        t.epoch, t.step = t.epoch + 1, 0


def plain_steps(t: Training) -> Iterator[None]:
    """Train without end as a plain loop does: the same network, batch, types, layout and optimizer.

    Its pictures come augmented, normalised, and in the type that the network computes in; its labels are numbers.
    """
    cuda, half = t.device.type == "cuda", t.precision.activations
    model = copy.deepcopy(t.module)
    if t.world.size > 1:
        model = DistributedDataParallel(model, device_ids=[t.device.index] if cuda else None)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=LR,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        fused=True,
    )
    batches = []
    for step, (batch,) in enumerate(itertools.islice(t.loader.train(0), PLAIN_BATCHES)):
        images, _ = t.augment(batch.images, batch.labels, batch.ids, epoch=0, step=step, shard=batch.shard)
        batches.append((images, batch.labels))
    for images, labels in itertools.cycle(batches):
        with torch.autocast(t.device.type, dtype=torch.bfloat16, enabled=half == torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(images), labels, label_smoothing=SMOOTHING)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def throughput_rank(
    rank: int, asked: argparse.Namespace, folder: str, results: "torch.multiprocessing.SimpleQueue"
) -> None:
    """Time the three loops on one rank, in turns, in one process with one process group."""
    if asked.workers > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        store = dist.FileStore(f"{folder}/store", asked.workers)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=asked.workers, timeout=timedelta(minutes=10))
    world = TorchWorld(rank) if asked.workers > 1 else SoloWorld()

    def training(exact: bool) -> Training:
        values = {
            "name": f"exact-{exact}".lower(),
            "runs_dir": folder,
            "data": data_section(asked.data, 10_000) | {"batches": "device"},  # On a CPU: read when it is needed.
            **RECIPES[asked.recipe],
            "train": {
                "epochs": 1_000,
                "global_batch": asked.batch,
                "shards": asked.workers,
                "optimizer": {"lr": LR, "lr_per_samples": None, "weight_decay": 5e-4},
                "label_smoothing": SMOOTHING,
                "exact": exact,
            },
            "precision": asked.precision,
            "cluster": {"gpus_per_worker": int(asked.device == "cuda")},
        }
        run, job, _ = world.broadcast(claim(JobSpec.model_validate(values)) if rank == 0 else None)
        return setup(job, run, world, LocalReporter())

    ours, exact = training(False), training(True)
    loops = {"plain": plain_steps(ours), "ours": job_steps(ours), "exact": job_steps(exact)}
    cuda = ours.device.type == "cuda"

    def block(name: str, steps: int) -> float:
        """Return the images per second of some steps, from when all ranks begin until all are done."""
        if cuda:  # `exact` switches them on for the whole process.
            torch.use_deterministic_algorithms(name == "exact", warn_only=True)
        world.max([0.0])
        began = perf_counter()
        for _ in range(steps):
            next(loops[name])
        if cuda:
            torch.cuda.synchronize()
        world.max([0.0])
        return steps * asked.batch / (perf_counter() - began)

    rates: dict[str, list[float]] = {name: [] for name in loops}
    for name in loops:
        block(name, WARM_UP_STEPS)
    for turn in range(asked.blocks):
        # There and back, so that a machine that grows slower or faster favours none.
        for name in loops if turn % 2 == 0 else reversed(loops):
            rates[name].append(block(name, asked.steps))
    if rank == 0:
        results.put((rates, torch.get_num_threads()))
    if dist.is_initialized():
        dist.destroy_process_group()


def throughput(asked: argparse.Namespace) -> None:
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(throughput_rank, (asked, folder, results), nprocs=asked.workers)
    rates, threads = results.get()
    measured = {name: summary(values) for name, values in rates.items()}
    ratios = {
        "ours / plain": measured["ours"]["median"] / measured["plain"]["median"],
        "exact / ours": measured["exact"]["median"] / measured["ours"]["median"],
    }
    for name, numbers in measured.items():
        low, high = numbers["quartiles"]
        print(f"{name:6} {numbers['median']:10.1f} images/s  quartiles {low:.1f} to {high:.1f}  n {numbers['n']}")
    print(f"ours / plain {ratios['ours / plain']:.3f} (at least {LEAST_RATIO[asked.recipe]})")
    print(f"exact / ours {ratios['exact / ours']:.3f}")
    entry = {
        "images_per_second": measured,
        "ratios_of_medians": {name: round(ratio, 4) for name, ratio in ratios.items()},
        "steps_per_block": asked.steps,
        "global_batch": asked.batch,
        "workers": asked.workers,
        "threads_per_worker": threads,
    }
    keep("overhead", f"throughput {asked.recipe} {asked.precision} {asked.device} {asked.workers}", entry)


# Memory.


def smaps(file: str, wanted: Callable[[str], bool], field: str) -> int:
    """Sum a field, in bytes, over those mappings of this process whose first line is wanted."""
    total, counts = 0, False
    for line in Path(f"/proc/self/{file}").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            counts = wanted(line)
        elif counts and name == f"{field}:":
            total += 1024 * int(rest[0])
    return total


def own_memory() -> int:
    """Return the bytes that are this process's alone because no file holds them: allocations and copied pages."""
    ctypes.CDLL(None).malloc_trim(0)  # What is free again, and only kept at hand for later, holds no data.
    return smaps("smaps_rollup", lambda line: True, "Pss_Anon")


def touch_all(spec: DataSpec, ranks: int) -> tuple[DataSet, Loader]:
    """Read every training picture once or more, as a rank does in the course of a training; return what it holds."""
    data = open_data(spec, log=lambda line: None)
    loader = Loader(
        data,
        device=torch.device("cpu"),
        seed=0,
        global_batch=64 * ranks,
        shards=ranks,
        own=range(ranks),
        spec=spec,
        way="stream",
        eval_batch=500,
    )
    seen = torch.zeros(len(data.train), dtype=torch.bool)
    for epoch in itertools.count():
        for batch in itertools.chain.from_iterable(loader.train(epoch)):
            seen[batch.ids] = True
        if seen.all():  # Not after one epoch, which leaves out the incomplete last batch.
            return data, loader


def memory_rank(rank: int, spec: DataSpec, ranks: int, together: Any, results: Any) -> None:
    """Touch all pictures, then take this rank's share while all ranks still hold theirs."""
    torch.set_num_threads(1)
    # First a tiny data set, so that the code and threads of reading, which no data set makes larger, do not count.
    touch_all(DataSpec.model_validate(data_section(None, 1_000)), ranks)
    before = own_memory()
    data, loader = touch_all(spec, ranks)
    together.wait()
    mapped = smaps("smaps", lambda line: line.endswith(str(data.train.cache.folder / PIXELS)), "Pss")
    results.put((mapped, own_memory() - before, len(data.train) * 3 * data.image_size**2))
    together.wait()
    loader.close()


def memory(asked: argparse.Namespace) -> None:
    context = torch.multiprocessing.get_context("spawn")
    spec = DataSpec.model_validate(data_section(asked.data, 50_000))
    open_data(spec)  # Decodes the pictures where that was never done; the ranks then find them.
    shares = {}
    for ranks in (1, 4):
        together, results = context.Barrier(ranks), context.SimpleQueue()
        torch.multiprocessing.spawn(memory_rank, (spec, ranks, together, results), nprocs=ranks)
        shares[ranks] = [results.get() for _ in range(ranks)]
    size = shares[1][0][2]
    entry: dict[str, Any] = {"data_bytes": size, "pictures": spec.source, "ranks": {}}
    totals = {}
    for ranks, rows in shares.items():
        mapped, own, _ = zip(*rows, strict=True)
        totals[ranks] = sum(mapped), sum(own)
        entry["ranks"][ranks] = {"mapped_pss_bytes": mapped, "own_bytes": own}
        each = ", ".join(f"{m / 2**20:.1f} + {o / 2**20:.1f}" for m, o in zip(mapped, own, strict=True))
        print(f"{ranks} ranks, MiB of the mapped pictures + allocated for data by each: {each}")
    extra_mapped, extra_own = ((after - once) / 3 / size for once, after in zip(totals[1], totals[4], strict=True))
    entry["share_of_data_per_extra_rank"] = {"mapped": round(extra_mapped, 5), "own": round(extra_own, 5)}
    print(f"training pictures {size / 2**20:.1f} MiB; each extra rank adds {100 * extra_mapped:.2f} % of them as")
    print(f"mapped pages, {100 * extra_own:.2f} % in its own memory (at most {100 * MOST_PER_EXTRA_RANK:.0f} %)")
    keep("overhead", f"memory {spec.source}", entry)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("throughput")
    command.set_defaults(measure=throughput)
    command.add_argument("--recipe", default="weak", choices=RECIPES, help="weak and heavy: ResNet-18")
    command.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    command.add_argument("--batch", type=int, default=128, help="pictures per step over all workers")
    command.add_argument("--workers", type=int, default=2)
    command.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    command.add_argument("--blocks", type=int, default=15, help="blocks of steps of each loop (at least 2)")
    command.add_argument("--steps", type=int, default=4, help="steps in a block")
    command.add_argument("--data", help="CIFAR-10 as Parquet files; default: made-up pictures")
    command = commands.add_parser("memory")
    command.set_defaults(measure=memory)
    command.add_argument("--data", help="CIFAR-10 as Parquet files; default: made-up pictures")
    asked = parser.parse_args()
    asked.measure(asked)


if __name__ == "__main__":
    main()
