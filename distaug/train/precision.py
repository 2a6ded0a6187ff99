"""The arithmetic of a training: which types the device does well, and the scaler that fp16 needs."""

import contextlib
from contextlib import AbstractContextManager

import torch

from distaug.errors import JobError

__all__ = ["Precision", "does_bf16_well", "resolve"]


_AMPERE = (8, 0)
"""Compute capability of the first GPUs with bf16 and tf32."""


def does_bf16_well(device: torch.device) -> bool:
    """Say whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _AMPERE
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve(asked: str, device: torch.device) -> str:
    """Turn `auto` into what the device does well, and refuse what it cannot do.

    Raises:
        JobError: The device cannot do what was asked.
    """
    if asked == "auto":
        if device.type == "cuda" and not does_bf16_well(device):
            return "fp16"
        return "bf16" if does_bf16_well(device) else "fp32"
    if asked == "tf32" and device.type != "cuda":
        raise JobError(f"precision: tf32 needs an NVIDIA GPU, and this is a {device.type}; use fp32 or bf16")
    if asked in ("tf32", "bf16") and device.type == "cuda" and not does_bf16_well(device):
        name = torch.cuda.get_device_name(device)
        raise JobError(f"precision: {asked} needs an NVIDIA GPU from Ampere on, and this is a {name}; use fp16 or fp32")
    if asked == "fp64" and device.type != "cpu":
        raise JobError("precision: fp64 is for proofs on a CPU; use fp32 on a GPU")
    return asked


class Precision:
    """Types and contexts of one precision on one device.

    Args:
        name: `fp32`, `tf32`, `bf16`, `fp16` or `fp64`.
        device: Where the training runs.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self.weights = torch.float64 if name == "fp64" else torch.float32
        self.activations = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, self.weights)
        # A scaler is kept in every precision, switched off but for fp16, so that the step is the same.
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of the forward pass."""
        if self.activations == self.weights:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.activations)
