"""From an ONNX file to one in 8 bits, with ONNX Runtime's own tools."""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.qdq_loss_debug import create_weight_matching
from onnxruntime.quantization.shape_inference import quant_pre_process

from distaug.compress.artifact import INPUT
from distaug.compress.export import read_metadata, write_onnx
from distaug.errors import ArtifactError

__all__ = ["dynamic", "int8", "integer_convolutions", "weight_errors"]

_CALIBRATION_BATCH = 32
# The collector keeps the activations of so many batches before it counts them: all at once would not fit.
_BATCHES_HELD = 2


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Feeds pictures (N, 3, H, W) uint8 to the calibration."""

    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        # Whole batches only: the collector cannot join others.
        parts = range(0, len(images) - _CALIBRATION_BATCH + 1, _CALIBRATION_BATCH)
        self._batches = iter([{INPUT: images[start : start + _CALIBRATION_BATCH]} for start in parts])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def int8(
    source: Path,
    target: Path,
    images: npt.NDArray[np.uint8],
    percentile: float,
    metadata: dict[str, Any],
    *,
    weight_bits: Literal[7, 8] = 7,
) -> None:
    """Quantize weights (8 bits with sign, per channel) and activations (8 bits without sign) statically.

    Activations hold the given percentile of what the pictures give rise to (arXiv:1712.05877, arXiv:2004.09602).

    Args:
        source: A float32 file of ours.
        target: The file to write.
        images: (N, 3, H, W) uint8 pictures to measure ranges on; those beyond a multiple of 32 are left out.
        percentile: Share of the activations, in %, that a range holds.
        metadata: What the file tells beside what its source does.
        weight_bits: Bits that a weight uses of its 8. x86 processors without VNNI add two products in 16 bits, which
            with all 8 overflows without a word: a file measured on one machine would be another one elsewhere.

    Raises:
        ArtifactError: The activations have no range, as those of a network that was never trained.
        StorageError: The file cannot be written.
    """
    with _workplace() as folder:
        prepared, quantized = folder / "prepared.onnx", folder / "quantized.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        try:
            quantize_static(
                prepared,
                quantized,
                _Pictures(images),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=weight_bits == 7,
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": percentile, "CalibMaxIntermediateOutputs": _BATCHES_HELD},
            )
        except ValueError as error:  # of numpy's histograms
            raise ArtifactError(
                f"int8: the calibration found activations without a usable range ({error}); is the network trained?"
            ) from error
        write_onnx(onnx.load(quantized), target, read_metadata(onnx.load(source)) | metadata)


def dynamic(source: Path, target: Path, metadata: dict[str, Any]) -> None:
    """Quantize the weights of linear layers, and their inputs anew for every batch; arguments as for `int8`."""
    with _workplace() as folder:
        quantized = folder / "quantized.onnx"
        quantize_dynamic(
            source, quantized, weight_type=QuantType.QInt8, reduce_range=True, op_types_to_quantize=["MatMul", "Gemm"]
        )
        write_onnx(onnx.load(quantized), target, read_metadata(onnx.load(source)) | metadata)


def weight_errors(source: Path, target: Path) -> list[dict[str, Any]]:
    """Return name, and mean, max and relative error of the weights, for each layer of a file that `int8` wrote.

    Relative is the length of the error over that of the weights.
    """
    with _workplace() as folder:
        prepared = folder / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        pairs = create_weight_matching(str(prepared), str(target))
        layers = [node for node in onnx.load(prepared).graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    found = []
    # Not the biases, which keep 32 bits, nor the numbers that normalise pictures.
    for name in (layer.input[1] for layer in layers if layer.input[1] in pairs):
        pair = pairs[name]
        error = np.abs(pair["dequantized"] - pair["float"])
        length = float(np.linalg.norm(pair["float"]))
        found.append(
            {
                "name": name,
                "mean": float(error.mean()),
                "max": float(error.max()),
                "relative": float(np.linalg.norm(error)) / length if length else 0.0,
            }
        )
    return found


def integer_convolutions(path: Path) -> list[int]:
    """Return how many convolutions of a file run in integers, and how many there are, once it is optimised."""
    with _workplace() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(folder / "optimised.onnx")
        options.log_severity_level = 3  # it warns that the optimised file is for this machine
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]
    integer = sum(name in ("QLinearConv", "ConvInteger") for name in names)
    return [integer, integer + sum(name in ("Conv", "FusedConv") for name in names)]


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """Make a folder for files in between, and keep the tools' advice to themselves."""
    logging.disable(logging.WARNING)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="distaug-quantize-") as folder,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            yield Path(folder)
    finally:
        logging.disable(logging.NOTSET)
