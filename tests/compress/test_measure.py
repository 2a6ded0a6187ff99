"""What a file costs and how far it decides as another, on numbers that can be checked by hand."""

import hashlib
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from onnx import TensorProto, helper

from distaug.compress import measure
from distaug.compress.artifact import INPUT, OUTPUT, Artifact
from distaug.compress.export import OPSET, write_onnx

NEEDED = ("classes", "eval_geometry", "job", "job_data", "final_fit", "data_digest")


def artifact(path: Path, size: int) -> Path:
    """Write a file that sums what it is shown, as a single class."""
    nodes = [
        helper.make_node("Cast", [INPUT], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("ReduceSum", ["flat", "axes"], [OUTPUT]),
    ]
    image = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", 3, size, size])
    logits = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "sum", [image], [logits], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    write_onnx(model, path, dict.fromkeys(NEEDED, "x") | {"image_size": size})
    return path


def test_a_file_is_weighed(tmp_path: Path) -> None:
    data = b"distaug " * 1000
    (tmp_path / "a").write_bytes(data)
    found = measure.weigh(tmp_path / "a")
    assert found.sha256 == hashlib.sha256(data).hexdigest() and found.bytes == 8000
    assert len(zlib.compress(data)) == found.zlib_bytes < 100


def test_agreement_is_of_decisions() -> None:
    reference = np.array([[2.0, 1.0], [0.0, 1.0], [5.0, 4.0], [-1.0, -2.0]])
    assert measure.agreement(reference, reference) == 1.0
    assert measure.agreement(10 * reference + 3, reference) == 1.0
    assert measure.agreement(np.array([[1.0, 2.0], [0.0, 9.0], [5.0, 4.0], [3.0, 2.0]]), reference) == 0.75


def test_signal_to_noise() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 5.0]], dtype=np.float32)
    assert measure.logit_snr_db(reference, reference) is None
    # Powers of 50 and 0.5.
    assert measure.logit_snr_db(reference + 0.5 * np.eye(2), reference) == pytest.approx(20.0)
    assert measure.logit_snr_db(0 * reference, reference) == pytest.approx(0.0)
    # Squares of large logits would not fit float32 arithmetic.
    large = np.full((2, 2), 1e30, dtype=np.float32)
    assert measure.logit_snr_db(large / 2, large) == pytest.approx(20 * np.log10(2))


def test_a_file_is_about_as_fast_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_SECONDS", 0.1)
    file = artifact(tmp_path / "a.onnx", 32)
    found = measure.latency(file, file)
    assert list(found) == ["1", "64"]
    for numbers in found.values():
        assert set(numbers) == {"p50_ms", "p95_ms", "baseline_p50_ms", "speedup", "rounds"}
        assert 0 < numbers["p50_ms"] <= numbers["p95_ms"] and 0.3 < numbers["speedup"] < 3
    assert found["64"]["p50_ms"] > found["1"]["p50_ms"]


def test_latency_is_measured_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = artifact(tmp_path / "large.onnx", 8), artifact(tmp_path / "small.onnx", 4)
    runs: list[tuple[int, int]] = []

    def seconds(artifact: Artifact, images: npt.NDArray[np.uint8]) -> float:
        runs.append((artifact.image_size, len(images)))
        return 0.06 if artifact.image_size == 8 else 0.03

    monkeypatch.setattr(measure, "_seconds", seconds)
    found = measure.latency(small, large)
    wanted = {"p50_ms": 30.0, "p95_ms": 30.0, "baseline_p50_ms": 60.0, "speedup": 2.0, "rounds": 44}
    assert found["1"] == found["64"] == pytest.approx(wanted)
    # Twice before the measurement, then each first in every other round.
    sizes = [*(4, 8) * 2, *(8, 4, 4, 8) * 22]
    assert runs == [(size, batch) for batch in (1, 64) for size in sizes]


def test_the_engine_is_named() -> None:
    found = measure.engine("int8")
    assert found["version"] == onnxruntime.__version__ and found["dtype"] == "int8" and found["threads"] == 1
    assert found["name"] == "onnxruntime" and found["provider"] == "CPUExecutionProvider" and found["cpu"]
