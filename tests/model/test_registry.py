"""Building a network: shapes, heads, stems, seeds, memory format, and what is refused."""

import pytest
import torch
from torch import nn
from torchvision import models

from distaug.errors import JobError
from distaug.model.registry import Built, build, head_of
from distaug.spec.model import ModelSpec

CLASSES = 7


def built(name: str, size: int = 32, seed: int = 0, **fields: object) -> Built:
    return build(ModelSpec(name=name, **fields), num_classes=CLASSES, image_size=size, seed=seed)


@pytest.mark.parametrize(
    ("name", "size", "head"),
    [
        ("resnet18", 32, {"fc.weight", "fc.bias"}),
        ("resnet34", 32, {"fc.weight", "fc.bias"}),
        ("resnet50", 32, {"fc.weight", "fc.bias"}),
        ("smallnet", 16, {"head.weight"}),
        ("vit_b_16", 32, {"heads.head.weight", "heads.head.bias"}),
        ("squeezenet1_1", 32, {"classifier.1.weight", "classifier.1.bias"}),
        ("mobilenet_v3_small", 32, {"classifier.3.weight", "classifier.3.bias"}),
        ("googlenet", 32, {"fc.weight", "fc.bias"}),
    ],
)
def test_named_network_returns_logits_and_knows_its_head(name: str, size: int, head: set[str]) -> None:
    model = built(name, size)
    assert model.module.training
    logits = model.module(torch.rand(4, 3, size, size))
    assert logits.shape == (4, CLASSES)
    assert model.head == head
    assert model.head <= dict(model.module.named_parameters()).keys()
    assert (model.mean, model.std) == (None, None)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "size"), [("googlenet", 32), ("inception_v3", 80)])
def test_auxiliary_heads_are_off_and_nothing_warns(name: str, size: int) -> None:
    assert isinstance(built(name, size).module(torch.rand(2, 3, size, size)), torch.Tensor)


def test_every_head_of_torchvision_is_found() -> None:
    # One of each family, on the meta device: nothing is computed.
    names = [
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b3",
        "maxvit_t",
        "mnasnet0_5",
        "vgg11_bn",
    ]
    names += ["mobilenet_v2", "shufflenet_v2_x0_5", "swin_v2_t", "wide_resnet50_2"]
    for name in names:
        with torch.device("meta"):
            module = models.get_model(name, num_classes=CLASSES)
        head = head_of(module, CLASSES)
        assert head and all(dict(module.named_parameters())[key].shape[0] == CLASSES for key in head), name
        assert list(dict(module.named_parameters()))[-1] in head, name


@pytest.mark.parametrize(
    ("stem", "size", "kernel"),
    [("auto", 32, 3), ("auto", 64, 3), ("auto", 65, 7), ("small", 96, 3), ("standard", 32, 7)],
)
def test_stem(stem: str, size: int, kernel: int) -> None:
    module = built("resnet18", size, stem=stem).module
    assert module.conv1.kernel_size == (kernel, kernel)
    assert isinstance(module.maxpool, nn.Identity if kernel == 3 else nn.MaxPool2d)
    stride = 1 if kernel == 3 else 4
    seen = module.maxpool(module.relu(module.bn1(module.conv1(torch.rand(1, 3, size, size)))))
    assert seen.shape[-1] == -(-size // stride)


@pytest.mark.parametrize("stem", ["small", "standard"])
def test_state_dict_keys_are_torchvisions(stem: str) -> None:
    module = built("resnet18", stem=stem, stochastic_depth=0.3).module
    assert module.state_dict().keys() == models.resnet18().state_dict().keys()


@pytest.mark.parametrize("name", ["smallnet", "vgg11", "timm/resnet18", "json:dumps"])
def test_small_stem_is_for_resnets(name: str) -> None:
    with pytest.raises(JobError, match=r"model\.stem: `small` is for torchvision's ResNets"):
        built(name, stem="small")


@pytest.mark.parametrize("name", ["smallnet", "resnet18"])
def test_initial_weights_are_a_function_of_the_seed(name: str) -> None:
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    first = built(name, seed=5).module.state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(10)
    second = built(name, seed=5).module.state_dict()
    other = built(name, seed=6).module.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_a_failed_build_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(JobError):
        built("alexnet", size=32)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_trying_out_leaves_the_statistics_alone() -> None:
    module = built("smallnet").module
    for norm in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d)):
        assert norm.num_batches_tracked == 0
        assert torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean))


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_format(channels_last: bool) -> None:
    module = built("smallnet", channels_last=channels_last).module
    weight = module.groups[0][0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    logits = module(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, CLASSES)


@pytest.mark.parametrize("name", ["smallnet", "resnet18"])
def test_bf16_autocast_forward_and_backward(name: str) -> None:
    module = built(name, stochastic_depth=0.2 if name == "resnet18" else 0.0).module
    with torch.autocast("cpu", torch.bfloat16):
        logits = module(torch.rand(4, 3, 32, 32).to(memory_format=torch.channels_last))
    assert logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters() if p.requires_grad)


def test_pictures_too_small_are_refused_with_their_size() -> None:
    with pytest.raises(JobError, match=r"`alexnet` failed on pictures of 32×32 pixels.*data\.image_size"):
        built("alexnet", size=32)


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(JobError, match=r"no `resnet81`; nearest: resnet18.*smallnet.*timm/<name>"):
        built("resnet81")
