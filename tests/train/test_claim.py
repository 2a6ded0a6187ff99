"""A run that goes on: what of its job may change, and does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distaug.errors import InterruptedRunError, JobError
from distaug.spec.job import JobSpec
from distaug.store.rundir import RunDir
from distaug.train import precision
from distaug.train.claim import claim
from distaug.train.world import SoloWorld
from tests.train.jobs import run_job, small_job, train_as_asked

Run = Callable[..., list[Any]]


def test_metrics_and_folders_are_those_asked_for_now(tmp_path: Path) -> None:
    job = small_job(tmp_path, data={"per_class": 12}, train={"epochs": 1})
    run_job(SoloWorld(), job)
    _, claimed, result = claim(JobSpec.model_validate(job | {"metrics": {"port": None, "tensorboard": True}}))
    assert result is not None and claimed.metrics.port is None and claimed.metrics.tensorboard


@pytest.mark.parametrize("sizes", [(4, 2), (1, 2)], ids=["shrinks", "grows"])
def test_a_second_group_of_another_size_trains_what_the_first_began(
    ranks: Run, tmp_path: Path, sizes: tuple[int, int]
) -> None:
    """Each gets the job as it was before the first start, with `shards: auto`: 4 shards for good, or 1."""
    open_job = small_job(tmp_path, train={"shards": "auto"}, cluster={"workers": "auto", "cpus_per_worker": "auto"})
    first, second = sizes
    stopped = ranks(first, train_as_asked, open_job, 3)[0]
    assert isinstance(stopped["error"], InterruptedRunError)
    stored = RunDir(tmp_path, "small").load_job()
    assert stored.train.shards == first
    ended = ranks(second, train_as_asked, open_job)[0]
    if second > first:
        assert "2 workers have only 1 shards" in str(ended["error"])
        return
    whole = run_job(SoloWorld(), small_job(tmp_path / "whole", train={"shards": first}))["result"]
    assert ended["result"].weights_digest == whole.weights_digest


def test_what_was_decided_stays_when_it_would_be_decided_otherwise_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_job = small_job(tmp_path, precision="auto", cluster={"gpus_per_worker": "auto"})
    monkeypatch.setattr(precision, "does_bf16_well", lambda device: False)
    train_as_asked(SoloWorld(), open_job, 3)
    stored = RunDir(tmp_path, "small").load_job()
    assert (stored.precision, stored.cluster.gpus_per_worker) == ("fp32", 0)
    monkeypatch.setattr(precision, "does_bf16_well", lambda device: True)
    result = train_as_asked(SoloWorld(), open_job)["result"]
    whole = run_job(SoloWorld(), small_job(tmp_path / "whole", precision="fp32"))["result"]
    assert result.weights_digest == whole.weights_digest


def test_a_group_with_another_job_is_refused_with_the_fields(tmp_path: Path) -> None:
    train_as_asked(SoloWorld(), small_job(tmp_path), 3)
    error = train_as_asked(SoloWorld(), small_job(tmp_path, train={"shards": 2}))["error"]
    assert isinstance(error, JobError) and "train.shards: 4 in the run, 2 now" in str(error)


def test_the_kind_of_device_stays_unless_another_is_asked_for(tmp_path: Path) -> None:
    job = small_job(tmp_path, data={"per_class": 12}, train={"epochs": 1}, cluster={"gpus_per_worker": "auto"})
    run_job(SoloWorld(), job)
    assert claim(JobSpec.model_validate(job))[1].cluster.gpus_per_worker == 0
    asks = job | {"cluster": {"gpus_per_worker": 1}}
    assert claim(JobSpec.model_validate(asks))[1].cluster.gpus_per_worker == 1
    run = RunDir(tmp_path, "small")
    run.job_file.write_text(run.job_file.read_text().replace("gpus_per_worker: 0", "gpus_per_worker: auto"))
    assert claim(JobSpec.model_validate(job))[1].cluster.gpus_per_worker == "auto", "as in runs of older versions"
