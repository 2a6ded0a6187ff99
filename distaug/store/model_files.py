"""The final model of a run, loadable without distaug: model/weights.safetensors and model/model.json."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from distaug.errors import StorageError
from distaug.store.checkpoint import Weights, decode_weights, encode_weights, versions, weights_digest
from distaug.store.place import Place
from distaug.store.whole import write_folder

__all__ = ["NEEDED", "read_model", "write_model"]

FORMAT = 1
WEIGHTS = "weights.safetensors"
CARD = "model.json"
NEEDED = ("model", "classes", "image_size", "mean", "std", "channels_last", "precision")
"""Keys of the card without which the model cannot be used; `model` is the job's section."""


def write_model(folder: Place, weights: Weights, card: Mapping[str, Any]) -> None:
    """Write or replace the model folder, whole or absent.

    Args:
        folder: The run's `model` folder.
        weights: State dict of the model, on any device.
        card: JSON values, at least NEEDED; `format`, `versions`, `weights_digest` and `file` are added.

    Raises:
        StorageError: Disk full or folder not writable.
    """
    if missing := [key for key in NEEDED if key not in card]:
        raise ValueError(f"the model's card lacks {', '.join(missing)}")
    data = encode_weights(weights)
    own = {
        "format": FORMAT,
        "versions": versions(),
        "weights_digest": weights_digest(weights),
        "file": {"name": WEIGHTS, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
    }
    text = json.dumps(dict(card) | own, indent=1, allow_nan=False) + "\n"
    write_folder(folder, {WEIGHTS: data, CARD: text.encode()}, seal=CARD)


def read_model(folder: Place) -> tuple[Weights, dict[str, Any]]:
    """Return the weights (on the CPU) and the card of a model folder.

    Raises:
        StorageError: There is no model, it is damaged, or it has a newer format.
    """
    remedy = "resume the run to write it again"
    try:
        card = json.loads((folder / CARD).read_bytes())
        data = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError as error:
        raise StorageError(
            f"there is no model in {folder}: the run has not ended; finish it with `distaug resume`"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot read {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise StorageError(f"{folder / CARD} is not JSON ({error}); {remedy}") from error
    found = card.get("format") if isinstance(card, dict) else None
    if not isinstance(found, int) or found > FORMAT:
        raise StorageError(
            f"{folder / CARD} has format {found}; this version of distaug reads formats up to {FORMAT}: "
            "use the version that wrote it, or a newer one"
        )
    if len(data) != card["file"]["bytes"] or hashlib.sha256(data).hexdigest() != card["file"]["sha256"]:
        raise StorageError(
            f"{folder / WEIGHTS} is damaged: its {len(data):,} bytes are not the {card['file']['bytes']:,} "
            f"that were written; {remedy}"
        )
    return decode_weights(data), card
