"""Stochastic depth: residual branches left out at random while training.

After Huang et al. 2016 (arXiv:1603.09382), per sample: block l of L loses its branch with probability
p·l/L, and a branch that is kept is scaled by 1 / (1 - p·l/L), so that evaluation, which keeps them all,
needs no change. The draws come from torch's own generator.
"""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import StochasticDepth, stochastic_depth

from distaug.errors import JobError

__all__ = ["FAMILIES", "BranchNorm", "set_depth"]

FAMILIES = ("resnet", "resnext", "wide_resnet", "efficientnet", "convnext", "swin", "maxvit")
"""Beginnings of the names of torchvision's models that can have stochastic depth."""


class BranchNorm(nn.BatchNorm2d):
    """The norm that ends a residual branch, dropping the branch for some of the samples while training.

    As a kind of BatchNorm it leaves the names of the weights, and the block around it, as they were.

    Args:
        norm: The norm whose settings, weights and statistics are taken over.
        probability: Of a sample to lose the branch, at least 0 and below 1.
    """

    def __init__(self, norm: nn.BatchNorm2d, probability: float) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.load_state_dict(norm.state_dict())
        self.probability = probability

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, H, W), then zero some samples and scale up the others."""
        branch: Tensor = stochastic_depth(super().forward(input), self.probability, "row", self.training)
        return branch

    def extra_repr(self) -> str:
        """Describe the norm in the printed model."""
        return f"{self.num_features}, probability={self.probability:.4g}"


def set_depth(module: nn.Module, probability: float, name: str) -> None:
    """Give a torchvision model stochastic depth, in place.

    In a family that has it built in, the rise from block to block is the family's own, scaled so that it
    ends at `probability`; 0 switches it off.

    Args:
        module: The model.
        probability: Of the last block to be skipped.
        name: What the job calls the model, for the message.

    Raises:
        JobError: The model has no residual branches that could be skipped.
    """
    built_in = [part for part in module.modules() if isinstance(part, StochasticDepth)]
    blocks = [part for part in module.modules() if isinstance(part, BasicBlock | Bottleneck)]
    if last := max((part.p for part in built_in), default=0.0):
        for part in built_in:
            part.p *= probability / last
    elif blocks and probability:
        for number, block in enumerate(blocks, start=1):
            end = "bn3" if isinstance(block, Bottleneck) else "bn2"
            norm = BranchNorm(getattr(block, end), probability * number / len(blocks))
            setattr(block, end, norm)
    elif probability:
        raise JobError(
            f"model.stochastic_depth: found {probability:g}, but `{name}` has no branches to skip. Set it to "
            f"0, or take one of {', '.join(f'{family}*' for family in FAMILIES)}, or one of timm's models "
            "that have drop_path_rate"
        )
