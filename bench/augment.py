"""Images per second of the augmentation against torchvision's, picture by picture, and kornia's, on one CPU thread.

    python bench/augment.py speed                  # all cases, both sides in turns; bench/results/augment.json
    python bench/augment.py speed --device cuda    # ours and kornia's on a GPU, with CPU and GPU digests
    python bench/augment.py compile                # what torch.compile would do to ours: times, and whether bits stay
    python bench/augment.py memory                 # peak of our working memory over the float batch that results

The other side is the better of torchvision's transforms on PIL pictures and on tensors (v2). Kornia is measured where
it is installed. All run in a process that keeps freed memory, as those of a training do on a CPU; with `--fresh-memory`
in one that gives it back to the system.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import resource
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from overhead import keep, summary
from torch import Tensor
from torchvision.transforms import v2

from distaug.augment import Augment
from distaug.augment.sampling import Draws
from distaug.train.device import keep_freed_memory

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
ERASE = {"erase": {"p": 0.5}}
CASES: dict[str, dict[str, Any]] = {
    "weak 32": {"size": 32, "batch": 512, "ops": [{"crop": {"padding": 4}}, {"flip": {}}], "least": 6.0},
    "auto 32": {
        "size": 32,
        "batch": 512,
        "ops": [{"crop": {"padding": 4}}, {"flip": {}}, {"autoaugment": "cifar10"}, ERASE],
        "least": 8.0,
    },
    "randaugment 224": {"size": 224, "batch": 64, "ops": [{"randaugment": {}}, ERASE], "least": 2.0},
}
THEIRS: dict[str, list[Any]] = {
    "weak 32": [v2.RandomCrop(32, 4), v2.RandomHorizontalFlip()],
    "auto 32": [v2.RandomCrop(32, 4), v2.RandomHorizontalFlip(), v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)],
    "randaugment 224": [v2.RandAugment()],
}
Batch = Callable[[int], Tensor]
"""Makes the n-th float batch."""


def pictures(batch: int, size: int) -> Tensor:
    """Return smooth random pictures (B, 3, size, size) uint8; noise would make some operations too cheap."""
    coarse = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    return smooth.clamp(0, 255).to(torch.uint8)


def ours(case: str, device: str) -> Batch:
    asked = CASES[case]
    images = pictures(asked["batch"], asked["size"]).to(device)
    labels, ids = torch.arange(len(images), device=device) % 10, torch.arange(len(images))
    augment = Augment({"ops": asked["ops"]}, asked["size"], 10, mean=MEAN, std=STD)
    return lambda number: augment(images, labels, ids, epoch=number, step=0)[0]


def theirs(case: str, kind: str) -> Batch:
    asked = CASES[case]
    images = pictures(asked["batch"], asked["size"])
    ready = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    last = [v2.RandomErasing(p=0.5)] if ERASE in asked["ops"] else []
    if kind == "PIL":
        each: list[Any] = [v2.functional.to_pil_image(image) for image in images]
        transform = v2.Compose([*THEIRS[case], v2.PILToTensor(), *ready, *last])
    else:
        each, transform = list(images), v2.Compose([*THEIRS[case], *ready, *last])
    return lambda number: torch.stack([transform(image) for image in each])


def kornia(case: str, device: str) -> Batch:
    import kornia.augmentation as k
    from kornia.augmentation.auto import AutoAugment, RandAugment

    asked = CASES[case]
    images = pictures(asked["batch"], asked["size"]).to(device)
    parts: list[Any] = []
    if "crop" in asked["ops"][0]:
        parts += [k.RandomCrop((32, 32), padding=4), k.RandomHorizontalFlip()]
    if "auto" in case:
        parts.append(AutoAugment("cifar10"))
    if "randaugment" in case:
        parts.append(RandAugment(2, 9))
    if ERASE in asked["ops"]:
        parts.append(k.RandomErasing(p=0.5))
    transform = k.AugmentationSequential(*parts, k.Normalize(torch.tensor(MEAN), torch.tensor(STD)))
    return lambda number: transform(images.float() / 255)


def timed(makes: dict[str, Batch], rounds: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of each side's batches, one of each in turn; the first of each is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in makes}
    for number in range(rounds + 1):
        for name in makes if number % 2 == 0 else reversed(makes):
            began = perf_counter()
            makes[name](number)
            if device == "cuda":
                torch.cuda.synchronize()
            if number:
                seconds[name].append(perf_counter() - began)
    return seconds


def speed(asked: argparse.Namespace) -> None:
    if not asked.fresh_memory:
        keep_freed_memory()
    libraries = [name for name in ("torchvision", "kornia") if importlib.util.find_spec(name)]
    versions = {name: importlib.metadata.version(name) for name in libraries}
    entry: dict[str, Any] = {"threads": torch.get_num_threads(), "libraries": versions, "cases": {}}
    for case, settings in CASES.items():
        makes = {"distaug": ours(case, asked.device)}
        if asked.device == "cpu":
            makes |= {f"torchvision {kind}": theirs(case, kind) for kind in ("PIL", "tensor")}
        if importlib.util.find_spec("kornia"):
            makes["kornia"] = kornia(case, asked.device)
        else:
            print("kornia: NOT MEASURED, it is not installed")
        seconds = timed(makes, asked.rounds, asked.device)
        rates = {name: [settings["batch"] / s for s in values] for name, values in seconds.items()}
        found: dict[str, Any] = {name: summary(values) for name, values in rates.items()}
        best = max((statistics.median(rates[n]) for n in rates if n.startswith("torchvision")), default=None)
        for name, numbers in found.items():
            low, high = numbers["quartiles"]
            print(f"{case:16} {name:18} {numbers['median']:10,.0f} images/s  quartiles {low:,.0f} to {high:,.0f}")
        entry["cases"][case] = {"batch": settings["batch"], "images_per_second": found}
        if best is not None:
            ratio = statistics.median(rates["distaug"]) / best
            entry["cases"][case]["ratio_to_torchvision"] = round(ratio, 3)
            print(f"{case:16} {ratio:.1f} × the better torchvision (at least {settings['least']:g})")
        else:
            digests = {d: hashlib.sha256(ours(case, d)(1).cpu().numpy().tobytes()).hexdigest() for d in ("cpu", "cuda")}
            entry["cases"][case]["same_bits_on_cpu_and_gpu"] = digests["cpu"] == digests["cuda"]
            print(f"{case:16} the same bits on CPU and GPU: {digests['cpu'] == digests['cuda']}")
    keep("augment", f"speed {asked.device}{', fresh memory' * asked.fresh_memory}", entry)


def compiled(asked: argparse.Namespace) -> None:
    """The pipeline compiled with torch.compile, which it is guarded against, beside itself; draws stay as they are."""
    call = Augment.__call__
    for name in ("uniforms", "pixel_bits", "chosen"):  # hashes of 64 bits, which the compiler cannot hold
        setattr(Draws, name, torch.compiler.disable(getattr(Draws, name)))
    entry: dict[str, Any] = {}
    for case in CASES:
        plain = ours(case, "cpu")
        Augment.__call__ = call._torchdynamo_orig_callable
        torch.compiler.reset()
        fast = torch.compile(ours(case, "cpu"), dynamic=True)
        same = [torch.equal(plain(number), fast(number)) for number in range(100, 110)]  # compiles, too
        seconds = timed({"eager": plain, "compiled": fast}, asked.rounds, "cpu")
        Augment.__call__ = call
        ratio = statistics.median(seconds["compiled"]) / statistics.median(seconds["eager"])
        entry[case] = {"seconds_over_eager": round(ratio, 2), "batches_of_the_same_bits": sum(same), "of": len(same)}
        print(f"{case:16} {ratio:.1f} × the time when compiled; {sum(same)} of {len(same)} batches of the same bits")
    keep("augment", "compile", entry)


def memory(asked: argparse.Namespace) -> None:
    """Peak of what a batch adds to this process, over the bytes of the float batch that results."""
    entry: dict[str, Any] = {}
    for case, settings in CASES.items():
        make = ours(case, "cpu")
        output = make(0).nbytes
        with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            make(1)
        held = most = 0
        for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
            if event.name() == "[memory]":
                held += event.nbytes()
                most = max(most, held)
        entry[case] = {"batch": settings["batch"], "peak_bytes": most, "output_bytes": output}
        print(f"{case:16} peak {most / output:.2f} × the float batch of {output / 2**20:.1f} MiB (at most 4)")
    entry["process_peak_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    keep("augment", "memory", entry)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("speed")
    command.set_defaults(measure=speed)
    command.add_argument("--rounds", type=int, default=11)
    command.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    command.add_argument("--fresh-memory", action="store_true")
    command = commands.add_parser("compile")
    command.set_defaults(measure=compiled)
    command.add_argument("--rounds", type=int, default=11)
    commands.add_parser("memory").set_defaults(measure=memory)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.measure(asked)


if __name__ == "__main__":
    main()
