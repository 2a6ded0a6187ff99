"""What the driver holds for a whole run."""

import signal
import threading
from pathlib import Path

import pytest

from distaug.cluster.session import Connection, Session
from distaug.errors import InterruptedRunError
from distaug.spec.job import JobSpec
from distaug.store.rundir import RunDir
from distaug.telemetry.screen import Screen
from tests.train.jobs import small_job


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_no_handler_of_errors_swallows_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    """Exporters try one way after another, and take whatever goes wrong in one for a reason to try the next."""
    assert threading.current_thread() is threading.main_thread()
    job = JobSpec.model_validate(small_job(tmp_path, metrics={"port": None}))
    session = Session(job, RunDir(tmp_path, "small"), Screen("small", show=False), Connection())
    with pytest.raises(InterruptedRunError, match="between two trainings"), session:
        try:
            signal.raise_signal(number)
        except Exception:
            pass
        pytest.fail("it went on")
