"""What this process computes on, and with how many threads."""

import ctypes
import os
import platform
import socket
from pathlib import Path

import torch

from distaug.data.node import available_cores
from distaug.errors import ClusterError
from distaug.spec.job import JobSpec
from distaug.train.world import World

__all__ = [
    "available_cores",
    "cpu_name",
    "gpu_problem",
    "keep_freed_memory",
    "pick_device",
    "threads_per_worker",
    "usable_gpus",
]

_DRIVER = Path("/proc/driver/nvidia/version")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def cpu_name() -> str:
    """Return what the processor calls itself."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step, on a CPU, instead of giving it back to the system.

    A step allocates the same tensors as the one before. Given back, each page would have to be fetched and cleared
    anew: a tenth of the time of a step, measured. Only glibc has the switch.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_MAX, 0)
        set_option(_M_TRIM_THRESHOLD, 2**31 - 1)


def usable_gpus() -> int:
    """Return the number of GPUs that torch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpu_problem() -> str | None:
    """Say why a GPU that is there cannot be used; None when there is none or all is well."""
    if torch.cuda.is_available() or not _DRIVER.is_file() or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    version = _DRIVER.read_text().splitlines()[0].split("Kernel Module")[-1].split()
    found = version[0] if version else "unknown"
    return (
        f"a GPU is there but torch {torch.__version__} (built for CUDA {torch.version.cuda}) cannot use it with driver "
        f"{found}: update the driver, install a torch for its CUDA version, or set `cluster.gpus_per_worker: 0`"
    )


def pick_device(job: JobSpec, world: World) -> torch.device:
    """Return this rank's device: its GPU when the job wants one and there is one, else the CPU.

    Raises:
        ClusterError: A GPU was asked for and cannot be used.
    """
    wanted = job.cluster.gpus_per_worker
    if wanted == 0:
        return torch.device("cpu")
    problem = gpu_problem()
    if problem:
        raise ClusterError(problem)
    gpus = usable_gpus()
    if not gpus:
        if wanted == 1:
            raise ClusterError("cluster.gpus_per_worker: 1 asks for a GPU and this machine has none that torch can use")
        return torch.device("cpu")
    # Ray Train shows each rank the GPUs of all ranks on its node. More ranks than GPUs share them (gloo only).
    device = torch.device("cuda", world.local_rank % gpus)
    torch.cuda.set_device(device)
    return device


def threads_per_worker(job: JobSpec, world: World) -> int:
    """Return the number of threads of each rank, the same for all: the cores of a node divided among its ranks."""
    asked = job.cluster.cpus_per_worker
    if asked != "auto":
        return asked
    hosts = world.gather((socket.gethostname(), available_cores()))
    names = [host for host, _ in hosts]
    shares = [max(1, int(cores) // names.count(host)) for host, cores in hosts]
    return min(shares)
