"""The user's own factories, timm, and options."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distaug.errors import DataError, JobError
from distaug.model.registry import Built, build
from distaug.spec.model import ModelSpec

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.out = nn.Linear(width, num_classes)
    def forward(self, x):
        return self.out(self.body(x))

class Headed(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, num_classes))
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    def forward(self, x):
        return self.head(self.body(x))

def lazy(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

class Headless(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.num_classes = num_classes
    def forward(self, x):
        return self.scale * x.flatten(1)[:, :self.num_classes]

def wrong_shape(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes + 1))

class Pair(Net):
    def forward(self, x):
        return super().forward(x), x

def not_a_module(num_classes):
    return "resnet"

def fails(num_classes):
    raise KeyError("depth")

def reads_a_file(num_classes):
    open("/nowhere/weights.bin")

number = 3
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with factories in the current directory, which is not on the path yet."""
    (tmp_path / "my_networks.py").write_text(FACTORY)
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    (tmp_path / "is_broken.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return "my_networks"


def built(name: str, *, size: int = 16, classes: int = 6, **fields: object) -> Built:
    return build(ModelSpec(name=name, **fields), num_classes=classes, image_size=size, seed=0)


def test_factory_in_the_current_directory(factories: str) -> None:
    model = built(f"{factories}:Net", options={"width": 9})
    assert model.module.out.weight.shape == (6, 9)
    assert model.head == {"out.weight", "out.bias"}


def test_the_attribute_head_is_the_head(factories: str) -> None:
    assert built(f"{factories}:Headed").head == {f"head.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}


def test_lazy_layers_are_made_and_seeded(factories: str) -> None:
    first, second = (built(f"{factories}:lazy").module[1] for _ in range(2))
    assert first.weight.shape == (6, 3 * 16 * 16)
    assert torch.equal(first.weight, second.weight)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent_module:f", r"no module `absent_module` in .* nor installed"),
        ("my_networks.deeper:f", r"importing `my_networks.deeper` raised|no module `my_networks.deeper`"),
        ("needs_more:f", r"importing `needs_more` raised ModuleNotFoundError: .*a_package_that_is_not_there"),
        ("is_broken:f", r"importing `is_broken` raised SyntaxError"),
        ("my_networks:Nett", r"has no function or class `Nett`; nearest: Net"),
        ("my_networks:number", r"has no function or class `number`"),
        ("my_networks:not_a_module", r"made a str, not a torch.nn.Module"),
        ("my_networks:fails", r"raised KeyError: 'depth' \(.*my_networks\.py:\d+\)"),
        ("my_networks:wrong_shape", r"for 2 pictures of 6 classes .* returned \(2, 7\).*\(2, 6\)"),
        ("my_networks:Pair", r"returned a tuple"),
    ],
)
@pytest.mark.usefixtures("factories")
def test_bad_factories(name: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        built(name)


@pytest.mark.usefixtures("factories")
def test_a_file_that_the_factory_misses_is_about_data() -> None:
    with pytest.raises(DataError, match=r"out of reach: .*/nowhere/weights\.bin"):
        built("my_networks:reads_a_file")


def test_a_wrong_option_is_named(factories: str) -> None:
    with pytest.raises(JobError, match=r"unexpected keyword argument 'widht'.*width=4"):
        built(f"{factories}:Net", options={"widht": 9})


def test_stochastic_depth_is_the_factorys_own(factories: str) -> None:
    with pytest.raises(JobError, match=r"model\.stochastic_depth: found 0\.2"):
        built(f"{factories}:Net", stochastic_depth=0.2)


@pytest.mark.parametrize("fields", [{"head_lr_multiplier": 10.0}, {"freeze_epochs": 1}])
def test_training_only_the_head_needs_a_head(factories: str, fields: dict[str, object]) -> None:
    assert built(f"{factories}:Headless").head == frozenset()
    with pytest.raises(JobError, match=r"no layer of `my_networks:Headless` has 6 outputs.*attribute `head`"):
        built(f"{factories}:Headless", **fields)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "resnet18",
            {"zero_init_residuals": True},
            "no argument `zero_init_residuals`; nearest: zero_init_residual",
        ),
        ("mobilenet_v3_small", {"dropuot": 0.1}, "no argument `dropuot`; nearest: dropout"),
        ("resnet18", {"num_classes": 3}, "options.num_classes: comes from the number of classes in the data"),
        ("resnet18", {"layers": [1, 1, 1, 1]}, "raised TypeError: .*'layers'"),
        ("squeezenet1_1", {"dropout": "much"}, "raised TypeError"),
    ],
)
def test_wrong_options_of_torchvisions_models(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(JobError, match=message):
        built(name, size=32, options=options)


def test_options_reach_torchvision() -> None:
    module = built("resnet18", size=32, options={"zero_init_residual": True}, stochastic_depth=0.1).module
    assert not module.layer1[0].bn2.weight.any()


def test_timm_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(JobError, match=r"needs timm: pip install 'distaug\[timm\]'"):
        built("timm/resnet18")


class TestTimm:
    @pytest.fixture(autouse=True)
    def timm(self) -> None:
        pytest.importorskip("timm", reason="timm is NOT installed: these tests of it are skipped")

    def test_forward_and_head(self) -> None:
        model = built("timm/resnet10t", size=32)
        assert model.module(torch.rand(2, 3, 32, 32)).shape == (2, 6)
        assert model.head == {"fc.weight", "fc.bias"}

    def test_stochastic_depth_reaches_the_model(self) -> None:
        from timm.layers.drop import DropPath

        module = built("timm/resnet10t", size=32, stochastic_depth=0.3).module
        rates = [part.drop_prob for part in module.modules() if isinstance(part, DropPath)]
        assert rates[-1] == pytest.approx(0.3)
        assert rates == sorted(rates)

    def test_transformers_take_the_picture_size(self) -> None:
        model = built("timm/test_vit3", size=32)
        assert model.module(torch.rand(2, 3, 32, 32)).shape == (2, 6)

    @pytest.mark.parametrize(
        ("name", "fields", "message"),
        [
            ("timm/resnet10x", {}, "has no model `resnet10x`; nearest: resnet10t"),
            ("timm/resnet10t", {"options": {"widht": 3}}, "unexpected keyword argument 'widht'"),
            ("timm/resnet10t", {"options": {"drop_path_rate": 0.1}}, "comes from model.stochastic_depth"),
            ("timm/vgg11", {"stochastic_depth": 0.1}, "model.stochastic_depth: `timm/vgg11` has none"),
        ],
    )
    def test_refused(self, name: str, fields: dict[str, object], message: str) -> None:
        with pytest.raises(JobError, match=message):
            built(name, size=32, **fields)

    def test_its_own_weights_bring_their_normalisation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import timm

        create: Callable[..., torch.nn.Module] = timm.create_model

        def without_download(name: str, *, pretrained: bool, **arguments: object) -> torch.nn.Module:
            assert pretrained
            return create(name, **arguments)

        monkeypatch.setattr(timm, "create_model", without_download)
        model = built("timm/resnet10t", size=32, options={"pretrained": True})
        assert model.mean == pytest.approx((0.485, 0.456, 0.406))
        assert model.std == pytest.approx((0.229, 0.224, 0.225))
