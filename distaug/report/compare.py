"""The report of several runs side by side: what differs in their jobs, what they came to, and on which pictures."""

import json
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from distaug.errors import JobError
from distaug.report import charts
from distaug.report.charts import Series
from distaug.report.facts import Facts, gather, percent
from distaug.report.page import Html, join, note, page, save, table, tag
from distaug.report.summary import accuracy, duration
from distaug.spec.job import differing
from distaug.store.place import Place
from distaug.store.records import EpochRecord
from distaug.store.rundir import RunDir

__all__ = ["Pairs", "compare", "mcnemar", "pair", "write_comparison"]

_NO_DIFFERENCE = ("format", "name", "runs_dir")
"""Fields of a job that say nothing about it."""
_MOST = 8
"""Runs that colours can tell apart."""


class Pairs:
    """How two models did on the same pictures.

    Args:
        first: Whether the first was right, picture by picture.
        second: The same of the second.
    """

    def __init__(self, first: Sequence[bool], second: Sequence[bool]) -> None:
        both = list(zip(first, second, strict=True))
        self.total = len(both)
        self.both_right, self.both_wrong = both.count((True, True)), both.count((False, False))
        self.only_first, self.only_second = both.count((True, False)), both.count((False, True))


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p that pictures on which two models differ fall so unevenly by chance.

    McNemar 1947, doi:10.1007/BF02295996.

    Args:
        only_first: Pictures that the first alone had right.
        only_second: Pictures that the second alone had right.
    """
    apart, term, tail = only_first + only_second, 1, 0
    for k in range(min(only_first, only_second) + 1):
        tail += term
        term = term * (apart - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << apart))


def pair(first: Facts, second: Facts) -> Pairs | None:
    """Return how two runs did on the same pictures; None where they did not judge the same ones."""
    pictures = [[(p.set, p.picture, p.label) for p in facts.predictions] for facts in (first, second)]
    if not pictures[0] or pictures[0] != pictures[1]:
        return None
    return Pairs([p.right for p in first.predictions], [p.right for p in second.predictions])


def write_comparison(runs: Sequence[RunDir], out: Place | None = None) -> Place:
    """Write the comparison of several runs.

    Args:
        runs: Two to eight runs.
        out: The file; None: `report-A-vs-B.html` in the working directory.

    Returns:
        The file.

    Raises:
        JobError: There are too many runs, or one is no run.
        StorageError: A file of a run is damaged, or the page cannot be written.
    """
    if len(runs) > _MOST:
        raise JobError(f"found {len(runs)} runs to compare; at most {_MOST} can be told apart on a page")
    file = out or Path(f"report-{'-vs-'.join(run.name for run in runs[:3])}{'-and-more' * (len(runs) > 3)}.html")
    return save(file, compare([gather(run) for run in runs]))


def compare(runs: Sequence[Facts]) -> str:
    """Return the page about several runs."""
    names = _names(runs)
    title = " vs ".join(names)
    return page(
        f"{title} – distaug",
        tag("h1", title),
        {
            "Results": _results(names, runs),
            "What differs in the jobs": _differences(names, runs),
            "Curves": _curves(names, runs),
            "Picture by picture": _pairs(names, runs),
        },
    )


def _names(runs: Sequence[Facts]) -> list[str]:
    """Return the names of the runs, with their folders where a name comes twice."""
    names = [facts.run.name for facts in runs]
    return [n if names.count(n) == 1 else str(facts.run.root) for n, facts in zip(names, runs, strict=True)]


def _results(names: Sequence[str], runs: Sequence[Facts]) -> Html:
    def number(key: str, text: Callable[[float], str]) -> list[str]:
        values = [facts.judged.numbers.get(key) if facts.judged else None for facts in runs]
        return ["–" if value is None else text(value) for value in values]

    def of_result(key: str, text: Callable[[Any], str]) -> list[str]:
        values = [getattr(facts.result, key, None) for facts in runs]
        return ["–" if value is None else text(value) for value in values]

    def quoted(name: str, figure: str, text: str) -> Html:
        return join(tag("b", figure), Html("<br>"), tag("small", f"{name}: {text}"))

    best = ["–" if facts.best_epoch is None else str(facts.best_epoch + 1) for facts in runs]
    rows = [
        ("state", *(facts.state for facts in runs)),
        ("accuracy", *(quoted(*accuracy(facts.judged)) for facts in runs)),
        ("macro accuracy", *number("macro", percent)),
        ("loss", *number("loss", lambda value: f"{value:.4f}")),
        ("expected calibration error", *number("ece", percent)),
        ("epochs", *(str(len(facts.history)) for facts in runs)),
        ("best epoch", *best),
        ("training time", *of_result("seconds", duration)),
        ("images per second", *of_result("images_per_second", lambda value: f"{value:,.0f}")),
        ("waiting for data", *(percent(facts.wait_share, 1) for facts in runs)),
        ("workers", *of_result("world_size", str)),
        ("machine", *of_result("machine", lambda machine: str(machine.get("gpu") or machine.get("cpu")))),
    ]
    return table(("", *names), rows)


def _differences(names: Sequence[str], runs: Sequence[Facts]) -> Html:
    rows = [
        (path, *(tag("span", _written(value), class_="long") for value in values))
        for path, values in differing([facts.job for facts in runs], _NO_DIFFERENCE)
    ]
    return table(("", *names), rows, words=1 + len(names)) if rows else note("Nothing: the jobs are the same.")


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _curves(names: Sequence[str], runs: Sequence[Facts]) -> Html:
    def lines(title: str, value: Callable[[EpochRecord], float | None], text: charts.Format = charts.plain) -> Html:
        series = [Series(n, [value(r) for r in facts.history]) for n, facts in zip(names, runs, strict=True)]
        return charts.lines(title, series, text)

    drawn = [
        lines("Validation accuracy", lambda r: r.top1, charts.share),
        lines("Validation loss", lambda r: r.val_loss),
        lines("Training loss", lambda r: r.train_loss),
        lines("Learning rate", lambda r: r.lr),
        lines("Images per second", lambda r: r.images_per_second),
    ]
    return tag("div", *drawn, class_="charts") if any(drawn) else Html()


def _pairs(names: Sequence[str], runs: Sequence[Facts]) -> Html:
    """Compare each two runs on the pictures that both were judged on."""
    rows, apart = [], []
    for (a, first), (b, second) in combinations(zip(names, runs, strict=True), 2):
        found = pair(first, second)
        if found is None:
            apart.append(f"{a} and {b}")
            continue
        p = mcnemar(found.only_first, found.only_second)
        gap = 100 * (found.only_first - found.only_second) / found.total
        counts = (found.total, found.both_right, found.only_first, found.only_second, found.both_wrong)
        rows.append((a, b, *(f"{count:,}" for count in counts), f"{gap:+.2f}", "< 0.0001" if p < 1e-4 else f"{p:.4f}"))
    head = ("A", "B", "pictures", "both right", "only A", "only B", "both wrong", "A ahead, points", "p")
    text = (
        "p: how often two equally good models differ as unevenly on these pictures (McNemar's exact test"
        + (f", not corrected for {len(rows)} comparisons). " if len(rows) > 1 else "). ")
        + "It speaks of these models, not of their recipes: another seed gives another model."
    )
    missing = note(f"No predictions on the same pictures: {'; '.join(apart)}.") if apart else Html()
    return join(table(head, rows, words=2) if rows else Html(), note(text) if rows else Html(), missing)
