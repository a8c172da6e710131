"""The registration objective of a batch in training, on features in any precision."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from atlasmith.core.grid import Grid
from atlasmith.losses import Objective, registration_objective
from atlasmith.transforms import Coefficients


def training_objective(
    grid: Grid,
    template: Tensor,
    image: Tensor,
    mask: Tensor,
    coefficients: Coefficients,
    **terms: Any,
) -> Objective:
    """Evaluate the objective of deformations between a batch of templates and images.

    Args:
        grid: The grid of the images, of d axes.
        template: Features (B, C + L, *shape): C channels of intensities, then label probabilities.
        image: Features (B, C + L, *shape) of the affinely aligned images.
        mask: (B, C, *shape), 1 where a channel of an image has data.
        coefficients: Those of the deformations (B, channels, *half), in voxels of their own grid.
        **terms: `similarity`, `channel_similarity`, `regularization`, `label_similarity`, `deformation`,
            `save_memory` and `pair_dependence` of `registration_objective`.

    Returns:
        The weighted terms and the maps in both directions.
    """
    return registration_objective(
        template.float(),
        image.float(),
        mask,
        coefficients,
        spacing=grid.coarser_spacing(coefficients.mean.shape[2:]),
        **terms,
    )


def weighted_loss(terms: Iterable[Tensor], factor: float) -> Tensor:
    """Sum the terms of a step whose regularizers' weights were multiplied by a factor.

    The sum is divided by the mean of 1 and the factor, so that steps with large factors don't count more: the
    weights of image and regularizers keep their sum, as in HyperMorph (Hoopes et al. 2021, arXiv:2101.01035).

    Args:
        terms: Scalars.
        factor: See `Groupwise.draw_factor`.

    Example:
        >>> weighted_loss([torch.tensor(1.0), torch.tensor(3.0)], 3.0)
        tensor(2.)
    """
    return 2 / (1 + factor) * torch.stack(list(terms)).sum()
