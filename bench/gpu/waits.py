"""Does a warm step wait for the device? torch reports, and then forbids, whatever makes the host wait."""

import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import distaug
from bench.gpu.shared import BASE, GPU, WAYS, Bench, opened, say, take_up, told
from distaug.train.state import Training
from distaug.train.step import train_step
from distaug.train.watch import Watch

OURS = Path(distaug.__file__).parent
STEPS = 5


def sync(bench: Bench) -> None:
    if not GPU:
        reason = "needs CUDA, and torch finds no usable GPU here"
        say(f"sync: skipped, {reason}")
        return bench.keep("sync", {"skipped": reason})
    steps = 1 if bench.shrink else STEPS
    entry: dict[str, Any] = {"n": steps, "a_plain_wait_is_noticed": _notices_a_wait(), "found": {}}
    for name, changes in WAYS.items():
        try:
            found = _check(opened(bench.job(f"sync-{name}", {**BASE, **changes})), steps)
        except Exception as error:
            found = {"failed": told(error)}
        finally:
            torch.cuda.set_sync_debug_mode("default")
        entry["found"][name] = found
        bench.keep("sync", entry, done=False)
        say(f"sync {name}: {f'{steps} steps without a wait' if found == {'stopped': None, 'waits': {}} else found}")
    bench.keep("sync", entry)


def _notices_a_wait() -> bool:
    value = torch.ones(1, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        value.item()
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def _check(t: Training, steps: int) -> dict[str, Any]:
    """Train warm steps in both modes; return all places that wait, and where the first of them stops a step."""
    take_up(t)
    waits: Counter[str] = Counter()
    watch, batches = Watch(t.world, t.job.checkpoint.every_minutes), t.loader.train(t.epoch)

    def train() -> None:
        for _ in range(steps):
            train_step(t, t.epoch, t.step, next(batches))
            t.step += 1
            watch.look(stop=t.reporter.progress(t.progress("train")))

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        if "called a synchronizing" in str(message):
            waits[_place(traceback.extract_stack()[:-1])] += 1

    t.model.train()
    train()
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        train()
    torch.cuda.set_sync_debug_mode("error")
    stopped = None
    try:
        train()
    except RuntimeError as error:
        stopped = f"{_place(traceback.extract_tb(error.__traceback__))}: {told(error)}"
    torch.cuda.set_sync_debug_mode("default")
    batches.close()
    return {"stopped": stopped, "waits": dict(waits)}


def _place(stack: list[traceback.FrameSummary]) -> str:
    """Return the innermost line of distaug on a stack, and the function below it that waited."""
    frames = [frame for frame in stack if frame.filename != warnings.__file__]
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(OURS)] or frames
    below = "" if ours[-1] is frames[-1] else f" -> {frames[-1].name}"
    return f"{Path(ours[-1].filename).relative_to(OURS.parent)}:{ours[-1].lineno}: {ours[-1].line}{below}"
