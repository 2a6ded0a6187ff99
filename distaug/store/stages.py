"""What a compression came to: one StageRow for each file, in compressed/stages.json."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from distaug.errors import StorageError
from distaug.store.place import Place
from distaug.store.records import finite
from distaug.store.whole import write_whole

__all__ = ["BASE_MODEL", "STAGES_FILE", "StageRow", "Stages"]

FORMAT = 1
STAGES_FILE = "stages.json"
BASE_MODEL = "../model"
"""What `StageRow.model` is for the uncompressed file."""


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One exported file, measured; accuracies are in 0 to 1."""

    name: str
    """`fp32`, `magnitude-30`, `channels`, `int8`, `dynamic`: the stage, with its target in % where it has several."""
    file: str
    """The ONNX file, below `compressed`."""
    sha256: str
    """Of the file."""
    model: str | None
    """Folder of the weights, from `compressed`; that of the run for the uncompressed file, None for a quantized one."""
    parameters: int
    """Of the network."""
    nonzeros: int
    """Parameters that are not 0."""
    macs: int
    """Multiplications with addition for one picture."""
    bytes: int
    """Size of the file."""
    zlib_bytes: int
    """Size of the file after zlib."""
    latency: dict[str, dict[str, float]]
    """By batch, "1" and "64": p50_ms, p95_ms, baseline_p50_ms (of the uncompressed file, in turns), speedup, rounds."""
    engine: dict[str, Any]
    """name, version, provider, threads, dtype, cpu: what the latency was measured with."""
    val: dict[str, Any]
    """top1, macro, loss, samples of the file itself on the validation set, by which the gate decides."""
    drop: float
    """Points of validation accuracy that the uncompressed file is ahead."""
    against: str
    """Name of the row that agreement and signal-to-noise compare with."""
    agreement: float
    """Share of validation pictures on which both decide alike."""
    logit_snr_db: float | None
    """Power of the other's logits over that of the difference, in dB; None where there is no difference."""
    layers: list[dict[str, Any]] = field(default_factory=list)
    """Of a quantized file: name of each layer and mean, max and relative error of its weights."""
    integer_convolutions: list[int] | None = None
    """Of a quantized file: convolutions that run in integers, and all convolutions, in the optimised graph."""
    passed: bool
    """Whether it passed the gate."""
    reason: str
    """Why it did not; empty otherwise."""
    seconds: float
    """Wall time of the stage."""
    test: dict[str, Any] | None = None
    """As `val`, on the test set; judged once, after all stages."""


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Everything about the compression of one model."""

    spec: dict[str, Any]
    """Section `compress` of the job."""
    weights_digest: str
    """Of the uncompressed model."""
    classes: list[str]
    """Names of the classes."""
    rows: list[StageRow] = field(default_factory=list)
    """The uncompressed file first."""
    done: bool = False
    """Whether all stages are through."""
    artifact: str | None = None
    """Name of the row whose file is the result; None where nothing passed, or while it goes on."""
    reason: str = ""
    """Why nothing passed."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the libraries."""

    def row(self, name: str) -> StageRow:
        """Return a row by its name."""
        return next(row for row in self.rows if row.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        values: dict[str, Any] = finite(asdict(self))
        return {"format": FORMAT} | values

    def write(self, folder: Place) -> None:
        """Write stages.json into the folder `compressed`, whole or absent.

        Raises:
            StorageError: It cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        write_whole(folder / STAGES_FILE, text.encode())

    @classmethod
    def read(cls, folder: Place) -> "Stages | None":
        """Read stages.json from the folder `compressed`; None where there is none.

        Raises:
            StorageError: It is damaged or of a newer format.
        """
        path = folder / STAGES_FILE
        try:
            values = json.loads(path.read_bytes())
            if values["format"] > FORMAT:
                raise StorageError(
                    f"{path} has format {values['format']}; this version of distaug reads formats up to {FORMAT}: "
                    "use the version that wrote it, or a newer one"
                )
            rows = [StageRow(**_known(StageRow, row)) for row in values["rows"]]
            return cls(**_known(cls, values) | {"rows": rows})
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{path} is damaged ({error}); remove it and compress again") from error


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {key: value for key, value in values.items() if key in names}
