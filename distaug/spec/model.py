"""Section `model`: the network, its starting weights and what of it is trained."""

from typing import Any, Literal

from pydantic import Field

from distaug.spec.section import Section


class ModelSpec(Section):
    """The network, its starting weights and what of it is trained."""

    name: str = Field(min_length=1)
    """`smallnet`, `resnet18`, any other of torchvision's, `timm/<name>`, or `package.module:factory`."""
    stem: Literal["auto", "small", "standard"] = "auto"
    """Of a ResNet: 3×3 without pooling (`small`), 7×7 with it (`standard`); `auto`: small to 64 pixels."""
    stochastic_depth: float = Field(default=0.0, ge=0, lt=1)
    """Probability of the last block to be skipped, rising linearly with depth (arXiv:1603.09382)."""
    options: dict[str, Any] = {}
    """Further arguments for the model's factory."""
    weights: str | None = None
    """Starting weights: a .safetensors or .pt file, or the name of torchvision's, e.g. `IMAGENET1K_V1`."""
    resize: bool = False
    """Give each layer the size that it has in `weights`: a network whose channels were pruned."""
    head_lr_multiplier: float = Field(default=1.0, gt=0)
    """Learning rate of the classification head over that of the rest."""
    freeze_epochs: int = Field(default=0, ge=0)
    """For the first epochs only the head is trained."""
    channels_last: bool = True
    """Keep pictures and weights in the memory format that convolutions prefer."""
