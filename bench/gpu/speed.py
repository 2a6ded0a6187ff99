"""Images per second, seconds an epoch and peak memory of the recipe's variants."""

import os
import statistics
from time import monotonic
from typing import Any

import torch

from bench.gpu.shared import BASE, GPU, WAYS, Bench, Changes, opened, say, summary, take_up, told
from distaug.store.records import EpochRecord
from distaug.train.loop import train_epoch
from distaug.train.state import Training
from distaug.train.watch import Watch

Live = dict[str, tuple[Training, list[EpochRecord]]]
"""The trainings of a group, with the epochs of each."""
GROUPS: dict[str, dict[str, Changes]] = {
    "ways": WAYS,
    # By itself, because nobody knows beforehand how long the compiler takes.
    "compiled": {"bf16": {}, "compile": {"train.compile": "true"}},
}
ROUNDS = 5
COMPILE_S = 60.0
"""Time that the first group leaves for the second."""


def throughput(bench: Bench) -> None:
    # What another process compiled would make the first epoch look cheap, and may be half-written.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(bench.runs / "compiled")
    entry: dict[str, Any] = {"base": dict(BASE)} | {group: {} for group in GROUPS}
    for group, variants in GROUPS.items():
        if group == "compiled" and bench.shrink and not GPU:
            entry[group] = {"skipped": "on a CPU the compiler takes longer than all the rest"}
            say(f"throughput compile: skipped, {entry[group]['skipped']}")
            continue
        found = entry[group]
        live: Live = {}
        for name, changes in variants.items():
            if live and bench.left() < 2 * sum(_seconds(records[0]) for _, records in live.values()):
                found[name] = {"skipped": "out of time"}
                continue
            try:
                live[name], found[name] = _first(bench, f"{group}-{name}", changes)
            except Exception as error:  # One that this device or machine cannot do is no reason to stop.
                found[name] = {"skipped": told(error)}
                say(f"throughput {name}: skipped, {told(error)}")
            bench.keep("throughput", entry, done=False)
        _rounds(bench, entry, group, live)
    bench.keep("throughput", entry)


def _first(bench: Bench, name: str, changes: Changes) -> tuple[tuple[Training, list[EpochRecord]], dict[str, Any]]:
    """Train a first epoch, which warms up and is not counted, and take its peak memory."""
    began, held = monotonic(), torch.cuda.memory_allocated() if GPU else 0
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    t = opened(bench.job(name, {**BASE, **changes}))
    record = _epoch(t)
    peak = torch.cuda.max_memory_allocated() - held if GPU else None
    start = round(monotonic() - began - _seconds(record), 2)
    first = round(_seconds(record), 2)
    return (t, [record]), {"start_seconds": start, "first_epoch_seconds": first, "peak_memory_bytes": peak}


def _rounds(bench: Bench, entry: dict[str, Any], group: str, live: Live) -> None:
    """Train one epoch of each in turn, again and again."""
    kept = COMPILE_S if group == "ways" else 0.0
    for number in range(2 if bench.shrink else ROUNDS):
        if number and bench.left() < 1.2 * sum(_seconds(records[-1]) for _, records in live.values()) + kept:
            say(f"throughput: out of time after {number} rounds")
            break
        for t, records in live.values():
            records.append(_epoch(t))
        base = statistics.median(r.images_per_second for r in live["bf16"][1][1:])
        for name, (_, records) in live.items():
            rates = [r.images_per_second for r in records[1:]]
            entry[group][name] |= {
                "images_per_second": summary(rates),
                "ratio_to_bf16": round(statistics.median(rates) / base, 4),
                "train_seconds": summary([r.seconds for r in records[1:]]),
                "validation_seconds": summary([r.eval_seconds for r in records[1:]]),
                "data_wait_seconds": summary([r.data_wait_seconds for r in records[1:]]),
            }
        bench.keep("throughput", entry, done=False)
    for name in live:
        one = entry[group][name]
        memory = f"  peak {one['peak_memory_bytes'] / 2**30:.2f} GiB" if GPU else ""
        say(
            f"throughput {name:8} {one['images_per_second']['median']:9,.0f} images/s  ×{one['ratio_to_bf16']:.3f}  "
            f"{one['train_seconds']['median']:6.2f} s an epoch{memory}  n {one['images_per_second']['n']}"
        )


def _epoch(t: Training) -> EpochRecord:
    take_up(t)
    record = train_epoch(t, Watch(t.world, t.job.checkpoint.every_minutes))
    t.epoch, t.step = t.epoch + 1, 0
    return record


def _seconds(record: EpochRecord) -> float:
    return record.seconds + record.eval_seconds
