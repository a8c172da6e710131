"""Weights of atlases whose errors are correlated, as in joint label fusion."""

from __future__ import annotations

import torch
from torch import Tensor

from atlasmith.core.chunks import at_once


def correlated_weights(error: Tensor, correlation: Tensor, alpha: float) -> Tensor:
    """Compute joint weights from error probabilities and the correlation of errors.

    Atlases i and j are wrong together with the probability p_i p_j + r_ij sqrt(p_i (1 - p_i) p_j (1 - p_j)).

    Args:
        error: (V, N), the probability p that each atlas is wrong at each voxel.
        correlation: (N, N), of the atlases' errors beyond what their probabilities explain.
        alpha: Regularization, see `solve_joint_weights`.

    Returns:
        (V, N), not negative, of sum 1, or 0 where no weight is positive.
    """
    size = max(1, at_once(error.device) // error.shape[1] ** 2)
    parts = []
    for p in error.split(size):
        s = (p * (1 - p)).clamp(min=0).sqrt()
        joint = p[:, :, None] * p[:, None] + correlation * s[:, :, None] * s[:, None]
        parts.append(solve_joint_weights(joint, alpha))
    return torch.cat(parts)


def solve_joint_weights(joint_error: Tensor, alpha: float) -> Tensor:
    """Solve (M + alpha I)^-1 1, set negative weights to 0, and scale to sum 1.

    Args:
        joint_error: M (V, N, N), expected products of the errors of each two atlases at each voxel.
        alpha: Added to the diagonal.

    Returns:
        (V, N).
    """
    system = joint_error.clone()
    system.diagonal(dim1=1, dim2=2).add_(alpha)
    # Unlike `solve` it doesn't wait for the device to say that no system is singular.
    weights = torch.linalg.solve_ex(system, torch.ones_like(system[:, 0])).result.clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
