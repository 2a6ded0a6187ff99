"""The model folder: readable by others, checked, whole or absent."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distaug.errors import StorageError
from distaug.store.checkpoint import weights_digest
from distaug.store.model_files import read_model, write_model

CARD: dict[str, Any] = {
    "model": {"name": "smallnet"},
    "classes": ["cat", "dog"],
    "image_size": 32,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "channels_last": True,
    "precision": "fp32",
    "top1": None,
}
WEIGHTS = {"w": torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last), "n": torch.tensor(3)}


def test_the_model_comes_back_and_plain_tools_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_model(folder, WEIGHTS, CARD)
    weights, card = read_model(folder)
    assert weights_digest(weights) == card["weights_digest"] == weights_digest(WEIGHTS)
    assert {key: card[key] for key in CARD} == CARD
    assert card["format"] == 1 and card["versions"]["torch"] == torch.__version__
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "model.json", "weights.safetensors"]
    assert weights_digest(load_file(folder / "weights.safetensors")) == card["weights_digest"]


def test_an_incomplete_card_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lacks classes, mean"):
        write_model(tmp_path / "m", WEIGHTS, {k: v for k, v in CARD.items() if k not in ("classes", "mean")})
    assert not (tmp_path / "m").exists()


def test_a_full_disk_keeps_the_old_model(small_disk: Path) -> None:
    folder = small_disk / "model"
    write_model(folder, WEIGHTS, CARD)
    with pytest.raises(StorageError, match=r"needed 4,00\d,\d\d\d bytes"):
        write_model(folder, {"w": torch.zeros(1_000_000)}, CARD)
    assert weights_digest(read_model(folder)[0]) == weights_digest(WEIGHTS)
    write_model(folder, {"w": torch.ones(3)}, CARD)
    assert read_model(folder)[0]["w"].tolist() == [1, 1, 1]


def test_damage_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(StorageError, match=rf"no model in {folder}.*distaug resume"):
        read_model(folder)
    write_model(folder, WEIGHTS, CARD)
    good = (folder / "weights.safetensors").read_bytes()
    for bad in (good[:-1], good[:-1] + bytes([good[-1] ^ 1]), b""):
        (folder / "weights.safetensors").write_bytes(bad)
        with pytest.raises(StorageError, match="weights.safetensors is damaged"):
            read_model(folder)
    (folder / "weights.safetensors").write_bytes(good)
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text[:-5])
    with pytest.raises(StorageError, match="model.json is not JSON"):
        read_model(folder)
    (folder / "model.json").write_text(json.dumps(json.loads(text) | {"format": 9}))
    with pytest.raises(StorageError, match="model.json has format 9; .* up to 1"):
        read_model(folder)
    (folder / "model.json").unlink()
    with pytest.raises(StorageError, match="no model"):
        read_model(folder)
