"""Random numbers as a function of (seed, epoch, sample, operation, draw): nothing random is ever stored.

Each number is a splitmix64-like hash of its coordinates, computed for a whole batch at once with int64 arithmetic
that wraps around, which gives the same bits on every device. Uniforms are the top 24 bits of the hash as float32,
so they are exact as well.
"""

import hashlib
import math
from functools import lru_cache

import torch
from torch import Tensor

__all__ = [
    "beta",
    "bits",
    "log_uniform",
    "normal_from_bits",
    "permutation",
    "pixel_bits",
    "torch_seed",
    "uniform",
    "uniforms",
]

# splitmix64 (Steele, Lea, Flood 2014): the golden-ratio increment and the two multipliers of its finaliser.
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)
_MASK = (1 << 64) - 1
_BETA_STEPS = 4096
_LOG_STEPS = 1024


def _signed(value: int) -> int:
    """Return the int64 that has the bits of an unsigned 64-bit number."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mix_int(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        value = ((value ^ (value >> shift)) * multiplier) & _MASK
    return value ^ (value >> _SHIFTS[2])


def _mix(value: Tensor) -> Tensor:
    value = value + _signed(_GOLDEN)
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        # >> is arithmetic on int64; the mask makes it the logical shift of the original.
        value = (value ^ ((value >> shift) & (_MASK >> shift))) * _signed(multiplier)
    return value ^ ((value >> _SHIFTS[2]) & (_MASK >> _SHIFTS[2]))


def _unit(hashes: Tensor) -> Tensor:
    """Turn the top 24 bits of hashes into float32 in [0, 1)."""
    return ((hashes >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24


@lru_cache(maxsize=1024)
def _operation_key(operation: str) -> int:
    return int.from_bytes(hashlib.sha256(operation.encode()).digest()[:8], "little")


def _key(seed: int, epoch: int, operation: str, draw: int) -> int:
    key = _mix_int(seed)
    for part in (epoch, _operation_key(operation), draw):
        key = _mix_int(key ^ _mix_int(part & _MASK))
    return key


def bits(seed: int, epoch: int, ids: Tensor, operation: str, draw: int = 0) -> Tensor:
    """Hash coordinates to 64 random bits each.

    Args:
        seed: Seed of the job.
        epoch: Number of the epoch, from 0.
        ids: (B,) int64 sample ids, on any device.
        operation: Name of the operation that draws; two operations never share a stream.
        draw: Number of the draw within the operation.

    Returns:
        (B,) int64 on the device of `ids`, the same bits on every device.
    """
    return _mix(_mix(ids.to(torch.int64)) ^ _signed(_key(seed, epoch, operation, draw)))


def uniform(seed: int, epoch: int, ids: Tensor, operation: str, draw: int = 0) -> Tensor:
    """Return (B,) float32 uniforms in [0, 1), multiples of 2^-24; arguments as for `bits`."""
    return _unit(bits(seed, epoch, ids, operation, draw))


def uniforms(seed: int, epoch: int, ids: Tensor, operation: str, count: int) -> Tensor:
    """Return (count, B) float32: the draws 0 … count − 1 of `uniform`, all at once."""
    keys = torch.tensor([_signed(_key(seed, epoch, operation, draw)) for draw in range(count)], device=ids.device)
    return _unit(_mix(_mix(ids.to(torch.int64)) ^ keys[:, None]))


def pixel_bits(seed: int, epoch: int, ids: Tensor, operation: str, draw: int = 0, *, count: int) -> Tensor:
    """Hash each sample's coordinates to as many random bits as its pixels need.

    Args:
        seed: Seed of the job.
        epoch: Number of the epoch, from 0.
        ids: (B,) int64 sample ids, on any device.
        operation: Name of the operation that draws.
        draw: Number of the draw within the operation.
        count: Number of hashes for each sample; hash i is the same for every count.

    Returns:
        (B, count) int64 on the device of `ids`, the same bits on every device.
    """
    places = _mix(torch.arange(count, device=ids.device))
    return _mix(bits(seed, epoch, ids, operation, draw)[:, None] ^ places)


def permutation(seed: int, epoch: int, n: int) -> Tensor:
    """Return the (n,) int64 order of the training pictures in an epoch, on the CPU."""
    keys = bits(seed, epoch, torch.arange(n), "order")
    return torch.argsort(keys, stable=True)


@lru_cache(maxsize=16)
def _beta_table(alpha: float, device: torch.device) -> Tensor:
    """Quantiles of Beta(alpha, alpha) at evenly spaced probabilities, by integrating its density on a fine grid.

    Made on the host, and sent to a device once: sending it for every batch would make the host wait each time.

    The distribution is symmetric, so the lower half is integrated and mirrored. There x = t^power / 2 takes away the
    density's pole at 0 (alpha < 1) and leaves a bounded integrand in t.
    """
    t = torch.linspace(0, 1, 1 << 16, dtype=torch.float64)
    power = max(1.0, 1.0 / alpha)
    x = 0.5 * t**power
    density = t ** (power * alpha - 1) * (1 - x) ** (alpha - 1)
    mass = torch.cumulative_trapezoid(density, t)
    mass = 0.5 * torch.cat([mass.new_zeros(1), mass]) / mass[-1]
    wanted = torch.linspace(0, 0.5, _BETA_STEPS // 2 + 1, dtype=torch.float64)
    upper = torch.searchsorted(mass, wanted).clamp(1, len(mass) - 1)
    low, high = mass[upper - 1], mass[upper]
    share = ((wanted - low) / (high - low).clamp(min=1e-300)).clamp(0, 1)
    lower_half = x[upper - 1] + share * (x[upper] - x[upper - 1])
    return torch.cat([lower_half, 1 - lower_half[:-1].flip(0)]).to(device, torch.float32)


def beta(u: Tensor, alpha: float) -> Tensor:
    """Turn uniforms into draws from Beta(alpha, alpha), one each.

    The inverse of the distribution function is a table made once on the host; between its entries the line is taken.

    Args:
        u: (B,) float32 in [0, 1).
        alpha: Both parameters of the distribution, above 0.

    Returns:
        (B,) float32 in [0, 1].
    """
    table = _beta_table(alpha, u.device)
    place = u * _BETA_STEPS
    index = place.to(torch.int64)
    low, high = table[index], table[index + 1]
    return low + (place - index) * (high - low)


@lru_cache(maxsize=16)
def _log_table(low: float, high: float) -> Tensor:
    places = torch.linspace(math.log(low), math.log(high), _LOG_STEPS + 1, dtype=torch.float64)
    return places.exp().to(torch.float32)


def log_uniform(u: Tensor, low: float, high: float) -> Tensor:
    """Turn uniforms (any shape, on the host) into numbers from `low` to `high` whose logarithm is uniform.

    By a table, between whose entries the line is taken: a power of `u` would depend on its place in the tensor.
    """
    table = _log_table(low, high)
    place = u * _LOG_STEPS
    index = place.to(torch.int64)
    return table[index] + (place - index) * (table[index + 1] - table[index])


@lru_cache(maxsize=16)
def _normal_table(device: torch.device) -> Tensor:
    """Quantiles of N(0, 1) in the middle of 65,536 equal shares of probability, made on the host as the Beta's are."""
    middles = (torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16)
    quantiles: Tensor = torch.special.ndtri(middles)
    return quantiles.to(device, torch.float32)


def normal_from_bits(bits: Tensor) -> Tensor:
    """Turn random bits into draws from N(0, 1), one for every sixteen bits, by its quantiles.

    Args:
        bits: (B, n) int64.

    Returns:
        (B, 4n) float32 between -4.33 and 4.33, the same on every device.
    """
    index = bits.view(torch.uint16).to(torch.int32)
    return _normal_table(bits.device).index_select(0, index.flatten()).view(index.shape)


def torch_seed(seed: int, epoch: int, step: int, shard: int) -> int:
    """Return the seed for torch's own generator before the forward pass of a shard (dropout, stochastic depth)."""
    return _mix_int(_key(seed, epoch, "torch", step) ^ _mix_int(shard)) >> 1
