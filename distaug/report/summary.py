"""What the page says first: the figures of a run, and in words where it stands."""

import math

from distaug.report import artifacts
from distaug.report.charts import plain
from distaug.report.facts import Facts, Judged, percent, wilson
from distaug.report.page import Html, cards, join, tag
from distaug.spec.job import JobSpec

__all__ = ["accuracy", "duration", "heading", "made_up", "summary"]

_GOOD, _WARN = ("finished", "stopped early"), ("running", "being compressed", "unfinished", "interrupted")


def heading(facts: Facts) -> Html:
    """Return the run's name and state, and what was trained where."""
    state, job, result = facts.state, facts.job, facts.result
    kind = "good" if state in _GOOD else "warn" if state in _WARN else "bad"
    parts = [f"{job.model.name} on {job.data.path or job.data.source}"]
    if facts.history:
        last = facts.history[-1]
        parts.append(f"{last.world_size} worker{'s' * (last.world_size > 1)}")
        if result is not None and result.machine:
            machine = result.machine
            parts.append(f"{machine['gpus']} × {machine['gpu']}" if machine.get("gpu") else str(machine.get("cpu")))
        parts.append(f"{last.finished_at[:16].replace('T', ' ')} UTC")
    return join(
        tag("h1", facts.run.name, tag("span", state, class_=f"state {kind}")),
        tag("p", " · ".join(parts), class_="sub"),
        made_up(job),
    )


def made_up(job: JobSpec) -> Html:
    """Return the warning that a page about made-up pictures begins with, and nothing for real ones."""
    if job.data.source != "synthetic":
        return Html()
    return tag("p", "The pictures are made up: the accuracies on this page mean nothing.", class_="warn")


def summary(facts: Facts) -> Html:
    """Return the figures and the story of a run."""
    history, result, judged = facts.history, facts.result, facts.judged
    figures = [accuracy(judged)]
    if judged is not None:
        figures.append(("Macro accuracy", percent(judged.numbers.get("macro")), "mean of the classes"))
    if facts.best_epoch is not None:
        best = next(r for r in history if r.epoch == facts.best_epoch)
        loss = "–" if best.val_loss is None else plain(best.val_loss)
        text = f"by {facts.job.stop.metric}: val loss {loss}, val top-1 {percent(best.top1)}"
        figures.append(("Best epoch", f"{best.epoch + 1} of {len(history)}", text))
    if history:
        seconds = result.seconds if result and result.seconds else sum(r.seconds + r.eval_seconds for r in history)
        speed = sum(r.images for r in history) / sum(r.seconds for r in history)
        figures.append(("Training time", duration(seconds), f"epochs: {len(history)}, with their validation"))
        figures.append(("Images per second", f"{speed:,.0f}", "all workers together"))
        figures.append(("Waiting for data", percent(facts.wait_share, 1), "of the time of the steps"))
        if peak := max(r.peak_memory_bytes or 0 for r in history):
            figures.append(("Peak memory", f"{peak / 2**30:.2f} GiB", "of any worker, on its device"))
    if result is not None and result.device_seconds:
        text = f"goodput {percent(result.goodput, 1)}, restarts: {result.restarts}"
        figures.append(("Device time", duration(result.device_seconds), text))
    return join(cards([*figures, *artifacts.figure(facts)]), tag("p", _story(facts)), _log(facts))


def accuracy(judged: Judged | None) -> tuple[str, str, str]:
    """Return what to call the accuracy, the figure, and what it is worth."""
    if judged is None:
        return "Accuracy", "–", "no held-out set was read"
    top1 = judged.numbers["top1"]
    if judged.set == "val":
        return "Validation accuracy", percent(top1), "selected on this set: no figure to quote"
    samples = judged.numbers["samples"]
    low, high = wilson(top1, samples)
    return "Test accuracy", percent(top1), f"95 % interval {100 * low:.1f} to {100 * high:.1f} %, {samples:,} pictures"


def duration(seconds: float) -> str:
    """Return a time in the two largest units that it fills."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _story(facts: Facts) -> str:
    """Return in words where the run stands and how it came there."""
    done, planned, result = len(facts.history), facts.job.train.epochs, facts.result
    if result is not None:
        text = f"{result.state.capitalize()} after {done} of {planned} epochs: {result.reason}."
        if result.state == "stopped":
            saved = planned - done
            text += f" Stopping saved {saved} epochs ({percent(saved / planned, 0)})."
        if facts.ended and facts.best_epoch is not None:
            text += f" The model is that of epoch {facts.best_epoch + 1}, the best on the validation set."
        elif facts.ended:
            text += " There was no validation set, so the model is that of the last epoch."
    elif facts.busy:
        text = f"Running: epoch {done + 1} of {planned}. The page shows what there was when it was written."
    else:
        text = (
            f"Left after {done} of {planned} epochs without a result: stopped, failed or killed. "
            f"`distaug resume {facts.run.root}` goes on from there."
        )
    if lost := [r.epoch + 1 for r in facts.history if not math.isfinite(r.train_loss)]:
        text += f" The loss was not finite in {len(lost)} of the epochs, first in epoch {lost[0]}."
    if skipped := sum(r.skipped_steps for r in facts.history):
        text += f" The scaler of fp16 withheld {skipped} updates."
    return text


def _log(facts: Facts) -> Html:
    """Return the end of the log, where it may tell why the run came to no end."""
    if facts.ended or facts.busy or not facts.log:
        return Html()
    return join(tag("h3", "The last lines of the log"), tag("pre", "\n".join(facts.log), class_="log"))
