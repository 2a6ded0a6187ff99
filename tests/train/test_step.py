"""The step between ranks: its bits with every random part on, and the collectives it makes."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distaug.spec.job import JobSpec
from distaug.train.claim import claim
from distaug.train.reporter import LocalReporter
from distaug.train.setup import setup
from distaug.train.step import train_step
from distaug.train.world import SoloWorld, World
from tests.train.jobs import run_job, small_job

Run = Callable[..., list[Any]]


def test_twenty_steps_of_a_resnet_have_the_same_bits_in_any_world(ranks: Run, tmp_path: Path) -> None:
    """BatchNorm, Mixup and CutMix, crops, and stochastic depth, which draws from torch's own generator."""
    changes: dict[str, Any] = {
        "data": {"per_class": 32, "image_size": 16, "val_fraction": 0.01},
        "mix": {"switch_probability": 0.5},
        "model": {"name": "resnet18", "stochastic_depth": 0.3, "options": {}},
        "train": {"epochs": 1, "global_batch": 16},
    }
    one = run_job(SoloWorld(), small_job(tmp_path / "one", **changes))
    assert one["steps"] == 20
    for size in (2, 4):
        many = ranks(size, run_job, small_job(tmp_path / str(size), **changes))
        assert {rank["result"].weights_digest for rank in many} == {one["result"].weights_digest}
    other = {**changes, "model": {**changes["model"], "stochastic_depth": 0.0}}
    assert run_job(SoloWorld(), small_job(tmp_path / "flat", **other))["result"].weights_digest != (
        one["result"].weights_digest
    ), "stochastic depth was not on"


def collectives_of_three_steps(world: World, job: dict[str, Any]) -> dict[str, int]:
    """Count what the process group is asked to do in steps that neither look for a stop nor end an epoch."""
    run, claimed, _ = claim(JobSpec.model_validate(job))
    t = setup(claimed, run, world, LocalReporter())
    t.tally.start(None, world)
    t.model.train()
    batches = t.loader.train(0)
    train_step(t, 0, 0, next(batches))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for step in (1, 2, 3):
            train_step(t, 0, step, next(batches))
    t.close()
    return Counter(event.name for event in profile.events() if event.name.startswith("c10d::"))


@pytest.mark.parametrize(
    ("exact", "expected"),
    [
        (False, {"c10d::allreduce_": 6}),
        (True, {"c10d::alltoall_base_": 6, "c10d::_allgather_base_": 6}),
    ],
)
def test_a_step_exchanges_gradients_and_statistics_and_nothing_else(
    ranks: Run, tmp_path: Path, exact: bool, expected: dict[str, int]
) -> None:
    """One sum of the gradients (one bucket here) and one small sum of BatchNorm's statistics in each step."""
    for found in ranks(2, collectives_of_three_steps, small_job(tmp_path, train={"exact": exact})):
        assert found == expected
