"""An exported file in the hand: it classifies pictures with ONNX Runtime alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distaug.data.decode import Pixels
from distaug.data.node import available_cores
from distaug.data.pictures import Picture, classify, look
from distaug.errors import ArtifactError, JobError, StorageError
from distaug.store.place import Place, place

__all__ = ["FORMAT", "INPUT", "OUTPUT", "PREFIX", "Artifact", "open_artifact"]

FORMAT = 1
PREFIX = "distaug."
"""What the names of our metadata begin with."""
INPUT, OUTPUT = "image", "logits"
_ENDS = [(INPUT, "tensor(uint8)"), (OUTPUT, "tensor(float)")]
_NEEDED = ("format", "classes", "image_size", "eval_geometry", "job", "job_data", "final_fit", "data_digest")
_REMEDY = "give an ONNX file of a run's folder `compressed`"


@dataclass(frozen=True)
class Artifact:
    """An ONNX file of ours with all that is needed to use it."""

    session: Any
    """The `onnxruntime.InferenceSession`."""
    metadata: dict[str, Any]
    """What the file tells of itself."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.metadata["classes"])

    @property
    def image_size(self) -> int:
        """Height and width in pixels of what the file takes."""
        return int(self.metadata["image_size"])

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Compute the logits of pictures of the model's size.

        Args:
            images: (N, 3, S, S) uint8.

        Returns:
            (N, K) float32.
        """
        [logits] = self.session.run([OUTPUT], {INPUT: images})
        return np.asarray(logits)

    def predict(self, images: Picture | Sequence[Picture], top: int = 5) -> list[dict[str, Any]]:
        """Classify pictures of any size, prepared as for the evaluation.

        Args:
            images: Pictures; a single one stands for a list of one.
            top: Number of classes to name for each.

        Returns:
            For each picture `{"image": name, "predictions": [{"class": …, "probability": …}, …]}`, the
            likeliest first; a picture that is not a file is named by its place in the list.

        Raises:
            DataError: A picture cannot be read; the message names it.
        """
        return classify(images, top, self.classes, self._view, self._probabilities)

    def _view(self, picture: Picture, name: str) -> Pixels:
        geometry, max_pixels = self.metadata["eval_geometry"], self.metadata["job_data"]["max_pixels"]
        return look(picture, name, self.image_size, geometry, max_pixels)

    def _probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        logits = self.logits(images).astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def open_artifact(path: str | Place, threads: int | None = None) -> Artifact:
    """Open an exported file for use on the CPU.

    Args:
        path: The ONNX file, or its URL.
        threads: Threads that compute; None: one for each core that this process may use.

    Raises:
        ArtifactError: It is an ONNX file of another program.
        JobError: ONNX Runtime is not installed.
        StorageError: There is no such file, it is damaged, or of a newer format.
    """
    file = place(path)
    try:
        import onnxruntime
    except ImportError as error:
        raise JobError(f"{path} needs onnxruntime: pip install 'distaug[compress]'") from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads or available_cores()
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        # From a file the weights are mapped.
        model = str(file) if isinstance(file, Path) else file.read_bytes()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        found = session.get_modelmeta().custom_metadata_map
        metadata = {k.removeprefix(PREFIX): json.loads(value) for k, value in found.items() if k.startswith(PREFIX)}
    except StorageError:
        raise
    except Exception as error:  # those of ONNX Runtime have no class in common
        reason = str(error).rpartition("failed:")[2].strip()
        raise StorageError(f"unreadable artifact {file}: {reason}; {_REMEDY}") from error
    _refuse_others(session, metadata, file)
    return Artifact(session, metadata)


def _refuse_others(session: Any, metadata: dict[str, Any], path: Place) -> None:
    """Refuse the files of other programs, and of later versions of this one."""
    if metadata.get("format", 0) > FORMAT:
        raise StorageError(
            f"{path} has format {metadata['format']}; this version of distaug reads formats up to {FORMAT}: "
            "use the version that wrote it, or a newer one"
        )
    if missing := [key for key in _NEEDED if key not in metadata]:
        raise ArtifactError(
            f"{path} is the file of another program: its metadata lacks {PREFIX}{missing[0]}; {_REMEDY}"
        )
    ends = [(end.name, end.type) for end in (*session.get_inputs(), *session.get_outputs())]
    if ends != _ENDS:
        found, wanted = (", ".join(" ".join(end) for end in listed) for listed in (ends, _ENDS))
        raise ArtifactError(
            f"{path} is the file of another program: its inputs and outputs are {found}, not {wanted}; {_REMEDY}"
        )
