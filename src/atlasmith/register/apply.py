"""One image at a time, so that a result never depends on which images share a job."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from atlasmith.aligned import AlignedImages
from atlasmith.config import Config
from atlasmith.geometry import Grid, Step
from atlasmith.io.images import read_image, write_image
from atlasmith.io.tables import Subject, read_cohort, write_tsv
from atlasmith.io.transforms import read_affine, write_composite
from atlasmith.losses import TRAINING_TERMS, pair, to_mm
from atlasmith.networks import Groupwise, fold
from atlasmith.training import autocast, pick_device
from atlasmith.warp import (
    Velocity,
    compose,
    displacement_to_field,
    exponentiate,
    jacobian_determinant,
    pull,
    resize_displacement,
    warp,
)

OBJECT_LEVEL = 0.1  # of the template's brightest percentile: the object, for figures within it


class Registration:
    """The trained model, ready to register single images on the template's grid."""

    def __init__(self, config: Config) -> None:
        self.device = pick_device(config.device)
        self.model = Groupwise.load(config.layout.template_weights).requires_grad_(False)
        fold(self.model.network)
        self.model.to(self.device)
        self.settings = config.register_
        self._judge = partial(
            pair,
            squarings=self.model.squarings,
            velocity_spacing=self.model.velocity_spacing,
            similarity=config.template.similarity,
            regularisation={
                name: settings
                for name, settings in config.template.regularisation.items()
                if name not in TRAINING_TERMS
            },
        )
        self.hub = self.model.template(torch.zeros(1, self.model.code.size, device=self.device))

    def __call__(self, template: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        """The velocity (1, d, *half) between `template` and `image` (1, 1, *shape).

        The network's answer, then Adam on the velocity itself under training's objective. The best velocity
        without a fold that was met is returned: never a worse one than the network's.
        """
        with autocast(self.device):
            velocity = self.model.velocity(template, image).mean
        if self.settings.refine_steps == 0:
            return velocity
        best, best_value = velocity.clone(), float("inf")
        velocity = velocity.clone().requires_grad_()
        optimiser = torch.optim.Adam([velocity], lr=self.settings.refine_learning_rate)
        for step in range(self.settings.refine_steps + 1):
            judged = self._judge(template, image, mask, Velocity(velocity))
            value = judged.loss.item()
            folds = step > 0 and bool((jacobian_determinant(judged.forward.detach()) <= 0).any())
            if value < best_value and not folds:
                best, best_value = velocity.detach().clone(), value
            if step == self.settings.refine_steps:
                break
            optimiser.zero_grad()
            judged.loss.backward()
            optimiser.step()
        return best

    def displacements(self, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """Forward and inverse displacement (1, d, *shape) in voxels of the template's grid."""
        both = exponentiate(torch.cat([velocity, -velocity]), self.model.squarings)
        forward, inverse = resize_displacement(both, self.hub.shape[2:]).chunk(2)
        return forward, inverse

    def to_hub(self, code: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Forward and inverse displacement between the common space and an aligned image (1, 1, *shape).

        code: (size,) the subject's encoded covariates.
        """
        if not bool(code.any()):
            return self.displacements(self(self.hub, image, mask))
        own = self.model.template(code[None].to(self.device))
        forward, inverse = self.displacements(self(own, image, mask))
        bridge, bridge_inverse = self.displacements(self(self.hub, own, torch.ones_like(own)))
        return compose(forward, bridge), compose(bridge_inverse, inverse)


def register_subjects(config: Config, subject_ids: Sequence[str]) -> None:
    """Write transforms, warped image, log-Jacobian and the registration's own figures of each subject."""
    registration = Registration(config)
    by_id = {subject.id: subject for subject in read_cohort(config.layout.cohort)}
    subjects = [by_id[subject_id] for subject_id in subject_ids]
    images = AlignedImages(config.layout, subjects, registration.model.grid)
    for index, subject in enumerate(subjects):
        image, mask = (x.to(registration.device) for x in images.batch([index]))
        code = registration.model.code.encode(subject.covariates)
        forward, inverse = registration.to_hub(code, image, mask)
        _write(config, subject, registration.model.grid, registration.hub.cpu(), forward.cpu(), inverse.cpu())
        print(f"register: sub-{subject.id}, {index + 1} of {len(subjects)}", flush=True)


def _write(
    config: Config, subject: Subject, grid: Grid, hub: Tensor, forward: Tensor, inverse: Tensor
) -> None:
    layout = config.layout
    affine = read_affine(layout.affine(subject.id))
    steps: list[Step] = [displacement_to_field(forward[0], grid), affine]
    write_composite(layout.forward(subject.id), steps)
    write_composite(
        layout.inverse(subject.id), [np.linalg.inv(affine), displacement_to_field(inverse[0], grid)]
    )

    native = read_image(subject.image)
    data = torch.from_numpy(native.grid.squeeze(native.data))[None, None]
    warped = pull(data, native.grid, steps, grid)
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
