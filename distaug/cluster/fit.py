"""The driver of a run: trains and compresses on Ray Train's workers, owns screen and signals, returns the result."""

import importlib
import importlib.util
import threading
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial

from distaug.cluster.group import Group
from distaug.cluster.private import submitted
from distaug.cluster.scale import of_machine
from distaug.cluster.session import Connection, Session, signals
from distaug.errors import JobError
from distaug.spec.compress import CompressSpec
from distaug.spec.conflicts import check
from distaug.spec.job import JobSpec
from distaug.store.records import Result
from distaug.store.rundir import RunDir, RunLock
from distaug.store.stages import Stages
from distaug.telemetry.screen import Screen
from distaug.train.claim import claim

__all__ = ["compress", "resume", "run", "train"]

_COMPRESSORS = ("onnx", "onnxruntime", "onnxscript", "torch_pruning")


def run(job: JobSpec, *, workers: int | None = None, show_progress: bool = True) -> Result:
    """Train and compress a job through Ray Train, or go on with its run, or return the result of a finished one.

    Args:
        job: The job.
        workers: Overrides `cluster.workers`.
        show_progress: Show a bar (on a terminal) or lines on standard error.

    Returns:
        The result, as in the run's result.json.

    Raises:
        DistaugError: The tree in `distaug.errors`; InterruptedRunError after SIGINT or SIGTERM, with the state saved.
    """
    if workers is not None:
        job = job.model_copy(update={"cluster": job.cluster.model_copy(update={"workers": workers})})
    with closing(Connection()) as ray:
        return train(job, Screen(job.name, show=show_progress), ray)


def train(job: JobSpec, screen: Screen, ray: Connection) -> Result:
    """Do what `run` does.

    Args:
        job: The job.
        screen: Shows it to a person.
        ray: What it is trained on; other runs may have been, and may follow.
    """
    check(job)
    if job.compress is not None:
        _check_installed()
    run_dir, job, result = claim(job)
    if result is not None:
        screen.line(f"run {job.name!r} has finished before; to train it anew give another --name")
        if job.compress is None:
            return result
    with RunLock(run_dir, screen.line), screen, Session(job, run_dir, screen, ray) as session:
        if result is None:
            result = _drive(job, run_dir, session)
        session.judged(result)
        if job.compress is None:
            _report(run_dir, screen)
        else:
            result = _compress(job, run_dir, result, session)
        session.board.end(result.state)
        return result


def resume(name: str, *, workers: int | None = None, show_progress: bool = True) -> Result:
    """Go on with a run from its newest checkpoint; see `run`.

    Args:
        name: Path of a run folder, or a name below ./runs.
        workers: Overrides `cluster.workers`.
        show_progress: Show a bar (on a terminal) or lines on standard error.
    """
    found = RunDir.find(name)
    job = found.load_job()
    job = job.model_copy(update={"name": found.name, "runs_dir": str(found.runs_dir)})
    return run(job, workers=workers, show_progress=show_progress)


def compress(name: str, *, show_progress: bool = True) -> Result:
    """Compress the model of a finished run, as its job says or else with the defaults; see `run`.

    Args:
        name: Path of a run folder, or a name below ./runs.
        show_progress: Show a bar (on a terminal) or lines on standard error.

    Raises:
        ArtifactError: Nothing passed the gate; what was measured is kept.
        StorageError: The run has not finished.
    """
    _check_installed()
    run_dir = RunDir.find(name)
    job, result = run_dir.load_job(), Result.read(run_dir.result_file)
    job = job.model_copy(update={"compress": job.compress or CompressSpec()})
    check(job)
    screen = Screen(job.name, show=show_progress)
    with (
        closing(Connection()) as ray,
        RunLock(run_dir, screen.line),
        screen,
        Session(job, run_dir, screen, ray) as session,
    ):
        session.judged(result)
        result = _compress(job, run_dir, result, session)
        session.board.end(result.state)
        return result


def _check_installed() -> None:
    if missing := [name for name in _COMPRESSORS if importlib.util.find_spec(name) is None]:
        raise JobError(f"compress: {', '.join(missing)} not installed: pip install 'distaug[compress]'")


def _compress(job: JobSpec, run_dir: RunDir, result: Result, session: Session) -> Result:
    from distaug.compress import stage

    stored = run_dir.load_job()
    if stored.compress != job.compress:  # the one part of a run's job that may change
        run_dir.save_job(stored.model_copy(update={"compress": job.compress}))
    # What was decided when the training started is in the run's own job alone.
    _, job, _ = claim(job)
    session.board.compressing = True
    try:
        stage.compress(job, run_dir, partial(_finetune, session), session.screen.line, session.board.stage)
    finally:
        # What the gate refuses is written down as well.
        stages = Stages.read(run_dir.compressed)
        if stages is not None and stages.done:
            result = replace(result, artifacts=[asdict(row) for row in stages.rows])
            result.write(run_dir.result_file)
            _report(run_dir, session.screen)
    return result


def _report(run_dir: RunDir, screen: Screen) -> None:
    """Write the run's page and pictures; what is wrong with them does not make the run another one."""
    from distaug.report.compression import draw
    from distaug.report.run import write_report

    try:
        if run_dir.compressed.is_dir():
            draw(run_dir.compressed)
        screen.line(f"report: {write_report(run_dir)}")
    except Exception as error:
        screen.line(f"no report: {error or type(error).__name__}; `distaug report {run_dir.root} --debug` says more")


def _finetune(session: Session, job: JobSpec) -> Result:
    """Train the job of a stage, from wherever its run folder says it is."""
    run_dir, job, result = claim(job)
    if result is not None:
        return result
    with RunLock(run_dir, session.screen.line):
        return _drive(job, run_dir, session)


def _drive(job: JobSpec, run_dir: RunDir, session: Session) -> Result:
    """Train a job to its end, on the cluster that it was submitted to or on this machine."""
    stops: list[int] = []
    # What the workers' code imports takes two seconds, in which Ray can start; none of it imports ray.
    threading.Thread(target=importlib.import_module, args=("distaug.train.loop",), daemon=True).start()
    with ExitStack() as handlers:
        handlers.enter_context(signals(lambda: stops.append(1)))
        here = None if submitted() else of_machine(job, session.screen.line)
        session.connect(job, cpus=here.most * here.cores if here else 0, gpus=here.most * here.gpus if here else 0)
        handlers.enter_context(
            signals(lambda: stops.append(1))
        )  # once more, because Ray puts some of its own in place when it starts
        if here is None:
            from distaug.cluster.elastic import Elastic

            return Elastic(job, run_dir, session, stops).train()
        group = Group(job, run_dir, session, workers=here.most, scale=here, retries=job.cluster.retries)
        result = group.watch(stops)
        if result is None:
            raise group.explain()
        return result
