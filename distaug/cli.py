"""The command line; each command imports what it needs when it runs, so a wrong job is refused at once."""

import argparse
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distaug import __version__
from distaug.errors import ClusterError, DistaugError, InterruptedRunError, JobError

__all__ = ["main"]

UNSHOWN = ("artifacts", "classes", "data", "machine", "versions", "weights_digest")
"""Parts of a result that `--json` has and the table leaves out."""
_EXPORTED = ".onnx"


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code; see `distaug.errors`.
    """
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        code = command(arguments)
        sys.stdout.flush()
        return code
    except DistaugError as error:
        return _fail(str(error), error.exit_code, arguments.debug)
    except KeyboardInterrupt:
        return _fail("interrupted", InterruptedRunError.exit_code, arguments.debug)
    except BrokenPipeError:
        # Whoever read the output has left, e.g. `| head`; the interpreter must not try to flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DistaugError.exit_code
    except Exception as error:
        hint = "" if arguments.debug else "; run again with --debug for the traceback"
        text = f"internal error: {type(error).__name__}: {error}{hint}"
        return _fail(text, DistaugError.exit_code, arguments.debug)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"distaug: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    parser = argparse.ArgumentParser(
        prog="distaug", description="Train image classifiers from a job file.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"distaug {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, parents=[shared], allow_abbrev=False)
        added.set_defaults(command=command)
        return added

    run = add("run", _run, "Train a job, or go on with its run.")
    _job_arguments(run)
    resume = add("resume", _resume, "Go on with a run from its newest checkpoint.")
    _job_arguments(add("validate", _validate, "Check a job file without starting anything."))
    preview = add("preview", _preview, "Draw what a job's augmentation does to its pictures.")
    _job_arguments(preview)
    preview.add_argument("--out", type=Path, metavar="FOLDER", help="where the PNG files go (default: preview/NAME)")
    add("schema", _schema, "Print the JSON Schema of the job file.")
    evaluate = add("evaluate", _evaluate, "Judge the model of a run, or an exported file, once more.")
    compress = add("compress", _compress, "Compress the model of a finished run, as its job says.")
    predict = add("predict", _predict, "Classify pictures with the model of a run, or with an exported file.")
    report = add("report", _report, "Write a web page about a run, or about several side by side.")
    doctor = add("doctor", _doctor, "Check this machine: devices, libraries, memory, disk.")
    run_help = "a run folder, or the name of a run below ./runs"
    for of_run in (resume, compress):
        of_run.add_argument("run", metavar="RUN", help=run_help)
    for uses in (evaluate, predict):
        uses.add_argument("run", metavar="RUN", help=f"{run_help}, or the path of an exported file (*.onnx)")
    report.add_argument("runs", metavar="RUN", nargs="+", help=f"{run_help}; several are compared")
    report.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default: report/index.html in the run folder; of several runs report-A-vs-B.html here)",
    )
    evaluate.add_argument(
        "--robustness", action="store_true", help="judge it on pictures turned, moved, lit, blurred and made noisy"
    )
    predict.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="a picture file")
    for trains in (run, resume):
        trains.add_argument("--workers", type=_count, metavar="N", help="in place of `cluster.workers`")
    for results in (run, resume, compress, evaluate, predict, doctor):
        results.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    return parser


def _job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="a job file (YAML)")
    parser.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="change a field, e.g. train.epochs=12 (repeatable)",
    )
    parser.add_argument("--name", help="name of the run, in place of the file's")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}; allowed: a whole number of at least 1")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    from distaug.spec.load import load_job

    job = load_job(arguments.job, arguments.sets, name=arguments.name)
    from distaug.cluster import fit  # only now, since it takes seconds to load

    with _results_only(arguments.json):
        result = fit.run(job, workers=arguments.workers).to_dict()
    return _print_result(result, arguments.json)


def _resume(arguments: argparse.Namespace) -> int:
    from distaug.cluster import fit

    with _results_only(arguments.json):
        result = fit.resume(arguments.run, workers=arguments.workers).to_dict()
    return _print_result(result, arguments.json)


def _compress(arguments: argparse.Namespace) -> int:
    from distaug.cluster import fit

    with _results_only(arguments.json):
        result = fit.compress(arguments.run).to_dict()
    return _print_result(result, arguments.json)


def _validate(arguments: argparse.Namespace) -> int:
    from distaug.spec.load import load_job

    job = load_job(arguments.job, arguments.sets, name=arguments.name)
    print(f"{arguments.job}: ok (run {job.name})")
    return 0


def _preview(arguments: argparse.Namespace) -> int:
    from distaug.spec.load import load_job

    job = load_job(arguments.job, arguments.sets, name=arguments.name)
    from distaug.report.preview import preview

    for file in preview(job, arguments.out or Path("preview") / job.name, lambda line: print(line, file=sys.stderr)):
        print(file)
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from distaug.spec.load import schema

    print(json.dumps(schema(), indent=2))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    with _results_only(arguments.json):
        if arguments.run.endswith(_EXPORTED):
            if arguments.robustness:
                raise JobError(f"--robustness judges the model of a run, found the file {arguments.run}; give the run")
            from distaug.compress import artifact, judge

            result = judge.evaluate(artifact.open_artifact(arguments.run))
        else:
            from distaug.train import predictor

            model = predictor.load(arguments.run)
            result = model.robustness() if arguments.robustness else model.evaluate()
    if arguments.json or not arguments.robustness:
        return _print_result(result, arguments.json)
    rows = [(f"none ({result['set']} set)", *[""] * 5, f"{100 * result['top1']:.1f}")]
    for change, found in result["changes"].items():
        name = f"{change} {found['strengths'][0]:g} … {found['strengths'][-1]:g}"
        rows.append((name, *(f"{100 * share:.1f}" for share in (*found["top1"], found["mean"]))))
    _print_table(("change (top1 in %)", *"12345", "mean"), rows)
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    with _results_only(arguments.json):
        if arguments.run.endswith(_EXPORTED):
            from distaug.compress import artifact

            found = artifact.open_artifact(arguments.run).predict(arguments.images)
        else:
            from distaug.train import predictor

            found = predictor.load(arguments.run).predict(arguments.images)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    rows = [
        (
            str(entry["image"]) if place == 0 else "",
            str(guess["class"]),
            f"{100 * guess['probability']:.2f} %",
        )
        for entry in found
        for place, guess in enumerate(entry["predictions"])
    ]
    _print_table(("image", "class", "probability"), rows)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from distaug.store.rundir import RunDir

    runs = [RunDir.find(run) for run in arguments.runs]
    if len(runs) == 1:
        from distaug.report.run import write_report

        print(write_report(runs[0], arguments.out))
    else:
        from distaug.report.compare import write_comparison

        print(write_comparison(runs, arguments.out))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from distaug import doctor

    with _results_only(arguments.json):
        checks = doctor.check()
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        _print_table(("", "check", "found", "what to do"), [(c.status, c.name, c.found, c.advice) for c in checks])
    return ClusterError.exit_code if any(check.status == "fail" for check in checks) else 0


@contextlib.contextmanager
def _results_only(wanted: bool) -> Iterator[None]:
    """With `--json`, keep whatever else is printed out of stdout."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


def _print_result(result: Mapping[str, Any], as_json: bool) -> int:
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
    _print_table(("", "result"), rows)
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
    _print_table(titles, table)


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*titles)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
