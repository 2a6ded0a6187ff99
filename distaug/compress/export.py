"""From a network to an ONNX file that takes uint8 pictures and tells by itself what it is."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from distaug.compress.artifact import FORMAT, INPUT, OUTPUT, PREFIX
from distaug.errors import ArtifactError
from distaug.store.whole import write_whole

__all__ = ["OPSET", "export", "read_metadata", "write_onnx"]

OPSET = 20


class _Deployed(nn.Module):
    """A network with the normalisation of its pictures: (N, 3, H, W) uint8 to (N, K) float32 logits."""

    scale: Tensor
    shift: Tensor

    def __init__(self, module: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.module = module
        # As in the training: x · 1/(255 std) − mean/std.
        self.register_buffer("scale", torch.tensor([1 / (255 * s) for s in std]).view(-1, 1, 1))
        self.register_buffer("shift", torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.module(image.to(torch.float32) * self.scale + self.shift)
        return logits


def export(module: nn.Module, card: Mapping[str, Any], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a network as an ONNX file with a free number of pictures.

    Args:
        module: The bare network, float32 on the CPU; it is left in evaluation mode.
        card: Its model.json: `mean`, `std` and `image_size` are used.
        path: The file.
        metadata: JSON values by name that the file carries.

    Raises:
        ArtifactError: The network cannot be traced, or the file would not be valid; names the layer.
        StorageError: The file cannot be written.
    """
    deployed = _Deployed(module, tuple(card["mean"]), tuple(card["std"])).eval()
    size = card["image_size"]
    image = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    with _layers_noted(module) as entered, _quiet():
        try:
            program = torch.onnx.export(
                deployed,
                (image,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1)}},
                dynamo=True,
                verbose=False,
            )
        except Exception as error:
            place = f"layer `{entered[-1]}` ({type(module.get_submodule(entered[-1])).__name__})" if entered else "it"
            cause = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
            raise ArtifactError(
                f"the network cannot be exported: {place} cannot be traced: {cause}. Take data-dependent Python out "
                "of its forward pass, or leave `compress` out"
            ) from error
    assert program is not None
    write_onnx(program.model_proto, path, metadata)


def write_onnx(model: onnx.ModelProto, path: Path, metadata: Mapping[str, Any]) -> None:
    """Check a model and write it with its metadata, whole or absent.

    Args:
        model: The model.
        path: The file.
        metadata: JSON values by name.

    Raises:
        ArtifactError: It is not valid.
        StorageError: The file cannot be written.
    """
    values = {"format": FORMAT} | dict(metadata)
    onnx.helper.set_model_props(model, {PREFIX + key: json.dumps(value) for key, value in values.items()})
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ArtifactError(f"{path.name} would not be a valid ONNX file: {error}") from error
    write_whole(path, model.SerializeToString())


def read_metadata(model: onnx.ModelProto) -> dict[str, Any]:
    """Return what `write_onnx` wrote into a model."""
    found = {entry.key: entry.value for entry in model.metadata_props}
    return {key.removeprefix(PREFIX): json.loads(value) for key, value in found.items() if key.startswith(PREFIX)}


@contextlib.contextmanager
def _layers_noted(module: nn.Module) -> Iterator[list[str]]:
    """Keep the names of the layers that are being computed, the innermost last."""
    entered: list[str] = []
    handles = []
    for name, layer in module.named_modules():
        if name:
            handles.append(layer.register_forward_pre_hook(lambda _, __, name=name: entered.append(name)))
            handles.append(layer.register_forward_hook(lambda *_: entered.pop() and None))
    try:
        yield entered
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter prints and logs of its steps to itself; what goes wrong is raised."""
    logging.disable(logging.ERROR)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
