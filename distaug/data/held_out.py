"""The sets that a finished model is judged on."""

import logging
from collections.abc import Sequence

import torch

from distaug.data.loader import Loader, choose_way
from distaug.data.open import DataSet, Split, open_data
from distaug.errors import DataError
from distaug.spec.data import DataSpec

__all__ = ["open_held_out", "reader"]


def open_held_out(
    spec: DataSpec,
    *,
    final_fit: bool,
    run: str,
    digest: str,
    classes: Sequence[str],
    device: torch.device,
    batch: int,
) -> tuple[str, Split, Loader]:
    """Open a job's test set, or its validation set if there is no test set.

    Args:
        spec: The section `data`.
        final_fit: Whether the model was trained on training and validation set together.
        run: Name of the run that trained it.
        digest: Of the data it was trained on; the log warns of another.
        classes: Names of the classes that the model knows.
        device: Where batches are wanted.
        batch: Pictures in a batch.

    Returns:
        `test` or `val`, the set, and what reads it.

    Raises:
        DataError: The data set is missing, has other classes, or has neither set.
    """
    log = logging.getLogger("distaug")
    data = open_data(spec, final_fit=final_fit, log=log.info)
    if list(data.classes) != list(classes):
        raise DataError(
            f"the data has {len(data.classes)} classes and the model of run {run!r} {len(classes)}, or their names "
            "differ: judge it on the data that it was trained on"
        )
    if data.digest != digest:
        log.warning(
            f"the data is not what run {run!r} was trained on (digest {data.digest[:12]}, "
            f"in the run {digest[:12]}): these figures are not those of its result"
        )
    name, split = ("test", data.test) if data.test is not None else ("val", data.val)
    if split is None:
        raise DataError("the data has neither a test nor a validation set; give one or `data.test_fraction`")
    return name, split, reader(data, spec, device=device, batch=batch)


def reader(data: DataSet, spec: DataSpec, *, device: torch.device, batch: int) -> Loader:
    """Return what reads an opened data set for evaluation alone.

    Args:
        data: The data set.
        spec: The section `data`.
        device: Where batches are wanted.
        batch: Pictures in a batch.
    """
    spec = spec.model_copy(update={"batches": "auto"})
    return Loader(
        data,
        device=device,
        seed=0,  # this and the steps' size are for training alone
        global_batch=1,
        shards=1,
        own=range(1),
        spec=spec,
        way=choose_way(data, spec, device),
        eval_batch=batch,
    )
