"""Attention within windows of an image (Swin, Liu et al. 2021, arXiv:2103.14030), in 2-D and 3-D."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.sampling import coordinates
from atlasmith.networks.unet import crop


def windows(x: Tensor, size: int) -> Tensor:
    """(B, C, *shape), whose sizes are multiples of `size`, as windows (B, N, size^d, C)."""
    ndim = x.ndim - 2
    x = x.reshape(*x.shape[:2], *(m for n in x.shape[2:] for m in (n // size, size)))
    outer, inner = range(2, 2 + 2 * ndim, 2), range(3, 3 + 2 * ndim, 2)
    return x.permute(0, *outer, *inner, 1).flatten(1 + ndim, 2 * ndim).flatten(1, ndim)


def unwindows(x: Tensor, size: int, shape: torch.Size) -> Tensor:
    """The inverse of `windows`: (B, N, size^d, C) to (B, C, *shape)."""
    ndim = len(shape)
    x = x.reshape(len(x), *(n // size for n in shape), *[size] * ndim, x.shape[-1])
    order = [
        axis for pair in zip(range(1, 1 + ndim), range(1 + ndim, 1 + 2 * ndim), strict=True) for axis in pair
    ]
    return x.permute(0, 1 + 2 * ndim, *order).reshape(len(x), -1, *shape)


class SwinBlock(nn.Module):
    """Attention in windows, then a perceptron at each voxel, each on normed input and added to it.

    Maps (B, width, *shape) to the same, of any size. `shifted` moves the windows by half of their size, so
    that a pair of blocks lets neighboring windows speak. A voxel sees those of its window alone that are
    really near: not those that the shift wraps around, nor the padding.
    """

    size = 4  # of a window, voxels an axis

    offsets: Tensor

    def __init__(self, ndim: int, width: int, heads: int, shifted: bool) -> None:
        super().__init__()
        self.heads, self.shift = heads, self.size // 2 if shifted else 0
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        span = 2 * self.size - 1  # offsets along an axis
        self.bias = nn.Parameter(torch.zeros(heads, span**ndim))
        places = coordinates([self.size] * ndim, torch.zeros(()))[0].flatten(1)
        offsets = (places[:, :, None] - places[:, None]).long() + self.size - 1
        index = offsets[0]
        for axis in range(1, ndim):
            index = index * span + offsets[axis]
        self.register_buffer("offsets", index, persistent=False)

    def _windows(self, x: Tensor) -> Tensor:
        axes = tuple(range(2, x.ndim))
        return windows(torch.roll(x, [-self.shift] * len(axes), axes) if self.shift else x, self.size)

    def _near(self, x: Tensor, padded: Tensor) -> Tensor:
        """Which voxels of a window see which: (N, 1, size^d, size^d)."""
        where = coordinates(padded.shape[2:], padded)
        places = self._windows(where)[0]  # (N, size^d, d)
        # Voxels that were neighbors before the shift have the same window origin.
        origins = places - coordinates([self.size] * len(where[0]), padded)[0].flatten(1).T
        outside = (places >= places.new_tensor(x.shape[2:])).any(-1, keepdim=True)
        groups = torch.cat([origins, outside], dim=-1)
        return (groups[:, :, None] == groups[:, None]).all(-1)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        padding = [p for n in reversed(x.shape[2:]) for p in (0, -n % self.size)]
        padded = F.pad(x, padding)
        tokens = self._windows(padded)
        count, number, length, width = tokens.shape
        qkv = self.qkv(self.before(tokens)).view(count, number, length, 3, self.heads, -1)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5)
        bias = self.bias[:, self.offsets].masked_fill(~self._near(x, padded), float("-inf"))
        seen = F.scaled_dot_product_attention(query, key, value, bias)
        tokens = tokens + self.project(seen.transpose(2, 3).reshape(count, number, length, width))
        tokens = tokens + self.perceptron(self.between(tokens))
        result = unwindows(tokens, self.size, padded.shape[2:])
        if self.shift:
            axes = tuple(range(2, x.ndim))
            result = torch.roll(result, [self.shift] * len(axes), axes)
        return crop(result, x.shape[2:])
