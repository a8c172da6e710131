"""Weights of atlases from VoteNet's reliability."""

from __future__ import annotations

import numpy as np
import torch

from atlasmith.core.grid import Array
from atlasmith.fusion.joint_weights import correlated_weights

RIDGE = 0.1  # regularization of joint weights


def soft_weights(reliability: Array, sharpness: float) -> Array:
    """Compute (r / max r) ** sharpness from reliability r.

    It is relative to the most reliable atlas, so that low reliability of all atlases doesn't vanish.

    Args:
        reliability: (N, *shape), the probability that each atlas's label is right.
        sharpness: The power.

    Returns:
        Weights (N, *shape).
    """
    best = np.maximum(reliability.max(axis=0), np.finfo(reliability.dtype).tiny)
    weights: Array = (reliability / best) ** sharpness
    return weights


def hard_weights(reliability: Array, sharpness: float) -> Array:
    """Give each atlas with a reliability of one half or more the weight 1, and others 0.

    Where there is no such atlas, the weights are the `soft_weights`.

    Args:
        reliability: (N, *shape), the probability that each atlas's label is right.
        sharpness: Of the soft weights.

    Returns:
        Weights (N, *shape).
    """
    reliable = (reliability >= 0.5).astype(np.float32)
    return np.where(reliable.any(axis=0), reliable, soft_weights(reliability, sharpness))


def independent_error_weights(reliability: Array) -> Array:
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
    shared = error.sum(axis=0) / (RIDGE + np.square(error).sum(axis=0))
    weights: Array = np.maximum(1 - error * shared, 0)
    return weights


def correlated_error_weights(labels: Array, reliability: Array, correlation: Array) -> Array:
    """Compute joint weights of atlases with correlated errors, where the atlases disagree.

    Args:
        labels: (N, *shape).
        reliability: (N, *shape), the probability that each atlas's label is right.
        correlation: (N, N), of errors in training.

    Returns:
        Weights (N, *shape), which are 1 where the atlases agree.
    """
    where = (labels != labels[0]).any(axis=0)
    error = torch.from_numpy(1 - reliability[:, where].T)
    weights = np.ones(labels.shape, dtype=np.float32)
    found = correlated_weights(error, torch.from_numpy(correlation), RIDGE).T.numpy()
    # Correlations that don't fit the probabilities may leave no positive weight.
    weights[:, where] = np.where(found.any(axis=0), found, 1)
    return weights
