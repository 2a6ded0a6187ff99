"""Looks this machine over for what a training needs, and says what is wrong and what to do about it."""

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["Check", "check"]

GIB = 2**30
RAY_IMPORT_TIMEOUT_S = 120
GROUP_TIMEOUT = datetime.timedelta(seconds=20)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    """What was looked at."""
    status: Literal["ok", "warn", "fail"]
    """`warn`: a training runs, but slowly or not for long; `fail`: it does not run."""
    found: str
    """What was found, with the numbers."""
    advice: str = ""
    """What to do, unless all is well."""


def check() -> list[Check]:
    """Look at the machine; a look that breaks down is itself reported as a failure."""
    looks: list[Callable[[], Check]] = [
        _versions,
        _ray,
        _devices,
        _cores,
        _memory,
        _bf16,
        _gloo,
        _nccl,
        _shared_memory,
        lambda: _disk("disk: current folder", Path.cwd()),
        _cache,
    ]
    return [_look(look) for look in looks]


def _look(look: Callable[[], Check]) -> Check:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about the very things that are reported here
            return look()
    except Exception as error:
        name = look.__name__.strip("_").replace("_", " ")
        return Check(name, "fail", f"{type(error).__name__}: {error}", "run `distaug --debug doctor`, report it")


def _requirements() -> dict[str, Any]:
    """Return the range of each package that distaug was installed with; empty when it was not installed."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("distaug") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    required = map(Requirement, lines)
    return {r.name: r.specifier for r in required if r.marker is None or r.marker.evaluate({"extra": ""})}


def _misfits(names: Iterable[str], required: dict[str, Any]) -> list[str]:
    """Return "name version, needs range" for each package that is missing or outside its range."""
    found = []
    for name in names:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} is missing, needs {required[name]}")
            continue
        # Local parts such as +cpu and pre-releases are the user's choice.
        if not required[name].contains(version.split("+")[0], prereleases=True):
            found.append(f"{name} {version}, needs {required[name]}")
    return found


def _versions() -> Check:
    import torch
    import torchvision

    import distaug

    found = (
        f"distaug {distaug.__version__}, python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}"
    )
    required = _requirements()
    if not required:
        return Check("versions", "warn", f"{found}; not installed", "install distaug: `pip install .`")
    if misfits := _misfits((name for name in required if name != "ray"), required):
        advice = "install the versions of constraints.txt: `make setup`"
        return Check("versions", "fail", f"{found}; {'; '.join(misfits)}", advice)
    return Check("versions", "ok", found)


def _ray() -> Check:
    # In a process of its own: only `cluster` loads ray, and a broken library takes down nothing else.
    script = "import ray.train.torch; print(ray.__version__)"
    child = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=RAY_IMPORT_TIMEOUT_S
    )
    if child.returncode:
        why = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        advice = "install it again: `make setup`; without it `python -m distaug.train JOB` trains on one machine"
        return Check("ray", "fail", f"cannot be imported: {why}", advice)
    version = child.stdout.split()[-1]
    required = _requirements()
    if "ray" in required and (misfits := _misfits(["ray"], required)):
        return Check("ray", "fail", misfits[0], "install the version of constraints.txt: `make setup`")
    return Check("ray", "ok", version)


def _devices() -> Check:
    import torch

    from distaug.train.device import gpu_problem, usable_gpus

    if problem := gpu_problem():
        found, _, advice = problem.partition(": ")
        return Check("devices", "fail", found, advice)
    names = []
    for number in range(usable_gpus()):
        properties = torch.cuda.get_device_properties(number)
        name = f"{properties.name} ({properties.total_memory / GIB:.0f} GiB)"
        try:
            torch.ones(8, device=f"cuda:{number}").sum().item()
        except RuntimeError as error:
            built_for = ", ".join(torch.cuda.get_arch_list())
            found = f"{name} of sm_{properties.major}{properties.minor} computes nothing: {error}"
            advice = f"torch is built for {built_for}: install one for this GPU, or set CUDA_VISIBLE_DEVICES"
            return Check("devices", "fail", found, advice)
        names.append(name)
    if names:
        return Check("devices", "ok", f"{', '.join(names)}; CUDA {torch.version.cuda}")
    return Check("devices", "ok", "no GPU; the CPU trains")


def _cores() -> Check:
    from distaug.train.device import available_cores

    usable, there = available_cores(), os.cpu_count() or 1
    found = f"{usable} usable" + (f" of {there}, by affinity or the container's quota" if usable < there else "")
    return Check("cores", "ok", found)


def _memory() -> Check:
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines)}
    free, total = kib["MemAvailable"] * 1024, kib["MemTotal"] * 1024
    found = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}"
    for limit, used in _memory_limits():
        if limit - used < free:
            free = max(0, limit - used)
            found = f"{free / GIB:.1f} GiB free of the container's {limit / GIB:.1f}"
    if free < 2 * GIB:
        advice = "free some, or give the container more: Ray and one worker take about 2 GiB"
        return Check("memory", "warn", found, advice)
    return Check("memory", "ok", found)


def _memory_limits() -> list[tuple[int, int]]:
    """Return (limit, used) in bytes of the control groups that hold this process, where there is a limit."""
    root = Path("/sys/fs/cgroup")
    pairs = [(root / "memory/memory.limit_in_bytes", root / "memory/memory.usage_in_bytes")]  # version 1
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            own = root / line.removeprefix("0::/")
            pairs += [(group / "memory.max", group / "memory.current") for group in (own, *own.parents)]
    limits = []
    for limit, used in pairs:
        if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
            limits.append((int(text), int(used.read_text())))
    return limits


def _bf16() -> Check:
    import torch

    from distaug.train.precision import does_bf16_well

    if does_bf16_well(torch.device("cpu")):
        return Check("bf16 on the CPU", "ok", "in hardware; `precision: auto` uses it")
    return Check("bf16 on the CPU", "ok", "not in hardware; `precision: auto` takes fp32 on the CPU")


def _group(backend: str, device: str) -> str:
    """Sum a number over a process group of one; return what went wrong."""
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return ""
    store = distributed.HashStore()  # type: ignore[attr-defined]
    try:
        distributed.init_process_group(backend, store=store, rank=0, world_size=1, timeout=GROUP_TIMEOUT)
        number = torch.ones(1, device=device)
        distributed.all_reduce(number)
        return "" if number.item() == 1 else f"the sum of 1 over one process came out as {number.item():g}"
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _gloo() -> Check:
    if problem := _group("gloo", "cpu"):
        advice = "name the network interface by GLOO_SOCKET_IFNAME (`ip link` lists them), e.g. in cluster.env"
        return Check("gloo", "fail", problem, advice)
    return Check("gloo", "ok", "a group of one process sums")


def _nccl() -> Check:
    import torch
    from torch import distributed

    from distaug.train.device import usable_gpus

    there = distributed.is_nccl_available()
    if not usable_gpus():
        return Check("nccl", "ok", "there, not needed without a GPU" if there else "not needed without a GPU")
    if not there:
        return Check("nccl", "warn", "this torch has none", "install a torch with NCCL, or set cluster.backend: gloo")
    version = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    if problem := _group("nccl", "cuda"):
        return Check("nccl", "fail", f"{version}: {problem}", "run again with NCCL_DEBUG=INFO, or use gloo")
    return Check("nccl", "ok", f"{version}; a group of one process sums")


def _shared_memory() -> Check:
    place = Path("/dev/shm")
    if not place.is_dir():
        return Check("shared memory", "warn", "no /dev/shm", "mount a tmpfs there; Ray is slow without")
    usage = shutil.disk_usage(place)
    found = f"/dev/shm: {usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f}"
    if usage.free < GIB:
        return Check("shared memory", "warn", found, "give it more: `docker run --shm-size=8g`, or remove old files")
    return Check("shared memory", "ok", found)


def _cache() -> Check:
    from distaug.data.node import cache_root

    return _disk("disk: cache folder", cache_root(), "point DISTAUG_CACHE to another disk")


def _disk(name: str, folder: Path, elsewhere: str = "work in another folder, or set runs_dir") -> Check:
    there = folder
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        return Check(name, "fail", f"{there} is not writable", elsewhere)
    free = shutil.disk_usage(there).free
    found = f"{folder}: {free / GIB:.1f} GiB free"
    if free < GIB // 4:
        return Check(name, "fail", found, f"free some, or {elsewhere}")
    if free < 5 * GIB:
        return Check(name, "warn", found, f"free some, or {elsewhere}")
    return Check(name, "ok", found)
