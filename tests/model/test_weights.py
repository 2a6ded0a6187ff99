"""Starting weights: files, torchvision's names, heads for other classes, and what does not fit."""

import socket
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from distaug.errors import DataError, JobError
from distaug.model.registry import Built, build
from distaug.spec.model import ModelSpec

WIDTHS = {"widths": [8, 16]}


def small(weights: object = None, classes: int = 5, seed: int = 0, **fields: object) -> Built:
    path = None if weights is None else str(weights)
    spec = ModelSpec(name="smallnet", options=WIDTHS, weights=path, **fields)
    return build(spec, num_classes=classes, image_size=16, seed=seed)


def resnet(weights: object, **fields: object) -> Built:
    spec = ModelSpec(name="resnet18", weights=str(weights), **fields)
    return build(spec, num_classes=10, image_size=32, seed=0)


def plain(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}


def save_plain(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(state, path)


def save_nested(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save({"state_dict": state, "epoch": 3}, path)


def save_under_model(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save({"model": state}, path)


def save_wrapped(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, path)


def save_compiled(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save({f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}, path)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("w.safetensors", save_file),
        ("w.pt", save_plain),
        ("w.pth", save_nested),
        ("w.pt", save_under_model),
        ("w.pt", save_wrapped),
        ("w.pt", save_compiled),
    ],
)
def test_file_round_trip(tmp_path: Path, name: str, save: Callable[[dict[str, torch.Tensor], Path], None]) -> None:
    saved = plain(small(seed=1).module)
    save(saved, tmp_path / name)
    loaded = small(tmp_path / name, seed=2)
    assert all(torch.equal(tensor, saved[key]) for key, tensor in loaded.module.state_dict().items())
    assert (loaded.mean, loaded.std) == (None, None)


def test_head_for_other_classes_is_new_and_the_rest_is_loaded(tmp_path: Path) -> None:
    saved = plain(small(classes=5, seed=1).module)
    save_file(saved, tmp_path / "w.safetensors")
    loaded = small(tmp_path / "w.safetensors", classes=3, seed=2).module.state_dict()
    fresh = small(classes=3, seed=2).module.state_dict()
    assert torch.equal(loaded.pop("head.weight"), fresh["head.weight"])
    assert all(torch.equal(tensor, saved[key]) for key, tensor in loaded.items())


def test_what_does_not_fit_is_listed_and_bounded(tmp_path: Path) -> None:
    saved = plain(small(seed=1).module)
    del saved["groups.0.2.bias"]
    saved["groups.0.0.weight"] = torch.zeros(8, 24, 5, 5)
    saved |= {f"extra.{i}": torch.zeros(1) for i in range(8)}
    torch.save(saved, tmp_path / "w.pt")
    with pytest.raises(JobError) as caught:
        small(tmp_path / "w.pt")
    message = str(caught.value)
    assert "1 missing: groups.0.2.bias" in message
    assert "8 unexpected: extra.0, extra.1, extra.2, extra.3, extra.4 and 3 more" in message
    assert "1 of another shape: groups.0.0.weight 8×24×5×5 for 8×24×3×3" in message
    assert "w.pt" in message


def test_head_of_another_width_does_not_fit(tmp_path: Path) -> None:
    saved = plain(small(seed=1).module)
    saved["head.weight"] = torch.zeros(9, 99)
    torch.save(saved, tmp_path / "w.pt")
    with pytest.raises(JobError, match=r"head\.weight 9×99 for 5×16"):
        small(tmp_path / "w.pt")


def test_old_files_without_batch_counters_load(tmp_path: Path) -> None:
    saved = {key: value for key, value in plain(small(seed=1).module).items() if "num_batches" not in key}
    torch.save(saved, tmp_path / "w.pt")
    assert torch.equal(small(tmp_path / "w.pt").module.stem[0].weight, saved["stem.0.weight"])


def test_memory_format_survives_loading(tmp_path: Path) -> None:
    torch.save(plain(small(seed=1).module), tmp_path / "w.pt")
    conv = small(tmp_path / "w.pt").module.groups[0][0]
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"model\.weights: no file .*nothing\.pt"):
        small(tmp_path / "nothing.pt")


class Dangerous:
    """Nothing that a file of weights should hold."""


@pytest.mark.parametrize("content", [Dangerous(), {"a": Dangerous()}])
def test_pickled_objects_are_not_opened(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(JobError, match=r"holds more than tensors.*model\.state_dict\(\)"):
        small(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(2)])
def test_files_without_weights(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(JobError, match="holds no weights by name"):
        small(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a file of weights at all"])
def test_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(JobError, match=r"w\.(pt|safetensors) (cannot be read|is damaged)"):
        small(tmp_path / name)


def test_wrong_stem_says_which_to_set(tmp_path: Path) -> None:
    torch.save(models.resnet18().state_dict(), tmp_path / "w.pt")
    with pytest.raises(JobError, match=r"7×7 convolution.*model\.stem: standard"):
        resnet(tmp_path / "w.pt")
    assert resnet(tmp_path / "w.pt", stem="standard").module.conv1.kernel_size == (7, 7)


def test_the_other_wrong_stem(tmp_path: Path) -> None:
    spec = ModelSpec(name="resnet18")
    torch.save(build(spec, num_classes=10, image_size=32, seed=0).module.state_dict(), tmp_path / "w.pt")
    with pytest.raises(JobError, match=r"3×3 convolution.*model\.stem: small"):
        resnet(tmp_path / "w.pt", stem="standard")


def test_a_stem_for_other_pictures_is_not_blamed_on_the_job(tmp_path: Path) -> None:
    saved = models.resnet18().state_dict()
    saved["conv1.weight"] = torch.zeros(64, 4, 7, 7)
    torch.save(saved, tmp_path / "w.pt")
    with pytest.raises(JobError, match=r"conv1\.weight 64×4×7×7 for 64×3×7×7"):
        resnet(tmp_path / "w.pt", stem="standard")


def test_stochastic_depth_keeps_weights_loadable(tmp_path: Path) -> None:
    saved = models.resnet18().state_dict()
    torch.save(saved, tmp_path / "w.pt")
    module = resnet(tmp_path / "w.pt", stem="standard", stochastic_depth=0.2).module
    assert torch.equal(module.layer4[1].conv2.weight, saved["layer4.1.conv2.weight"])


def test_torchvision_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in torch's cache stands for the download."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    saved = models.resnet18().state_dict()
    torch.save(saved, cache / Path(models.ResNet18_Weights.IMAGENET1K_V1.url).name)
    loaded = resnet("IMAGENET1K_V1", stem="standard")
    assert loaded.mean == (0.485, 0.456, 0.406)
    assert loaded.std == (0.229, 0.224, 0.225)
    assert loaded.module.fc.weight.shape == (10, 512)
    assert torch.equal(loaded.module.conv1.weight, saved["conv1.weight"])


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError(socket.gaierror("Name or service not known"))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(DataError, match=r"could not be downloaded from https://.*\.pth.*Without network"):
        resnet("IMAGENET1K_V1", stem="standard")


def test_unknown_weight_name_lists_the_known() -> None:
    with pytest.raises(JobError, match="no weights `IMAGENET1K_V9`. It has IMAGENET1K_V1, DEFAULT"):
        resnet("IMAGENET1K_V9")


def test_weight_names_are_for_torchvisions_models() -> None:
    with pytest.raises(JobError, match="`smallnet` is none. Give a .safetensors"):
        small("IMAGENET1K_V1")


def test_weights_as_an_option_are_sent_to_their_field() -> None:
    spec = ModelSpec(name="resnet18", options={"weights": "DEFAULT"})
    with pytest.raises(JobError, match=r"options\.weights: comes from model\.weights"):
        build(spec, num_classes=10, image_size=32, seed=0)
