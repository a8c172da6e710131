"""Register the subjects of a cohort to its template: on a GPU several at once, on a CPU one after another.

The subjects of a batch don't influence each other, and a CPU gives the same bytes whichever share a job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError, InputError, Problem, first_line, look_up
from atlasmith.core.grid import Array
from atlasmith.io.channels import channel_paths, present_channels
from atlasmith.io.images import read_image, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.sidecars import is_skull_stripped, write_sidecar
from atlasmith.io.tables import Subject, read_cohort, read_label_values, write_tsv
from atlasmith.io.transforms import read_affine, write_composite
from atlasmith.io.weights import read_weights
from atlasmith.networks import Groupwise, label_channels, label_codes
from atlasmith.registration.deformation import Deformation
from atlasmith.registration.template import TemplateRegistration
from atlasmith.training.dataset import AlignedImages
from atlasmith.training.device import cpu_if_memory_is_short, select_device
from atlasmith.training.memory import free_bytes
from atlasmith.transforms import LowRankVelocity
from atlasmith.workflow.resources import CHANNEL_BYTES, SAVED_BYTES, training_bytes

MAX_BATCH = 8  # subjects at once: the default of `subjects_per_job`


def load_registration(config: Config) -> TemplateRegistration:
    """Load a run's template and network as `template` and `register` of its config say."""
    settings, objective = config.register_.instance_optimization, config.register_objective
    if config.register_.modes is not None:
        modes = read_modes(config.layout, config.register_.modes).to(select_device(config.device))
        objective["deformation"] = LowRankVelocity(config.template.integration_steps, modes)
    model = Groupwise.load(config.layout.template_weights)
    model.set_factor(config.register_.regularization_factor)
    return TemplateRegistration(
        model,
        objective,
        settings.steps,
        settings.learning_rate,
        config.template.precision,
        config.device,
        settings.optimizer.name,
        settings.optimizer.settings,
    )


def read_modes(layout: Layout, count: int) -> Tensor:
    """Read the modes of variation that refinement of a run's template found.

    Args:
        layout: Of the run.
        count: Number of modes.

    Returns:
        Velocities (count, d, *half), each one standard deviation, in half-resolution voxels.

    Raises:
        AtlasmithError: When there are none, or fewer.
    """
    path = layout.template_modes
    if not path.exists():
        raise AtlasmithError(
            f"{path} is missing: refinement finds the modes of variation. Build the template again with "
            "template.refinement.rounds above 0 and at least two subjects."
        )
    modes = read_weights(path)[1]["modes"]
    if not 1 <= count <= len(modes):
        raise AtlasmithError(f"{count} modes were asked for, and {path} has {len(modes)}. Ask for 1 to that.")
    return modes[:count]


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
    size, done = batch_size(registration), 0
    kinds = [[s for s in subjects if _uses_labels(config, s) == kind] for kind in (False, True)]
    for batch in (kind[start : start + size] for kind in kinds for start in range(0, len(kind), size)):
        loaded = []
        for subject in batch:
            with attempt(subject.id):
                loaded.append(_load(config, subject, registration))
        _register(config, loaded, registration, attempt)
        done += len(batch)
        names = ", ".join(f"sub-{subject.id}" for subject in batch)
        print(f"register: {names}, {done} of {len(subjects)}", flush=True)


def register_subject(config: Config, subject: Subject, registration: TemplateRegistration) -> None:
    """Write transforms, warped image, log-Jacobian and metrics of one subject: see `register_subjects`.

    Args:
        config: The run's config.
        subject: An aligned subject.
        registration: From `load_registration`.
    """
    _register(config, [_load(config, subject, registration)], registration)


def batch_size(registration: TemplateRegistration) -> int:
    """Decide how many subjects are registered at once: on a GPU as many as fit, and one on a CPU, where more
    aren't faster."""
    if registration.device.type == "cpu":
        return 1
    free, features = free_bytes(registration.device), registration.mean_template.shape[1]
    saved = SAVED_BYTES + CHANNEL_BYTES * (features - 1)
    each = training_bytes(registration.mean_template[0, 0].numel(), 1, saved)
    return MAX_BATCH if free is None else min(MAX_BATCH, max(1, int(free / each)))


@dataclass(frozen=True, eq=False)
class _Loaded:
    """What is read of a subject: image and mask (1, C, *shape), encoded covariates (K,), and the affine
    (4, 4) of its alignment; of an atlas whose labels are in the objective, their indices (1, *shape)."""

    subject: Subject
    image: Tensor
    mask: Tensor
    code: Tensor
    affine: Array
    labels: Tensor | None


def _uses_labels(config: Config, subject: Subject) -> bool:
    """Whether a subject is registered by its own labels."""
    return bool(config.template.label_similarity) and subject.role == "atlas"


def _load(config: Config, subject: Subject, registration: TemplateRegistration) -> _Loaded:
    images = AlignedImages(config.layout, [subject], registration.model.grid, device=registration.device)
    image, mask = images.batch([0])
    if not bool(image.isfinite().all()):
        path = channel_paths(config.layout, subject, config.layout.affine_image)[0]
        raise InputError([Problem(path, "some intensities aren't finite", "Remove it, and run again.")])
    labels = images.stacked([images.label_indices(0)]) if _uses_labels(config, subject) else None
    code, affine = registration.model.code.encode(subject.covariates), config.layout.affine(subject.id)
    return _Loaded(subject, image, mask, code, read_affine(affine), labels)


def _register(
    config: Config,
    loaded: Sequence[_Loaded],
    registration: TemplateRegistration,
    attempt: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Register a batch, and write the files of each subject.

    A batch that fails is halved: memory may be too small for it, and a fault of one subject stays its own.
    """
    maps: list[tuple[Tensor, Tensor]] = []
    if len(loaded) > 1:
        try:
            maps = _displacements(config, loaded, registration)
        except RuntimeError as error:  # among them torch's for too little memory
            reason = first_line(error)
            print(f"register: {len(loaded)} subjects failed together: {reason}; trying halves", flush=True)
        if not maps:
            for half in (loaded[: len(loaded) // 2], loaded[len(loaded) // 2 :]):
                _register(config, half, registration, attempt)
            return
    for index, one in enumerate(loaded):
        with attempt(one.subject.id):
            own = [(forward[index : index + 1], inverse[index : index + 1]) for forward, inverse in maps]
            _finish(config, one, own, registration)


@cpu_if_memory_is_short
def _finish(
    config: Config,
    one: _Loaded,
    maps: Sequence[tuple[Tensor, Tensor]],
    registration: TemplateRegistration,
) -> None:
    """Register a subject, unless `maps` are its displacements already, and write its files."""
    if registration.device != select_device(config.device):
        registration, maps = load_registration(config), []
        one = _load(config, one.subject, registration)
    maps = maps or _displacements(config, [one], registration)
    own = [Deformation(forward, inverse, one.affine, registration.model.grid) for forward, inverse in maps]
    _write(config.layout, one.subject, own, registration.mean_template[:, :1])


def _displacements(
    config: Config, loaded: Sequence[_Loaded], registration: TemplateRegistration
) -> list[tuple[Tensor, Tensor]]:
    """Register subjects, all by their own labels or none: see `TemplateRegistration.to_template_space`.

    The displacements are those without labels; then, where there are labels, those by them.
    """
    model = registration.model
    image, mask = (torch.cat(x) for x in zip(*((one.image, one.mask) for one in loaded), strict=True))
    images = [model.features(image, [one.subject.id for one in loaded])]
    indices = [one.labels for one in loaded if one.labels is not None]
    if indices:
        members = label_codes(len(read_label_values(config.layout.labels))).to(image)
        images.append(torch.cat([image, label_channels(torch.cat(indices), members)], dim=1))
    return registration.to_template_space(torch.stack([one.code for one in loaded]), mask, *images)


def _write(layout: Layout, subject: Subject, deformations: Sequence[Deformation], template: Tensor) -> None:
    """Write the files of a subject: see `_displacements`; `template` (1, 1, *shape) is that at the mean."""
    *label_free, deformation = deformations
    grid, subject_id = deformation.grid, subject.id
    for other in label_free:
        write_composite(layout.inverse_label_free(subject_id), other.inverse_steps)
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
