"""One image at a time, so that a result never depends on which images share a job."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.fields import (
    compose,
    exponentiate,
    jacobian_determinant,
    resize_displacement,
    to_mm,
)
from atlasmith.core.grid import Array, Grid, Step
from atlasmith.core.sampling import warp
from atlasmith.core.world import displacement_to_field, resample
from atlasmith.io.images import read_image, write_image
from atlasmith.io.tables import Subject, read_cohort, read_label_values, write_tsv
from atlasmith.io.transforms import read_affine, write_composite
from atlasmith.networks import Groupwise, label_channels, reparameterize
from atlasmith.training import instance_optimization
from atlasmith.training.dataset import AlignedImages
from atlasmith.training.device import autocast, select_device

OBJECT_LEVEL = 0.1  # of the template's brightest percentile: the object, for figures within it


class Registration:
    """The trained model, ready to register single images on the template's grid."""

    def __init__(self, config: Config) -> None:
        self.config, self.device = config, select_device(config.device)
        self.model = Groupwise.load(config.layout.template_weights).requires_grad_(False)
        reparameterize(self.model.network)
        self.model.to(self.device)
        self.hub = self._template(torch.zeros(self.model.code.size))

    def _template(self, code: Tensor) -> Tensor:
        """The features (1, C, *shape) of the template at encoded covariates (size,)."""
        return self.model.template_features(code[None].to(self.device))

    def __call__(self, template: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        """The velocity (1, d, *half) between features (1, C, *shape) of the template and of an image.

        The network's answer, or better after instance optimization.
        """
        with autocast(self.device, self.config.template.precision):
            network = self.model.velocity(template, image).mean
        settings = self.config.register_.instance_optimization
        if settings.steps == 0:
            return network
        judge = instance_optimization.instance_objective(
            template, image, mask, self.model.grid, **self.config.template.objective
        )
        return instance_optimization.optimize(judge, network, settings.steps, settings.learning_rate)

    def displacements(self, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """Forward and inverse displacement (1, d, *shape) in voxels of the template's grid."""
        both = exponentiate(torch.cat([velocity, -velocity]), self.model.integration_steps)
        forward, inverse = resize_displacement(both, self.hub.shape[2:]).chunk(2)
        return forward, inverse

    def to_hub(self, code: Tensor, mask: Tensor, *images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Forward and inverse displacement between the common space and each of an aligned person's images.

        code: (size,) the person's encoded covariates. images: features (1, C, *shape), all with one mask.
        """
        if not bool(code.any()):
            return [self.displacements(self(self.hub, image, mask)) for image in images]
        own = self._template(code)
        if self.model.has_covariate_velocity:
            bridge_inverse, bridge = (
                resize_displacement(x, mask.shape[2:])
                for x in self.model.covariate_transform(code[None].to(self.device))
            )
        else:
            bridge, bridge_inverse = self.displacements(self(self.hub, own, torch.ones_like(mask)))
        maps = [self.displacements(self(own, image, mask)) for image in images]
        return [(compose(there, bridge), compose(bridge_inverse, back)) for there, back in maps]


def register_subjects(config: Config, subject_ids: Sequence[str]) -> None:
    """Write transforms, warped image, log-Jacobian and the registration's own figures of each subject.

    Where labels are in the objective, an atlas is registered by its own; and once more without them, as a
    target would be, for what is learned on atlases in the place of targets (`Layout.inverse_label_free`).
    """
    registration = Registration(config)
    by_id = {subject.id: subject for subject in read_cohort(config.layout.cohort)}
    subjects = [by_id[subject_id] for subject_id in subject_ids]
    grid = registration.model.grid
    images = AlignedImages(config.layout, subjects, grid)
    values = read_label_values(config.layout.labels) if config.template.label_similarity else []
    for index, subject in enumerate(subjects):
        image, mask = (x.to(registration.device) for x in images.batch([index]))
        code = registration.model.code.encode(subject.covariates)
        seen = [registration.model.features(image, [subject.id])]
        if config.template.label_similarity and subject.role == "atlas":
            labels = label_channels(images.labels(index)[None], values).to(image)
            seen.append(torch.cat([image, labels], dim=1))
        *blind, (forward, inverse) = registration.to_hub(code, mask, *seen)
        affine = read_affine(config.layout.affine(subject.id))
        for _, unseen in blind:
            write_composite(
                config.layout.inverse_label_free(subject.id), _inverse_steps(affine, unseen.cpu(), grid)
            )
        _write(config, subject, affine, grid, registration.hub[:, :1].cpu(), forward.cpu(), inverse.cpu())
        print(f"register: sub-{subject.id}, {index + 1} of {len(subjects)}", flush=True)


def _inverse_steps(affine: Array, inverse: Tensor, grid: Grid) -> list[Step]:
    return [np.linalg.inv(affine), displacement_to_field(inverse[0], grid)]


def _write(
    config: Config,
    subject: Subject,
    affine: Array,
    grid: Grid,
    hub: Tensor,
    forward: Tensor,
    inverse: Tensor,
) -> None:
    layout = config.layout
    steps: list[Step] = [displacement_to_field(forward[0], grid), affine]
    write_composite(layout.forward(subject.id), steps)
    write_composite(layout.inverse(subject.id), _inverse_steps(affine, inverse, grid))

    native = read_image(layout.preprocessed(subject.id))
    data = torch.from_numpy(native.grid.squeeze(native.data))[None, None]
    warped = resample(data, native.grid, steps, grid)
    write_image(layout.warped(subject.id), grid.unsqueeze(warped[0, 0].numpy()), grid)

    determinant = jacobian_determinant(forward)
    log_jacobian = determinant.clamp(min=1e-6).log()
    write_image(layout.log_jacobian(subject.id), grid.unsqueeze(log_jacobian[0].numpy()), grid)

    inside = hub[:, 0] > OBJECT_LEVEL * torch.quantile(hub, 0.99)
    residual = to_mm(inverse + warp(forward, inverse, padding="border"), grid.tensor_spacing).norm(dim=1)
    length = to_mm(forward, grid.tensor_spacing).norm(dim=1)
    rows = [
        ("nonpositive_jacobian_percent", 100 * (determinant <= 0).float().mean(), "%"),
        ("sd_log_jacobian", log_jacobian[inside].std(), "1"),
        ("inverse_consistency_mm", residual[inside].mean(), "mm"),
        ("displacement_mm", length[inside].mean(), "mm"),
    ]
    write_tsv(
        layout.registration_table(subject.id),
        [{"metric": metric, "value": float(value), "unit": unit} for metric, value, unit in rows],
        ["metric", "value", "unit"],
    )
