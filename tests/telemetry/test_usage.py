"""Memory and load of a rank, as its device and the kernel tell them."""

import mmap
from pathlib import Path

import pytest
import torch

from distaug.telemetry import usage as usage_module
from distaug.telemetry.usage import usage


def test_memory_of_the_process_grows_with_what_it_holds() -> None:
    before = usage("cpu")["distaug_host_memory_pss_bytes"]
    with mmap.mmap(-1, 50_000_000) as held:  # pages of their own, where a list might get some that were freed before
        held.write(b"x" * len(held))
        assert usage("cpu")["distaug_host_memory_pss_bytes"] - before > 0.7 * len(held)


def test_what_cannot_be_known_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_module, "_ROLLUP", Path("/nowhere"))
    assert usage("cpu") == {}


def test_a_gpu_without_nvml_tells_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(device: str) -> int:
        raise RuntimeError("no NVML")

    class Properties:
        total_memory = 80.0

    told = {"memory_allocated": 1.0, "memory_reserved": 2.0, "max_memory_allocated": 3.0}
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(torch.cuda, "utilization", refuses)
    found = usage("cuda:1")
    gpu = {name.removeprefix("distaug_gpu_memory_"): value for name, value in found.items() if "gpu" in name}
    assert gpu == {"allocated_bytes": 1.0, "reserved_bytes": 2.0, "peak_bytes": 3.0, "limit_bytes": 80.0}
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 40)
    assert usage("cuda:1")["distaug_gpu_utilization_ratio"] == 0.4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_real_gpu_tells_what_is_held() -> None:
    held = torch.zeros(10**6, device="cuda:0")
    found = usage("cuda:0")
    assert held.nbytes <= found["distaug_gpu_memory_allocated_bytes"] <= found["distaug_gpu_memory_limit_bytes"]
