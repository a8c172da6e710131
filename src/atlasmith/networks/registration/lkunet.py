"""A U-Net with large kernels, which are folded into single convolutions after training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.networks.blocks import CONVOLUTION, SLOPE
from atlasmith.networks.registration.base import Network
from atlasmith.networks.registration.unets import StridedUNet


class LargeKernel(nn.Module):
    """Build convolutions of 5, 3 and 1 voxels and the identity, in parallel, whose outputs are added.

    (Jia et al. 2022, arXiv:2208.04939.)

    Args:
        ndim: 2 or 3.
        channels: Channels of input and output.
    """

    sizes = (5, 3, 1)

    def __init__(self, ndim: int, channels: int) -> None:
        super().__init__()
        self.ndim, self.channels = ndim, channels
        self.branches = nn.ModuleList(
            CONVOLUTION[ndim](channels, channels, size, padding=size // 2) for size in self.sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, *shape) to the same shape."""
        return torch.stack([x, *(branch(x) for branch in self.branches)]).sum(0)

    def folded(self) -> nn.Module:
        """Return one convolution that computes the same, as all branches are linear; it isn't trainable."""
        size = max(self.sizes)
        weights = [branch.get_parameter("weight").detach() for branch in self.branches]
        weights.append(torch.eye(self.channels).to(weights[0]).view_as(weights[-1]))
        margins = [[(size - weight.shape[-1]) // 2] * (2 * self.ndim) for weight in weights]
        padded = [F.pad(weight, margin) for weight, margin in zip(weights, margins, strict=True)]
        biases = [branch.get_parameter("bias").detach() for branch in self.branches]
        result: nn.Module = CONVOLUTION[self.ndim](self.channels, self.channels, size, padding=size // 2)
        result.to(device=padded[0].device, dtype=padded[0].dtype)
        result.load_state_dict({"weight": torch.stack(padded).sum(0), "bias": torch.stack(biases).sum(0)})
        return result.requires_grad_(False)


class LKUNet(StridedUNet):
    """Build a U-Net with a `LargeKernel` after each level of its encoder.

    Its receptive field is large with few levels (Jia et al. 2022, arXiv:2208.04939). Unlike theirs it has
    norms, and a strided first convolution. Arguments as in `Network`.
    """

    def __init__(
        self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (8, 16, 32, 32)
    ) -> None:
        def extra(level: int, width: int) -> nn.Module:
            return nn.Sequential(LargeKernel(ndim, width), nn.LeakyReLU(SLOPE))

        super().__init__(ndim, inputs, outputs, channels, extra)


def reparameterize(network: nn.Module) -> None:
    """Replace every `LargeKernel` in a network by one convolution, in place: faster, and no longer trainable.

    Args:
        network: Any network, such as a trained `Groupwise`.
    """
    for name, child in network.named_children():
        if isinstance(child, LargeKernel):
            setattr(network, name, child.folded())
        else:
            reparameterize(child)


lkunet = Network(LKUNet, "U-Net with kernels of 5 voxels (LKU-Net). For large displacements in few levels.")
