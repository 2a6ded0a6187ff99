"""One rank over nccl, two and four that share the device over gloo: do they see, and become, the same?"""

import hashlib
import json
import multiprocessing
import os
import socket
from collections.abc import Iterable
from multiprocessing.connection import wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.gpu.shared import GPU, Bench, Changes, opened, say, told
from distaug.augment.pipeline import normalise
from distaug.data.loader import Batch
from distaug.spec.job import JobSpec
from distaug.spec.load import dump_job, parse_job
from distaug.train import local
from distaug.train.claim import claim
from distaug.train.device import available_cores
from distaug.train.loop import fit
from distaug.train.reporter import LocalReporter
from distaug.train.state import Training
from distaug.train.step import train_step
from distaug.train.sums import distribute
from distaug.train.world import TorchWorld, World

SHARDS, EPOCHS = 4, 2
# Exact last: its deterministic kernels stay on for the rest of a process.
WAYS: dict[str, Changes] = {
    "fast": {"train.exact": "false", "data.batches": "stream"},
    "exact": {"train.exact": "true", "data.batches": "device"},
}
Seen = dict[str, list[str]]
"""By epoch, step and shard: the digests of its sample ids and of its augmented pixels."""


def worlds(bench: Bench) -> None:
    common: dict[str, Any] = {"train.shards": SHARDS, "cluster.collective_timeout_s": 60}
    if not bench.shrink:
        common |= {"data.per_class": 256, "cluster.cpus_per_worker": max(1, available_cores() // 4)}
    cpu = {"cluster.gpus_per_worker": 0, "precision": "fp32"}
    expected = _look_through(opened(bench.job("on-the-cpu", {**common, **WAYS["exact"], **cpu}, epochs=EPOCHS)))
    digests = {"order_digest": _joined(expected, 0), "pixels_digest": _joined(expected, 1)}
    entry: dict[str, Any] = {"n": len(expected), "shards": SHARDS, "on_the_cpu": digests, "worlds": {}}
    for size in (1, 2, 4):
        backend = "nccl" if size == 1 and GPU else "gloo"
        changes = {**common, "cluster.backend": backend}
        jobs = {w: bench.job(f"{w}-{size}", {**changes, **way}, epochs=EPOCHS) for w, way in WAYS.items()}
        try:
            entry["worlds"][size] = _compare(_run(size, jobs, bench), expected, entry["worlds"].get(1, {}))
        except (RuntimeError, TimeoutError) as error:
            entry["worlds"][size] = {"failed": told(error)}
        bench.keep("worlds", entry, done=False)
        say(f"worlds {size}, {backend}: {json.dumps(entry['worlds'][size])}")
    bench.keep("worlds", entry)
    if failed := [size for size, world in entry["worlds"].items() if "failed" in world]:
        raise SystemExit(f"worlds: these failed: {failed}")


def _compare(ranks: list[dict[str, Any]], expected: Seen, first: dict[str, Any]) -> dict[str, Any]:
    """Hold what the ranks of a world saw and became against the CPU and against world 1."""
    found: dict[str, Any] = {"backend": ranks[0]["backend"], "device": ranks[0]["device"]}
    for way in WAYS:
        seen: Seen = {shard: digests for rank in ranks for shard, digests in rank[way]["seen"].items()}
        assert sum(len(rank[way]["seen"]) for rank in ranks) == len(seen), "each shard belongs to one rank"
        weights = {rank[way]["weights"] for rank in ranks}
        found[way] = {
            "order_digest": _joined(seen, 0),
            "pixels_digest": _joined(seen, 1),
            "order_equal_to_cpu": _joined(seen, 0) == _joined(expected, 0),
            "pixels_equal_to_cpu": _joined(seen, 1) == _joined(expected, 1),
            "weights": " ".join(sorted(weights)),
            "test_top1": ranks[0][way]["test_top1"],
        }
        if way in first:
            found[way]["weights_equal_to_world_1"] = found[way]["weights"] == first[way]["weights"]
    return found


def _joined(seen: Seen, which: int) -> str:
    """Return one digest for all shards, in their order; a missing or superfluous one changes it."""
    return hashlib.sha256("".join(f"{shard} {seen[shard][which]}\n" for shard in sorted(seen)).encode()).hexdigest()


def _look_through(t: Training) -> Seen:
    seen: Seen = {}
    for epoch in range(t.job.train.epochs):
        for step, batches in enumerate(t.loader.train(epoch)):
            seen |= _look(t, epoch, step, batches)
    return seen


def _look(t: Training, epoch: int, step: int, batches: Iterable[Batch]) -> Seen:
    """Augment as the step does, and digest the ids and what is handed to `normalise`."""
    seen: Seen = {}
    pixels: list[Tensor] = []

    def kept(images: Tensor, *rest: Any) -> Tensor:
        pixels.append(images)
        return normalise(images, *rest)

    with patch("distaug.augment.pipeline.normalise", kept):
        for batch in batches:
            t.augment(batch.images, batch.labels, batch.ids, epoch=epoch, step=step, shard=batch.shard)
            images = pixels.pop()
            assert images.dtype == torch.uint8 and not pixels
            raw = [x.cpu().contiguous().numpy().tobytes() for x in (batch.ids, images)]
            seen[f"epoch {epoch} step {step} shard {batch.shard}"] = [hashlib.sha256(x).hexdigest() for x in raw]
    return seen


def _run(size: int, jobs: dict[str, JobSpec], bench: Bench) -> list[dict[str, Any]]:
    """Train the jobs, one after the other, on as many ranks; return what each rank left behind.

    Raises:
        RuntimeError: A rank failed.
        TimeoutError: The time is up.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    texts = {way: dump_job(job) for way, job in jobs.items()}
    files = [bench.runs / f"world-{size}-rank-{rank}.json" for rank in range(size)]
    # The server imports once for all ranks, and nothing that would touch CUDA before they are forked.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distaug.train.local"])
    processes = [context.Process(target=_rank, args=(rank, size, port, texts, files[rank])) for rank in range(size)]
    for process in processes:
        process.start()
    try:
        alive = processes
        while alive and not any(process.exitcode for process in processes):
            if bench.left() <= 0:
                raise TimeoutError("out of time")
            wait([process.sentinel for process in alive], timeout=1.0)
            alive = [process for process in processes if process.exitcode is None]
    finally:
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
            process.join()
    if any(codes):
        raise RuntimeError(f"exit codes of the ranks (None: was still running): {codes}; see what they printed")
    return [json.loads(file.read_text()) for file in files]


def _rank(rank: int, size: int, port: int, jobs: dict[str, str], out: Path) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    os.environ.update(zip(names, map(str, (rank, rank, size, size, port)), strict=True))
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo", NCCL_SOCKET_IFNAME="lo")
    specs = {way: parse_job(text) for way, text in jobs.items()}
    if size > 1:
        world: World = local._world(specs["exact"])
    else:
        # torchrun starts no process group for one rank; here one goes through all that several would.
        dist.init_process_group(specs["exact"].cluster.backend)
        world = TorchWorld()
    found: dict[str, Any] = {"backend": dist.get_backend()}
    for way, spec in specs.items():
        seen: Seen = {}

        def step(t: Training, epoch: int, number: int, batches: list[Batch], seen: Seen = seen) -> None:
            found["device"] = t.device.type
            seen.update(_look(t, epoch, number, batches))
            train_step(t, epoch, number, batches)

        run, job, _ = world.broadcast(claim(spec) if rank == 0 else None)
        with patch("distaug.train.loop.train_step", step), patch("distaug.train.setup.distribute", _always):
            result = fit(job, run, world, LocalReporter())
        found[way] = {"seen": seen, "weights": result.weights_digest, "test_top1": (result.test or {}).get("top1")}
    out.write_text(json.dumps(found))
    dist.destroy_process_group()


def _always(module: nn.Module, world: World, device: torch.device) -> nn.Module:
    """Wrap the module in DistributedDataParallel for one rank as well."""
    return distribute(module, cast(World, SimpleNamespace(size=max(2, world.size))), device)
