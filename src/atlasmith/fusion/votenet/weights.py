"""Weights of atlases from VoteNet's reliability."""

from __future__ import annotations

import torch
from torch import Tensor

from atlasmith.fusion.aligned import disagreement
from atlasmith.fusion.joint_weights import correlated_weights

RIDGE = 0.1  # regularization of joint weights


def soft_weights(reliability: Tensor, sharpness: float) -> Tensor:
    """Compute (r / max r) ** sharpness from reliability r.

    It is relative to the most reliable atlas, so that low reliability of all atlases doesn't vanish.

    Args:
        reliability: (N, *shape), the probability that each atlas's label is right.
        sharpness: The power.

    Returns:
        Weights (N, *shape).
    """
    best = reliability.amax(dim=0).clamp(min=torch.finfo(reliability.dtype).tiny)
    return (reliability / best).pow_(sharpness)


def hard_weights(reliability: Tensor, sharpness: float) -> Tensor:
    """Give each atlas with a reliability of one half or more the weight 1, and others 0.

    Where there is no such atlas, the weights are the `soft_weights`.

    Args:
        reliability: (N, *shape), the probability that each atlas's label is right.
        sharpness: Of the soft weights.

    Returns:
        Weights (N, *shape).
    """
    reliable = (reliability >= 0.5).float()
    return reliable.where(reliable.any(dim=0), soft_weights(reliability, sharpness))


def independent_error_weights(reliability: Tensor) -> Tensor:
    """Compute joint weights of atlases with independent errors.

    They are (p p^T + RIDGE I)^-1 1 with p the probability of an error, as in joint label fusion, by the
    formula of Sherman and Morrison; negative ones are 0 (after VoteNet+, Ding, Han and Niethammer 2020,
    ISBI).

    Args:
        reliability: 1 - p (N, *shape), the probability that each atlas's label is right.

    Returns:
        Weights (N, *shape).
    """
    error = 1 - reliability
    shared = error.sum(dim=0) / (RIDGE + error.square().sum(dim=0))
    return error.mul_(-shared).add_(1).clamp_(min=0)


def correlated_error_weights(labels: Tensor, reliability: Tensor, correlation: Tensor) -> Tensor:
    """Compute joint weights of atlases with correlated errors, where the atlases disagree.

    Args:
        labels: (N, *shape).
        reliability: (N, *shape), the probability that each atlas's label is right.
        correlation: (N, N), of errors in training.

    Returns:
        Weights (N, *shape), which are 1 where the atlases agree.
    """
    where = disagreement(labels).flatten().nonzero()[:, 0]
    weights = torch.ones_like(reliability)
    found = correlated_weights(1 - reliability.flatten(1)[:, where].T, correlation, RIDGE).T
    # Correlations that don't fit the probabilities may leave no positive weight.
    weights.view(len(weights), -1)[:, where] = found.where(found.any(dim=0), 1)
    return weights
