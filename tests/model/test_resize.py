"""Networks with pruned channels: every layer takes the size of its weights, and what cannot be pruned so is named."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from distaug.errors import JobError, StorageError
from distaug.model import registry
from distaug.model.registry import Built, build
from distaug.model.resize import resize
from distaug.spec.model import ModelSpec
from distaug.store.model_files import write_model
from distaug.train.world import World

WIDE, NARROW = {"widths": [8, 16]}, {"widths": [4, 12]}
PICTURES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def built(name: str = "smallnet", classes: int = 5, seed: int = 0, **fields: Any) -> Built:
    return build(ModelSpec(name=name, **fields), num_classes=classes, image_size=32, seed=seed)


def saved(state: dict[str, Tensor], folder: Path) -> str:
    torch.save(state, folder / "w.pt")
    return str(folder / "w.pt")


def layers(channels: int) -> nn.Sequential:
    """One layer of each kind, with a number of channels that 4 divides."""
    return nn.Sequential(
        nn.Conv2d(3, channels, 3),
        nn.BatchNorm2d(channels),
        nn.BatchNorm2d(channels, affine=False),
        nn.PReLU(channels),
        nn.Conv2d(channels, 2 * channels, 3, groups=channels),
        nn.Conv2d(2 * channels, channels, 3, groups=4),
        nn.GroupNorm(4, channels),
        nn.Flatten(2),
        nn.Linear(676, channels),
        nn.LayerNorm(channels),
        nn.Flatten(),
        nn.Linear(channels**2, 2 * channels),
        nn.BatchNorm1d(2 * channels),
        nn.ParameterList([torch.zeros(1, 7, channels)]),
    )


def test_each_layer_takes_its_size_and_says_so() -> None:
    module, pruned = layers(16), layers(8)
    module[0].weight.requires_grad_(False)
    parameters = dict(module.named_parameters())
    resize(module, pruned.state_dict())
    assert repr(module) == repr(pruned)
    assert all(module.get_parameter(name) is parameter for name, parameter in parameters.items())
    assert [name for name, p in parameters.items() if not p.requires_grad] == ["0.weight"]
    module.load_state_dict(pruned.state_dict())
    assert torch.equal(module[:-1].eval()(PICTURES), pruned[:-1].eval()(PICTURES))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_memory_format_stays(layout: torch.memory_format) -> None:
    module = layers(16).to(memory_format=layout)
    resize(module, layers(8).state_dict())
    assert module[0].weight.shape == (8, 3, 3, 3) and module[0].weight.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    ("name", "wide", "narrow"),
    [
        ("smallnet", WIDE, NARROW),
        ("mobilenet_v2", {}, {"width_mult": 0.5}),
    ],
)
def test_a_pruned_network_answers_as_it_did(
    tmp_path: Path, name: str, wide: dict[str, Any], narrow: dict[str, Any]
) -> None:
    pruned = built(name, options=narrow, seed=1)
    file = saved(pruned.module.state_dict(), tmp_path)
    resized = built(name, options=wide, weights=file, resize=True)
    assert resized.module.training and resized.head == pruned.head and resized.trainable == pruned.trainable
    ours, theirs = resized.module.state_dict(), pruned.module.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) and ours[key].stride() == theirs[key].stride() for key in theirs)
    pictures = PICTURES.to(memory_format=torch.channels_last)
    assert torch.equal(resized.module.eval()(pictures), pruned.module.eval()(pictures))
    with pytest.raises(JobError, match="of another shape"):
        built(name, options=wide, weights=file)


def test_what_is_no_pruned_version_is_listed(tmp_path: Path) -> None:
    state = built(options=NARROW).module.state_dict()
    del state["groups.0.2.bias"]
    state |= {"groups.0.0.weight": torch.zeros(4, 24, 5, 5), "head.weight": torch.zeros(5), "extra": torch.zeros(1)}
    with pytest.raises(JobError) as caught:
        built(options=WIDE, weights=saved(state, tmp_path), resize=True)
    for part in (
        "1 missing: groups.0.2.bias",
        "1 unexpected: extra",
        "2 of another shape: groups.0.0.weight 4×24×5×5 for 8×24×3×3, head.weight 5 for 5×16",
    ):
        assert part in str(caught.value)


FACTORY = """
from torch import nn

class Rigid(nn.Module):
    def __init__(self, num_classes, width=8):
        super().__init__()
        self.body, self.out = nn.Conv2d(3, width, 32), nn.Linear(width, num_classes)
    def forward(self, x):
        return self.out(self.body(x).view(-1, 8))

def lazy(num_classes, width=8):
    return nn.Sequential(nn.LazyConv2d(width, 32), nn.Flatten(), nn.LazyLinear(num_classes))
"""


@pytest.fixture
def _factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rigid_networks.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "rigid_networks", raising=False)


@pytest.mark.usefixtures("_factories")
def test_a_network_that_cannot_run_at_these_sizes_is_refused(tmp_path: Path) -> None:
    state = built("rigid_networks:Rigid").module.state_dict()
    body, bias, out = (state[name] for name in ("body.weight", "body.bias", "out.weight"))
    file = saved(state | {"body.weight": body[:6], "body.bias": bias[:6], "out.weight": out[:, :6]}, tmp_path)
    with pytest.raises(JobError, match=r"model\.resize: `rigid_networks:Rigid` failed .*shape.*`model\.weights`"):
        built("rigid_networks:Rigid", weights=file, resize=True)


def test_a_head_for_other_classes_is_refused(tmp_path: Path) -> None:
    file = saved(built(options=NARROW, classes=3).module.state_dict(), tmp_path)
    with pytest.raises(JobError, match=r"model\.resize: for 2 pictures of 5 classes `smallnet` returned \(2, 3\)"):
        built(options=WIDE, weights=file, resize=True)


def card_of(name: str, **fields: Any) -> dict[str, Any]:
    spec = ModelSpec(name=name, **fields)
    rest: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.5] * 3, "channels_last": True, "precision": "fp32"}
    return {"model": spec.model_dump(mode="json"), "classes": list("abcde"), "image_size": 32} | rest


def answers(world: World, folder: Path) -> Tensor:
    module, card = registry.load(folder)
    assert card["model"]["resize"]
    logits: Tensor = module.eval()(PICTURES.to(memory_format=torch.channels_last))
    return logits.detach()


def test_a_resized_network_comes_back_in_a_fresh_process(tmp_path: Path, ranks: Callable[..., list[Any]]) -> None:
    """Without the file that it started from."""
    pruned = built(options=NARROW).module
    write_model(
        tmp_path / "model", pruned.state_dict(), card_of("smallnet", options=WIDE, weights="gone.pt", resize=True)
    )
    (found,) = ranks(1, answers, tmp_path / "model")
    assert torch.equal(found, pruned.eval()(PICTURES.to(memory_format=torch.channels_last)))


@pytest.mark.usefixtures("_factories")
def test_layers_that_size_themselves_come_back_too(tmp_path: Path) -> None:
    pruned = built("rigid_networks:lazy", options={"width": 4}).module
    card = card_of("rigid_networks:lazy", weights="gone.pt", resize=True)
    assert torch.equal(registry.rebuild(card, pruned.state_dict())(PICTURES), pruned(PICTURES))


@pytest.mark.parametrize("fields", [{}, {"weights": "gone.pt", "resize": True}])
def test_weights_that_do_not_fit_are_refused_with_their_folder(tmp_path: Path, fields: dict[str, Any]) -> None:
    weights = built(options=NARROW).module.state_dict() | {"extra": torch.zeros(1)}
    write_model(tmp_path / "model", weights, card_of("smallnet", options=NARROW, **fields))
    with pytest.raises(
        StorageError, match=rf"(?s){tmp_path}/model: the weights do not fit the model 'smallnet'.*extra"
    ):
        registry.load(tmp_path / "model")


def test_double_precision_comes_back(tmp_path: Path) -> None:
    module = built(options=NARROW).module.double()
    with torch.no_grad():
        module.head.weight.add_(1e-12)
    write_model(tmp_path / "model", module.state_dict(), card_of("smallnet", options=NARROW) | {"precision": "fp64"})
    found = registry.load(tmp_path / "model")[0].state_dict()
    assert torch.equal(found["head.weight"], load_file(tmp_path / "model" / "weights.safetensors")["head.weight"])
