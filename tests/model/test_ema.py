"""The moving average: its formula by hand, its buffers, and steps that must not count."""

import pytest
import torch
from torch import nn

from distaug.model.ema import Ema

OK, NOT_OK = torch.tensor(True), torch.tensor(False)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1, bias=False)
        self.norm = nn.BatchNorm1d(1)
        self.register_buffer("mask", torch.tensor([True, False]))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.norm(self.linear(inputs))
        return outputs


def set_weight(net: Net, value: float) -> None:
    with torch.no_grad():
        net.linear.weight.fill_(value)


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


@pytest.mark.parametrize("ok", [None, OK])
def test_formula_over_several_steps(ok: torch.Tensor | None) -> None:
    net = Net()
    set_weight(net, 1.0)
    ema = Ema(net, decay=0.3)
    by_hand = 1.0
    # min(0.3, (1 + t) / (10 + t)) for t = 1, 2, 3, 4, 5: the schedule rules up to t = 2.
    for step, decay in enumerate([2 / 11, 3 / 12, 0.3, 0.3, 0.3]):
        latest = float(step * step - 3)
        set_weight(net, latest)
        ema.update(net, step, ok)
        by_hand = decay * by_hand + (1 - decay) * latest
        assert ema.module.linear.weight.tolist() == [[pytest.approx(by_hand)] * 2]


def test_the_schedule_is_a_function_of_the_step() -> None:
    net = Net()
    set_weight(net, 0.0)
    late = Ema(net, decay=0.999)
    set_weight(net, 1.0)
    late.update(net, step=89)
    assert late.module.linear.weight[0, 0].item() == pytest.approx(1 - 91 / 100)
    capped = Ema(net, decay=0.999)
    set_weight(net, 2.0)
    capped.update(net, step=1_000_000)
    assert capped.module.linear.weight[0, 0].item() == pytest.approx(1.001)


def test_nothing_moves_where_the_step_was_not_ok() -> None:
    net = Net()
    ema = Ema(net, decay=0.9)
    ema.update(net, 0, OK)
    before = state(ema.module)
    set_weight(net, 5.0)
    net(torch.full((4, 2), torch.inf))
    assert not net.norm.running_mean.isfinite().all()
    net.mask.logical_not_()
    ema.update(net, 1, NOT_OK)
    after = state(ema.module)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_buffers_are_copied() -> None:
    net = Net()
    ema = Ema(net, decay=0.9)
    for step, ok in enumerate([None, OK, OK]):
        net(torch.rand(8, 2))
        net.mask.logical_not_()
        ema.update(net, step, ok)
        for name, buffer in net.named_buffers():
            copied = ema.module.get_buffer(name)
            assert torch.equal(copied, buffer) and copied.dtype == buffer.dtype
            assert copied.data_ptr() != buffer.data_ptr()
    assert ema.module.norm.num_batches_tracked.item() == 3


def test_it_is_a_separate_model_in_evaluation_mode() -> None:
    net = Net()
    ema = Ema(net, decay=0.9)
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert not any(part.training for part in ema.module.modules())
    assert not any(p.requires_grad for p in ema.module.parameters())
    before = state(ema.module)
    set_weight(net, 7.0)
    assert torch.equal(ema.module.linear.weight, before["linear.weight"])


def test_frozen_parameters_and_models_without_buffers() -> None:
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    ema = Ema(net, decay=0.0)
    with torch.no_grad():
        net.weight.add_(1)
    ema.update(net, 0, OK)
    torch.testing.assert_close(ema.module.weight, net.weight.detach())
    assert torch.equal(ema.module.bias, net.bias)


def test_state_goes_on_where_it_was_saved() -> None:
    net = Net()
    first, second = Ema(net, decay=0.9), Ema(Net(), decay=0.9)
    first.update(net, 0)
    second.module.load_state_dict(first.module.state_dict())
    set_weight(net, 3.0)
    for ema in (first, second):
        ema.update(net, 1, OK)
    assert all(
        torch.equal(a, b) for a, b in zip(state(first.module).values(), state(second.module).values(), strict=True)
    )


def test_double_precision_is_kept() -> None:
    net = Net().double()
    set_weight(net, 0.0)
    ema = Ema(net, decay=0.999)
    set_weight(net, 1.0)
    ema.update(net, 1_000_000, OK)
    assert ema.module.linear.weight[0, 0].item() == pytest.approx(0.001, rel=1e-13)


def test_no_value_is_read_back_to_the_host() -> None:
    """The meta device has no values: whatever asked for one would raise."""
    net = Net().to("meta")
    ema = Ema(net, decay=0.9)
    ema.update(net, 0, torch.empty((), dtype=torch.bool, device="meta"))
    with pytest.raises(RuntimeError, match="meta tensors"):
        bool(torch.empty((), dtype=torch.bool, device="meta"))
