"""What the model took the held-out pictures for: by class, the confusions, the surest mistakes, calibration."""

import io
from collections import Counter
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from distaug.report import charts
from distaug.report.facts import Facts, Judged, percent
from distaug.report.page import Html, join, note, picture, table, tag
from distaug.store.predictions import Prediction
from distaug.train.calibration import calibration_error, reliability

__all__ = ["by_class", "calibration", "confused", "embedded", "figures", "mistakes"]

_MATRIX = 100
"""Most classes of a confusion matrix."""
_LISTED = 20
"""Up to so many classes, each has its line."""
_WORST, _BEST = 15, 5
"""Classes shown otherwise."""
_PAIRS = 12
_MISTAKES = 24
_SIDE, _EXACT = 128, 64
"""Pixels: of a picture on the page, and up to which one is kept to the last bit."""


def embedded(pixels: Tensor, text: str) -> Html:
    """Return a picture in the page: a small one exactly, a larger one made small.

    Args:
        pixels: (3, H, W) uint8.
        text: For those who do not see it.
    """
    image, file = Image.fromarray(pixels.permute(1, 2, 0).numpy()), io.BytesIO()
    if max(image.size) <= _EXACT:
        image.save(file, "PNG", optimize=True)
    else:
        image.thumbnail((_SIDE, _SIDE))
        image.save(file, "JPEG", quality=85)
    return picture(file.getvalue(), text)


def by_class(facts: Facts, judged: Judged) -> Html:
    """Return the accuracy of each class, or of the worst and the best where they are many."""
    shares = judged.numbers.get("per_class") or []
    counts = (facts.result.data or {}).get("per_class", {}).get(judged.set, {}) if facts.result else {}
    rows = [(name, share, counts.get(name)) for name, share in zip(facts.classes, shares, strict=True)]
    known = sorted((row for row in rows if row[1] is not None), key=lambda row: row[1])
    if not known:
        return Html()
    title = "Accuracy by class"
    if len(rows) > _LISTED:
        rows = [*known[:_WORST], *known[-_BEST:]]
        title += f": the {_WORST} lowest and the {_BEST} highest of {len(known)}"

    def bar(share: float | None) -> Html:
        return tag("span", tag("i", style=f"width:{100 * (share or 0):.1f}%"), class_="bar")

    head = ["class", "", "right"] + ["pictures"] * bool(counts)
    lines = [
        [name, bar(share), percent(share, 1)] + [f"{count:,}" if count is not None else ""] * bool(counts)
        for name, share, count in rows
    ]
    return tag("div", tag("h3", title), table(head, lines, words=2))


def confused(classes: Sequence[str], answers: Sequence[Prediction]) -> Html:
    """Return the confusion matrix, and the most frequent confusions where the matrix has no numbers."""
    if not answers:
        return Html()
    found = Counter((one.label, one.predicted) for one in answers)
    matrix = Html()
    if len(classes) <= _MATRIX:
        counts = [[found[true, predicted] for predicted in classes] for true in classes]
        matrix = tag("div", tag("h3", "Confusion matrix"), charts.confusion(counts, classes))
    if len(classes) <= _LISTED:
        return matrix
    pairs = [(pair, count) for pair, count in found.most_common() if pair[0] != pair[1]][:_PAIRS]
    rows = [(true, predicted, f"{count:,}") for (true, predicted), count in pairs]
    often = tag("div", tag("h3", "Most often confused"), table(("class", "taken for", "pictures"), rows, words=2))
    return join(matrix, often if rows else Html())


def mistakes(facts: Facts, answers: Sequence[Prediction]) -> Html:
    """Return the pictures that the model was surest about and wrong."""
    if not answers:
        return Html()
    wrong = sorted((one for one in answers if not one.right), key=lambda one: -one.probability)
    if not wrong:
        text = f"None: all {len(answers):,} pictures were taken for what they are."
        return join(tag("h3", "Hardest mistakes"), note(text))
    surest = wrong[:_MISTAKES]
    shown = f"{len(surest)} of them" if len(wrong) > _MISTAKES else "all of them"
    text = (
        f"{len(wrong):,} of {len(answers):,} pictures were taken for another class; {shown}, the surest first: "
        "true class → answer, with its probability."
    )
    return join(tag("h3", "Hardest mistakes"), note(text), _gallery(facts, surest))


def _gallery(facts: Facts, surest: Sequence[Prediction]) -> Html:
    """Show mistakes as pictures where the data is at hand, as a table otherwise."""
    split = facts.split(surest[0].set)
    if split is None:
        rows = [(one.picture, one.label, one.predicted, percent(one.probability, 1)) for one in surest]
        return join(
            note(f"The pictures cannot be shown here: {facts.no_data}."),
            table(("picture", "class", "taken for", "probability"), rows, words=3),
        )
    pixels = split.pictures(torch.tensor([one.index for one in surest]))
    return tag(
        "div",
        *(
            tag(
                "figure",
                embedded(image, f"{one.picture}: a {one.label}, taken for {one.predicted}"),
                tag("figcaption", f"{one.label} → ", tag("b", one.predicted), f" {percent(one.probability, 0)}"),
                title=one.picture,
            )
            for one, image in zip(surest, pixels, strict=True)
        ),
        class_="gallery",
    )


def calibration(answers: Sequence[Prediction]) -> Html:
    """Return whether the model was as often right as it was sure."""
    if not answers:
        return Html()
    bins = reliability((one.probability, one.right) for one in answers)
    sure = sum(one.probability for one in answers) / len(answers)
    right = sum(one.right for one in answers) / len(answers)
    verdict = "surer than it was right" if sure > right else "less sure than it was right"
    text = (
        f"On average the model was {percent(sure, 1)} sure and {percent(right, 1)} right: {verdict}. "
        f"Expected calibration error: {percent(calibration_error(bins))} in {len(bins)} bins, "
        "the paler the fewer pictures. On the dashed line sureness and accuracy agree."
    )
    return join(tag("h3", "Calibration"), tag("div", charts.reliability(bins), note(text), class_="side"))


def figures(facts: Facts, judged: Judged) -> Html:
    """Return the figures of the set: of the model, and beside it of the raw weights and the averaged views."""
    numbers = judged.numbers
    loss = "–" if numbers["loss"] is None else f"{numbers['loss']:.4f}"
    rows = [("the model", *(percent(numbers.get(key)) for key in ("top1", "top5", "macro")), loss)]
    if facts.job.train.ema:
        rows.append(("its raw weights", percent(numbers.get("raw_top1")), "", "", ""))
    if numbers.get("tta_top1") is not None:
        views = ", ".join(facts.job.evaluate.tta)
        rows.append((f"with the views of {views}", percent(numbers["tta_top1"]), "", "", ""))
    return table(("", "top-1", "top-5", "macro", "loss"), rows)
