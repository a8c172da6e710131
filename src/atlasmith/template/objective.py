"""What a step of training minimises, of one velocity between templates and images."""

from __future__ import annotations

from torch import Tensor

from atlasmith.config.schema import TemplateSection
from atlasmith.core.grid import Grid
from atlasmith.losses import Pairing, pair
from atlasmith.transforms.velocity import Velocity


def judged(
    settings: TemplateSection, grid: Grid, template: Tensor, image: Tensor, mask: Tensor, velocity: Velocity
) -> Pairing:
    """`pair` by the config, of features (B, C, *shape) on `grid`."""
    return pair(
        template.float(),
        image.float(),
        mask,
        velocity,
        squarings=settings.squarings,
        velocity_spacing=grid.coarser_spacing(velocity.mean.shape[2:]),
        similarity=settings.similarity,
        regularisation=settings.regularisation,
        labels=settings.labels,
        save_memory=settings.save_memory,
    )
