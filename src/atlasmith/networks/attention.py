"""Attention within an image or from one image to another, in 2-D and 3-D.

In windows (Swin, Liu et al. 2021, arXiv:2103.14030) or of every voxel to every other one (ViT, Dosovitskiy et
al. 2021, arXiv:2010.11929).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.fields import per_channel
from atlasmith.core.sampling import coordinates, warp
from atlasmith.networks.blocks import crop, head


def partition_windows(x: Tensor, size: int, margin: int = 0) -> Tensor:
    """Divide features into windows.

    Args:
        x: (B, C, *shape); `size` divides the shape.
        size: Distance of the windows along each axis, voxels.
        margin: By how much each window exceeds `size` on each side; the image's border wraps around.

    Returns:
        The windows (B, N, (size + 2 * margin)^d, C).
    """
    ndim = x.ndim - 2
    if margin:
        x = F.pad(x, [margin] * (2 * ndim), mode="circular")
    for axis in range(2, 2 + ndim):
        x = x.unfold(axis, size + 2 * margin, size)
    return x.movedim(1, -1).flatten(1 + ndim, 2 * ndim).flatten(1, ndim)


def merge_windows(x: Tensor, size: int, shape: Sequence[int]) -> Tensor:
    """Invert `partition_windows` without margin: (B, N, size^d, C) to (B, C, *shape)."""
    ndim = len(shape)
    x = x.reshape(len(x), *(n // size for n in shape), *[size] * ndim, x.shape[-1])
    order = [
        axis for pair in zip(range(1, 1 + ndim), range(1 + ndim, 1 + 2 * ndim), strict=True) for axis in pair
    ]
    return x.permute(0, 1 + 2 * ndim, *order).reshape(len(x), -1, *shape)


def largest_heads(width: int, most: int = 4) -> int:
    """Return the largest number of attention heads, at most `most`, that divides a width."""
    return next(heads for heads in range(most, 0, -1) if width % heads == 0)


class _Block(nn.Module):
    """The base of blocks: attention, then a perceptron at each voxel, each with a norm and a skip connection.

    Args:
        width: Channels of input and output.
        heads: Attention heads; a divisor of the width.
        expansion: Width of the perceptron's hidden layer, relative to `width`.
    """

    def __init__(self, width: int, heads: int, expansion: float = 2) -> None:
        super().__init__()
        self.heads, hidden = heads, round(expansion * width)
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend from features to themselves or to those of another image.

        Args:
            x: (B, width, *shape), of any size.
            context: What is attended to, (B, width, *shape), by default `x`.

        Returns:
            (B, width, *shape).
        """
        tokens = x.movedim(1, -1)
        normed = self.attention_norm(tokens)
        others = normed if context is None else self.attention_norm(context.movedim(1, -1))
        # One layer's weights, so that attention to itself has the parameters of Swin.
        weights, biases = (y.tensor_split([tokens.shape[-1]]) for y in (self.qkv.weight, self.qkv.bias))
        query, pairs = (
            F.linear(y, weight, bias).movedim(-1, 1)
            for y, weight, bias in zip((normed, others), weights, biases, strict=True)
        )
        tokens = tokens + self.project(self._attend(query, pairs).movedim(1, -1))
        tokens = tokens + self.mlp(self.mlp_norm(tokens))
        return tokens.movedim(-1, 1)

    def _attend(self, query: Tensor, pairs: Tensor) -> Tensor:
        """(B, width, *shape) from queries (B, width, *shape) and keys with values (B, 2 * width, *shape)."""
        raise NotImplementedError

    def _split(self, tokens: Tensor) -> Tensor:
        """(..., heads, L, width / heads) of tokens (..., L, width)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


class GlobalBlock(_Block):
    """Build attention of every voxel to every other one, for features at a low resolution.

    Sines and cosines of the coordinates are added to the queries and the keys, so that any size fits.

    Args:
        width: Channels of input and output.
        heads: Attention heads; a divisor of the width.
        expansion: Width of the perceptron's hidden layer, relative to `width`.
    """

    def _attend(self, query: Tensor, pairs: Tensor) -> Tensor:
        key, value = pairs.chunk(2, dim=1)
        code = position_code(query.shape[2:], query)
        q, k, v = (self._split(y.flatten(2).mT) for y in (query + code, key + code, value))
        attended = F.scaled_dot_product_attention(q, k, v)
        return attended.transpose(1, 2).flatten(2).mT.reshape(query.shape)


def position_code(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return sines and cosines (1, C, *shape) of the coordinates, for features `like` (B, C, *shape)."""
    grid = coordinates(shape, like.new_empty((), dtype=torch.float32))
    count = -(-like.shape[1] // (2 * len(shape)))  # of frequencies
    angles = torch.cat([grid * math.pi / 2 ** (k + 1) for k in range(count)], dim=1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, : like.shape[1]].to(like.dtype)


class SwinBlock(_Block):
    """Build attention in windows, then a perceptron at each voxel, each with a norm and a skip connection.

    A voxel attends to those of its window that are near it in the image: not to those that the shift wraps
    around, nor to the padding. With a margin its window is larger where it searches than where it queries
    (XMorpher, Shi et al. 2022, arXiv:2206.07349). A deformable window samples what is attended to at learned
    offsets from its voxels (Chen et al. 2023, arXiv:2303.06179); unlike theirs each voxel has its offset.

    Args:
        ndim: 2 or 3.
        width: Channels of input and output.
        heads: Attention heads; a divisor of the width.
        shifted: Shift the windows by half of their size, so that a pair of blocks connects neighboring
            windows.
        margin: By how much the window that is searched exceeds the other on each side, voxels; up to `size`.
        deformable: Whether the windows are deformable.
        size: Size of a window along each axis, voxels.
        expansion: As in `GlobalBlock`.
    """

    offsets: Tensor

    def __init__(
        self,
        ndim: int,
        width: int,
        heads: int,
        shifted: bool,
        margin: int = 0,
        deformable: bool = False,
        size: int = 4,
        expansion: float = 2,
    ) -> None:
        super().__init__(width, heads, expansion)
        self.size, self.shift, self.margin = size, size // 2 if shifted else 0, margin
        self.deformation = head(ndim, 2 * width, ndim) if deformable else None
        span = 2 * (self.size + margin) - 1  # offsets along an axis
        self.bias = nn.Parameter(torch.zeros(heads, span**ndim))
        positions, searched = (
            coordinates([self.size + 2 * m] * ndim, torch.zeros(()))[0].flatten(1) - m for m in (0, margin)
        )
        offsets = (positions[:, :, None] - searched[:, None]).long() + self.size + margin - 1
        index = offsets[0]
        for axis in range(1, ndim):
            index = index * span + offsets[axis]
        self.register_buffer("offsets", index, persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend as in `_Block`, (B, width, *shape) to the same shape."""
        if self.deformation is not None:
            others = x if context is None else context
            context = warp(others, self.deformation(torch.cat([x, others], dim=1)), padding="border")
        return super().forward(x, context)

    def _shifted_windows(self, x: Tensor, margin: int = 0) -> Tensor:
        """Windows (B, N, (size + 2 * margin)^d, C) of features (B, C, *shape), after the shift."""
        axes = tuple(range(2, x.ndim))
        shifted = torch.roll(x, [-self.shift] * len(axes), axes) if self.shift else x
        return partition_windows(shifted, self.size, margin)

    def _attention_mask(self, x: Tensor, padded: Tensor) -> Tensor:
        """Which voxels of a window attend to which: (N, 1, size^d, (size + 2 * margin)^d)."""
        # In single precision: half precision has no integers above 256.
        grid = coordinates(padded.shape[2:], padded.new_empty((), dtype=torch.float32))
        outside = (grid >= per_channel(x.shape[2:], grid)).any(1, keepdim=True)
        groups = []
        for margin in (0, self.margin):
            windows = self._shifted_windows(torch.cat([grid, outside], dim=1), margin)[0]  # (N, L, d + 1)
            # Voxels that were neighbors before the shift have the same window origin.
            offsets = coordinates([self.size + 2 * margin] * (x.ndim - 2), grid)[0].flatten(1).T - margin
            groups.append(windows - F.pad(offsets, [0, 1]))
        return (groups[0][:, :, None] == groups[1][:, None]).all(-1)[:, None]

    def _attend(self, query: Tensor, pairs: Tensor) -> Tensor:
        padding = [p for n in reversed(query.shape[2:]) for p in (0, -n % self.size)]
        padded = F.pad(query, padding)
        key, value = self._shifted_windows(F.pad(pairs, padding), self.margin).chunk(2, dim=-1)
        q, k, v = map(self._split, (self._shifted_windows(padded), key, value))
        bias = self.bias[:, self.offsets].masked_fill(~self._attention_mask(query, padded), float("-inf"))
        attended = F.scaled_dot_product_attention(q, k, v, bias)
        result = merge_windows(attended.transpose(2, 3).flatten(3), self.size, padded.shape[2:])
        if self.shift:
            axes = tuple(range(2, result.ndim))
            result = torch.roll(result, [self.shift] * len(axes), axes)
        return crop(result, query.shape[2:])
