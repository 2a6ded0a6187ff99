"""A run that goes on: what of its job may change, and does."""

from pathlib import Path

from distaug.spec.job import JobSpec
from distaug.train.claim import claim
from distaug.train.world import SoloWorld
from tests.train.jobs import run_job, small_job


def test_metrics_and_folders_are_those_asked_for_now(tmp_path: Path) -> None:
    job = small_job(tmp_path, data={"per_class": 12}, train={"epochs": 1})
    run_job(SoloWorld(), job)
    _, claimed, result = claim(JobSpec.model_validate(job | {"metrics": {"port": None, "tensorboard": True}}))
    assert result is not None and claimed.metrics.port is None and claimed.metrics.tensorboard
