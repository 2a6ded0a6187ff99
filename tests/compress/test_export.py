"""An exported network: the same logits for any number of uint8 pictures, and an account of itself."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from distaug.compress.artifact import FORMAT, INPUT, OUTPUT, PREFIX
from distaug.compress.export import OPSET, export, read_metadata, write_onnx
from distaug.errors import ArtifactError

SIZE = 12
CARD = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "image_size": SIZE}
TOLD = {"classes": ["cat", "größer", 'a "b"'], "final_fit": False, "job_data": {"mean": [0.1, None], "path": None}}


class Residual(nn.Module):
    """Two convolutions with norms, and a way around them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.5))
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images)
        logits: Tensor = self.head((features + self.second(features)).relu().mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    path = tmp_path_factory.mktemp("export") / "a.onnx"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = Residual()
        module(4 * torch.randn(16, 3, SIZE, SIZE))  # for norms that do something
    before = copy.deepcopy(module.state_dict())
    export(module, CARD, path, TOLD)
    assert all(torch.equal(now, before[name]) for name, now in module.state_dict().items())
    return module, path


@pytest.mark.parametrize("count", [1, 2, 5])
def test_logits_are_those_of_the_network(exported: tuple[nn.Module, Path], count: int) -> None:
    module, path = exported
    images = np.random.default_rng(count).integers(0, 256, (count, 3, SIZE, SIZE), dtype=np.uint8)
    mean, std = (torch.tensor(CARD[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        wanted = module.eval()((torch.from_numpy(images) / 255 - mean) / std).numpy()
    [found] = onnxruntime.InferenceSession(path).run([OUTPUT], {INPUT: images})
    assert found.dtype == np.float32 and found.shape == (count, 3)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(wanted).max() > 0.1


def test_the_file_tells_what_it_is(exported: tuple[nn.Module, Path]) -> None:
    model = onnx.load(exported[1])
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == OPSET
    assert read_metadata(model) == {"format": FORMAT, **TOLD}
    onnx.helper.set_model_props(model, {"other": "not JSON", f"{PREFIX}x": "[1]"})
    assert read_metadata(model) == {"x": [1]}
    [image], [logits] = model.graph.input, model.graph.output
    assert (image.name, logits.name) == (INPUT, OUTPUT)
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [0, 3, SIZE, SIZE]
    assert not any("Dropout" in node.op_type for node in model.graph.node)


class Deciding(nn.Module):
    """A layer whose code depends on what it is shown."""

    def forward(self, features: Tensor) -> Tensor:
        return features if features.sum() > 0 else -features


def test_a_layer_that_cannot_be_traced_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), Deciding()), nn.Flatten(), nn.LazyLinear(2))
    module(torch.zeros(2, 3, SIZE, SIZE))
    with pytest.raises(
        ArtifactError, match=r"layer `1\.1` \(Deciding\) cannot be traced: \w.*`compress` out"
    ) as caught:
        export(module, CARD, tmp_path / "a.onnx", TOLD)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.onnx").exists()
    assert capfd.readouterr() == ("", "")


def test_an_export_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 2))
    export(module, CARD, tmp_path / "a.onnx", TOLD)
    assert capfd.readouterr() == ("", "") and not recwarn.list
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


def test_an_invalid_file_is_not_written(tmp_path: Path, exported: tuple[nn.Module, Path]) -> None:
    model: Any = onnx.load(exported[1])
    model.graph.node[0].op_type = "Castle"
    with pytest.raises(ArtifactError, match=r"a\.onnx would not be a valid ONNX file: .*Castle"):
        write_onnx(model, tmp_path / "a.onnx", TOLD)
    assert not (tmp_path / "a.onnx").exists()
