"""Cosine transform of fields, which diagonalizes the Laplacian of a field mirrored at the image's borders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def cosines(n: int, modes: int, like: Tensor) -> Tensor:
    """Return the lowest modes of the discrete cosine transform (type II), orthonormal.

    Args:
        n: Size of the grid along the axis.
        modes: Number of modes, 1 to n.
        like: Gives device and type.

    Returns:
        (n, modes), the constant first.
    """
    positions = torch.arange(n, device=like.device, dtype=torch.float64)[:, None] + 0.5
    frequencies = torch.arange(modes, device=like.device, dtype=torch.float64)
    basis = torch.cos(positions * frequencies * (math.pi / n)) * math.sqrt(2 / n)
    return torch.cat([basis[:, :1] / math.sqrt(2), basis[:, 1:]], dim=1).to(like.dtype)


def cosine_transform(fields: Tensor, inverse: bool = False) -> Tensor:
    """Transform fields to the modes of `cosines` along each axis, and back.

    By matrix products, which on the grids of velocities take no longer than an FFT, on any device.

    Args:
        fields: (B, C, *shape).
        inverse: Whether to transform a spectrum back.

    Returns:
        (B, C, *shape).

    Example:
        >>> fields = torch.rand(1, 2, 5, 4)
        >>> bool(torch.allclose(cosine_transform(cosine_transform(fields), inverse=True), fields, atol=1e-6))
        True
    """
    for n in fields.shape[2:]:
        # The contracted axis becomes the last, so that after all of them the axes are in order again.
        fields = torch.tensordot(fields, cosines(n, n, fields), dims=([2], [1 if inverse else 0]))
    return fields


def laplacian_eigenvalues(shape: Sequence[int], spacing: Sequence[float], like: Tensor) -> Tensor:
    """Return the eigenvalue of minus the Laplacian of three-point differences for each mode.

    Args:
        shape: Size of the grid.
        spacing: Size of its voxels (d), mm.
        like: Gives device and type.

    Returns:
        (*shape), mm^-2.
    """
    axes = []
    for n, size in zip(shape, spacing, strict=True):
        k = torch.arange(n, device=like.device, dtype=like.dtype)
        axes.append((2 - 2 * (torch.pi / n * k).cos()) / size**2)
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).sum(dim=0)
