"""Registration networks: two images to the velocity between them.

Each takes (ndim, inputs, outputs, channels) and maps a fixed and a moving image (B, inputs, *shape), of any
size, to (B, outputs, *half), half the size rounded up. The first `ndim` channels are a velocity on the
half-resolution grid, in units of `VELOCITY_SCALE` of its voxels. All start near zero. `channels` are the
widths of the levels, finest first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.fields import exponentiate
from atlasmith.core.sampling import half_shape, resize, warp
from atlasmith.networks.attention import SwinBlock
from atlasmith.networks.unet import CONVOLUTION, UNet, conv_block, crop, head, pad_to_multiple

# With a scale of 1, a network that starts near the identity spends many steps on growing its last weights.
VELOCITY_SCALE = 4.0
INTEGRATION_STEPS = 5  # of velocities within a network


class HalfUNet(nn.Module):
    """A U-Net whose first convolution is strided, so that nothing but the images is at full resolution."""

    def __init__(
        self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (16, 32, 32, 32)
    ) -> None:
        super().__init__()
        self.body = UNet(ndim, 2 * inputs, outputs, channels, first_stride=2)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        result: Tensor = self.body(torch.cat([fixed, moving], dim=1))
        return result


class VoxelMorph(nn.Module):
    """The U-Net of VoxelMorph (Balakrishnan et al. 2019, doi:10.1109/TMI.2019.2897538), at full resolution
    and without norms: 327,331 parameters in 3-D, 109,170 in 2-D. Its output is averaged to half size."""

    def __init__(
        self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (16, 32, 32, 32)
    ) -> None:
        super().__init__()

        def layer(before: int, width: int) -> nn.Sequential:
            return nn.Sequential(CONVOLUTION[ndim](before, width, 3, padding=1), nn.LeakyReLU(0.2))

        first, last = channels[0], channels[-1]
        self.encoder = nn.ModuleList(layer(a, b) for a, b in itertools.pairwise([2 * inputs, *channels]))
        self.decoder = nn.ModuleList(
            layer(width, last) for width in [last, *(last + skip for skip in reversed(channels[1:]))]
        )
        widths = [last + first, 2 * first, first, first]
        self.finish = nn.Sequential(*(layer(a, b) for a, b in itertools.pairwise(widths)))
        self.head = head(ndim, first, outputs)
        self.pool = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[ndim](2)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        shape = fixed.shape[2:]
        x = pad_to_multiple(torch.cat([fixed, moving], dim=1), 2 ** len(self.encoder))
        skips = []
        for level in self.encoder:
            skips.append(level(x))
            x = self.pool(skips[-1])
        for level in self.decoder:
            x = F.interpolate(level(x), scale_factor=2, mode="nearest")
            x = torch.cat([x, skips.pop()], dim=1)
        return F.interpolate(crop(self.head(self.finish(x)), shape), size=half_shape(shape), mode="area")


class LargeKernel(nn.Module):
    """Convolutions of 5, 3 and 1 voxels and the identity, in parallel and added up (Jia et al. 2022).

    They are linear, so `folded` has one convolution for all of them.
    """

    sizes = (5, 3, 1)

    def __init__(self, ndim: int, channels: int) -> None:
        super().__init__()
        self.ndim, self.channels = ndim, channels
        self.branches = nn.ModuleList(
            CONVOLUTION[ndim](channels, channels, size, padding=size // 2) for size in self.sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x, *(branch(x) for branch in self.branches)]).sum(0)

    def folded(self) -> nn.Module:
        """The same map (B, C, *shape) to (B, C, *shape) as one convolution."""
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


class LKUNet(nn.Module):
    """A U-Net with `LargeKernel` after each level of its encoder: it sees far with few levels (Jia et al.
    2022, arXiv:2208.04939). Its first convolution is strided here, and it has norms."""

    def __init__(
        self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (8, 16, 32, 32)
    ) -> None:
        super().__init__()

        def extra(level: int, width: int) -> nn.Module:
            return nn.Sequential(LargeKernel(ndim, width), nn.LeakyReLU(0.2))

        self.body = UNet(ndim, 2 * inputs, outputs, channels, first_stride=2, extra=extra)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        result: Tensor = self.body(torch.cat([fixed, moving], dim=1))
        return result


class TransMorph(nn.Module):
    """A U-Net whose levels but the finest end in a pair of Swin blocks: attention in windows of 4 voxels an
    axis, then in windows half a window further (TransMorph, Chen et al. 2022,
    doi:10.1016/j.media.2022.102615). Widths are multiples of `heads`."""

    heads = 4

    def __init__(
        self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (16, 32, 48, 64)
    ) -> None:
        super().__init__()

        def extra(level: int, width: int) -> nn.Module:
            if level == 0:
                return nn.Identity()
            return nn.Sequential(*(SwinBlock(ndim, width, self.heads, shifted) for shifted in (False, True)))

        self.body = UNet(ndim, 2 * inputs, outputs, channels, first_stride=2, extra=extra)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        result: Tensor = self.body(torch.cat([fixed, moving], dim=1))
        return result


def reparameterize(network: nn.Module) -> None:
    """Make every `LargeKernel` in `network` one convolution, in place: faster, and no more to be trained."""
    for name, child in network.named_children():
        if isinstance(child, LargeKernel):
            setattr(network, name, child.folded())
        else:
            reparameterize(child)


class _Residual(nn.Module):
    def __init__(self, ndim: int, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_block(ndim, channels, channels), conv_block(ndim, channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


def _moved(image: Tensor, output: Tensor, half: Sequence[int]) -> Tensor:
    """`image` (B, C, *shape) warped by the velocity of a network's output (B, outputs, *shape) so far."""
    shape = output.shape[2:]
    sizes = [(n - 1) / max(m - 1, 1) for n, m in zip(shape, half, strict=True)]
    units = output.new_tensor([VELOCITY_SCALE * size for size in sizes]).view(1, -1, *[1] * len(shape))
    return warp(image.float(), exponentiate(units * output[:, : len(shape)].float(), INTEGRATION_STEPS))


class Pyramid(nn.Module):
    """Images at an eighth, a quarter and half their size, each level adding to the velocity of the one before
    (LapIRN, Mok and Chung 2020, arXiv:2006.16148). A level sees the moving image already warped."""

    def __init__(self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (8, 16, 32)) -> None:
        super().__init__()

        def level(width: int) -> nn.Sequential:
            return nn.Sequential(
                conv_block(ndim, 2 * inputs + outputs, width),
                _Residual(ndim, width),
                _Residual(ndim, width),
                head(ndim, width, outputs),
            )

        self.outputs = outputs
        self.levels = nn.ModuleList(level(width) for width in reversed(channels))

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        sizes = [half_shape(fixed.shape[2:])]
        while len(sizes) < len(self.levels):
            sizes.insert(0, [max(n, 2) for n in half_shape(sizes[0])])
        output = fixed.new_zeros(len(fixed), self.outputs, *sizes[0])
        for level, size in zip(self.levels, sizes, strict=True):
            output = resize(output, size)
            target, image = (F.interpolate(x, size=size, mode="area") for x in (fixed, moving))
            output = output + level(torch.cat([target, _moved(image, output, sizes[-1]), output], dim=1))
        return output


class DualStream(nn.Module):
    """One encoder for both images; from coarse to fine, the moving image's features are warped by the
    velocity so far, and their correlations with the fixed image's around each voxel tell what to add
    (Dual-PRNet++, Kang et al. 2022, doi:10.1016/j.media.2022.102379)."""

    def __init__(
        self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (16, 32, 32, 32)
    ) -> None:
        super().__init__()
        self.outputs, self.multiple = outputs, 2 ** len(channels)
        self.encoder = nn.ModuleList(
            conv_block(ndim, a, b, 2) for a, b in itertools.pairwise([inputs, *channels])
        )
        self.offsets = list(itertools.product((0, 1, 2), repeat=ndim))
        self.levels = nn.ModuleList(
            nn.Sequential(
                conv_block(ndim, len(self.offsets) + width + outputs, width),
                conv_block(ndim, width, width),
                head(ndim, width, outputs),
            )
            for width in reversed(channels)
        )

    def _correlations(self, fixed: Tensor, moved: Tensor) -> Tensor:
        """(B, offsets, *shape): means over features (B, C, *shape) of products, a voxel apart at most."""
        padded = F.pad(moved, [1] * (2 * (fixed.ndim - 2)))
        maps = []
        for offset in self.offsets:
            shifted = padded
            for axis, start in enumerate(offset, start=2):
                shifted = shifted.narrow(axis, start, fixed.shape[axis])
            maps.append((fixed * shifted).mean(1))
        return torch.stack(maps, dim=1)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        count, shape = len(fixed), fixed.shape[2:]
        x = pad_to_multiple(torch.cat([fixed, moving]), self.multiple)
        features: list[Tensor] = []
        for layer in self.encoder:
            x = layer(x)
            features.append(x)
        half = features[0].shape[2:]
        output = x.new_zeros(count, self.outputs, *x.shape[2:])
        for level in self.levels:
            target, image = features.pop().split(count)
            output = resize(output, target.shape[2:])
            correlations = self._correlations(target, _moved(image, output, half))
            output = output + level(torch.cat([correlations, target, output], dim=1))
        return crop(output, half_shape(shape))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "unet": VoxelMorph,
    "unet_half": HalfUNet,
    "lkunet": LKUNet,
    "pyramid": Pyramid,
    "dualstream": DualStream,
    "transmorph": TransMorph,
}
