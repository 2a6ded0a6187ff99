"""Pictures of what a job's augmentation does, drawn from its own training pictures."""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from distaug.augment import Augment
from distaug.augment.mix import cutmix_weights, mix, soft_targets
from distaug.data.balance import strengths
from distaug.data.open import DataSet, open_data
from distaug.spec.augment import OpSpec
from distaug.spec.job import JobSpec
from distaug.store.whole import storing

__all__ = ["preview", "training_batch"]

_DRAWS = 7
"""Pictures in a row, the original beside them."""
_INCH = 0.9
"""Side of a picture on the page."""
_BATCH = 32


def preview(job: JobSpec, folder: Path, log: Callable[[str], None]) -> list[Path]:
    """Draw the job's augmentation, and every operation there is, to PNG files.

    Args:
        job: The job; its training pictures and its seed are used.
        folder: Where the files go; it is made.
        log: Told what reading the data has to tell.

    Returns:
        The files: `batch`, `operations`, `policies`, `mixup`, `cutmix` and `labels`.

    Raises:
        DataError: The data cannot be read.
        StorageError: The folder cannot be written.
    """
    data = open_data(job.data, log=log)
    ids = torch.arange(min(_BATCH, len(data.train)))
    images, labels = data.train.pictures(ids), data.train.labels[ids]
    drawn = {
        "batch": _batch(training_batch(job, data)),
        "operations": _operations(job, images, [{name: _SURE.get(name, {})} for name in _SINGLE]),
        "policies": _operations(job, images, _POLICIES),
        "mixup": _mixup(images),
        "cutmix": _cutmix(images),
        "labels": _labels(job, data, labels),
    }
    files = []
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            files.append(folder / f"{name}.png")
            FigureCanvasAgg(figure).print_png(files[-1])  # type: ignore[no-untyped-call]
    return files


_POLICIES: list[dict[str, Any]] = [
    *[{"autoaugment": {"policy": policy}} for policy in ("cifar10", "imagenet", "svhn")],
    {"randaugment": {}},
    {"trivialaugment": {}},
    {"augmix": {}},
]
_SINGLE = [name for name in OpSpec.model_fields if not any(name in policy for policy in _POLICIES)]
# So that every picture in the row shows something.
_SURE: dict[str, dict[str, Any]] = {name: {"p": 1.0} for name in _SINGLE if name not in ("crop", "flip", "vflip")}


def _grid(rows: Sequence[tuple[str, Sequence[Tensor], Sequence[str]]], *, names: bool = True, lines: int = 1) -> Figure:
    """Lay out rows of pictures, each with its name on the left and titles of some lines above the pictures."""
    columns = max(len(pictures) for _, pictures, _ in rows)
    left, title = 1.1 if names else 0.05, 0.05 + 0.11 * lines
    width, height = left + columns * (_INCH + 0.05), len(rows) * (_INCH + title) + 0.05
    figure = Figure(figsize=(width, height), dpi=150)
    all_axes = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(
        left=left / width, right=1, top=1 - title / height, bottom=0.02 / height, wspace=0.05, hspace=title / _INCH
    )
    for axes, (name, pictures, titles) in zip(all_axes, rows, strict=True):
        for place, image, text in zip_longest(axes, pictures, titles):
            place.set_axis_off()
            if image is not None:
                place.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
                place.set_title(text or "", fontsize=6, pad=2)
        axes[0].text(-0.08, 0.5, name, transform=axes[0].transAxes, ha="right", va="center", fontsize=7)
    return figure


def _augmented(job: JobSpec, images: Tensor, operation: dict[str, Any]) -> Tensor:
    """Return `_DRAWS` draws of an operation on the first picture, each as another sample."""
    augment = Augment({"ops": [operation]}, images.shape[-1], 2, seed=job.seed)
    many = images[:1].expand(_DRAWS, -1, -1, -1)
    return augment(many, torch.zeros(_DRAWS, dtype=torch.int64), torch.arange(_DRAWS), epoch=0, step=0)[0]


def _operations(job: JobSpec, images: Tensor, operations: Sequence[dict[str, Any]]) -> Figure:
    rows: list[tuple[str, list[Tensor], list[str]]] = []
    for operation in operations:
        ((name, settings),) = operation.items()
        label = f"{name}\n{settings['policy']}" if "policy" in settings else name
        rows.append((label, [images[0], *_augmented(job, images, operation)], [] if rows else ["as it is"]))
    return _grid(rows)


def _mixup(images: Tensor) -> Figure:
    """Show λ = 0, ¼, ½, ¾, 1 on pairs of pictures."""
    shares = torch.tensor([0, 0.25, 0.5, 0.75, 1])
    rows = []
    for first in range(0, min(6, len(images) - 1), 2):
        pair = images[first : first + 2].float() / 255
        mixed = [mix(pair, torch.eye(2), torch.full((2, 1, 1, 1), float(share)))[0][0] for share in shares]
        rows.append(("Mixup", mixed, [f"λ = {share:g}" for share in shares.tolist()]))
    return _grid(rows)


def _cutmix(images: Tensor) -> Figure:
    """Show boxes for several α, with the λ of each as it was cut."""
    rows = []
    for alpha in (0.2, 1.0, 5.0):
        spec = {"cutmix": {"alpha": alpha}, "mode": "sample"}
        augment = Augment({"preset": "none"}, images.shape[-1], len(images), mix=spec)
        mixed, targets = augment(images, torch.arange(len(images)), torch.arange(len(images)), epoch=0, step=0)
        own = targets.diagonal()[:_DRAWS]
        rows.append((f"CutMix\nα = {alpha:g}", list(mixed[:_DRAWS]), [f"λ = {share:.2f}" for share in own.tolist()]))
    whole = cutmix_weights(
        torch.tensor([0.75, 0.5, 0.25]), torch.full((3,), 0.5), torch.full((3,), 0.5), *images.shape[2:]
    )
    rows.append(("kept", list(whole.expand(-1, 3, -1, -1)), ["λ = 0.75", "λ = 0.5", "λ = 0.25"]))
    return _grid(rows)


def training_batch(job: JobSpec, data: DataSet, epoch: int = 0) -> list[tuple[Tensor, list[tuple[str, float]]]]:
    """Return training pictures as the network gets them, the normalisation taken back.

    Args:
        job: The job.
        data: Its data.
        epoch: Epoch whose draws are used.

    Returns:
        For each of up to 32 pictures (3, S, S) float in 0 to 1, and its two largest targets by class.
    """
    ids = torch.arange(min(_BATCH, len(data.train)))
    images, labels = data.train.pictures(ids), data.train.labels[ids]
    spec = job.augment
    if spec.class_strength == "auto":
        spec = spec.model_copy(update={"class_strength": strengths(data.train.labels, data.classes)})
    augment = Augment(
        spec,
        data.image_size,
        len(data.classes),
        mix=job.mix,
        label_smoothing=job.train.label_smoothing,
        mean=data.mean,
        seed=job.seed,
        classes=data.classes,
    )
    floats, targets = augment(images, labels, ids, epoch=epoch, step=0)
    pictures = (floats + torch.tensor(data.mean).view(3, 1, 1)).clamp(0, 1)
    values, places = targets.topk(min(2, targets.shape[1]))
    return [
        (picture, [(data.classes[k], share) for k, share in zip(*largest, strict=True)])
        for picture, largest in zip(pictures, zip(places.tolist(), values.tolist(), strict=True), strict=True)
    ]


def _batch(batch: Sequence[tuple[Tensor, list[tuple[str, float]]]]) -> Figure:
    """Show a training batch, each picture with its two largest targets."""
    pictures = [picture for picture, _ in batch]
    titles = ["\n".join(f"{name[:14]} {share:.2f}" for name, share in targets) for _, targets in batch]
    width = _DRAWS + 1
    starts = range(0, len(pictures), width)
    rows = [("", pictures[start : start + width], titles[start : start + width]) for start in starts]
    return _grid(rows, names=False, lines=2)


def _labels(job: JobSpec, data: DataSet, labels: Tensor) -> Figure:
    """Show a hard label beside the smoothed one."""
    figure = Figure(figsize=(7, 2.6), dpi=150, layout="constrained")
    smoothing = job.train.label_smoothing
    for axes, (title, epsilon) in zip(
        figure.subplots(1, 2), (("hard", 0.0), (f"smoothed, ε = {smoothing:g}", smoothing)), strict=True
    ):
        axes.bar(range(len(data.classes)), soft_targets(labels[:1], len(data.classes), epsilon)[0].numpy())
        axes.set(title=title, xlabel="class", ylabel="target", ylim=(0, 1.05))
    return figure
