"""The commands that work on this machine; each imports what it needs when it runs."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from distaug.cli.tables import print_result, print_table, results_only
from distaug.errors import ClusterError, JobError

if TYPE_CHECKING:
    from distaug.spec.job import JobSpec
    from distaug.study.plan import Plan

_EXPORTED = ".onnx"


def read_job(arguments: argparse.Namespace) -> "JobSpec":
    """Read the job file that a command was given, with what the command line changes in it."""
    from distaug.spec.load import load_job

    return load_job(arguments.job, arguments.sets, name=arguments.name)


def read_job_or_study(arguments: argparse.Namespace) -> "JobSpec | Plan":
    """Read the file that a command was given, which may be either."""
    from distaug.spec.load import parse_job, read_text
    from distaug.study.load import is_study, parse_study

    file, sets, name = arguments.job, arguments.sets, arguments.name
    text = read_text(Path(file))
    if is_study(text, file):
        return parse_study(text, file, sets, quick=arguments.quick, name=name)
    if arguments.quick:
        raise JobError(f"--quick: {file} is a job; studies have a smaller version")
    return parse_job(text, filename=file, sets=sets, name=name)


def run(arguments: argparse.Namespace) -> int:
    job = read_job(arguments)
    from distaug.cluster import fit  # only now, since it takes seconds to load

    with results_only(arguments.json):
        result = fit.run(job, workers=arguments.workers).to_dict()
    return print_result(result, arguments.json)


def resume(arguments: argparse.Namespace) -> int:
    from distaug.cluster import fit

    with results_only(arguments.json):
        result = fit.resume(arguments.run, workers=arguments.workers).to_dict()
    return print_result(result, arguments.json)


def compress(arguments: argparse.Namespace) -> int:
    from distaug.cluster import fit

    with results_only(arguments.json):
        result = fit.compress(arguments.run).to_dict()
    return print_result(result, arguments.json)


def validate(arguments: argparse.Namespace) -> int:
    found = read_job_or_study(arguments)
    from distaug.spec.job import JobSpec

    said = f"run {found.name}" if isinstance(found, JobSpec) else f"study {found.spec.name}, {len(found.runs)} runs"
    print(f"{arguments.job}: ok ({said})")
    return 0


def preview(arguments: argparse.Namespace) -> int:
    job = read_job(arguments)
    from distaug.report.preview import preview

    for file in preview(job, arguments.out or Path("preview") / job.name, lambda line: print(line, file=sys.stderr)):
        print(file)
    return 0


def schema(arguments: argparse.Namespace) -> int:
    from distaug.spec.load import schema

    print(json.dumps(schema(), indent=2))
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    with results_only(arguments.json):
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
        return print_result(result, arguments.json)
    rows = [(f"none ({result['set']} set)", *[""] * 5, f"{100 * result['top1']:.1f}")]
    for change, found in result["changes"].items():
        name = f"{change} {found['strengths'][0]:g} … {found['strengths'][-1]:g}"
        rows.append((name, *(f"{100 * share:.1f}" for share in (*found["top1"], found["mean"]))))
    print_table(("change (top1 in %)", *"12345", "mean"), rows)
    return 0


def predict(arguments: argparse.Namespace) -> int:
    with results_only(arguments.json):
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
    print_table(("image", "class", "probability"), rows)
    return 0


def report(arguments: argparse.Namespace) -> int:
    from distaug.store.rundir import RunDir

    runs = [RunDir.find(run) for run in arguments.runs]
    if len(runs) == 1:
        from distaug.report.run import write_report

        print(write_report(runs[0], arguments.out))
    else:
        from distaug.report.compare import write_comparison

        print(write_comparison(runs, arguments.out))
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from distaug import doctor

    with results_only(arguments.json):
        checks = doctor.check()
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        print_table(("", "check", "found", "what to do"), [(c.status, c.name, c.found, c.advice) for c in checks])
    return ClusterError.exit_code if any(check.status == "fail" for check in checks) else 0
