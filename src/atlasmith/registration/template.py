"""Registration of affinely aligned images to a trained template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from atlasmith.core.fields import compose, resize_displacement
from atlasmith.networks import Groupwise, reparameterize
from atlasmith.registration.deformation import displacements, optimize_velocity
from atlasmith.training.device import autocast, select_device


class TemplateRegistration:
    """Register images, one at a time, to a trained template.

    Args:
        model: The trained template and network; it is moved to the device and made inference-only.
        objective: Keyword arguments of `instance_objective`.
        steps: Steps of instance optimization after the network's prediction.
        learning_rate: Its initial learning rate, voxels.
        precision: Of the network: see `autocast`.
        device: See `select_device`.
    """

    def __init__(
        self,
        model: Groupwise,
        objective: Mapping[str, Any],
        steps: int,
        learning_rate: float,
        precision: str = "auto",
        device: str = "auto",
    ) -> None:
        self.device, self.precision = select_device(device), precision
        self.objective, self.steps, self.learning_rate = objective, steps, learning_rate
        self.model = model.requires_grad_(False)
        reparameterize(self.model.network)
        self.model.to(self.device)
        self.mean_template = self._template(torch.zeros(self.model.code.size))

    def _template(self, code: Tensor) -> Tensor:
        """Return the features (1, C + L, *shape) of the template at encoded covariates (size,)."""
        return self.model.template_features(code[None].to(self.device))

    def velocity(self, template: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        """Predict the velocity of an image to a template by the network, and optimize it.

        Args:
            template: Features (1, C + L, *shape) of the template: see `Groupwise.features`.
            image: Features of the image.
            mask: (1, C, *shape), 1 where a channel of the image may be compared.

        Returns:
            (1, d, *half), in voxels of its own grid.
        """
        with autocast(self.device, self.precision):
            start = self.model.velocity(template, image).mean
        return optimize_velocity(
            start, template, image, mask, self.model.grid, self.steps, self.learning_rate, self.objective
        )

    def _displacements(self, template: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the forward and the inverse displacement (1, d, *shape) of `velocity`."""
        velocity = self.velocity(template, image, mask)
        return displacements(velocity, self.model.integration_steps, self.model.grid)

    def to_template_space(self, code: Tensor, mask: Tensor, *images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Register images of one subject to the template at the mean covariates.

        Args:
            code: The subject's encoded covariates (size,).
            mask: (1, C, *shape), 1 where a channel of the images may be compared.
            images: Features (1, C + L, *shape) of each image: see `Groupwise.features`.

        Returns:
            For each image the displacements (1, d, *shape), voxels, from the template space to the aligned
            image and back.
        """
        if not bool(code.any()):
            return [self._displacements(self.mean_template, image, mask) for image in images]
        template = self._template(code)
        if self.model.has_covariate_velocity:
            to_mean, from_mean = (
                resize_displacement(x, mask.shape[2:])
                for x in self.model.covariate_transform(code[None].to(self.device))
            )
        else:
            from_mean, to_mean = self._displacements(self.mean_template, template, torch.ones_like(mask))
        maps = [self._displacements(template, image, mask) for image in images]
        return [(compose(forward, from_mean), compose(to_mean, inverse)) for forward, inverse in maps]
