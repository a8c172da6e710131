"""Register the subjects of a cohort to its template, one at a time: a result never depends on the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.errors import look_up
from atlasmith.io.channels import present_channels
from atlasmith.io.images import read_image, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.sidecars import is_skull_stripped, write_sidecar
from atlasmith.io.tables import Subject, read_cohort, read_label_values, write_tsv
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
        config.objective,
        settings.steps,
        settings.learning_rate,
        config.template.precision,
        config.device,
    )


def register_subjects(
    config: Config,
    subject_ids: Sequence[str],
    attempt: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Write transforms, warped image, log-Jacobian and metrics of each subject.

    With labels in the objective, an atlas is registered by its own labels, and once more without them, as a
    target would be, for what is learned from atlases in the place of targets (`Layout.inverse_label_free`).

    Args:
        config: The run's config.
        subject_ids: Participant ids without `sub-`.
        attempt: Wraps what is done for a subject, such as `atlasmith.workflow.failures.Attempts`.

    Raises:
        AtlasmithError: For an unknown subject.
    """
    registration = load_registration(config)
    cohort = {subject.id: subject for subject in read_cohort(config.layout.cohort)}
    subjects = [look_up(cohort, subject_id, "subject") for subject_id in subject_ids]
    for index, subject in enumerate(subjects):
        with attempt(subject.id):
            register_subject(config, subject, registration)
            print(f"register: sub-{subject.id}, {index + 1} of {len(subjects)}", flush=True)


def register_subject(config: Config, subject: Subject, registration: TemplateRegistration) -> None:
    """Write transforms, warped image, log-Jacobian and metrics of one subject: see `register_subjects`.

    Args:
        config: The run's config.
        subject: An aligned subject.
        registration: From `load_registration`.
    """
    layout, label_similarity = config.layout, config.template.label_similarity
    model = registration.model
    images = AlignedImages(layout, [subject], model.grid)
    image, mask = (x.to(registration.device) for x in images.batch([0]))
    channels = [model.features(image, [subject.id])]
    if label_similarity and subject.role == "atlas":
        values = read_label_values(layout.labels)
        labels = label_channels(images.labels(0)[None], values).to(image)
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
    _write(layout, subject, deformation, registration.mean_template[:, :1].cpu())


def _write(layout: Layout, subject: Subject, deformation: Deformation, template: Tensor) -> None:
    """Write the files of one subject; `template` (1, 1, *shape) is the one at the mean covariates."""
    grid, subject_id = deformation.grid, subject.id
    write_composite(layout.forward(subject_id), deformation.forward_steps)
    write_composite(layout.inverse(subject_id), deformation.inverse_steps)
    describe = partial(write_sidecar, layout, grid=grid, reference=layout.template_image)
    for channel, present in zip(layout.channels, present_channels(layout, subject), strict=True):
        if present:
            source, path = layout.preprocessed(subject_id, channel), layout.warped(subject_id, channel)
            write_image(path, deformation.warp(read_image(source)), grid)
            describe(
                path,
                "Normalized intensities, registered to the template",
                sources=[source, layout.forward(subject_id)],
                skull_stripped=is_skull_stripped([source]),
            )
    write_image(layout.log_jacobian(subject_id), deformation.log_jacobian, grid)
    describe(
        layout.log_jacobian(subject_id),
        "Natural logarithm of the determinant of the deformation's Jacobian, without the affine part; "
        "positive where the subject is larger than the template",
        sources=[layout.forward(subject_id)],
    )
    columns = ("metric", "value", "unit")
    rows = [dict(zip(columns, row, strict=True)) for row in deformation.metrics(template)]
    write_tsv(layout.registration_table(subject_id), rows, columns)
