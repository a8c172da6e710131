"""Register the subjects of a cohort to its template, one at a time: a result never depends on the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.errors import look_up
from atlasmith.io.images import read_image, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.tables import read_cohort, read_label_values, write_tsv
from atlasmith.io.transforms import read_affine, write_composite
from atlasmith.networks import Groupwise, label_channels
from atlasmith.registration.deformation import Deformation
from atlasmith.registration.template import TemplateRegistration
from atlasmith.training.dataset import AlignedImages


def load_registration(config: Config) -> TemplateRegistration:
    """Load a run's template and network as `template` and `register` of its config say."""
    settings = config.register_.instance_optimization
    return TemplateRegistration(
        Groupwise.load(config.layout.template_weights),
        config.template.objective,
        settings.steps,
        settings.learning_rate,
        config.template.precision,
        config.device,
    )


def register_subjects(config: Config, subject_ids: Sequence[str]) -> None:
    """Write transforms, warped image, log-Jacobian and metrics of each subject.

    With labels in the objective, an atlas is registered by its own labels, and once more without them, as a
    target would be, for what is learned from atlases in the place of targets (`Layout.inverse_label_free`).

    Args:
        config: The run's config.
        subject_ids: Participant ids without `sub-`.

    Raises:
        AtlasmithError: For an unknown subject.
    """
    registration, layout = load_registration(config), config.layout
    cohort = {subject.id: subject for subject in read_cohort(layout.cohort)}
    subjects = [look_up(cohort, subject_id, "subject") for subject_id in subject_ids]
    model, label_similarity = registration.model, config.template.label_similarity
    images = AlignedImages(layout, subjects, model.grid)
    values = read_label_values(layout.labels) if label_similarity else []
    for index, subject in enumerate(subjects):
        image, mask = (x.to(registration.device) for x in images.batch([index]))
        channels = [model.features(image, [subject.id])]
        if label_similarity and subject.role == "atlas":
            labels = label_channels(images.labels(index)[None], values).to(image)
            channels.append(torch.cat([image, labels], dim=1))
        affine = read_affine(layout.affine(subject.id))
        *label_free, deformation = (
            Deformation(forward.cpu(), inverse.cpu(), affine, model.grid)
            for forward, inverse in registration.to_template_space(
                model.code.encode(subject.covariates), mask, *channels
            )
        )
        for other in label_free:
            write_composite(layout.inverse_label_free(subject.id), other.inverse_steps)
        _write(layout, subject.id, deformation, registration.mean_template[:, :1].cpu())
        print(f"register: sub-{subject.id}, {index + 1} of {len(subjects)}", flush=True)


def _write(layout: Layout, subject_id: str, deformation: Deformation, template: Tensor) -> None:
    """Write the files of one subject; `template` (1, 1, *shape) is the one at the mean covariates."""
    grid = deformation.grid
    write_composite(layout.forward(subject_id), deformation.forward_steps)
    write_composite(layout.inverse(subject_id), deformation.inverse_steps)
    warped = deformation.warp(read_image(layout.preprocessed(subject_id)))
    write_image(layout.warped(subject_id), warped, grid)
    write_image(layout.log_jacobian(subject_id), deformation.log_jacobian, grid)
    columns = ("metric", "value", "unit")
    rows = [dict(zip(columns, row, strict=True)) for row in deformation.metrics(template)]
    write_tsv(layout.registration_table(subject_id), rows, columns)
