"""Stochastic depth: the rise of the probability, what dropping does, and who can have it."""

import copy
import inspect

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.resnet import ResNet
from torchvision.ops import StochasticDepth

from distaug.errors import JobError
from distaug.model.depth import FAMILIES, BranchNorm, set_depth
from distaug.model.registry import build
from distaug.spec.model import ModelSpec


def module_of(name: str, probability: float, size: int = 32) -> nn.Module:
    spec = ModelSpec(name=name, stochastic_depth=probability)
    return build(spec, num_classes=10, image_size=size, seed=0).module


@pytest.mark.parametrize(("name", "blocks", "end"), [("resnet18", 8, "bn2"), ("resnet50", 16, "bn3")])
def test_probability_rises_linearly_to_the_last_block(name: str, blocks: int, end: str) -> None:
    module = module_of(name, 0.4)
    layers = [module.layer1, module.layer2, module.layer3, module.layer4]
    ends = [getattr(block, end) for layer in layers for block in layer]
    assert [norm.probability for norm in ends] == pytest.approx([0.4 * (i + 1) / blocks for i in range(blocks)])
    assert sum(isinstance(part, BranchNorm) for part in module.modules()) == blocks


def test_without_it_the_network_is_torchvisions_own() -> None:
    assert not any(isinstance(part, BranchNorm) for part in module_of("resnet18", 0.0).modules())


def test_samples_are_dropped_one_by_one_and_the_mean_is_kept() -> None:
    torch.manual_seed(0)
    norm = BranchNorm(nn.BatchNorm2d(2), 0.25)
    pictures = torch.rand(4000, 2, 2, 2)
    plain = nn.BatchNorm2d(2)(pictures)
    out = norm(pictures)
    dropped = (out == 0).flatten(1).all(1)
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(out[~dropped], plain[~dropped] / 0.75)
    shifted = BranchNorm(nn.BatchNorm2d(2), 0.25)
    nn.init.constant_(shifted.bias, 3.0)
    assert shifted(pictures).mean().item() == pytest.approx(3.0, abs=0.1)


def test_the_statistics_see_every_sample() -> None:
    pictures = torch.rand(64, 2, 4, 4)
    plain, norm = nn.BatchNorm2d(2), BranchNorm(nn.BatchNorm2d(2), 0.9)
    plain(pictures)
    norm(pictures)
    assert torch.equal(norm.running_mean, plain.running_mean)
    assert torch.equal(norm.running_var, plain.running_var)


def test_a_dropped_sample_skips_the_block() -> None:
    torch.manual_seed(1)
    module = module_of("resnet18", 0.0)
    block = module.layer1[1]
    block.bn2 = BranchNorm(block.bn2, 0.999)
    inputs = torch.rand(8, 64, 8, 8)
    out = block(inputs)
    assert (out == inputs).flatten(1).all(1).sum() >= 7


def test_evaluation_keeps_every_branch() -> None:
    with_depth = module_of("resnet18", 0.5).eval()
    without = module_of("resnet18", 0.0).eval()
    pictures = torch.rand(3, 3, 32, 32)
    assert torch.equal(with_depth(pictures), without(pictures))


def test_it_draws_from_torchs_generator() -> None:
    module = module_of("resnet18", 0.5)
    pictures = torch.rand(8, 3, 32, 32)

    def logits(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        fresh: torch.Tensor = copy.deepcopy(module)(pictures)
        return fresh

    assert torch.equal(logits(3), logits(3))
    assert not torch.equal(logits(3), logits(4))


def test_settings_and_weights_of_the_norm_are_taken_over() -> None:
    old = nn.BatchNorm2d(3, eps=0.5, momentum=0.25)
    nn.init.zeros_(old.weight)
    old.running_mean.fill_(2.0)
    new = BranchNorm(old, 0.1)
    assert (new.eps, new.momentum) == (0.5, 0.25)
    assert all(torch.equal(new.state_dict()[key], value) for key, value in old.state_dict().items())


@pytest.mark.parametrize("name", ["efficientnet_b0", "convnext_tiny", "swin_t"])
def test_families_that_have_it_built_in(name: str) -> None:
    with torch.device("meta"):
        module = models.get_model(name)
        off = models.get_model(name)
    set_depth(module, 0.3, name)
    set_depth(off, 0.0, name)
    rates = [part.p for part in module.modules() if isinstance(part, StochasticDepth)]
    assert rates[-1] == pytest.approx(0.3)
    steps = [after - before for before, after in zip(rates, rates[1:], strict=False)]
    assert steps == pytest.approx([0.3 / len(steps)] * len(steps))
    assert {part.p for part in off.modules() if isinstance(part, StochasticDepth)} == {0.0}


def test_build_sets_a_family_that_has_it_built_in() -> None:
    rates = [part.p for part in module_of("efficientnet_b0", 0.2).modules() if isinstance(part, StochasticDepth)]
    assert max(rates) == pytest.approx(0.2)


def test_the_families_listed_are_those_of_torchvision() -> None:
    for name in models.list_models(module=models):
        kind = inspect.signature(models.get_model_builder(name)).return_annotation
        has_it = kind is ResNet or "stochastic_depth_prob" in inspect.signature(kind).parameters
        assert has_it == name.startswith(FAMILIES), name


@pytest.mark.parametrize("name", ["vgg11", "smallnet"])
def test_a_network_without_branches_is_refused(name: str) -> None:
    with pytest.raises(JobError, match=r"model\.stochastic_depth: found 0\.1, but .*resnet\*.*swin\*"):
        module_of(name, 0.1)


def test_torchvisions_own_argument_is_refused() -> None:
    spec = ModelSpec(name="efficientnet_b0", options={"stochastic_depth_prob": 0.1})
    with pytest.raises(JobError, match=r"options\.stochastic_depth_prob: comes from model\.stochastic_depth"):
        build(spec, num_classes=10, image_size=32, seed=0)
