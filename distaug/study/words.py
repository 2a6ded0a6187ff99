"""How the figures of a study are written."""

from distaug.study.statistics import Difference, Spread
from distaug.study.table import Metric

__all__ = ["change", "figure", "scaled", "verdict"]


def scaled(metric: Metric, value: float) -> float:
    """Return a value in the unit in which it is written."""
    return value * {"%": 100.0, "GiB": 2.0**-30}.get(metric.unit, 1.0)


def figure(metric: Metric, found: Spread | None) -> str:
    """Write a mean and, of several seeds, the standard deviation: `91.20 ± 0.31 %`."""
    if found is None:
        return "-"
    digits = _digits(metric, found.mean)
    unit = f" {metric.unit}" if metric.unit else ""
    spread = "" if found.sd is None else f" ± {scaled(metric, found.sd):,.{digits}f}"
    return f"{scaled(metric, found.mean):,.{digits}f}{spread}{unit}"


def change(metric: Metric, found: Difference | None) -> tuple[str, str]:
    """Write a difference with its 95 % interval, and what it means: `+1.20 ± 0.45`, `better`."""
    if found is None:
        return "", ""
    digits = _digits(metric, found.mean)
    half = "" if found.half is None else f" ± {scaled(metric, found.half):,.{digits}f}"
    mean = round(scaled(metric, found.mean), digits) + 0.0  # no -0.00
    return f"{mean:+,.{digits}f}{half}", verdict(metric, found)


def _digits(metric: Metric, value: float) -> int:
    if metric.digits is not None:
        return metric.digits
    if metric.unit:
        return 2
    return 4 if abs(value) < 10 else 2 if abs(value) < 100 else 0


def verdict(metric: Metric, found: Difference) -> str:
    """Say in a word or two what a difference means."""
    if found.within_noise is None:
        return "one seed" if found.count == 1 else ""
    if found.within_noise:
        return "within noise"
    if metric.better == "neither":
        return "differs"
    return "better" if (found.mean > 0) == (metric.better == "higher") else "worse"
