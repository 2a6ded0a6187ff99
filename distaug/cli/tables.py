"""What the commands print: tables for people, JSON for programs."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["UNSHOWN", "print_result", "print_table", "results_only"]

UNSHOWN = ("artifacts", "classes", "data", "machine", "versions", "weights_digest")
"""Parts of a result that `--json` has and the table leaves out."""

_WIDE = 160


@contextlib.contextmanager
def results_only(wanted: bool) -> Iterator[None]:
    """With `--json`, keep whatever else is printed out of stdout."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


def print_result(result: Mapping[str, Any], as_json: bool) -> int:
    if as_json:
        print(json.dumps(result, indent=2))
        return 0
    from distaug.spec.job import leaves

    shown = {key: value for key, value in result.items() if key not in UNSHOWN}
    rows = [
        (path, f"{value:.4g}" if isinstance(value, float) else str(value))
        for path, value in leaves(shown)
        if value is not None and not isinstance(value, (list, dict))
    ]
    print_table(("", "result"), rows)
    if result.get("artifacts"):
        _print_artifacts(result["artifacts"])
    return 0


def _print_artifacts(rows: Sequence[Mapping[str, Any]]) -> None:
    def share(numbers: Mapping[str, Any] | None) -> str:
        return "" if numbers is None else f"{100 * numbers['top1']:.2f}"

    titles = ("stage", "bytes", "zeros %", "ms", "faster", "val %", "test %", "gate")
    table = [
        (
            row["name"],
            f"{row['bytes']:,}",
            f"{100 * (1 - row['nonzeros'] / row['parameters']):.0f}",
            f"{row['latency']['1']['p50_ms']:.2f}",
            f"{row['latency']['1']['speedup']:.2f} ×",
            share(row["val"]),
            share(row["test"]),
            "passed" if row["passed"] else "undone",
        )
        for row in rows
    ]
    print_table(titles, table)


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for place, title in enumerate(titles):
        table.add_column(title, overflow="fold", no_wrap=place == 0)  # A name that is cut off cannot be copied.
    for row in rows:
        table.add_row(*map(Text, row))
    # Cut to no width where a program reads it.
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)
