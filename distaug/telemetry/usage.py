"""The memory that a rank holds and the load of its GPU, as metrics of the catalogue."""

from pathlib import Path

__all__ = ["usage"]

_ROLLUP = Path("/proc/self/smaps_rollup")


def usage(device: str) -> dict[str, float]:
    """Return what this process uses now, by the names of the catalogue; what cannot be known is left out.

    Args:
        device: The rank's device, as torch writes it.
    """
    found: dict[str, float] = {}
    if (pss := _pss()) is not None:
        found["distaug_host_memory_pss_bytes"] = pss
    return found | _gpu(device) if device.startswith("cuda") else found


def _pss() -> float | None:
    try:
        lines = _ROLLUP.read_text().splitlines()
    except OSError:  # a kernel without it, or a sandbox
        return None
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), None)


def _gpu(device: str) -> dict[str, float]:
    import torch

    found: dict[str, float] = {}
    try:
        found["distaug_gpu_memory_allocated_bytes"] = torch.cuda.memory_allocated(device)
        found["distaug_gpu_memory_reserved_bytes"] = torch.cuda.memory_reserved(device)
        found["distaug_gpu_memory_peak_bytes"] = torch.cuda.max_memory_allocated(device)
        found["distaug_gpu_memory_limit_bytes"] = torch.cuda.get_device_properties(device).total_memory
        found["distaug_gpu_utilization_ratio"] = torch.cuda.utilization(device) / 100
    except Exception:  # NVML has errors of its own, and is not there in every container
        pass
    return found
