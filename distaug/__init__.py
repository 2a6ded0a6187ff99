"""One job file takes a data set to a trained image classifier, on one machine or on a Ray cluster.

Importing this loads neither torch nor ray: each public name is fetched when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from distaug.errors import (
    ArtifactError,
    ClusterError,
    DataError,
    DistaugError,
    DivergedError,
    InterruptedRunError,
    JobError,
    StorageError,
    StudyError,
)

if TYPE_CHECKING:
    from distaug.augment import Augment
    from distaug.cluster.fit import run
    from distaug.spec.job import JobSpec
    from distaug.spec.load import load_job
    from distaug.train.predictor import load

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "Augment",
    "ClusterError",
    "DataError",
    "DistaugError",
    "DivergedError",
    "InterruptedRunError",
    "JobError",
    "JobSpec",
    "StorageError",
    "StudyError",
    "__version__",
    "load",
    "load_job",
    "run",
]

_HOMES = {
    "Augment": "distaug.augment",
    "JobSpec": "distaug.spec.job",
    "load": "distaug.train.predictor",
    "load_job": "distaug.spec.load",
    "run": "distaug.cluster.fit",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'distaug' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
