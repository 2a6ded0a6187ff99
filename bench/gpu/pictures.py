"""What the augmentation costs in a training step, how fast it is alone, and whether its bits are the CPU's."""

import hashlib
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from bench.gpu.shared import BASE, GPU, Bench, opened, say, summary, take_up
from distaug.augment import Augment
from distaug.spec.augment import OpSpec
from distaug.train.step import train_step

AUTO = [{"crop": {"padding": 4}}, {"flip": {}}, {"autoaugment": "cifar10"}, {"erase": {}}]
LARGE = [{"randaugment": {}}, {"erase": {}}]
MOST_SHARE = 0.05


def pictures(bench: Bench) -> None:
    device = torch.device("cuda" if GPU else "cpu")
    entry: dict[str, Any] = {"share_of_a_step": _share(bench), "images_per_second": {}}
    say(f"pictures: {100 * entry['share_of_a_step']['share']:.1f} % of a step (at most {100 * MOST_SHARE:.0f} %)")
    for name, size, batch, ops in (("auto 32", 32, 512, AUTO), ("randaugment 224", 224, 128, LARGE)):
        batch = 16 if bench.shrink else batch
        augment, images = Augment({"ops": ops}, size, 10), _images(batch, size).to(device)
        labels, ids = torch.arange(batch, device=device) % 10, torch.arange(batch)
        seconds = _timed(lambda n: augment(images, labels, ids, epoch=n, step=0), 3 if bench.shrink else 30)  # noqa: B023
        entry["images_per_second"][name] = summary([batch / s for s in seconds])
        say(f"pictures {name}: {entry['images_per_second'][name]['median']:,.0f} images/s")
    if GPU:
        entry["same_bits_as_the_cpu"] = {
            name: _digest(name, "cpu") == _digest(name, "cuda") for name in OpSpec.model_fields
        }
        others = [name for name, same in entry["same_bits_as_the_cpu"].items() if not same]
        say(f"pictures: other bits than on the CPU: {others}")
    bench.keep("pictures", entry)


class _Prepared:
    """Stands in for the augmentation: what it made of each shard, at no cost."""

    by_class = False

    def __init__(self, ready: dict[int, tuple[Tensor, Tensor]]) -> None:
        self._ready = ready

    def __call__(self, *_: Any, shard: int, **__: Any) -> tuple[Tensor, Tensor]:
        return self._ready[shard]


def _share(bench: Bench) -> dict[str, Any]:
    """Time steps of the recipe with AutoAugment and erasing, and with the same pictures ready, in turns."""
    t = opened(
        bench.job(
            "pictures", {**BASE, "augment": "{ops: [{crop: {}}, {flip: {}}, {autoaugment: cifar10}, {erase: {}}]}"}
        )
    )
    take_up(t)
    t.model.train()
    batches, augment = next(t.loader.train(0)), t.augment
    prepared = _Prepared({b.shard: augment(b.images, b.labels, b.ids, epoch=0, step=0, shard=b.shard) for b in batches})

    def step(number: int, how: Any) -> None:
        t.augment = how
        train_step(t, 0, number % t.steps, batches)

    seconds: dict[str, list[float]] = {"whole": [], "ready": []}
    for _ in range(2 if bench.shrink else 5):
        for name, how in (("whole", augment), ("ready", prepared)):
            seconds[name] += _timed(lambda n: step(n, how), 2 if bench.shrink else 20)  # noqa: B023
    found = {name: summary(values) for name, values in seconds.items()}
    return {"step_seconds": found, "share": round(1 - found["ready"]["median"] / found["whole"]["median"], 4)}


def _timed(work: Callable[[int], Any], count: int) -> list[float]:
    """Return the seconds of each piece of work, the first one left out, waiting for the device around each."""
    seconds = []
    for number in range(count + 1):
        began = perf_counter()
        work(number)
        if GPU:
            torch.cuda.synchronize()
        seconds.append(perf_counter() - began)
    return seconds[1:]


def _images(batch: int, size: int) -> Tensor:
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _digest(name: str, device: str) -> str:
    augment, images, labels = (
        Augment({"ops": [{name: {}}]}, 32, 10),
        _images(64, 32),
        torch.zeros(64, dtype=torch.int64),
    )
    floats, _ = augment(images.to(device), labels.to(device), torch.arange(64), epoch=0, step=0)
    levels = (
        (floats * 255).round().to(torch.uint8)
    )  # The scaling to floats may round otherwise; no level is lost by it.
    return hashlib.sha256(levels.cpu().contiguous().numpy().tobytes()).hexdigest()
