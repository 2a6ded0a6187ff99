"""The command line; each command imports what it needs when it runs, so a wrong job is refused at once."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from distaug import __version__
from distaug.cli import local, remote
from distaug.cli.study import study as train_study
from distaug.errors import DistaugError, InterruptedRunError

__all__ = ["main"]


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

    run = add("run", local.run, "Train a job, or go on with its run.")
    resume = add("resume", _resume, "Go on with a run from its newest checkpoint.")
    validate = add("validate", local.validate, "Check a job or study file without starting anything.")
    preview = add("preview", local.preview, "Draw what a job's augmentation does to its pictures.")
    add("schema", local.schema, "Print the JSON Schema of the job file.")
    evaluate = add("evaluate", local.evaluate, "Judge the model of a run, or an exported file, once more.")
    compress = add("compress", local.compress, "Compress the model of a finished run, as its job says.")
    predict = add("predict", local.predict, "Classify pictures with the model of a run, or with an exported file.")
    report = add("report", local.report, "Write a web page about a run, or about several side by side.")
    study = add("study", train_study, "Train all variants of a study, each with several seeds, and compare them.")
    submit = add("submit", remote.submit, "Hand a job or study to a Ray cluster; print its id.")
    status = add("status", remote.status, "Show how runs go, on a cluster or in a folder.")
    logs = add("logs", remote.logs, "Print what a submitted run says.")
    cancel = add("cancel", remote.cancel, "Have a submitted run save its state and stop.")
    manifest = add("manifest", remote.manifest, "Print a job as a manifest for Kubernetes with KubeRay.")
    doctor = add("doctor", local.doctor, "Check this machine: devices, libraries, memory, disk.")

    for of_job in (run, preview, manifest):
        _job_arguments(of_job, "a job file (YAML)")
    for of_either in (validate, submit):
        _job_arguments(of_either, "a job file, or a study file (YAML)")
    _job_arguments(study, "a study file (YAML)")
    for of_study in (validate, submit, study):
        of_study.add_argument(
            "--quick", action="store_true", help="of a study the smaller version, its section `quick`"
        )
    study.add_argument(
        "--dry-run", action="store_true", help="show the runs, what differs in them and about how long they take"
    )
    run_help = "a run folder or its URL, or the name of a run below ./runs"
    compress.add_argument("run", metavar="RUN", help=run_help)
    for uses in (evaluate, predict):
        uses.add_argument("run", metavar="RUN", help=f"{run_help}, or the path of an exported file (*.onnx)")
    resume.add_argument("run", metavar="RUN", help=f"{run_help}; with --address a run of the cluster")
    report.add_argument("runs", metavar="RUN", nargs="+", help=f"{run_help}; several are compared")
    report.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default: report/index.html in the run folder; of several runs report-A-vs-B.html here)",
    )
    preview.add_argument("--out", type=Path, metavar="FOLDER", help="where the PNG files go (default: preview/NAME)")
    evaluate.add_argument(
        "--robustness", action="store_true", help="judge it on pictures turned, moved, lit, blurred and made noisy"
    )
    predict.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="a picture file")
    for trains in (run, resume):
        trains.add_argument("--workers", type=_count, metavar="N", help="in place of `cluster.workers`")
    status.add_argument(
        "run", metavar="RUN", nargs="?", help="one run; without --address a run or a folder of runs (default: ./runs)"
    )
    for submitted in (logs, cancel):
        submitted.add_argument("run", metavar="RUN", help="name of the run, or id of its submission")
    for remotely in (submit, resume, status, logs, cancel):
        remotely.add_argument(
            "--address",
            metavar="URL",
            help="a cluster's dashboard, http://HOST:8265 (default: $RAY_API_SERVER_ADDRESS)",
        )
    for sends in (submit, resume):
        sends.add_argument(
            "--working-dir",
            type=Path,
            metavar="FOLDER",
            default=Path(),
            help="what travels with the job, and where its relative paths start (default: here)",
        )
    manifest.add_argument("--image", required=True, metavar="IMAGE", help="the container image of all pods")
    manifest.add_argument(
        "--workers-per-pod", type=_count, default=1, metavar="N", help="workers in each pod (default: 1)"
    )
    manifest.add_argument(
        "--volume",
        dest="volumes",
        action="append",
        default=[],
        type=_volume,
        metavar="CLAIM:PATH",
        help="mount a persistent volume claim in all pods (repeatable)",
    )
    for follows in (submit, logs):
        follows.add_argument("-f", "--follow", action="store_true", help="go on printing what it says, to its end")
    for results in (run, resume, compress, evaluate, predict, study, status, doctor):
        results.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    return parser


def _job_arguments(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("job", metavar="STUDY" if parser.prog.endswith("study") else "JOB", help=text)
    parser.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="change a field, e.g. train.epochs=12 (repeatable); of a study, or of its base job",
    )
    parser.add_argument("--name", help="another name than the file's")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}; allowed: a whole number of at least 1")
    return int(text)


def _volume(text: str) -> tuple[str, str]:
    claim, colon, path = text.partition(":")
    if not (claim and colon and path):
        raise argparse.ArgumentTypeError(f"found {text}; allowed: the name of a claim and a path, e.g. runs:/runs")
    return path, claim


def _resume(arguments: argparse.Namespace) -> int:
    return remote.resume(arguments) if remote.asks_cluster(arguments) else local.resume(arguments)
