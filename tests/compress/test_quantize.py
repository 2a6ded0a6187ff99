"""Files in 8 bits: integers throughout, close to what they were made from, and useless after the wrong calibration."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from sklearn.datasets import load_digits
from torch import Tensor, nn

from distaug.compress import measure, quantize
from distaug.compress.artifact import INPUT, OUTPUT, open_artifact
from distaug.compress.export import export, read_metadata
from distaug.errors import ArtifactError

SIZE = 8
CARD = {"mean": [0.3] * 3, "std": [0.36] * 3, "image_size": SIZE}
NEEDED = ("eval_geometry", "job", "job_data", "final_fit", "data_digest")
TOLD = dict.fromkeys(NEEDED, "x") | {"classes": list("0123456789"), "image_size": SIZE, "stage": "fp32"}
CONVOLUTIONS = 7
SOME = 300
"""Pictures to calibrate with: not a multiple of the calibration's batch."""
Pictures = npt.NDArray[np.uint8]


class Block(nn.Module):
    """A block of a ResNet: each convolution with a norm, and a way around them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, 3, stride=2)
        self.second = convolution(outputs, outputs, 3)
        self.around = convolution(inputs, outputs, 1, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        return (self.second(self.first(features).relu()) + self.around(features)).relu()


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def trained(pictures: Tensor, labels: Tensor) -> nn.Module:
    """Train a small ResNet on digits for a second."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = nn.Sequential(
            convolution(3, 8, 3), nn.ReLU(), Block(8, 16), Block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        module.append(nn.Linear(32, 10))
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        for _ in range(100):
            drawn = torch.randint(len(pictures), (64,))
            loss = F.cross_entropy(module((pictures[drawn] / 255 - 0.3) / 0.36), labels[drawn])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return module.eval()


@dataclass(frozen=True)
class Source:
    """A network that was trained on digits, as a file, with digits."""

    file: Path
    head: npt.NDArray[np.float32]
    train: Pictures
    other: Pictures

    def logits(self, path: Path) -> npt.NDArray[np.float32]:
        """Show a file what the network has not seen."""
        return open_artifact(path, threads=1).logits(self.other)

    def agreement(self, path: Path) -> tuple[float, float]:
        """Return agreement and signal-to-noise of a file with the source."""
        snr = measure.logit_snr_db(self.logits(path), self.logits(self.file))
        assert snr is not None
        return measure.agreement(self.logits(path), self.logits(self.file)), snr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    torch.set_num_threads(1)
    digits: Any = load_digits()
    grey = (digits.images * 255 / 16).round().astype(np.uint8)
    pictures = np.repeat(grey[:, None], 3, axis=1)
    module = trained(torch.from_numpy(pictures[:1400]), torch.from_numpy(digits.target[:1400]))
    path = tmp_path_factory.mktemp("quantize") / "fp32.onnx"
    export(module, CARD, path, TOLD)
    yield Source(path, module[-1].weight.detach().numpy(), pictures[:1400], pictures[1400:])


@pytest.fixture(scope="module")
def quantized(source: Source) -> Path:
    path = source.file.with_name("int8.onnx")
    quantize.int8(source.file, path, source.train[:SOME], 99.99, {"stage": "int8"})
    return path


def changed(source: Source, path: Path, weights: str, factor: float) -> Path:
    """Write the source with one of its weights multiplied."""
    model = onnx.load(source.file)
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == weights]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] *= factor
    tensor.CopyFrom(numpy_helper.from_array(values, weights))
    onnx.save(model, path)
    return path


def test_a_quantized_file_decides_as_its_source(source: Source, quantized: Path) -> None:
    assert quantize.integer_convolutions(quantized) == [CONVOLUTIONS, CONVOLUTIONS]
    assert quantize.integer_convolutions(source.file) == [0, CONVOLUTIONS]
    assert quantized.stat().st_size < 0.7 * source.file.stat().st_size
    assert len(set(source.logits(source.file).argmax(1))) == 10, "one answer for all pictures shows nothing"
    agreement, snr = source.agreement(quantized)
    assert agreement > 0.97 and snr > 20


def test_it_has_the_ends_and_the_metadata_of_its_source(quantized: Path) -> None:
    model = onnx.load(quantized)
    assert read_metadata(model) == {"format": 1, **TOLD, "stage": "int8"}
    assert [end.name for end in (*model.graph.input, *model.graph.output)] == [INPUT, OUTPUT]
    assert open_artifact(quantized).logits(np.zeros((3, 3, SIZE, SIZE), dtype=np.uint8)).shape == (3, 10)


def test_ranges_that_pictures_do_not_fit_show(source: Source, quantized: Path, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    shape = (SOME, 3, SIZE, SIZE)
    found = {}
    # Nearly one grey, which no digit is, and noise of all brightnesses.
    for name, noise in {"grey": numbers.integers(120, 136, shape), "noise": numbers.integers(0, 256, shape)}.items():
        path = tmp_path / f"{name}.onnx"
        quantize.int8(source.file, path, noise.astype(np.uint8), 99.99, {})
        found[name] = source.agreement(path)
    agreement, snr = found["grey"]
    assert agreement < 0.6 and snr < 5
    assert found["noise"][1] < source.agreement(quantized)[1] - 10


def test_whole_batches_are_counted_and_nothing_is_printed(
    source: Source, quantized: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quantize.int8(source.file, tmp_path / "a.onnx", source.train[: SOME // 32 * 32], 99.99, {"stage": "int8"})
    assert (tmp_path / "a.onnx").read_bytes() == quantized.read_bytes()
    assert capfd.readouterr() == ("", "")


def test_the_percentile_clips(source: Source, quantized: Path, tmp_path: Path) -> None:
    quantize.int8(source.file, tmp_path / "a.onnx", source.train[:SOME], 80, {})
    assert source.agreement(tmp_path / "a.onnx")[1] < source.agreement(quantized)[1] - 10


def test_each_layer_tells_the_error_of_its_weights(source: Source, quantized: Path, tmp_path: Path) -> None:
    errors = {entry["name"]: entry for entry in quantize.weight_errors(source.file, quantized)}
    assert len(errors) == CONVOLUTIONS + 1 and all("weight" in name for name in errors)
    for entry in errors.values():
        assert 0 < entry["mean"] <= entry["max"] and 0 < entry["relative"] < 0.05
    # Each output has steps of its own.
    half_steps = np.abs(source.head).max(axis=1) / 64 / 2  # 7 bits: -64 to 64
    assert 0.5 * half_steps.max() < errors["module.6.weight"]["max"] < 1.01 * half_steps.max()

    one_large = changed(source, tmp_path / "a.onnx", "module.6.weight", 100)
    quantize.int8(one_large, tmp_path / "b.onnx", source.train[:SOME], 99.99, {})
    worse = {entry["name"]: entry for entry in quantize.weight_errors(one_large, tmp_path / "b.onnx")}
    assert worse["module.6.weight"]["mean"] > 1.5 * errors["module.6.weight"]["mean"]
    assert worse["module.0.0.weight"] == errors["module.0.0.weight"]


def test_activations_without_a_range_are_refused(source: Source, tmp_path: Path) -> None:
    endless = changed(source, tmp_path / "a.onnx", "module.0.0.weight", np.inf)
    with pytest.raises(ArtifactError, match=r"int8: .* without a usable range \(.*\); is the network trained\?"):
        quantize.int8(endless, tmp_path / "b.onnx", source.train[:SOME], 99.99, {})
    assert not (tmp_path / "b.onnx").exists()


def test_dynamic_is_for_linear_layers_alone(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "dynamic.onnx"
    quantize.dynamic(source.file, path, {"stage": "dynamic"})
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert nodes.count("MatMulInteger") == 1 and nodes.count("Conv") == CONVOLUTIONS and "Gemm" not in nodes
    assert quantize.integer_convolutions(path) == [0, CONVOLUTIONS]
    assert read_metadata(onnx.load(path))["stage"] == "dynamic"
    agreement, snr = source.agreement(path)
    assert agreement > 0.99 and snr > 30
