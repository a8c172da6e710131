"""Refine a template after training by rounds of registering subjects to it and averaging them.

The groupwise iteration of Guimond et al. 2000 (doi:10.1006/cviu.1999.0815) and Avants et al. 2010
(doi:10.1016/j.neuroimage.2009.09.062) for a template that is a function of covariates: means become
regressions, of the images and of the velocities. The part of the velocities that is common to all subjects,
or that a covariate explains, becomes a change of the template, and is removed from the velocities before the
images are averaged.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, max_pool3d

from atlasmith.config import Config
from atlasmith.config.template import MODES
from atlasmith.core import distributed
from atlasmith.core.fields import compose, resize_displacement, to_mm
from atlasmith.core.progress import Progress
from atlasmith.core.sampling import warp
from atlasmith.io.files import atomic_write
from atlasmith.io.tables import write_tsv
from atlasmith.io.weights import write_tensors
from atlasmith.networks import Groupwise
from atlasmith.optimization import instance_objective, optimize
from atlasmith.training.checkpoints import Checkpoint
from atlasmith.training.dataset import AlignedImages
from atlasmith.training.device import autocast, seeded_generator
from atlasmith.training.regression import regression
from atlasmith.transforms import FORWARD, mean_square_mm, principal_modes

MASK_MARGIN = 3  # voxels by which the field of view is eroded
STATE = "template.safetensors"  # within the checkpoint's folder


def initialize_template(model: Groupwise, images: AlignedImages, codes: Tensor) -> None:
    """Set the template to the voxelwise regression of the aligned images on the covariates.

    The mask of a channel is where most of the images that have it have data in the whole neighborhood.

    Args:
        model: Its base, slopes and mask are set, in place; on the device of `images`.
        images: The subjects' aligned images.
        codes: Encoded covariates (N, K) of the subjects.
    """
    pool = {2: max_pool2d, 3: max_pool3d}[model.grid.ndim]
    codes = codes.to(model.base.device)
    coverage, count = torch.zeros_like(model.base), codes.new_zeros(1, model.image_channels)
    own = distributed.shard(range(len(codes)))

    def load() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal coverage, count
        for index in own:
            image, mask = images.batch([index])
            count = count + mask.flatten(2).amax(dim=2)
            coverage = coverage - pool(-mask, 2 * MASK_MARGIN + 1, 1, MASK_MARGIN)  # erosion
            yield image, mask

    _set_template(model, *regression(load(), codes[own]))
    most = distributed.all_reduce_sum(count).view(*count.shape, *[1] * model.grid.ndim) / 2
    model.fov_mask.copy_((distributed.all_reduce_sum(coverage) > most).float())


def _set_template(model: Groupwise, base: Tensor, slopes: Tensor) -> None:
    model.base.data.copy_(base)
    if model.slopes is not None:
        model.slopes.data.copy_(slopes.flatten(0, 1))


def refine_template(
    config: Config, model: Groupwise, images: AlignedImages, codes: Tensor, digest: str
) -> None:
    """Replace the template, round by round, by the regression of the registered images, in place.

    Each round continues the instance optimization of a fixed sample of subjects, the last round that of all.
    The decoder is set to zero, and so are the slopes until the last round: they would explain a moving edge
    as a change of intensity, which leaves nothing to the covariate velocity. A killed run with the same
    digest resumes within its round and ends at the same template.

    Args:
        config: The run's config; `template.refinement` decides.
        model: The trained model.
        images: The subjects' aligned images.
        codes: Encoded covariates (N, K) of the subjects.
        digest: Identifies the training. The caller removes `Layout.refinement_checkpoint` afterwards.
    """
    if distributed.is_main_process():
        for path in (config.layout.template_modes, config.layout.template_mode_table):
            path.unlink(missing_ok=True)  # of another template
    if config.template.refinement.rounds:
        _Refinement(config, model, images, codes, digest).run()


class _Refinement:
    """The rounds of one refinement."""

    def __init__(
        self, config: Config, model: Groupwise, images: AlignedImages, codes: Tensor, digest: str
    ) -> None:
        self.config, self.settings = config, config.template.refinement
        self.model, self.images, self.codes = model, images, codes.to(model.base.device)
        order = torch.randperm(len(codes), generator=seeded_generator(config.seed, 5)).tolist()
        self.sample = distributed.shard(sorted(order[: self.settings.subjects]))
        self.all = distributed.shard(range(len(codes)))
        self.folder = config.layout.refinement_checkpoint
        self.checkpoint = Checkpoint(self.folder / STATE, digest)

    def run(self) -> None:
        """Run the rounds that aren't finished, and write the table of all."""
        model, rounds = self.model.eval(), self.settings.rounds
        if model.decoder is not None and model.slopes is not None:
            for parameter in (model.slopes, *model.decoder.head.parameters()):
                parameter.data.zero_()
        rows = self._resume()
        total, done = (rounds - 1) * len(self.sample) + len(self.all), len(rows) * len(self.sample)
        with Progress("refinement", total, done, distributed.is_main_process()) as progress:
            for index in range(len(rows), rounds):
                row = self._round(index, progress)
                rows.append(row)
                self.checkpoint.save({"rows": rows}, model.state_dict())
                if distributed.is_main_process():
                    for name in (f"{index}", f"{index}-optimized"):
                        shutil.rmtree(self.folder / name, ignore_errors=True)
                distributed.log(
                    f"refinement: round {index + 1} of {rounds}, the template moved by {row['moved_mm']:.3f} "
                    f"mm and changed by {row['changed']:.4f}"
                )
        if distributed.is_main_process():
            write_tsv(self.config.layout.template_refinement, rows, list(rows[0]))
        self._write_modes()

    def _round(self, index: int, progress: Progress) -> dict[str, Any]:
        """Optimize the deformations of this round's subjects, update the template, and report the change."""
        model, codes, last = self.model, self.codes, index == self.settings.rounds - 1
        subjects = self.all if last else self.sample
        starts, optimized, centered = (
            _Coefficients(self.folder / name, codes.device)
            for name in (f"{index}", f"{index}-optimized", f"{index + 1}")
        )
        if last and index > 0:  # before that, no round has made the template central
            self._update_mean_coefficients()
        for subject in subjects:
            if subject not in optimized:
                optimized[subject] = self._optimize(subject, starts)
            progress.update()
        with torch.no_grad():
            moved = _center(model, optimized, centered, subjects, codes)
            before = model.base.clone()
            base, slopes = regression(self._warped(subjects, centered), codes[subjects])
            _set_template(model, base, slopes if last else torch.zeros_like(slopes))
            change = float((model.base - before).square().mean().sqrt())
        count = len(codes) if last else min(self.settings.subjects, len(codes))
        return {"round": index + 1, "subjects": count, "moved_mm": moved, "changed": change}

    def _optimize(self, subject: int, starts: _Coefficients) -> Tensor:
        """Continue a subject's instance optimization, from the last round's coefficients or the network's."""
        template_settings, settings, model = self.config.template, self.settings, self.model
        image, mask = self.images.batch([subject])
        with torch.no_grad(), autocast(self.codes.device, template_settings.precision):
            template = model.template_features(self.codes[subject][None])
            image = model.features(image, [self.images.subjects[subject].id])
            start = starts[subject] if subject in starts else model.coefficients(template, image).mean.float()
        objective = instance_objective(
            template.float(), image.float(), mask, model.grid, **self.config.objective
        )
        return optimize(objective, start, settings.steps, settings.learning_rate, "adam", None, model.levels)

    def _update_mean_coefficients(self) -> None:
        """Add to the model's mean coefficients the network's mean over all subjects.

        The network was trained on another template. The mean of its deformations to a central template is a
        bias that instance optimization keeps where images have little contrast.
        """
        model, summed = self.model, torch.zeros_like(self.model.mean_coefficients)
        for subject in self.all:
            code, (image, _) = self.codes[subject], self.images.batch([subject])
            with torch.no_grad(), autocast(code.device, self.config.template.precision):
                features = model.features(image, [self.images.subjects[subject].id])
                summed += model.coefficients(model.template_features(code[None]), features).mean.float()
        mean = distributed.all_reduce_sum(summed) / len(self.codes)
        spacing = model.grid.coarser_spacing(mean.shape[2:])
        deformation = model.deformation  # regions and the like have no mean to remove
        model.mean_coefficients += deformation.lift(deformation.tangent(mean, spacing), spacing)

    def _warped(
        self, subjects: Sequence[int], coefficients: _Coefficients
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Resample each subject's image once onto the template at the mean covariates, with its mask."""
        model = self.model
        for subject in subjects:
            own = coefficients[subject]
            spacing = model.grid.coarser_spacing(own.shape[2:])
            forward = model.deformation.maps(own, spacing, [FORWARD])[FORWARD]
            if model.has_covariate_velocity:
                forward = compose(forward, model.covariate_transform(self.codes[subject][None])[1])
            yield self.images.warped(subject, resize_displacement(forward, model.grid.tensor_shape))

    @torch.no_grad()
    def _write_modes(self) -> None:
        """Write the principal components of all subjects' velocities about the template.

        They are those at the identity, of which the last round has removed the mean and what the covariates
        explain, on the template at the mean covariates.
        """
        model, layout, count = self.model, self.config.layout, len(self.codes)
        coefficients = _Coefficients(self.folder / f"{self.settings.rounds}", self.codes.device)
        spacing = model.grid.coarser_spacing(model.covariate_velocity.shape[2:])

        def velocity(subject: int) -> Tensor:
            field = model.deformation.tangent(coefficients[subject], spacing)
            return _to_mean_template(model, field, self.codes[subject])

        distributed.barrier()  # the other processes have written theirs
        if count > 1:
            modes = principal_modes(velocity, count, MODES, mean_square_mm(spacing))
            if distributed.is_main_process():
                write_tensors(layout.template_modes, {"modes": modes.fields}, {})
                numbers = zip(modes.variances.sqrt().tolist(), modes.explained, strict=True)
                rows = [
                    {"mode": mode, "sd_mm": sd, "explained_variance": share}
                    for mode, (sd, share) in enumerate(numbers, start=1)
                ]
                write_tsv(layout.template_mode_table, rows, list(rows[0]))
        distributed.barrier()  # the caller removes the coefficients

    def _resume(self) -> list[dict[str, Any]]:
        """Restore the template after the finished rounds of a killed run, and give their rows."""
        found = self.checkpoint.load()
        distributed.barrier()  # no process removes what another still reads
        if found is not None:
            values, tensors = found
            self.model.load_state_dict(tensors)
            distributed.log(
                f"resuming refinement after round {len(values['rows'])} from {self.checkpoint.path}"
            )
            return list(values["rows"])
        if distributed.is_main_process():
            shutil.rmtree(self.folder, ignore_errors=True)
        self.checkpoint.save({"rows": []}, self.model.state_dict())
        distributed.barrier()
        return []


class _Coefficients:
    """Coefficients (1, channels, *half) by subject, in files: memory doesn't grow with the cohort, and
    a resumed run finds those that are done."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device = folder, device

    def _path(self, subject: int) -> Path:
        return self._folder / f"{subject}.npy"

    def __contains__(self, subject: int) -> bool:
        return self._path(subject).exists()

    def __getitem__(self, subject: int) -> Tensor:
        return torch.from_numpy(np.load(self._path(subject))).to(self._device)

    def __setitem__(self, subject: int, coefficients: Tensor) -> None:
        with atomic_write(self._path(subject)) as partial:
            np.save(partial, coefficients.cpu().numpy())


def _to_mean_template(model: Groupwise, field: Tensor, code: Tensor) -> Tensor:
    """Warp a field (1, d, *half) from the template at encoded covariates (K,) to that at the mean ones."""
    if not model.has_covariate_velocity:
        return field
    return warp(field, model.covariate_transform(code[None])[1], padding="border")


def _center(
    model: Groupwise,
    optimized: _Coefficients,
    centered: _Coefficients,
    subjects: Sequence[int],
    codes: Tensor,
) -> float:
    """Remove from the deformations their mean, by which the template moves, and their regression on the
    covariates, which is added to the model's covariate velocity.

    Both are of the velocities at the identity. Each is a field on the template at the subject's own
    covariates; for the regression they are warped to the template at the mean covariates. Returns the mean
    length, mm, of the removed mean.
    """
    deformation, half = model.deformation, optimized[subjects[0]].shape[2:]
    spacing = model.grid.coarser_spacing(half)
    ones = model.base.new_ones(1, 1, *half)

    velocities = (deformation.tangent(optimized[subject], spacing) for subject in subjects)
    pairs = zip(velocities, codes[subjects], strict=True)
    moved = ((_to_mean_template(model, field, code), ones) for field, code in pairs)
    mean, slopes = regression(moved, codes[subjects])
    for subject in subjects:
        explained = mean + torch.einsum("k,kc...->c...", codes[subject], slopes)
        if model.has_covariate_velocity:
            explained = warp(explained, model.covariate_transform(codes[subject][None])[0], padding="border")
        centered[subject] = optimized[subject] - deformation.lift(explained, spacing)
    # Last: the warps above are those of the old one.
    model.set_covariate_velocity(model.covariate_velocity - slopes)
    return float(to_mm(mean, spacing).norm(dim=1).mean())
