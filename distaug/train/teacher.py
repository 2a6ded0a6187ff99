"""Knowledge distillation: a trained model from which another one learns, beside the labels."""

import torch
from torch import Tensor

from distaug.errors import JobError
from distaug.model import registry
from distaug.spec.job import JobSpec
from distaug.store.model_files import CARD
from distaug.store.place import place
from distaug.store.rundir import RunDir
from distaug.train.precision import Precision

__all__ = ["Teacher"]


class Teacher:
    """A trained model whose answers are learnt beside the labels (Hinton et al. 2015, arXiv:1503.02531).

    It is in evaluation mode, has no gradients, and is no part of the training's state.

    Args:
        job: The resolved job, with `train.distill`.
        classes: K.
        precision: Arithmetic and device of the training.

    Raises:
        JobError: There is no such model or run, or it is for other classes or for pictures of another size.
        StorageError: The run has no model yet, or the model is damaged.
    """

    def __init__(self, job: JobSpec, classes: int, precision: Precision) -> None:
        spec, data = job.train.distill, job.data
        assert spec is not None and data.mean != "auto" and data.std != "auto"
        folder = place(spec.teacher)
        try:
            module, card = registry.load(folder if (folder / CARD).is_file() else RunDir.find(spec.teacher).model)
        except JobError as error:
            raise JobError(f"train.distill.teacher: {error}") from error
        found, needed = (len(card["classes"]), card["image_size"]), (classes, data.image_size)
        if found != needed:
            raise JobError(
                f"train.distill.teacher: {folder} tells {found[0]} classes apart on pictures of {found[1]} pixels, and "
                f"this job has {needed[0]} classes and {needed[1]} pixels; take a teacher that was trained on the same"
            )
        self._module = module.to(precision.device, precision.weights).eval().requires_grad_(False)
        self._weight, self._temperature, self._precision = spec.weight, spec.temperature, precision
        mean, std, own_mean, own_std = (
            torch.tensor(values, dtype=precision.weights, device=precision.device).view(1, 3, 1, 1)
            for values in (data.mean, data.std, card["mean"], card["std"])
        )
        # From this job's normalisation to the one that the teacher was trained with.
        self._scale, self._shift = std / own_std, (mean - own_mean) / own_std

    def blend(self, loss: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """Return (1 - w)·loss + w·T²·KL(softmax(teacher / T) ‖ softmax(student / T)), a mean over the pictures.

        The gradient of the divergence falls with 1 / T², for which T² makes up.

        Args:
            loss: () that of the labels.
            logits: (B, K) of the student.
            images: (B, 3, H, W) what it saw.
        """
        with torch.no_grad(), self._precision.autocast():
            answers = self._module(images * self._scale + self._shift)
        student, teacher = ((z.to(logits.dtype) / self._temperature).log_softmax(1) for z in (logits, answers))
        divergence = torch.nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return (1 - self._weight) * loss + self._weight * self._temperature**2 * divergence
