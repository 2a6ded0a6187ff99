"""The errors a user can meet, and the exit code each one ends the command with.

DistaugError                1  something inside distaug is wrong
├── JobError                2  the job file or the arguments are wrong
├── DataError               3  the data set is missing, damaged or does not fit the job
├── DivergedError           4  the training produced a loss or gradient that is not finite
├── ClusterError            5  a worker, a device or the cluster was lost or never came
│   └── RankError           5  one rank met it alone; the others only see that rank leave
├── ArtifactError           6  a compressed artifact was refused by its gate
├── StorageError            7  the run folder is full, unwritable or holds no valid checkpoint
├── StudyError              8  some runs of a study failed; the others are done
└── InterruptedRunError   130  a signal asked to stop; the state was saved before leaving

A message says what was found (with the number), what is allowed, and what to do.
This module imports nothing, so every layer can raise these.
"""

__all__ = [
    "ArtifactError",
    "ClusterError",
    "DataError",
    "DistaugError",
    "DivergedError",
    "InterruptedRunError",
    "JobError",
    "RankError",
    "StorageError",
    "StudyError",
]


class DistaugError(Exception):
    """Root of all errors that distaug raises on purpose."""

    exit_code = 1


class JobError(DistaugError):
    """The job file or the command's arguments are wrong: an unknown key, a value out of range."""

    exit_code = 2


class DataError(DistaugError):
    """The data set is missing, damaged, or does not fit the job: a class without pictures."""

    exit_code = 3


class DivergedError(DistaugError):
    """The training diverged: the reduced gradient was not finite on any rank."""

    exit_code = 4


class ClusterError(DistaugError):
    """A worker, a device or the whole cluster was lost, or was never there."""

    exit_code = 5


class RankError(ClusterError):
    """What one rank met alone, like a full memory; every other error is the same on all ranks."""


class ArtifactError(DistaugError):
    """An exported file was refused: too large, too slow, or too inaccurate for its gate."""

    exit_code = 6


class StorageError(DistaugError):
    """The run folder cannot be used: disk full, not writable, no valid checkpoint in it."""

    exit_code = 7


class StudyError(DistaugError):
    """Some runs of a study failed; the others are done, and the message names those."""

    exit_code = 8


class InterruptedRunError(DistaugError):
    """SIGINT or SIGTERM arrived; a checkpoint was written and the run can be resumed."""

    exit_code = 130
