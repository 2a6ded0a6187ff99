"""The job: all sections together, and what makes two jobs the same."""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from distaug.spec.augment import AugmentSpec, MixSpec
from distaug.spec.cluster import ClusterSpec
from distaug.spec.compress import CompressSpec
from distaug.spec.data import DataSpec
from distaug.spec.metrics import MetricsSpec
from distaug.spec.model import ModelSpec
from distaug.spec.section import Section
from distaug.spec.train import (
    CheckpointSpec,
    EvaluateSpec,
    StopSpec,
    TrainSpec,
)

FORMAT = 1
NOT_PART_OF_THE_TRAINING = ("format", "name", "runs_dir", "compress", "metrics", "cluster")


class JobSpec(Section):
    """A whole job file."""

    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT
    """Version of the job file's format."""
    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the run and of its folder: letters, digits, dot, underscore and hyphen."""
    runs_dir: str = Field(default="runs", min_length=1)
    """Folder of all runs: a path, or a URL of an object store, `s3://bucket/folder` or `gs://bucket/folder`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Every random number of the training is a function of this."""
    data: DataSpec
    """Where the pictures come from."""
    augment: AugmentSpec = AugmentSpec()
    """What is done to each training picture."""
    mix: MixSpec = MixSpec()
    """Mixing of pairs of training pictures."""
    model: ModelSpec
    """The network."""
    train: TrainSpec = TrainSpec()
    """How it is trained."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "fp64"] = "auto"
    """Arithmetic of the forward pass; `auto`: bf16 where the device does it well, else fp16 on a GPU, fp32 on a CPU."""
    stop: StopSpec = StopSpec()
    """When the training ends early."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """When the state is saved."""
    evaluate: EvaluateSpec = EvaluateSpec()
    """How validation and test sets are read."""
    compress: CompressSpec | None = None
    """What is done to the trained model; null: nothing."""
    metrics: MetricsSpec = MetricsSpec()
    """Where its metrics can be read while it runs."""
    cluster: ClusterSpec = ClusterSpec()
    """What the job asks of the machines."""


def to_dict(job: JobSpec) -> dict[str, Any]:
    """Return the job as plain values, defaults included, ready for YAML or JSON."""
    return job.model_dump(mode="json")


def digest(job: JobSpec, *, as_written: bool = False) -> str:
    """Return the sha256 of whatever changes the training: not the name, the folder or the cluster.

    Args:
        job: The job.
        as_written: Of the fields alone that its file sets. The job.yaml of a run spells out all that there were when it
            was written, so that neither a field which came later nor another default makes it another job.
    """
    values = job.model_dump(mode="json", exclude_unset=as_written)
    part = {k: v for k, v in values.items() if k not in NOT_PART_OF_THE_TRAINING}
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) for everything in a job's dictionary that is not a mapping."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def differing(jobs: Sequence[JobSpec], without: Collection[str] = ()) -> list[tuple[str, Sequence[Any]]]:
    """Return (path, value in each job) of everything that is not the same in all; a section that one lacks, whole.

    Args:
        jobs: The jobs.
        without: Fields and sections that are left out.
    """
    return list(_apart([{k: v for k, v in to_dict(job).items() if k not in without} for job in jobs], ""))


def _apart(values: Sequence[Any], path: str) -> Iterator[tuple[str, Sequence[Any]]]:
    if all(isinstance(value, dict) for value in values):
        for key in dict.fromkeys(key for value in values for key in value):
            yield from _apart([value.get(key) for value in values], f"{path}.{key}" if path else key)
    elif any(value != values[0] for value in values):
        yield path, values


def differences(asked: JobSpec, stored: JobSpec) -> list[tuple[str, Any, Any]]:
    """Return (path, asked, stored) for each field that changes the training and differs.

    A field that `asked` leaves to `auto` takes whatever was decided for the stored job.
    """
    both = differing([asked, stored], NOT_PART_OF_THE_TRAINING)
    return [(path, ours, theirs) for path, (ours, theirs) in both if ours != "auto"]
