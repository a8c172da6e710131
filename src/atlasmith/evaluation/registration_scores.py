"""Scores of how well images match the template, on arrays."""

from __future__ import annotations

import numpy as np
import torch

from atlasmith.core.grid import Array
from atlasmith.core.world import resample
from atlasmith.evaluation.inputs import mask_points
from atlasmith.evaluation.metrics import IMAGE_METRICS
from atlasmith.evaluation.scores import Score, make_score
from atlasmith.io.images import Image


def image_scores(fixed: Array, moved: Array, label: str | None = None) -> list[Score]:
    """Compute `IMAGE_METRICS` of two images at the same points (N,), as scores of a label."""
    return [make_score(name, metric(fixed, moved), label) for name, metric in IMAGE_METRICS.items()]


def align_centroids(image: Image, mask: Array, template: Image, template_mask: Array) -> Array:
    """Resample an image onto the template's grid, shifted so that the centroids of both masks coincide.

    Args:
        image: In any space.
        mask: Of its object, on its grid (X, Y, Z).
        template: Whose grid is the result's.
        template_mask: Of its object, on its grid.

    Returns:
        Intensities on the template's grid (X, Y, Z).
    """
    shift = np.eye(4)
    centroid = mask_points(image.grid, mask).mean(axis=0)
    shift[:3, 3] = centroid - mask_points(template.grid, template_mask).mean(axis=0)
    # A file that runs to the left is read as a view with negative strides, which torch refuses.
    moving = torch.from_numpy(np.ascontiguousarray(image.grid.squeeze(image.data)))[None, None]
    return template.grid.unsqueeze(resample(moving, image.grid, [shift], template.grid)[0, 0].numpy())
