"""The training, from the first step to the restored best model. Read it top to bottom."""

from time import monotonic

from distaug.errors import InterruptedRunError
from distaug.spec.job import JobSpec
from distaug.store import records
from distaug.store.records import EpochRecord, Result
from distaug.store.rundir import RunDir
from distaug.train.decide import decide
from distaug.train.finish import finish
from distaug.train.judge import check_finite, judge, make_record
from distaug.train.keep import save
from distaug.train.memory import memory_explained
from distaug.train.reporter import Reporter
from distaug.train.setup import setup, unfreeze
from distaug.train.state import Training
from distaug.train.step import train_step
from distaug.train.watch import Watch
from distaug.train.world import World, by_rank_0

__all__ = ["fit"]


def fit(job: JobSpec, run: RunDir, world: World, reporter: Reporter) -> Result:
    """Train a job to its end, from wherever its run folder says it is.

    Args:
        job: The job, as `claim` returned it.
        run: Its run folder.
        world: The ranks; every one of them calls this.
        reporter: Whoever watches this rank.

    Returns:
        The result, the same on every rank.

    Raises:
        InterruptedRunError: A stop was requested; the state was saved.
        DivergedError: A gradient was not finite.
        RankError: This rank alone ran out of memory.
        DistaugError: Whatever else went wrong, on every rank alike.
    """
    t = setup(job, run, world, reporter)
    try:
        watch = Watch(world, t.job.checkpoint.every_minutes)
        with memory_explained(t):
            while not t.reason:
                record = train_epoch(t, watch)
                end_epoch(t, record, watch)
                reporter.report(record)
            return finish(t)
    finally:
        t.close()


def train_epoch(t: Training, watch: Watch) -> EpochRecord:
    """Train the rest of the epoch, judge the model, and return the epoch's numbers."""
    t.epoch_began = monotonic() - t.epoch_seconds
    t.tally.start(t.resumed_sums, t.world)
    t.model.train()
    if t.epoch < t.job.model.freeze_epochs:
        t.module.eval()  # Only the head learns, so the statistics of the rest stay as they came.
    t.wait_seconds = 0.0
    t.reporter.progress(t.progress("train"))
    batches = t.loader.train(t.epoch, t.step)
    for shards in batches:
        train_step(t, t.epoch, t.step, shards)
        t.step, t.wait_seconds = t.step + 1, batches.wait_seconds
        stop, due = watch.look(stop=t.reporter.progress(t.progress("train")))
        if t.step < t.steps and (stop or due):
            t.epoch_seconds = monotonic() - t.epoch_began
            save(t, sums=check_finite(t))
            watch.saved()
        if t.step < t.steps and stop:
            raise InterruptedRunError(f"stopped in epoch {t.epoch + 1} after step {t.step}; the state is saved")
    sums = check_finite(t)  # Waits for the device: from here on the epoch's steps are done.
    trained = monotonic()
    t.reporter.progress(t.progress("evaluate"))
    counts = judge(t, t.data.val, "val")
    judged = monotonic()
    return make_record(t, sums, counts, trained - t.epoch_began, judged - trained)


def end_epoch(t: Training, record: EpochRecord, watch: Watch) -> None:
    """Let rank 0 decide about the epoch for all, write it down, and move on to the next."""
    t.trained_seconds += record.seconds + record.eval_seconds
    decision = t.world.broadcast(
        decide(
            t.memory,
            record,
            stop=t.job.stop,
            checkpoint=t.job.checkpoint,
            epochs=t.job.train.epochs,
            trained_seconds=t.trained_seconds,
        )
    )
    t.memory, t.reason, t.resumed_sums = decision.memory, decision.reason, None
    t.epoch, t.step, t.epoch_seconds, t.epoch_began = t.epoch + 1, 0, 0.0, None
    by_rank_0(t.world, lambda: records.append(t.run.history_file, record))
    if decision.save:
        save(t, record=record)
        watch.saved()
    if t.epoch == t.job.model.freeze_epochs:
        unfreeze(t)
