"""Learning rates are pure functions of the step; groups keep norms and biases free of decay."""

import math

import pytest
import torch
from torch import nn

from distaug.spec.job import JobSpec
from distaug.spec.train import OptimizerSpec, ScheduleSpec
from distaug.train.optim import build, lr_factor, peak_lr, set_lr


def factors(epochs: int = 10, steps: int = 20, **spec: object) -> list[float]:
    schedule = ScheduleSpec.model_validate(spec)
    return [lr_factor(schedule, s, steps, epochs) for s in range(epochs * steps)]


def test_cosine_equals_torchs_scheduler() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200)
    for factor in factors(name="cosine"):
        assert math.isclose(factor, scheduler.get_last_lr()[0], abs_tol=1e-9)
        optimizer.step()
        scheduler.step()


def test_warmup_rises_linearly_to_the_peak_and_never_rests_at_zero() -> None:
    found = factors(name="cosine", warmup_epochs=2)
    assert found[:40] == pytest.approx([(s + 1) / 40 for s in range(40)])
    assert found[40] == pytest.approx(1.0) and found[-1] < 0.01


def test_one_cycle_multi_step_constant() -> None:
    cycle = factors(name="one_cycle", pct_start=0.25, final_lr_fraction=0.1)
    assert cycle[49] == 1.0 and cycle[50] == pytest.approx(1.0) and cycle[-1] == pytest.approx(0.1, abs=0.01)
    steps = factors(name="multi_step", milestones_epochs=[4, 8], gamma=0.1)
    assert (steps[79], steps[80], steps[160]) == (1.0, 0.1, pytest.approx(0.01))
    assert set(factors(name="constant")) == {1.0}


def test_rate_scales_with_the_global_batch_unless_told_not_to() -> None:
    assert peak_lr(OptimizerSpec(), 512) == pytest.approx(0.4)
    assert peak_lr(OptimizerSpec(lr=0.3, lr_per_samples=None), 512) == 0.3


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_groups(name: str) -> None:
    job = JobSpec.model_validate(
        {
            "data": {"source": "digits"},
            "model": {"name": "smallnet", "head_lr_multiplier": 10.0},
            "train": {"optimizer": {"name": name, "lr": 0.2, "lr_per_samples": None, "weight_decay": 0.01}},
        }
    )
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    optimizer = build(job, module, {"2.weight", "2.bias"})
    set_lr(optimizer, 0.5)
    found = {
        (round(g["lr"], 9), g["weight_decay"]): sorted(tuple(p.shape) for p in g["params"])
        for g in optimizer.param_groups
    }
    assert found == {
        (0.1, 0.01): [(4, 3, 3, 3)],
        (0.1, 0.0): [(4,), (4,), (4,)],
        (1.0, 0.01): [(2, 4)],
        (1.0, 0.0): [(2,)],
    }


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_kernels_leave_everything_as_it_is_when_told_so(name: str) -> None:
    job = JobSpec.model_validate(
        {"data": {"source": "digits"}, "model": {"name": "smallnet"}, "train": {"optimizer": {"name": name}}}
    )
    module = nn.Linear(3, 2)
    optimizer = build(job, module, set())

    def move(gradient: float, withheld: float) -> list[torch.Tensor]:
        optimizer.found_inf, optimizer.grad_scale = torch.tensor(withheld), None  # type: ignore[attr-defined]
        for p in module.parameters():
            p.grad = torch.full_like(p, gradient)
        optimizer.step()
        state = [v.clone() for p in module.parameters() for v in optimizer.state[p].values() if torch.is_tensor(v)]
        return [p.detach().clone() for p in module.parameters()] + state

    first = [p.detach().clone() for p in module.parameters()]
    untouched = move(float("nan"), 1.0)
    assert all(torch.equal(a, b) for a, b in zip(first, untouched, strict=False))
    assert all(state.eq(0).all() for state in untouched[len(first) :]), "also where no step has been made before"
    before = move(1.0, 0.0)
    after = move(float("nan"), 1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not torch.equal(move(1.0, 0.0)[0], before[0])
