"""A trained model in the hand: load a run, classify pictures, evaluate it once more."""

import io
import logging
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from distaug.augment import normalise
from distaug.augment.tta import Averaged
from distaug.data import decode
from distaug.data.loader import Batch, Loader, choose_way
from distaug.data.open import Split, open_data
from distaug.data.shard import eval_batches, own_shards
from distaug.errors import DataError, StorageError
from distaug.model.sources import make
from distaug.spec.job import JobSpec
from distaug.spec.model import ModelSpec
from distaug.store.model_files import read_model
from distaug.store.rundir import RunDir
from distaug.train.evaluate import Counts, evaluate
from distaug.train.precision import Precision
from distaug.train.robustness import STRENGTHS, changed
from distaug.train.world import SoloWorld

__all__ = ["Classifier", "Picture", "load"]

Picture = str | Path | bytes | Image.Image | decode.Pixels
"""A file, an encoded picture, an opened one, or (H, W) or (H, W, 3) uint8 pixels."""

_BATCH = 64
_LARGEST_CONFUSION = 100
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")


def load(run: str | Path) -> "Classifier":
    """Load the model of a finished run.

    Args:
        run: A run folder's path, or the name of a run below `runs`.

    Returns:
        The classifier, on a GPU if the job allows one and there is one.

    Raises:
        JobError: There is no such run.
        StorageError: It has no model yet, or the model is damaged or of a newer format.
    """
    folder = RunDir.find(run)
    job = folder.load_job()
    weights, card = read_model(folder.model)
    module = _network(card)
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise StorageError(
            f"the weights in {folder.model} do not fit the model {card['model']['name']!r} as it is now: "
            f"{error}; use the code it was trained with"
        ) from error
    gpu = torch.cuda.is_available() and job.cluster.gpus_per_worker != 0
    precision = Precision(card["precision"], torch.device("cuda" if gpu else "cpu"))
    module = module.to(precision.device, precision.weights).eval().requires_grad_(False)
    return Classifier(module, card, job, precision)


def _network(card: dict[str, Any]) -> nn.Module:
    """Make the network as it was trained, without the weights it started from: their file may be gone."""
    section = dict(card["model"])
    if section["name"].startswith("timm/"):
        section["options"] = {k: v for k, v in section["options"].items() if k != "pretrained"}
    spec = ModelSpec.model_validate(section)
    with torch.random.fork_rng(devices=[]):  # for the weights it gets, which are replaced at once
        module = make(spec, len(card["classes"]), card["image_size"])
    if spec.channels_last:
        module.to(memory_format=torch.channels_last)
    return module


@dataclass(frozen=True)
class Classifier:
    """A trained model with all that is needed to use it."""

    module: nn.Module
    """The network, in evaluation mode: normalised pictures (B, 3, H, W) to logits (B, K)."""
    card: dict[str, Any]
    """Content of model.json."""
    job: JobSpec
    """The job it was trained by."""
    precision: Precision
    """Its arithmetic and device."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.card["classes"])

    @property
    def image_size(self) -> int:
        """Height and width in pixels of what the module takes."""
        return int(self.card["image_size"])

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel, in units of the [0, 1] range."""
        return tuple(self.card["mean"])

    @property
    def std(self) -> tuple[float, ...]:
        """Deviation per channel, in units of the [0, 1] range."""
        return tuple(self.card["std"])

    def prepare(self, images: Tensor) -> Tensor:
        """Turn (B, 3, H, W) uint8 pictures of the model's size into what the module takes."""
        layout = torch.channels_last if self.card["channels_last"] else torch.contiguous_format
        return normalise(images, self.mean, self.std, self.precision.activations, layout)

    def predict(self, images: Picture | Sequence[Picture], top: int = 5) -> list[dict[str, Any]]:
        """Classify pictures of any size, prepared as for the evaluation.

        Args:
            images: Pictures; a single one stands for a list of one.
            top: Number of classes to name for each.

        Returns:
            For each picture `{"image": name, "predictions": [{"class": …, "probability": …}, …]}`, the
            likeliest first; a picture that is not a file is named by its place in the list.

        Raises:
            DataError: A picture cannot be read; the message names it.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, found {top}")
        single = isinstance(images, str | Path | bytes | Image.Image)
        single = single or (isinstance(images, np.ndarray) and images.ndim < 4)
        pictures: Sequence[Any] = [images] if single else images  # type: ignore[assignment]
        results = []
        for start in range(0, len(pictures), _BATCH):
            batch = pictures[start : start + _BATCH]
            names = [
                str(picture) if isinstance(picture, str | Path) else f"image {number}"
                for number, picture in enumerate(batch, start)
            ]
            views = [self._view(picture, name) for picture, name in zip(batch, names, strict=True)]
            shares, places = self._probabilities(np.stack(views)).topk(min(top, len(self.classes)), dim=1)
            results += [
                {
                    "image": name,
                    "predictions": [{"class": self.classes[k], "probability": p} for k, p in zip(ks, ps, strict=True)],
                }
                for name, ks, ps in zip(names, places.tolist(), shares.tolist(), strict=True)
            ]
        return results

    def evaluate(self) -> dict[str, Any]:
        """Judge the model on the job's test set, or on its validation set if there is no test set.

        Returns:
            `set` (`test` or `val`), top1, top5, macro, per_class (by name; None without pictures), loss,
            samples, tta_top1 (None where the job has no `evaluate.tta`), and for up to 100 classes `confusion`:
            rows are true classes, columns predicted ones.

        Raises:
            DataError: The data set is missing, or has neither set.
        """
        models: dict[str, nn.Module] = {"model": self.module}
        if self.job.evaluate.tta:
            models["tta"] = Averaged(self.module, self.job.evaluate.tta)
        name, split, loader = self._open()
        with closing(loader):
            counts = self._judge(models, loader.evaluate(name), len(split))
        numbers = counts["model"].to_dict() | {"set": name}
        numbers["tta_top1"] = counts["tta"].to_dict()["top1"] if "tta" in counts else None
        numbers["per_class"] = dict(zip(self.classes, counts["model"].per_class, strict=True))
        if len(self.classes) <= _LARGEST_CONFUSION:
            numbers["confusion"] = counts["model"].confusion.tolist()
        return numbers

    def robustness(self) -> dict[str, Any]:
        """Judge the model on the same set with its pictures changed, ever more strongly.

        Returns:
            `set`, samples, top1 on the pictures as they are, and `changes`: for each of `STRENGTHS` its `strengths`,
            the top1 on each of them, and their `mean`.

        Raises:
            DataError: As for `evaluate`.
        """
        name, split, loader = self._open()

        def top1(batches: Iterable[tuple[int, Batch]]) -> float:
            return float(self._judge({"model": self.module}, batches, len(split))["model"].to_dict()["top1"])

        def changes(change: str, strength: float) -> Iterable[tuple[int, Batch]]:
            return ((number, changed(batch, change, strength)) for number, batch in loader.evaluate(name))

        with closing(loader):
            plain = top1(loader.evaluate(name))
            found = {change: [top1(changes(change, s)) for s in strengths] for change, strengths in STRENGTHS.items()}
        rows = {
            change: {"strengths": list(STRENGTHS[change]), "top1": shares, "mean": sum(shares) / len(shares)}
            for change, shares in found.items()
        }
        return {"set": name, "samples": len(split), "top1": plain, "changes": rows}

    def _open(self) -> tuple[str, Split, Loader]:
        """Open the set to judge on; return its name, the set and what reads it."""
        job, device, log = self.job, self.precision.device, logging.getLogger("distaug")
        data = open_data(job.data, final_fit=job.train.final_fit, log=log.info)
        if data.digest != self.card["data_digest"]:
            log.warning(
                f"the data is not what run {job.name!r} was trained on (digest {data.digest[:12]}, "
                f"in the run {self.card['data_digest'][:12]}): these figures are not those of its result"
            )
        name, split = ("test", data.test) if data.test is not None else ("val", data.val)
        if split is None:
            raise DataError("the data has neither a test nor a validation set; give one or `data.test_fraction`")
        shards = 1 if job.train.shards == "auto" else job.train.shards
        spec = job.data.model_copy(update={"batches": "auto"})
        loader = Loader(
            data,
            device=device,
            seed=job.seed,
            global_batch=job.train.global_batch,
            shards=shards,
            own=own_shards(0, 1, shards),
            spec=spec,
            way=choose_way(data, spec, device),
            eval_batch=job.evaluate.batch,
        )
        return name, split, loader

    def _judge(
        self, models: dict[str, nn.Module], batches: Iterable[tuple[int, Batch]], samples: int
    ) -> dict[str, Counts]:
        return evaluate(
            models,
            batches,
            classes=len(self.classes),
            total_batches=len(eval_batches(samples, self.job.evaluate.batch, 0, 1)),
            prepare=self.prepare,
            autocast=self.precision.autocast,
            world=SoloWorld(),
            device=self.precision.device,
        )

    def _probabilities(self, views: decode.Pixels) -> Tensor:
        images = torch.from_numpy(views).permute(0, 3, 1, 2).to(self.precision.device)
        with torch.inference_mode(), self.precision.autocast():
            logits: Tensor = self.module(self.prepare(images))
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1).cpu()

    def _view(self, picture: Picture, name: str) -> decode.Pixels:
        """Return what the evaluation would show of the picture: (size, size, 3)."""
        try:
            pixels = decode.load(_reference(picture), self.job.data.max_pixels)
        except decode.DamagedPicture as error:
            raise DataError(f"{name} cannot be classified: {error}") from error
        share = 1.0 if self.card["eval_geometry"] == "resize" else decode.EVAL_SHARE
        return decode.eval_view(pixels, self.image_size, share)


def _reference(picture: Picture) -> Path | bytes | decode.Pixels:
    """Return a picture as `decode.load` takes it, so that it goes the way of the data set's pictures."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,)):
            raise decode.DamagedPicture(
                f"its pixels are {picture.dtype} {picture.shape}; allowed are uint8 (H, W) and (H, W, 3)"
            )
        return picture
    if isinstance(picture, Image.Image):
        return _encoded(picture)
    return picture if isinstance(picture, bytes) else Path(picture)


def _encoded(picture: Image.Image) -> bytes:
    """Write an opened picture to memory without loss, as a file of its kind would have been."""
    file = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(picture)
        many_bits = upright.mode[0] in "IF"  # a PNG would cut them off
        if not many_bits and upright.mode not in _PNG_MODES:
            upright = upright.convert("RGB")
        upright.save(file, "TIFF" if many_bits else "PNG")
    except (OSError, SyntaxError, ValueError) as error:
        raise decode.DamagedPicture(f"{type(error).__name__}: {error}") from error
    return file.getvalue()
