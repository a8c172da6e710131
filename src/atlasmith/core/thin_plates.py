"""Thin-plate splines: the smoothest maps through scattered values."""

from __future__ import annotations

import torch
from torch import Tensor

from atlasmith.core.chunks import at_once

ABSENT = 1e6  # relaxation of points that don't count
TINY = 1e-12


def thin_plate_spline(
    points: Tensor, values: Tensor, targets: Tensor, present: Tensor | None = None, relaxation: float = 0.0
) -> Tensor:
    """Interpolate scattered values by the thin-plate spline.

    (Bookstein 1989, doi:10.1109/34.24792.) The function of the least bending energy: an affine function, and
    kernels around the points, r^2 log r in 2-D and r in 3-D. Values that lie in a plane are extrapolated.

    Args:
        points: (B, N, d), d = 2 or 3.
        values: (B, N, C).
        targets: Where to evaluate, (M, d), in the units of the points.
        present: (B, N), 1 for points that count, 0 for others; None: all count.
        relaxation: Weight of the bending energy against the distance to the values; 0 interpolates them.

    Returns:
        (B, M, C).

    Example:
        >>> points = torch.tensor([[[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [3.0, 3.0]]])
        >>> values = 2 * points[..., :1] + 1
        >>> thin_plate_spline(points, values, torch.tensor([[1.0, 1.0]]))
        tensor([[[3.]]])
    """
    batch, count, ndim = points.shape
    counts = points.new_ones(batch, count) if present is None else present
    # In units of the points' spread, so that the system is well conditioned.
    center = points.double().mean(1, keepdim=True)
    spread = (points.double() - center).square().sum(2).mean(1).sqrt().clamp(min=TINY)[:, None, None]
    known, wanted = (points.double() - center) / spread, (targets.double() - center) / spread
    slack = relaxation + ABSENT * (1 - counts.double())
    rows = _affine(known)
    # Points in one plane leave the affine part across it open: it is 0.
    corner = -TINY * torch.eye(ndim + 1, dtype=rows.dtype, device=rows.device).expand(batch, -1, -1)
    upper = torch.cat([_kernel(known, known) + torch.diag_embed(slack), rows], dim=2)
    system = torch.cat([upper, torch.cat([rows.mT, corner], dim=2)], dim=1)
    right = (values * counts[..., None]).double()
    right = torch.cat([right, right.new_zeros(batch, ndim + 1, right.shape[2])], dim=1)
    # `solve` would make the host wait for a check.
    coefficients = torch.linalg.solve_ex(system, right).result
    parts = wanted.split(max(at_once(points.device) // (count * batch), 1), dim=1)
    found = [torch.cat([_kernel(part, known), _affine(part)], dim=2) @ coefficients for part in parts]
    return torch.cat(found, dim=1).to(values)


def _affine(points: Tensor) -> Tensor:
    """Rows (B, N, d + 1) of the affine part at points (B, N, d)."""
    return torch.cat([torch.ones_like(points[..., :1]), points], dim=2)


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    """The kernels (B, N, M) between points (B, N, d) and (B, M, d), of the sign that makes the energy
    positive."""
    squared = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist").square()
    return squared * squared.clamp(min=TINY).log() / 2 if first.shape[2] == 2 else -squared.sqrt()
