"""What a step of training minimizes, of one velocity between templates and images."""

from __future__ import annotations

from torch import Tensor

from atlasmith.config.schema import TemplateSection
from atlasmith.core.grid import Grid
from atlasmith.losses import Objective, registration_objective
from atlasmith.transforms.velocity import Velocity


def template_objective(
    settings: TemplateSection, grid: Grid, template: Tensor, image: Tensor, mask: Tensor, velocity: Velocity
) -> Objective:
    """`pair` by the config, of features (B, C, *shape) on `grid`."""
    return registration_objective(
        template.float(),
        image.float(),
        mask,
        velocity,
        integration_steps=settings.integration_steps,
        velocity_spacing=grid.coarser_spacing(velocity.mean.shape[2:]),
        similarity=settings.similarity,
        regularization=settings.regularization,
        labels=settings.label_similarity,
        save_memory=settings.save_memory,
    )
