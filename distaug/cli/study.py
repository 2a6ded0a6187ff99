"""The command `study`, and how its findings are printed."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from distaug.cli.tables import print_table, results_only
from distaug.errors import DistaugError, StudyError

if TYPE_CHECKING:
    from distaug.study.plan import Plan
    from distaug.study.summary import Summary

__all__ = ["study"]


def study(arguments: argparse.Namespace) -> int:
    from distaug.study.load import load_study

    plan = load_study(arguments.job, arguments.sets, quick=arguments.quick, name=arguments.name)
    if arguments.dry_run:
        return _dry_run(plan, arguments.json)
    from distaug.cluster import study  # only now, since it takes seconds to load
    from distaug.study.summary import summarise
    from distaug.study.table import outcomes

    failed: StudyError | None = None
    with results_only(arguments.json):
        try:
            study.study(plan)
        except StudyError as error:
            failed = error
    if arguments.json:
        print((plan.root / "results.json").read_text())
    else:
        _print(plan, summarise(plan, outcomes(plan)))
        print(plan.root / "index.html")
    if failed is not None:
        raise failed
    return 0


def _print(plan: "Plan", summary: "Summary") -> None:
    from distaug.study.table import METRICS
    from distaug.study.words import change, figure

    names = plan.spec.metrics
    titles = ["variant", "seeds", *(METRICS[name].title for name in names), "against", "difference", ""]
    rows = []
    for line in summary.lines:
        seeds = max((spread.count for spread in line.spreads.values()), default=0)
        apart = line.differences.get(names[0])
        cells = [figure(METRICS[name], line.spreads.get(name)) for name in names]
        rows.append([line.variant, str(seeds), *cells, line.against or "", *change(METRICS[names[0]], apart)])
    print_table(titles, rows)
    if summary.files:
        print_table(
            ("file", "zeros %", "bytes", "faster", "test accuracy", "to fp32", ""),
            [
                (
                    f"{file.variant}: {file.stage}",
                    f"{100 * file.zeros:.0f}",
                    f"{file.bytes:,.0f}",
                    f"{file.speedup:.2f} ×",
                    figure(METRICS["top1"], file.top1),
                    *change(METRICS["top1"], file.difference),
                )
                for file in summary.files
            ],
        )
    for same in summary.same:
        if same.fields:
            told = ", ".join(same.fields)
            print(f"{same.first} and {same.second} trained the same networks, bit by bit: {told} had no effect")


def _dry_run(plan: "Plan", as_json: bool) -> int:
    from distaug.study.estimate import estimate
    from distaug.telemetry.lines import duration

    differing, names = plan.differing(), [variant.name for variant in plan.variants]
    if not as_json:
        rows = [
            [run.job.name, *(_short(values[names.index(run.variant)]) for _, values in differing)] for run in plan.runs
        ]
        print_table(["run", *(path for path, _ in differing)], rows)
    seconds, problem = None, ""
    try:
        with results_only(as_json):
            seconds = estimate(plan, lambda line: print(line, file=sys.stderr))
    except DistaugError as error:  # the study may be meant for another machine
        problem = str(error)
    if as_json:
        shown = {path: dict(zip(names, values, strict=True)) for path, values in differing}
        runs = [run.job.name for run in plan.runs]
        print(json.dumps({"study": plan.spec.name, "runs": runs, "differing": shown, "seconds": seconds}, indent=2))
    elif seconds is None:
        print(f"{len(plan.runs)} runs; how long they take cannot be said here: {problem}")
    else:
        print(f"{len(plan.runs)} runs, about {duration(seconds)} left on this machine")
    return 0


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
