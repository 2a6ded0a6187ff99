"""A trained model in the hand: load a run, classify pictures, evaluate it once more."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from distaug.augment import normalise
from distaug.augment.tta import Averaged
from distaug.data.decode import Pixels
from distaug.data.held_out import open_held_out
from distaug.data.loader import Batch, Loader
from distaug.data.open import Split
from distaug.data.pictures import Picture, classify, look
from distaug.data.shard import eval_batches
from distaug.model import registry
from distaug.spec.job import JobSpec
from distaug.store.rundir import RunDir
from distaug.train.device import gpu_problem, usable_gpus
from distaug.train.evaluate import Counts, evaluate
from distaug.train.precision import Precision
from distaug.train.robustness import STRENGTHS, changed
from distaug.train.world import SoloWorld

__all__ = ["Classifier", "Picture", "load"]


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
    module, card = registry.load(folder.model)
    gpu = job.cluster.gpus_per_worker != 0 and usable_gpus() > 0
    if job.cluster.gpus_per_worker != 0 and (problem := gpu_problem()):
        logging.getLogger("distaug").warning(f"{problem}; the CPU does it, slower")
    # What was trained in fp16 on a GPU: a CPU is fifty times slower at that than at fp32, which loses nothing.
    name = "fp32" if card["precision"] == "fp16" and not gpu and job.cluster.gpus_per_worker else card["precision"]
    precision = Precision(name, torch.device("cuda" if gpu else "cpu"))
    module = module.to(precision.device, precision.weights).eval().requires_grad_(False)
    return Classifier(module, card, job, precision)


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
        return classify(images, top, self.classes, self._view, self._probabilities)

    def evaluate(self) -> dict[str, Any]:
        """Judge the model on the job's test set, or on its validation set if there is no test set.

        Returns:
            `set` (`test` or `val`), top1, top5, macro, per_class (by name; None without pictures), loss,
            samples, tta_top1 (None where the job has no `evaluate.tta`), and for up to 100 classes `confusion`:
            rows are true classes, columns predicted ones.

        Raises:
            DataError: The data set is missing, has other classes, or has neither set.
        """
        models: dict[str, nn.Module] = {"model": self.module}
        if self.job.evaluate.tta:
            models["tta"] = Averaged(self.module, self.job.evaluate.tta)
        name, split, loader = self._open()
        with closing(loader):
            counts = self._judge(models, loader.evaluate(name), len(split))
        tta_top1 = counts["tta"].to_dict()["top1"] if "tta" in counts else None
        return counts["model"].by_name(self.classes) | {"set": name, "tta_top1": tta_top1}

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
        return open_held_out(
            self.job.data,
            final_fit=self.job.train.final_fit,
            run=self.job.name,
            digest=self.card["data_digest"],
            classes=self.classes,
            device=self.precision.device,
            batch=self.job.evaluate.batch,
        )

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

    def _probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.floating]:
        with torch.inference_mode(), self.precision.autocast():
            logits: Tensor = self.module(self.prepare(torch.from_numpy(images).to(self.precision.device)))
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1).cpu().numpy()

    def _view(self, picture: Picture, name: str) -> Pixels:
        geometry, max_pixels = self.card["eval_geometry"], self.job.data.max_pixels
        return look(picture, name, self.image_size, geometry, max_pixels)
