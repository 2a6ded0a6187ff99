"""The driver of a study: its runs one after another on one Ray, each begun, gone on with, or found done."""

import traceback
from collections.abc import Sequence
from contextlib import closing
from time import monotonic
from typing import NoReturn

from distaug.cluster import fit
from distaug.cluster.private import submitted
from distaug.cluster.session import Connection, Interrupt, signals
from distaug.errors import (
    ArtifactError,
    DistaugError,
    InterruptedRunError,
    JobError,
    StorageError,
    StudyError,
)
from distaug.store.records import Result
from distaug.store.rundir import RunDir, RunLock
from distaug.store.whole import storing, write_whole
from distaug.study import table
from distaug.study.plan import Plan, Run
from distaug.study.summary import summarise, to_values
from distaug.telemetry.lines import STUDY
from distaug.telemetry.overview import Overview
from distaug.train.claim import settle

__all__ = ["study"]


def study(plan: Plan, *, show_progress: bool = True) -> None:
    """Train the runs of a study that are not done, and write down what all of them say.

    It is in results.csv, results.json and index.html in the study's folder; see also `distaug.study.summary`.

    Args:
        plan: The study.
        show_progress: Show a table (on a terminal) or lines on standard error.

    Raises:
        JobError: A run of this study was made by a different job; nothing has been started.
        StudyError: Some runs failed; the others are done.
        InterruptedRunError: After SIGINT or SIGTERM, with the state saved.
    """
    folder, runs = RunDir(plan.spec.studies_dir, plan.spec.name), plan.runs
    _check(plan)
    with storing(folder.root):
        folder.root.mkdir(parents=True, exist_ok=True)
    overview = Overview(plan.spec.name, [run.job.name for run in runs], show=show_progress)
    failed: dict[str, str] = {}
    with RunLock(folder, overview.line), closing(Connection()) as ray:
        write_whole(plan.root / "study.yaml", plan.text.encode())
        try:
            _write(plan, overview)
            with overview, signals(_stop):
                for run in runs:
                    if _complete(run, overview):
                        continue
                    if reason := _train(run, overview, ray):
                        failed[run.job.name] = reason
                        overview.line(f"{STUDY}{run.job.name} failed: {reason}")
                        ray.close()  # A rank may be left of it that waits for the others; the next run gets a new one.
                    _write(plan, overview)  # to be looked at meanwhile, and should this process be killed
        except (InterruptedRunError, Interrupt) as error:
            done = sum(outcome.result is not None for outcome in _write(plan, overview))
            again = "submitted again under its name, it" if submitted() else "the same command"
            raise InterruptedRunError(
                f"study {plan.spec.name}: {done} of {len(runs)} runs are done ({error}); {again} goes on"
            ) from error
    if failed:
        named = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise StudyError(
            f"{len(failed)} of {len(runs)} runs failed, the others are done:\n{named}\n"
            "the same command tries them once more"
        )


def _stop() -> NoReturn:
    raise Interrupt("stopped between two runs")


def _check(plan: Plan) -> None:
    """Refuse a study whose folder holds a run of another job under the name of one of its runs."""
    for run in plan.runs:
        try:
            settle(run.job, run.folder)
        except JobError as error:
            raise JobError(f"study {plan.spec.name}: {error}") from None


def _complete(run: Run, overview: Overview) -> bool:
    """Say whether a run has nothing left to do, and show it if so."""
    try:
        if table.complete(run):
            _show(run, overview, None)
            return True
    except StorageError:  # told when it is gone on with
        pass
    return False


def _train(run: Run, overview: Overview, ray: Connection) -> str:
    """Bring a run to its end; return why that failed, in one line, or nothing."""
    name, reason, began = run.job.name, "", monotonic()
    try:
        fit.train(run.job, overview.begin(name), ray)
        _show(run, overview, monotonic() - began)
    except InterruptedRunError:
        raise
    except ArtifactError as error:
        # What the gate refused has been measured, and is a result; what could not be exported has not.
        if table.complete(run):
            overview.line(f"{STUDY}{name}: {error}")
            _show(run, overview, monotonic() - began)
        else:
            reason = _in_one_line(error)
    except DistaugError as error:
        reason = _in_one_line(error)
    except Exception as error:
        reason = f"internal error: {type(error).__name__}: {error}"
        overview.line(traceback.format_exc())
    if reason:
        overview.end(name, "failed")
    return reason


def _in_one_line(error: DistaugError) -> str:
    return " ".join(line.strip() for line in str(error).splitlines())


def _show(run: Run, overview: Overview, seconds: float | None) -> None:
    result = Result.read(run.folder.result_file)
    best, test = result.best or {}, result.test or {}
    overview.end(run.job.name, "done", val=best.get("top1"), test=test.get("top1"), seconds=seconds)


def _write(plan: Plan, overview: Overview) -> Sequence[table.Outcome]:
    """Write down what all runs say so far, and return them; what is wrong with the page does not end the study.

    Raises:
        StorageError: The tables cannot be written, so that no run could be either.
    """
    from distaug.report.study import write_study

    found = table.outcomes(plan)
    summary = summarise(plan, found)
    table.write(plan, found, to_values(summary))
    try:
        write_study(plan, found, summary)
    except DistaugError:
        raise
    except Exception as error:
        overview.line(f"{STUDY}no page: {error or type(error).__name__}")
    return found
