"""Pruned networks: as many zeros as asked and no others changed; fewer channels, and still the same network."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distaug.compress.prune import Size, magnitude, remove_channels
from distaug.errors import JobError
from distaug.model import registry
from distaug.model.registry import Built
from distaug.model.smallnet import SmallNet
from distaug.spec.compress import ChannelsSpec, MagnitudeSpec
from distaug.spec.model import ModelSpec
from distaug.store.model_files import read_model, write_model

SIZE = 32
WIDTHS = [16, 16, 32]
SMALLNET = ModelSpec(name="smallnet", options={"widths": WIDTHS}, channels_last=False)
PICTURES = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def built(spec: ModelSpec = SMALLNET) -> Built:
    """Build a network whose weights are all different; those of a fresh SmallNet are zeros and ones in part."""
    network = registry.build(spec, num_classes=10, image_size=SIZE, seed=3)
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=numbers), alpha=0.02)
    network.module.eval()
    return network


def prunable(module: nn.Module) -> dict[str, Tensor]:
    found = {name: parameter for name, parameter in module.named_parameters() if parameter.ndim > 1}
    return {name: parameter.detach() for name, parameter in found.items() if parameter.requires_grad}


def zeros(weights: Tensor) -> int:
    return int((weights == 0).sum())


# --- magnitude ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_targets_do_not_add_up(scope: Any, channels_last: bool) -> None:
    module = built(SMALLNET.model_copy(update={"channels_last": channels_last})).module
    before = copy.deepcopy(module.state_dict())
    for target in (0.1, 0.2, 0.3, 0.5):
        magnitude(module, MagnitudeSpec(scope=scope), target)
        weights = prunable(module)
        total = sum(w.numel() for w in weights.values())
        rounding = 0 if scope == "global" else len(weights) / 2
        assert sum(map(zeros, weights.values())) == pytest.approx(target * total, abs=0.5 + rounding)
    after = module.state_dict()
    assert after.keys() == before.keys()
    for name, was in before.items():
        kept = after[name] != 0 if name in weights else torch.ones_like(was, dtype=torch.bool)
        assert torch.equal(after[name][kept], was[kept]), name
        assert not torch.signbit(after[name][~kept]).any(), f"zeros of {name} have a sign"
    assert not any(m._forward_pre_hooks for m in module.modules())


def test_the_smallest_go_over_all_layers_or_in_each() -> None:
    modules = {scope: built().module for scope in ("global", "layer")}
    for scope, module in modules.items():
        magnitude(module, MagnitudeSpec.model_validate({"scope": scope}), 0.5)
    original = prunable(built().module)
    shares = {s: {n: zeros(w) / w.numel() for n, w in prunable(m).items()} for s, m in modules.items()}
    assert list(shares["layer"].values()) == [0.5] * len(original)
    assert min(shares["global"].values()) < 0.2 < 0.5 < max(shares["global"].values())
    gone, kept = (
        torch.cat([original[n][(w == 0) == pruned].abs() for n, w in prunable(modules["global"]).items()])
        for pruned in (True, False)
    )
    assert gone.max() <= kept.min()
    for name, weights in prunable(modules["layer"]).items():
        values = original[name].abs()
        assert values[weights == 0].max() <= values[weights != 0].min()


def test_amounts_are_of_single_layers() -> None:
    module, before = built().module, built().module.state_dict()
    magnitude(module, MagnitudeSpec(amounts={"groups.0.0": 0.25, "head": 0.5}), None)
    shares = {n: zeros(w) / w.numel() for n, w in prunable(module).items() if not torch.equal(w, before[n])}
    assert shares == {"groups.0.0.weight": 0.25, "head.weight": 0.5}


def test_an_unknown_layer_names_the_nearest() -> None:
    with pytest.raises(JobError, match=r"magnitude\.amounts: .* no layer `groups\.0\.1` with weights; it has groups\."):
        magnitude(built().module, MagnitudeSpec(amounts={"groups.0.1": 0.25}), None)
    with pytest.raises(JobError, match=r"no layer `zzz` with weights; it has stem\.0, groups\.0\.0"):
        magnitude(built().module, MagnitudeSpec(amounts={"zzz": 0.25}), None)


# --- channels -------------------------------------------------------------------------------------


def fewer(network: Built, log: Callable[[str], None] = lambda line: None, **settings: Any) -> nn.Module:
    return remove_channels(network.module, ChannelsSpec(**settings), SIZE, network.head, log)


def channels(module: nn.Module) -> dict[str, int]:
    return {name: len(weights) for name, weights in prunable(module).items()}


def card(spec: ModelSpec) -> dict[str, Any]:
    section = spec.model_dump(mode="json") | {"resize": True, "weights": None}
    plain = {"image_size": SIZE, "mean": [0.5] * 3, "std": [0.5] * 3, "channels_last": False, "precision": "fp32"}
    return plain | {"model": section, "classes": [str(number) for number in range(10)]}


@pytest.mark.parametrize(
    ("spec", "multiple"),
    [(SMALLNET, 4), (ModelSpec(name="resnet18", stem="small", channels_last=False), 8)],
    ids=["smallnet", "resnet18"],
)
def test_fewer_channels_make_a_smaller_network_that_can_be_loaded(
    spec: ModelSpec, multiple: int, tmp_path: Path
) -> None:
    network = built(spec)
    before, trainable = copy.deepcopy(network.module.state_dict()), network.trainable
    smaller = fewer(network, ratio=0.3)
    assert network.module.state_dict().keys() == before.keys()
    assert all(torch.equal(network.module.state_dict()[name], was) for name, was in before.items())
    assert {name for name, p in network.module.named_parameters() if p.requires_grad} == trainable
    assert {name for name, p in smaller.named_parameters() if p.requires_grad} == trainable

    wide, narrow = channels(network.module), channels(smaller)
    for name, width in wide.items():
        wanted = width if name in network.head else int(0.7 * width) // multiple * multiple
        assert narrow[name] == wanted, name
    ours, theirs = Size(smaller, SIZE), Size(network.module, SIZE)
    assert ours.macs < 0.6 * theirs.macs and ours.parameters < 0.6 * theirs.parameters

    write_model(tmp_path / "model", smaller.state_dict(), card(spec))
    weights, told = read_model(tmp_path / "model")
    with torch.no_grad():
        logits = smaller.eval()(PICTURES)
        assert logits.shape == (3, 10) and torch.equal(registry.rebuild(told, weights).eval()(PICTURES), logits)


def test_layers_held_fixed_stay_whole() -> None:
    network = built()
    smaller = fewer(network, ratio=0.5)
    assert torch.equal(smaller.get_parameter("stem.0.weight"), network.module.get_parameter("stem.0.weight"))
    network.module.get_parameter("groups.1.0.weight").requires_grad_(False)
    assert fewer(network, ratio=0.5).get_parameter("groups.1.0.weight").shape == (16, 8, 3, 3)


def test_the_shortest_channels_go() -> None:
    network = built()
    with torch.no_grad():
        network.module.get_parameter("groups.0.0.weight")[5:9] *= 1e-3
        network.module.get_parameter("groups.0.2.weight")[5:9] *= 1e-3
        network.module.get_parameter("groups.0.4.weight")[:, 5:9] *= 1e-3
    smaller = fewer(network, ratio=0.25)
    stays = [*range(5), *range(9, 16)]
    wanted = network.module.get_parameter("groups.0.0.weight")[stays]
    assert torch.equal(smaller.get_parameter("groups.0.0.weight"), wanted)


@pytest.mark.parametrize("goal", [0.7, 0.4, 0.25])
@pytest.mark.parametrize("multiple", [1, 4])
def test_a_share_of_the_multiplications_is_reached_within_one_step(goal: float, multiple: int) -> None:
    network, lines = built(), list[str]()
    smaller = fewer(network, lines.append, macs=goal, round_to=multiple)
    widths = list(channels(smaller).values())
    share = Size(smaller, SIZE).macs / Size(network.module, SIZE).macs
    one_more = SmallNet(10, [width + multiple for width in widths[1:6:2]])
    assert share <= goal <= Size(one_more, SIZE).macs / Size(network.module, SIZE).macs
    assert all(width % multiple == 0 for width in widths[:-1])
    assert len(lines) == 1 and f"{Size(smaller, SIZE).macs:,} multiplications" in lines[0]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        # Of 16 channels a fifth is 3, which is no multiple of 4.
        ({"ratio": 0.8}, r"0\.8 leaves layer `groups\.0\.0` none of its 16 channels, in multiples of 4; .* than 0\.75"),
        ({"ratio": 0.95, "round_to": 1}, r"none of its 16 channels, in multiples of 1; allowed is less than 0\.9375"),
        ({"macs": 0.01}, r"channels\.macs: 0\.01 .* cannot be reached .* multiples of 4; raise it or lower `round_to`"),
        ({"ratio": 0.5, "round_to": 32}, "no convolution or linear layer of more than 32 channels"),
    ],
)
def test_a_layer_is_not_left_empty(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(JobError, match=says):
        fewer(built(), **settings)


def test_layers_as_narrow_as_the_multiple_stay_whole() -> None:
    network = built(SMALLNET.model_copy(update={"options": {"widths": [4, 16]}}))
    assert list(channels(fewer(network, ratio=0.5)).values()) == [4, 4, 8, 8, 10]


class Reshaping(nn.Module):
    """A network whose code knows how many channels it has."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3, stride=8)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).mean((2, 3)).reshape(-1, 16))
        return logits


def test_a_network_that_cannot_be_followed_is_refused() -> None:
    with pytest.raises(JobError, match=r"channels of this network cannot be removed \(RuntimeError: .*; take `magnit"):
        remove_channels(Reshaping(), ChannelsSpec(ratio=0.5), SIZE, frozenset({"head.weight"}), lambda line: None)


# --- sizes ----------------------------------------------------------------------------------------


def test_a_network_is_weighed() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4 * 8 * 8, 5))
    nn.init.ones_(module[0].weight)
    nn.init.ones_(module[2].weight).data[0] = 0
    nn.init.zeros_(module[2].bias)
    size = Size(module, 8)
    assert size.parameters == 3 * 4 * 9 + 256 * 5 + 5
    assert size.nonzeros == 3 * 4 * 9 + 256 * 4
    assert size.macs == pytest.approx(3 * 4 * 9 * 64 + 256 * 5, abs=5)  # whether a bias counts, is a matter of taste
    assert module.training
