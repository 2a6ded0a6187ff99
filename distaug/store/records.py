"""What a run reports: one EpochRecord a line in history.jsonl, and the Result in result.json.

A number that is not finite is written as null, which every reader of JSON understands, and read back as NaN
where the field cannot be None.
"""

import json
import math
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal, Self

from distaug.errors import StorageError
from distaug.store import lines
from distaug.store.place import Place
from distaug.store.whole import write_whole

__all__ = ["EpochRecord", "Result", "append", "finite", "read", "truncate"]

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One finished epoch, summed over all ranks; accuracies are in 0 to 1."""

    epoch: int
    """From 0."""
    steps: int
    """Steps of the epoch."""
    images: int
    """Training pictures seen in it, over all ranks."""
    seconds: float
    """Wall time of the training steps."""
    eval_seconds: float
    """Wall time of the validation."""
    data_wait_seconds: float
    """Part of `seconds` in which the slowest rank waited for its batches."""
    images_per_second: float
    """images / seconds."""
    lr: float
    """Learning rate of the last step."""
    train_loss: float
    """Mean over the training pictures, with soft targets and the weights of their classes."""
    train_top1: float
    """Share of training pictures that were right, weighted by the mixing ratio where they were mixed."""
    train_top1_mixed: bool
    """Whether pictures were mixed, so that `train_top1` is a weighted count."""
    val_loss: float | None = None
    """Plain cross-entropy on the validation set; None, like those below, without one."""
    top1: float | None = None
    """Validation accuracy of the model (the average weights where there are any)."""
    raw_top1: float | None = None
    """Validation accuracy of the raw weights."""
    top5: float | None = None
    """Share of validation pictures whose class is among the first five."""
    macro: float | None = None
    """Mean of the accuracies per class."""
    per_class: list[float | None] | None = None
    """Accuracy of each class; None for a class without validation pictures."""
    skipped_steps: int = 0
    """Steps whose update the scaler of fp16 withheld."""
    peak_memory_bytes: int | None = None
    """Most memory held by any rank so far: of the GPU in tensors, without one all that was resident; 0: unknown."""
    world_size: int = 1
    """Number of ranks."""
    finished_at: str = ""
    """UTC, ISO 8601."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return _to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], place: str = "a record") -> Self:
        """Return the record that `to_dict` described.

        Raises:
            StorageError: It has a newer format, or a field is missing; the message begins with `place`.
        """
        return cls(**_arguments(cls, values, place))


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended, and every number that may be quoted for it; None where unknown."""

    name: str
    """Name of the run."""
    state: Literal["finished", "stopped", "failed", "interrupted"]
    """`stopped`: before its last epoch, by its own `stop` section."""
    reason: str
    """Why it ended, in words."""
    best: dict[str, Any] | None = None
    """epoch, top1, loss, metric: of the chosen epoch, on the validation set."""
    test: dict[str, Any] | None = None
    """The figures to quote as accuracy: top1, top5, macro, loss, raw_top1, ema_top1, tta_top1, per_class, samples, ece,
    and for up to 100 classes confusion."""
    val: dict[str, Any] | None = None
    """The chosen model on the validation set."""
    train: dict[str, Any] | None = None
    """The chosen model on training pictures as they are, not augmented: top1, macro, loss, samples. They are as many as
    the validation set has, or all; what it is ahead there is what it has learnt by heart."""
    final: dict[str, Any] | None = None
    """epoch, train_loss, ... of the last epoch."""
    epochs: int | None = None
    """Epochs that were trained."""
    images_per_second: float | None = None
    """Training pictures over wall time, all ranks together."""
    seconds: float | None = None
    """Wall time of the whole run, over all restarts."""
    world_size: int | None = None
    """Number of ranks at the end."""
    shards: int | None = None
    """Parts of a global batch."""
    restarts: int | None = None
    """How often the workers were started again."""
    device_seconds: float | None = None
    """Seconds times ranks, over all restarts."""
    goodput: float | None = None
    """Share of the time that went into steps which were not lost, in 0 to 1."""
    classes: list[str] | None = None
    """Names of the classes."""
    data: dict[str, Any] | None = None
    """Summary of the data set."""
    weights_digest: str | None = None
    """sha256 over the model's weights."""
    versions: dict[str, str] | None = None
    """Of distaug, torch, python."""
    machine: dict[str, Any] | None = None
    """CPU model, cores, names of the GPUs."""
    synthetic: bool = False
    """The pictures are made up: accuracies mean nothing."""
    artifacts: list[dict[str, Any]] | None = None
    """Compressed files."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return _to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], place: str = "a result") -> Self:
        """Return the result that `to_dict` described.

        Raises:
            StorageError: It has a newer format, or a field is missing; the message begins with `place`.
        """
        return cls(**_arguments(cls, values, place))

    def write(self, path: Place) -> None:
        """Write result.json, whole or absent.

        Raises:
            StorageError: It cannot be written.
        """
        write_whole(path, (json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n").encode())

    @classmethod
    def read(cls, path: Place) -> Self:
        """Read result.json.

        Raises:
            StorageError: It is missing, damaged, or of a newer format.
        """
        try:
            values = json.loads(path.read_bytes())
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}; a run has this file once it ended") from error
        except ValueError as error:
            raise StorageError(f"{path} is not JSON ({error}); resume the run to write it again") from error
        return cls.from_dict(values, str(path))


def append(path: Place, record: EpochRecord) -> None:
    """Add a line to history.jsonl; a line torn by an earlier kill is cut off first.

    Raises:
        StorageError: It cannot be written; the lines before stay as they are.
    """
    lines.append(path, _line(record))


def read(path: Place) -> list[EpochRecord]:
    """Return the records of history.jsonl, none if there is no file; a torn last line is left out.

    Raises:
        StorageError: A line is damaged or of a newer format; the message has its number.
    """
    records = []
    for number, line in enumerate(lines.read(path), start=1):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise StorageError(
                f"{path}, line {number} is not JSON ({error}); mend or remove the line, then resume the run"
            ) from error
        records.append(EpochRecord.from_dict(values, f"{path}, line {number}"))
    return records


def truncate(path: Place, epochs: int) -> None:
    """Keep the records of the epochs before `epochs`; the file is replaced whole.

    Raises:
        StorageError: It cannot be read or written.
    """
    kept = [record for record in read(path) if record.epoch < epochs]
    if path.exists():
        write_whole(path, b"".join(map(_line, kept)))


def _line(record: EpochRecord) -> bytes:
    return (json.dumps(record.to_dict(), allow_nan=False) + "\n").encode()


def finite(value: Any) -> Any:
    """Return JSON values with None in place of numbers that are not finite."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def _to_dict(record: EpochRecord | Result) -> dict[str, Any]:
    values = finite(asdict(record))
    assert isinstance(values, dict)
    return {"format": FORMAT} | values


def _arguments(kind: type, values: Any, place: str) -> dict[str, Any]:
    """Return the fields of a record; keys that this version does not know are left out."""
    if not isinstance(values, Mapping) or not isinstance(values.get("format"), int):
        raise StorageError(f"{place} has no format number; this version reads formats up to {FORMAT}")
    if values["format"] > FORMAT:
        raise StorageError(
            f"{place} has format {values['format']}; this version of distaug reads formats up to {FORMAT}: "
            "use the version that wrote it, or a newer one"
        )
    hints = typing.get_type_hints(kind)
    found = {}
    for field in fields(kind):
        if field.name in values:
            value = values[field.name]
            found[field.name] = math.nan if value is None and hints[field.name] is float else value
        elif field.default is MISSING:
            raise StorageError(f"{place} lacks the field {field.name!r}; restore the file or resume the run")
    return found
