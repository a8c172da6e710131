"""Attention in windows of an image (Swin, Liu et al. 2021, arXiv:2103.14030), in 2-D and 3-D."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.fields import per_channel
from atlasmith.core.sampling import coordinates
from atlasmith.networks.blocks import crop


def partition_windows(x: Tensor, size: int) -> Tensor:
    """Divide features (B, C, *shape) into windows (B, N, size^d, C); `size` divides the shape."""
    ndim = x.ndim - 2
    x = x.reshape(*x.shape[:2], *(m for n in x.shape[2:] for m in (n // size, size)))
    outer, inner = range(2, 2 + 2 * ndim, 2), range(3, 3 + 2 * ndim, 2)
    return x.permute(0, *outer, *inner, 1).flatten(1 + ndim, 2 * ndim).flatten(1, ndim)


def merge_windows(x: Tensor, size: int, shape: torch.Size) -> Tensor:
    """Invert `partition_windows`: (B, N, size^d, C) to (B, C, *shape)."""
    ndim = len(shape)
    x = x.reshape(len(x), *(n // size for n in shape), *[size] * ndim, x.shape[-1])
    order = [
        axis for pair in zip(range(1, 1 + ndim), range(1 + ndim, 1 + 2 * ndim), strict=True) for axis in pair
    ]
    return x.permute(0, 1 + 2 * ndim, *order).reshape(len(x), -1, *shape)


class SwinBlock(nn.Module):
    """Build attention in windows, then a perceptron at each voxel, each with a norm and a skip connection.

    A voxel attends to those of its window that are near it in the image: not to those that the shift wraps
    around, nor to the padding.

    Args:
        ndim: 2 or 3.
        width: Channels of input and output.
        heads: Attention heads; a divisor of the width.
        shifted: Shift the windows by half of their size, so that a pair of blocks connects neighboring
            windows.
    """

    size = 4  # of a window along each axis, voxels

    offsets: Tensor

    def __init__(self, ndim: int, width: int, heads: int, shifted: bool) -> None:
        super().__init__()
        self.heads, self.shift = heads, self.size // 2 if shifted else 0
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        span = 2 * self.size - 1  # offsets along an axis
        self.bias = nn.Parameter(torch.zeros(heads, span**ndim))
        positions = coordinates([self.size] * ndim, torch.zeros(()))[0].flatten(1)
        offsets = (positions[:, :, None] - positions[:, None]).long() + self.size - 1
        index = offsets[0]
        for axis in range(1, ndim):
            index = index * span + offsets[axis]
        self.register_buffer("offsets", index, persistent=False)

    def _shifted_windows(self, x: Tensor) -> Tensor:
        """Windows (B, N, size^d, C) of features (B, C, *shape), after the shift."""
        axes = tuple(range(2, x.ndim))
        shifted = torch.roll(x, [-self.shift] * len(axes), axes) if self.shift else x
        return partition_windows(shifted, self.size)

    def _attention_mask(self, x: Tensor, padded: Tensor) -> Tensor:
        """Which voxels of a window attend to which: (N, 1, size^d, size^d)."""
        # In single precision: half precision has no integers above 256.
        grid = coordinates(padded.shape[2:], padded.new_empty((), dtype=torch.float32))
        outside = (grid >= per_channel(x.shape[2:], grid)).any(1, keepdim=True)
        windows = self._shifted_windows(torch.cat([grid, outside], dim=1))[0]  # (N, size^d, d + 1)
        # Voxels that were neighbors before the shift have the same window origin.
        offsets = coordinates([self.size] * (x.ndim - 2), grid)[0].flatten(1).T
        groups = windows - F.pad(offsets, [0, 1])
        return (groups[:, :, None] == groups[:, None]).all(-1)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, *shape), of any size, to the same shape."""
        padding = [p for n in reversed(x.shape[2:]) for p in (0, -n % self.size)]
        padded = F.pad(x, padding)
        tokens = self._shifted_windows(padded)
        count, number, length, width = tokens.shape
        qkv = self.qkv(self.attention_norm(tokens)).view(count, number, length, 3, self.heads, -1)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5)
        bias = self.bias[:, self.offsets].masked_fill(~self._attention_mask(x, padded), float("-inf"))
        attended = F.scaled_dot_product_attention(query, key, value, bias)
        tokens = tokens + self.project(attended.transpose(2, 3).reshape(count, number, length, width))
        tokens = tokens + self.mlp(self.mlp_norm(tokens))
        result = merge_windows(tokens, self.size, padded.shape[2:])
        if self.shift:
            axes = tuple(range(2, x.ndim))
            result = torch.roll(result, [self.shift] * len(axes), axes)
        return crop(result, x.shape[2:])
