"""Layers and padding that the networks share, in 2-D and 3-D."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
NORM: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
BATCH_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SLOPE = 0.2  # of leaky ReLUs
BOUNDED_WEIGHTS = 36  # of a head: more of them change its output no more than these do
# Where a scale matters that a norm would remove.
NO_NORM: dict[int, type[nn.Module]] = {2: nn.Identity, 3: nn.Identity}


def conv_block(
    ndim: int, inputs: int, outputs: int, stride: int = 1, norm: Mapping[int, type[nn.Module]] = NORM
) -> nn.Sequential:
    """Build a convolution of 3 voxels, a norm and a leaky ReLU.

    Args:
        ndim: 2 or 3.
        inputs: Channels of the input.
        outputs: Channels of the output.
        stride: Stride of the convolution.
        norm: The norm for each `ndim`.

    Returns:
        A module (B, inputs, *shape) -> (B, outputs, *shape / stride, rounded up).
    """
    return nn.Sequential(
        CONVOLUTION[ndim](inputs, outputs, 3, stride, padding=1),
        norm[ndim](outputs, affine=True),
        nn.LeakyReLU(SLOPE),
    )


def strided_blocks(ndim: int, inputs: int, channels: Sequence[int]) -> list[nn.Module]:
    """Build the levels of an encoder: a `conv_block` for each width, each at half the resolution."""
    return [conv_block(ndim, a, b, 2) for a, b in itertools.pairwise([inputs, *channels])]


def plain_block(
    ndim: int, inputs: int, outputs: int, size: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Build a convolution and a leaky ReLU without a norm: what it computes at a voxel depends on its patch.

    Its weights start such that the features keep their scale through many layers (He et al. 2015,
    arXiv:1502.01852).

    Args:
        ndim: 2 or 3.
        inputs: Channels of the input.
        outputs: Channels of the output.
        size: Size of the kernel, odd.
        stride: Stride of the convolution.
        dilation: Distance of the kernel's voxels.

    Returns:
        A module (B, inputs, *shape) -> (B, outputs, *shape / stride, rounded up).
    """
    padding = size // 2 * dilation
    convolution = CONVOLUTION[ndim](inputs, outputs, size, stride, padding=padding, dilation=dilation)
    nn.init.kaiming_normal_(convolution.weight, SLOPE)
    return nn.Sequential(convolution, nn.LeakyReLU(SLOPE))


def single_precision(like: Tensor) -> torch.autocast:
    """Give the context, on the device of `like`, for what autocast must not round to half precision.

    In 8 bits a large displacement loses half a voxel, and a small effect of a covariate is lost.
    """
    return torch.autocast(like.device.type, enabled=False)


class _SinglePrecision(nn.Module):
    """The base of layers that compute in the precision of their weights, whatever that of their input."""

    weight: Tensor
    bounded = False  # see `head`

    @property
    def scale(self) -> float:
        """By how much the input is scaled for the bound."""
        return min(1, BOUNDED_WEIGHTS / self.weight[0].numel()) if self.bounded else 1.0

    def forward(self, x: Tensor) -> Tensor:
        with single_precision(x):
            x = x.to(self.weight.dtype)
            if self.bounded:
                size = x.square().mean(tuple(range(1, x.ndim)), keepdim=True).clamp(min=1).sqrt()
                x = x * (self.scale / size)
            result: Tensor = super().forward(x)
        return result


class _Head2d(_SinglePrecision, nn.Conv2d):
    pass


class _Head3d(_SinglePrecision, nn.Conv3d):
    pass


def head(
    ndim: int, inputs: int, outputs: int, single: bool = True, size: int = 3, bounded: bool = False
) -> nn.Module:
    """Build the last convolution, whose weights start near zero: registration starts at the identity.

    Adam moves every weight by the learning rate, so that where the features agree in sign a step changes the
    velocity in proportion to the number of weights and the size of the features. Where the heads of several
    levels are added, the first steps in 3-D then move images out of the field of view, where no gradient
    leads back. A bounded head limits both.

    Args:
        ndim: 2 or 3.
        inputs: Number of channels.
        outputs: Likewise.
        single: Whether it computes in single precision: a velocity in half precision would be a staircase.
        size: Size of the kernel, odd.
        bounded: Whether the change of the output by a step has a limit, whatever the number of inputs and
            their scale: for levels whose outputs are added. In single precision alone.
    """
    kinds = {2: _Head2d, 3: _Head3d} if single else CONVOLUTION
    convolution = kinds[ndim](inputs, outputs, size, padding=size // 2)
    if isinstance(convolution, _SinglePrecision):
        convolution.bounded = bounded
    for parameter in convolution.parameters():
        nn.init.normal_(parameter, std=1e-6)
    return convolution


def bounded_weights(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights of a network whose heads weren't `bounded`, by the name of each, to those that are.

    The result is the same where the features before the heads have a mean square of at most 1, as after a
    norm and a leaky ReLU.
    """
    heads = {name: each for name, each in network.named_modules() if isinstance(each, _SinglePrecision)}
    return tensors | {
        f"{name}.weight": tensors[f"{name}.weight"] / each.scale
        for name, each in heads.items()
        if f"{name}.weight" in tensors
    }


def pad_to_multiple(x: Tensor, multiple: int, least: int = 2) -> Tensor:
    """Pad (B, C, *shape) at the ends to multiples of `multiple`.

    To two of them at least by default, since a norm needs more than one voxel at the coarsest level.
    """
    return F.pad(x, [p for n in reversed(x.shape[2:]) for p in (0, max(-n % multiple, least * multiple - n))])


def crop(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Remove the padding at the ends: (B, C, *padded) to (B, C, *shape)."""
    for axis, n in enumerate(shape, start=2):
        x = x.narrow(axis, 0, n)
    return x
