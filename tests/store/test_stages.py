"""stages.json: what was measured is read again, newer and damaged files are refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distaug.errors import StorageError
from distaug.store.stages import STAGES_FILE, StageRow, Stages


def row(name: str = "fp32", **fields: Any) -> StageRow:
    values: dict[str, Any] = {
        "name": name,
        "file": f"{name}.onnx",
        "sha256": "ab" * 32,
        "model": "../model",
        "parameters": 1000,
        "nonzeros": 990,
        "macs": 10**10,
        "bytes": 4321,
        "zlib_bytes": 3999,
        "latency": {"1": {"p50_ms": 0.1 + 0.2, "p95_ms": 0.4, "baseline_p50_ms": 0.3, "speedup": 1 / 3}},
        "engine": {"name": "onnxruntime", "threads": 1},
        "val": {"top1": 2 / 3, "macro": None, "loss": 0.5, "samples": 99},
        "drop": 0.0,
        "against": "fp32",
        "agreement": 1.0,
        "logit_snr_db": None,
        "passed": True,
        "reason": "",
        "seconds": 1.5,
    }
    return StageRow(**(values | fields))


def stages(**fields: Any) -> Stages:
    quantized = row(
        "int8",
        model=None,
        logit_snr_db=31.7,
        layers=[{"name": "conv", "mean": 0.1, "max": 0.2, "relative": 0.01}],
        integer_convolutions=[7, 7],
        passed=False,
        reason="it decides otherwise",
        test={"top1": 0.5},
    )
    plain = {"spec": {"stages": []}, "weights_digest": "cd", "classes": ["cat"], "rows": [row(), quantized]}
    return Stages(**(plain | fields))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert Stages.read(tmp_path) is None
    begun = stages()
    begun.write(tmp_path)
    assert Stages.read(tmp_path) == begun
    ended = replace(begun, done=True, artifact="fp32", versions={"torch": "2"})
    ended.write(tmp_path)
    assert Stages.read(tmp_path) == ended != begun
    assert json.loads((tmp_path / STAGES_FILE).read_text())["format"] == 1
    assert ended.row("int8").integer_convolutions == [7, 7] and ended.to_dict()["rows"][0]["macs"] == 10**10


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    values = stages().to_dict() | {"new": 1}
    values["rows"][0]["new"] = 1
    (tmp_path / STAGES_FILE).write_text(json.dumps(values))
    assert Stages.read(tmp_path) == stages()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / STAGES_FILE).write_text(json.dumps(stages().to_dict() | {"format": 2}))
    with pytest.raises(StorageError, match=r"stages\.json has format 2; .* up to 1: use the version"):
        Stages.read(tmp_path)


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "rows": [{}]}', '{"format": "x"}'])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / STAGES_FILE).write_text(damage)
    with pytest.raises(StorageError, match=rf"{tmp_path}/stages\.json is damaged \(.*\); remove it and compress again"):
        Stages.read(tmp_path)


def test_half_a_file_and_no_file(tmp_path: Path) -> None:
    stages().write(tmp_path)
    path = tmp_path / STAGES_FILE
    path.write_text(path.read_text()[:-10])
    with pytest.raises(StorageError, match="is damaged"):
        Stages.read(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError, match=rf"cannot read {path}: Is a directory"):
        Stages.read(tmp_path)


def test_a_number_that_is_not_finite_is_null(tmp_path: Path) -> None:
    stages(rows=[row(logit_snr_db=float("-inf"))]).write(tmp_path)
    found = Stages.read(tmp_path)
    assert found is not None and found.rows[0].logit_snr_db is None
