"""The report of one run: a web page in one file, whatever state the run is in."""

import torch

from distaug.report import answers, artifacts, charts
from distaug.report.charts import Series
from distaug.report.facts import Facts, gather
from distaug.report.page import Html, details, join, note, page, save, table, tag
from distaug.report.preview import training_batch
from distaug.report.summary import heading, summary
from distaug.spec.load import dump_job
from distaug.store.place import Place
from distaug.store.rundir import RunDir

__all__ = ["render", "write_report"]

_SHOWN = 20
"""Pictures of the training batch."""
_LEAST_TARGET = 0.05
"""Smaller targets are but the share that smoothing gives to every class."""


def write_report(run: RunDir, out: Place | None = None) -> Place:
    """Write the report of a run.

    Args:
        run: The run: finished, failed, or still going on.
        out: The file; None: `report/index.html` in the run folder.

    Returns:
        The file.

    Raises:
        JobError: It is no run.
        StorageError: One of its files is damaged, or the page cannot be written.
    """
    return save(out or run.report / "index.html", render(gather(run)))


def render(facts: Facts) -> str:
    """Return the page about a run."""
    held_out = "Test set" if facts.judged and facts.judged.set == "test" else "Validation set"
    return page(
        f"{facts.run.name} – distaug",
        heading(facts),
        {
            "Summary": summary(facts),
            "Training": _training(facts),
            held_out: _held_out(facts),
            "Augmentation": _augmentation(facts),
            "Compression": artifacts.compression(facts),
            "Job and environment": _environment(facts),
        },
    )


def _training(facts: Facts) -> Html:
    """Show what changed from epoch to epoch."""
    history, job = facts.history, facts.job
    if not history:
        return note("No epoch has been finished yet.")
    mixed = any(r.train_top1_mixed for r in history)
    marked = None if facts.best_epoch is None else (facts.best_epoch, "best")
    loss = [Series("train", [r.train_loss for r in history]), Series("val", [r.val_loss for r in history])]
    right = [
        Series("train (mixed)" if mixed else "train", [r.train_top1 for r in history]),
        Series("val", [r.top1 for r in history]),
    ]
    if job.train.ema:
        right.append(Series("val (raw)", [r.raw_top1 for r in history], dashed=True))
    speed = [Series("images/s", [r.images_per_second for r in history])]
    shares = [r.data_wait_seconds / max(1e-9, r.seconds) for r in history]
    workers = [float(r.world_size) for r in history]
    drawn = [
        charts.lines("Loss", loss, marked=marked),
        charts.lines("Accuracy", right, charts.share, marked=marked),
        charts.lines("Learning rate", [Series("rate", [r.lr for r in history])], low=0.0),
        charts.lines("Images per second", speed, low=0.0),
        charts.lines("Waiting for data", [Series("waiting", shares)], charts.share, low=0.0, high=max(0.05, *shares)),
        charts.lines("Workers", [Series("workers", workers)], low=0.0) if len(set(workers)) > 1 else Html(),
    ]
    smoothing = job.train.label_smoothing
    apart = [f"smoothed targets (ε = {smoothing:g})"] * bool(smoothing) + ["mixed pictures"] * mixed
    text = "The rate is that of an epoch's last step; waiting is a share of the steps' time."
    if apart:
        text += f" The training loss is that of {' and '.join(apart)}, the validation loss is not."
    if mixed:
        text += " A mixed picture counts as right by the share of the class that was answered."
    if job.train.ema:
        text += " The model is the moving average of the weights; raw are the weights themselves."
    return join(tag("div", *drawn, class_="charts"), note(text))


def _held_out(facts: Facts) -> Html:
    """Show what the model makes of pictures that it was not trained on."""
    judged = facts.judged
    if judged is None:
        return Html()
    text = "Read once, after all choices."
    if judged.set == "val":
        text = "The model is chosen by this set, so these figures flatter it; no test set has been read."
    kept = [one for one in facts.predictions if one.set == judged.set]
    if facts.ended and not kept:
        text += " The run kept no predictions.csv, so there are no confusions and no mistakes to show."
    return join(
        note(text),
        answers.figures(facts, judged),
        tag("div", answers.confused(facts.classes, kept), answers.by_class(facts, judged), class_="side"),
        answers.mistakes(facts, kept),
        answers.calibration(kept),
    )


def _augmentation(facts: Facts) -> Html:
    """Show training pictures as the network gets them."""
    if facts.data is None:
        return note(f"The training pictures cannot be shown here: {facts.no_data}.")
    shown = []
    for pixels, targets in training_batch(facts.job, facts.data)[:_SHOWN]:
        image = answers.embedded((255 * pixels).round().to(torch.uint8), "a training picture")
        large = [(name, share) for name, share in targets if share >= _LEAST_TARGET]
        lines = [tag("div", f"{name} ", tag("small", f"{share:.2f}")) for name, share in large]
        shown.append(tag("figure", image, tag("figcaption", *lines)))
    text = "The first training pictures as the network gets them in the first epoch, with their largest targets."
    return join(note(text), tag("div", *shown, class_="gallery"))


def _environment(facts: Facts) -> Html:
    """Show with what, on what and on how many pictures it was trained, and the job file."""
    rows = [("run folder", str(facts.run.root))]
    if facts.result is not None:
        result, data = facts.result, facts.result.data or {}
        same = data.get("duplicates", {})
        rows += [
            ("versions", ", ".join(f"{name} {version}" for name, version in (result.versions or {}).items())),
            ("machine", ", ".join(f"{key}: {v}" for key, v in (result.machine or {}).items() if v is not None)),
            ("pictures", ", ".join(f"{count:,} {part}" for part, count in data.get("sizes", {}).items())),
            ("damaged pictures, left out", f"{data.get('damaged', {}).get('count', 0)}"),
            (
                "identical pictures",
                f"{same.get('within_train', 0)} within train, {same.get('across_sets', 0)} across sets",
            ),
            ("sha256 of the weights", str(result.weights_digest)),
        ]
    text = tag("pre", dump_job(facts.job))
    shown = [(name, tag("span", value, class_="long")) for name, value in rows]
    return join(table((), shown, words=2), details("The job file, with everything that was decided", text))
