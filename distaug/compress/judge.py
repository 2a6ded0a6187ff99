"""An exported file judged as its network was: on the same pictures, with the same counts."""

from collections.abc import Iterable
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from distaug.compress.artifact import Artifact
from distaug.data.held_out import open_held_out
from distaug.data.loader import Batch
from distaug.spec.data import DataSpec
from distaug.train import evaluate as evaluation
from distaug.train.evaluate import Counts
from distaug.train.world import SoloWorld

__all__ = ["evaluate", "judge"]

_BATCH = 256


def judge(artifact: Artifact, batches: Iterable[tuple[int, Batch]]) -> tuple[Counts, npt.NDArray[np.float32]]:
    """Judge a file on a whole set.

    Args:
        artifact: The file.
        batches: All (index, batch) pairs of the set, in order.

    Returns:
        Its counts, and its logits (N, K) in the order of the set.
    """
    # The logits take the place of the pictures, so that they are counted by the code that counts a network's.
    answers = [
        (index, replace(batch, images=torch.from_numpy(artifact.logits(batch.images.numpy()))))
        for index, batch in batches
    ]
    counts = evaluation.evaluate(
        {"file": nn.Identity()},
        answers,
        classes=len(artifact.classes),
        total_batches=len(answers),
        prepare=nn.Identity(),
        autocast=nullcontext,
        world=SoloWorld(),
        device=torch.device("cpu"),
    )
    return counts["file"], np.concatenate([batch.images.numpy() for _, batch in answers])


def evaluate(artifact: Artifact) -> dict[str, Any]:
    """Judge a file on the test set of its job, or on the validation set if there is no test set.

    Returns:
        What `Classifier.evaluate` returns; tta_top1 is None.

    Raises:
        DataError: The data set is missing, has other classes, or has neither set.
    """
    told = artifact.metadata
    name, _, loader = open_held_out(
        DataSpec.model_validate(told["job_data"]),
        final_fit=told["final_fit"],
        run=told["job"],
        digest=told["data_digest"],
        classes=artifact.classes,
        device=torch.device("cpu"),
        batch=_BATCH,
    )
    with closing(loader):
        counts, _ = judge(artifact, loader.evaluate(name))
    return counts.by_name(artifact.classes) | {"set": name, "tta_top1": None}
