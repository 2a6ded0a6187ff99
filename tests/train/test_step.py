"""The step between ranks: its bits with every random part on, and the collectives it makes."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distaug.errors import InterruptedRunError
from distaug.model.registry import build
from distaug.spec.job import JobSpec
from distaug.store import checkpoint
from distaug.train.claim import claim
from distaug.train.reporter import LocalReporter
from distaug.train.setup import setup, unfreeze
from distaug.train.step import _update, train_step
from distaug.train.world import SoloWorld, World
from tests.train.jobs import run_job, small_job

Run = Callable[..., list[Any]]


def test_ten_steps_of_a_resnet_have_the_same_bits_in_any_world(ranks: Run, tmp_path: Path) -> None:
    """BatchNorm, Mixup and CutMix, crops, and stochastic depth, which draws from torch's own generator."""
    changes: dict[str, Any] = {
        "data": {"per_class": 16, "image_size": 8, "val_fraction": 0.01},
        "mix": {"switch_probability": 0.5},
        "model": {"name": "resnet18", "stochastic_depth": 0.3, "options": {}},
        "train": {"epochs": 1, "global_batch": 16},
    }
    one = run_job(SoloWorld(), small_job(tmp_path / "one", **changes))
    assert one["steps"] == 10
    for size in (2, 4):
        many = ranks(size, run_job, small_job(tmp_path / str(size), **changes))
        assert {rank["result"].weights_digest for rank in many} == {one["result"].weights_digest}
    other = {**changes, "model": {**changes["model"], "stochastic_depth": 0.0}}
    assert run_job(SoloWorld(), small_job(tmp_path / "flat", **other))["result"].weights_digest != (
        one["result"].weights_digest
    ), "stochastic depth was not on"


def test_the_weighted_loss_is_divided_by_the_number_of_pictures(tmp_path: Path) -> None:
    job = small_job(tmp_path, data={"long_tail_ratio": 5.0}, train={"class_weights": "inverse_frequency"})
    run, claimed, _ = claim(JobSpec.model_validate(job))
    t = setup(claimed, run, SoloWorld(), LocalReporter())
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    t.tally.add = lambda *shard: seen.append(shard)  # type: ignore[method-assign]
    train_step(t, 0, 0, next(t.loader.train(0)))
    t.close()
    assert len(seen) == 4 and t.class_weights is not None and len(t.class_weights.unique()) > 1
    for loss, logits, targets in seen:
        terms = t.class_weights * targets * logits.log_softmax(1)
        torch.testing.assert_close(loss, -terms.sum() / len(targets))


def pruned_weights(folder: Path, job: dict[str, Any]) -> str:
    """Write weights for the job's network of which a half is zero, also in the layer that is held fixed."""
    module = build(JobSpec.model_validate(job).model, num_classes=10, image_size=32, seed=1).module
    torch.manual_seed(0)
    state = {
        name: torch.rand_like(w).sub(0.5).relu().mul(0.2) if w.ndim > 1 else w
        for name, w in module.state_dict().items()
    }
    torch.save(state, folder / "pruned.pt")
    return str(folder / "pruned.pt")


def zeros_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight == 0 for name, weight in state.items() if weight.ndim > 1}


@pytest.mark.parametrize("optimizer", [{"lr": 0.05}, {"name": "adamw", "lr": 0.01}], ids=["sgd", "adamw"])
def test_weights_that_start_as_zero_stay_zero(ranks: Run, tmp_path: Path, optimizer: dict[str, Any]) -> None:
    file = pruned_weights(tmp_path, small_job(tmp_path))
    changes = {
        "model": {"weights": file},
        "train": {"keep_zeros": True, "optimizer": {"weight_decay": 0.1, **optimizer}},
    }
    pruned = zeros_of(torch.load(file))
    one = run_job(SoloWorld(), small_job(tmp_path / "one", **changes))["result"]
    newest = checkpoint.newest(tmp_path / "one" / "small" / "checkpoints", warn=pytest.fail)
    assert newest is not None and set(newest.parts) == {"model", "ema"}
    for part in newest.parts:
        weights = newest.weights(part)
        assert all(torch.equal(zeros, pruned[name]) for name, zeros in zeros_of(weights).items())
        assert not any(weights[name][zeros].signbit().any() for name, zeros in pruned.items()), "-0 packs worse"
    for rank in ranks(2, run_job, small_job(tmp_path / "two", **changes)):
        assert rank["result"].weights_digest == one.weights_digest
    stopped = small_job(tmp_path / "stopped", **changes)
    assert isinstance(run_job(SoloWorld(), stopped, 7)["error"], InterruptedRunError)
    assert run_job(SoloWorld(), stopped)["result"].weights_digest == one.weights_digest


@pytest.mark.parametrize("kept", [True, False])
def test_zeros_have_no_part_in_the_step(tmp_path: Path, kept: bool) -> None:
    """Nor have they moments, also after frozen epochs; an update that is withheld leaves them alone."""
    file = pruned_weights(tmp_path, small_job(tmp_path))
    job = small_job(tmp_path, model={"weights": file, "freeze_epochs": 1}, train={"keep_zeros": kept})
    run, claimed, _ = claim(JobSpec.model_validate(job))
    t = setup(claimed, run, SoloWorld(), LocalReporter())
    batches = t.loader.train(0)
    train_step(t, 0, 0, next(batches))  # of the head alone
    t.epoch = 1
    unfreeze(t)
    train_step(t, 1, 0, next(batches))
    before = {name: weight.clone() for name, weight in t.module.state_dict().items()}
    for name, zeros in zeros_of(torch.load(file)).items():
        weight = t.module.get_parameter(name)
        if weight.requires_grad:
            assert weight[zeros].any() != kept
            assert t.optimizer.state[weight]["momentum_buffer"][zeros].any() != kept
            weight.grad = torch.full_like(weight, torch.inf)
    _update(t, 1, 1)
    t.close()
    assert all(torch.equal(weight, before[name]) for name, weight in t.module.state_dict().items())


def collectives_of_three_steps(world: World, job: dict[str, Any]) -> dict[str, int]:
    """Count what the process group is asked to do in steps that neither look for a stop nor end an epoch."""
    run, claimed, _ = claim(JobSpec.model_validate(job))
    t = setup(claimed, run, world, LocalReporter())
    t.tally.start(None, world)
    t.model.train()
    batches = t.loader.train(0)
    for step in (0, 1):  # In the second one DDP lays its buckets anew, once.
        train_step(t, 0, step, next(batches))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for step in (2, 3, 4):
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
