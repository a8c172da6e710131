"""Registration of affinely aligned images to a trained template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from atlasmith.core.fields import compose, resize_displacement
from atlasmith.networks import Groupwise, reparameterize
from atlasmith.optimization import instance_objective, optimize
from atlasmith.registration.deformation import displacements
from atlasmith.training.device import autocast, select_device
from atlasmith.transforms import FORWARD


class TemplateRegistration:
    """Register images to a trained template.

    Args:
        model: The trained template and network; it is moved to the device and made inference-only.
        objective: Keyword arguments of `instance_objective`. Its deformation may be another than the model's.
        steps: Steps of instance optimization after the network's prediction.
        learning_rate: Its initial learning rate, voxels.
        precision: Of the network: see `autocast`.
        device: See `select_device`.
        optimizer: A name in OPTIMIZERS.
        optimizer_settings: Its settings; None: the defaults, with as many levels as it takes from the
            network's resolution to the template's.
    """

    def __init__(
        self,
        model: Groupwise,
        objective: Mapping[str, Any],
        steps: int,
        learning_rate: float,
        precision: str = "auto",
        device: str = "auto",
        optimizer: str = "adam",
        optimizer_settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.device, self.precision = select_device(device), precision
        self.objective, self.steps, self.learning_rate = objective, steps, learning_rate
        self.optimizer, self.optimizer_settings = optimizer, optimizer_settings
        self.model = model.requires_grad_(False)
        reparameterize(self.model.network)
        self.model.to(self.device)
        self.mean_template = self.model.template_features(
            torch.zeros(1, self.model.code.size, device=self.device)
        )

    def coefficients(self, template: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        """Predict the deformations of images to their templates by the network, and optimize them.

        Args:
            template: Features (B, C + L, *shape) of the templates: see `Groupwise.features`.
            image: Features of the images.
            mask: (B, C, *shape), 1 where a channel of an image may be compared.

        Returns:
            Coefficients (B, channels, *half) of the objective's deformation, in voxels of their own grid.
        """
        with autocast(self.device, self.precision):
            start = self.model.coefficients(template, image).mean
        grid, predicted = self.model.grid, self.model.deformation
        objective = instance_objective(template, image, mask, grid, **self.objective)
        if objective.deformation != predicted:
            spacing = objective.spacing(start.shape[2:])
            start = objective.fit(predicted.maps(start, spacing, [FORWARD])[FORWARD])
        return optimize(
            objective,
            start,
            self.steps,
            self.learning_rate,
            self.optimizer,
            self.optimizer_settings,
            self.model.levels,
        )

    def _displacements(self, template: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the forward and the inverse displacements (B, d, *half) of `coefficients`."""
        found = self.coefficients(template, image, mask)
        return displacements(self.objective["deformation"], found, self.model.grid)

    @staticmethod
    def _resized(maps: tuple[Tensor, Tensor], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        forward, inverse = (resize_displacement(x, shape) for x in maps)
        return forward, inverse

    def to_template_space(self, codes: Tensor, mask: Tensor, *images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Register images of some subjects to the template at the mean covariates.

        Subjects don't influence each other, but for rounding: the device may sum otherwise in other batches.

        Args:
            codes: The subjects' encoded covariates (B, size).
            mask: (B, C, *shape), 1 where a channel of the images may be compared.
            images: One or several images of each subject, as features (B, C + L, *shape): see
                `Groupwise.features`.

        Returns:
            For each of `images` the displacements (B, d, *size) from the template space to the aligned images
            and back, in voxels of their own grid: that of the coefficients, or with covariates, to whose
            templates they are composed, the template's.
        """
        mean = self.mean_template.expand(len(codes), *self.mean_template.shape[1:])
        if not self.model.code.size:
            return [self._displacements(mean, image, mask) for image in images]
        moves, shape = codes.any(dim=1), mask.shape[2:]
        if not bool(moves.any()):
            return [self._resized(self._displacements(mean, image, mask), shape) for image in images]
        codes = codes.to(self.device)
        template = self.model.template_features(codes)
        if self.model.has_covariate_velocity:
            to_mean, from_mean = self.model.covariate_transform(codes)
        else:
            from_mean, to_mean = self._displacements(mean, template, torch.ones_like(mask))
        to_mean, from_mean = self._resized((to_mean, from_mean), shape)
        moves = moves.to(self.device).view(-1, *[1] * (from_mean.ndim - 1))  # others are at the mean already
        maps = [self._resized(self._displacements(template, image, mask), shape) for image in images]
        return [
            (
                torch.where(moves, compose(forward, from_mean), forward),
                torch.where(moves, compose(to_mean, inverse), inverse),
            )
            for forward, inverse in maps
        ]
