"""The template after training: rounds of registering people to it, and of averaging what they bring to it.

The groupwise iteration of Guimond et al. 2000 (doi:10.1006/cviu.1999.0815) and Avants et al. 2010
(doi:10.1016/j.neuroimage.2009.09.062), for a template that is a function of covariates: means become
regressions, of the images and of the velocities. What the velocities have in common, or in common with a
covariate, is change that the template should show; it is taken out of them before the images are averaged.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, max_pool3d
from tqdm import tqdm

from atlasmith.config import Config
from atlasmith.core import distributed
from atlasmith.core.fields import compose, exponentiate, resize_displacement
from atlasmith.core.sampling import warp
from atlasmith.io.files import atomic_write
from atlasmith.io.tables import write_tsv
from atlasmith.io.weights import read_weights, write_weights
from atlasmith.losses import to_mm
from atlasmith.networks import Groupwise
from atlasmith.training import instance_optimization
from atlasmith.training.dataset import AlignedImages
from atlasmith.training.device import autocast, seeded_generator
from atlasmith.training.regression import regression

SUPPORT_MARGIN = 3  # voxels
STATE = "template.safetensors"  # within the checkpoint


def start_from_regression(model: Groupwise, images: AlignedImages, codes: Tensor) -> None:
    """The template's first value: at each voxel, the regression of the aligned images on the covariates.

    Its support is where most images have data in the whole neighborhood.
    """
    erode = {2: max_pool2d, 3: max_pool3d}[model.grid.ndim]
    atomic_write = torch.zeros_like(model.base)
    mine = distributed.shard(range(len(codes)))

    def each() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal atomic_write
        for index in mine:
            image, mask = images.batch([index])
            atomic_write = atomic_write - erode(-mask, 2 * SUPPORT_MARGIN + 1, 1, SUPPORT_MARGIN)
            yield image, mask

    _set(model, *regression(each(), codes[mine]))
    model.fov_mask.copy_((distributed.all_reduce_sum(atomic_write) > len(codes) / 2).float())


def _set(model: Groupwise, base: Tensor, slopes: Tensor) -> None:
    model.base.data.copy_(base)
    if model.slopes is not None:
        model.slopes.data.copy_(slopes[:, 0])


def refine_template(
    config: Config, model: Groupwise, images: AlignedImages, codes: Tensor, digest: str
) -> None:
    """Replace the template by what registered images average to, round by round, in place.

    In each round the velocities of some people, drawn once, and in the last one of everybody, go on by
    instance optimization from where they were. Base and slopes become the regression of the images brought
    to the mean covariates. The decoder falls silent, and so do the slopes until the last round: they would
    show a moving edge as a change of intensities, and leave growth nothing to explain.

    A killed run with the same `digest` goes on, in the same round, with the people who aren't done yet, to
    the same template. The caller removes `refinement_checkpoint` once its results are safe.
    """
    settings, device = config.template.refinement, model.base.device
    if settings.rounds == 0:
        return
    order = torch.randperm(len(codes), generator=seeded_generator(config.seed, 5)).tolist()
    drawn = distributed.shard(sorted(order[: settings.subjects]))
    everyone = distributed.shard(range(len(codes)))
    codes = codes.to(device)
    folder = config.layout.refinement_checkpoint
    model.eval()
    if model.decoder is not None and model.slopes is not None:
        for parameter in (model.slopes, *model.decoder.head.parameters()):
            parameter.data.zero_()
    rows = _resume(folder, model, digest)
    progress = tqdm(
        total=(settings.rounds - 1) * len(drawn) + len(everyone),
        desc="refinement",
        disable=None if distributed.is_main_process() else True,
        initial=len(rows) * len(drawn),
    )
    for turn in range(len(rows), settings.rounds):
        last = turn == settings.rounds - 1
        people = everyone if last else drawn
        known, found, centered = (
            _Velocities(folder / name, device) for name in (f"{turn}", f"{turn}-found", f"{turn + 1}")
        )
        if last and turn > 0:  # no round has made the template central before the first
            _set_mean_velocity(config, model, images, codes)
        for person in people:
            progress.update()
            if person in found:
                continue
            image, mask = (x.to(device) for x in images.batch([person]))
            with torch.no_grad(), autocast(device, config.template.precision):
                template = model.template_features(codes[person][None])
                image = model.features(image, [images.subjects[person].id])
                start = known[person] if person in known else model.velocity(template, image).mean.float()
            judge = instance_optimization.instance_objective(
                config, model.grid, template.float(), image.float(), mask
            )
            found[person] = instance_optimization.optimize(
                judge, start, settings.steps, settings.learning_rate
            )
        with torch.no_grad():
            moved = _center(model, found, centered, people, codes)
            before = model.base.clone()
            base, slopes = regression(_brought(model, images, people, centered, codes), codes[people])
            _set(model, base, slopes if last else torch.zeros_like(slopes))
            change = float((model.base - before).square().mean().sqrt())
        count = len(codes) if last else min(settings.subjects, len(codes))
        rows.append({"round": turn + 1, "people": count, "moved_mm": moved, "changed": change})
        if distributed.is_main_process():
            write_weights(folder / STATE, model, {"digest": digest, "rows": rows})
            known.remove()
            found.remove()
            print(
                f"refinement: round {turn + 1} of {settings.rounds}, the template moved by {moved:.3f} mm "
                f"and changed by {change:.4f}",
                flush=True,
            )
    progress.close()
    if distributed.is_main_process():
        write_tsv(config.layout.template_refinement, rows, list(rows[0]))


def _resume(folder: Path, model: Groupwise, digest: str) -> list[dict[str, Any]]:
    """The rounds that are done, and the template after them, if a run of this digest was killed here."""
    state = folder / STATE
    about, tensors = read_weights(state) if state.exists() else ({}, {})
    distributed.barrier()  # nobody removes what another still reads
    if about.get("digest") == digest:
        model.load_state_dict(tensors)
        if distributed.is_main_process():
            print(f"resuming refinement after round {len(about['rows'])} from {state}", flush=True)
        return list(about["rows"])
    if distributed.is_main_process():
        shutil.rmtree(folder, ignore_errors=True)
        write_weights(state, model, {"digest": digest, "rows": []})
    distributed.barrier()
    return []


def _set_mean_velocity(config: Config, model: Groupwise, images: AlignedImages, codes: Tensor) -> None:
    """The network has learned from another template. What its velocities to this one, which rounds have made
    central, have in common says nothing about anyone: registrations that start from there stay there, where
    images show little."""
    summed = torch.zeros_like(model.mean_velocity)
    for person in distributed.shard(range(len(codes))):
        code, (image, _) = codes[person], images.batch([person])
        with torch.no_grad(), autocast(code.device, config.template.precision):
            features = model.features(image.to(code), [images.subjects[person].id])
            summed += model.velocity(model.template_features(code[None]), features).mean.float()
    model.mean_velocity += distributed.all_reduce_sum(summed) / len(codes)


class _Velocities:
    """People's velocities (1, d, *half), in files: memory doesn't grow with the cohort, and a killed run
    finds those that are done."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device = folder, device

    def _path(self, person: int) -> Path:
        return self._folder / f"{person}.npy"

    def __contains__(self, person: int) -> bool:
        return self._path(person).exists()

    def __getitem__(self, person: int) -> Tensor:
        return torch.from_numpy(np.load(self._path(person))).to(self._device)

    def __setitem__(self, person: int, velocity: Tensor) -> None:
        with atomic_write(self._path(person)) as partial:
            np.save(partial, velocity.cpu().numpy())

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _center(
    model: Groupwise, found: _Velocities, centered: _Velocities, people: list[int], codes: Tensor
) -> float:
    """Take out of people's velocities what they have in common, for which the template moves instead, and
    what goes with the covariates, which is growth.

    Each is a field on the template at its own covariates; to be compared they are carried along the growth.
    Returns the mean length, mm, of what they had in common.
    """
    ones = torch.ones_like(found[people[0]][:, :1])

    def carried(field: Tensor, person: int, way: int) -> Tensor:
        return (
            warp(field, model.covariate_transform(codes[person][None])[way], padding="border")
            if model.has_covariate_velocity
            else field
        )

    there = ((carried(found[person], person, 1), ones) for person in people)
    common, slopes = regression(there, codes[people])
    for person in people:
        known = common + torch.einsum("k,kc...->c...", codes[person], slopes)
        centered[person] = found[person] - carried(known, person, 0)
    model.covariate_velocity -= slopes  # last: what came by the old one went back by it
    return float(to_mm(common, model.grid.coarser_spacing(common.shape[2:])).norm(dim=1).mean())


def _brought(
    model: Groupwise, images: AlignedImages, people: list[int], velocities: _Velocities, codes: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each person's image on the template at the mean covariates, interpolated once, and its mask."""
    for person in people:
        forward = exponentiate(velocities[person], model.integration_steps)
        if model.has_covariate_velocity:
            forward = compose(forward, model.covariate_transform(codes[person][None])[1])
        image, mask = images.through(person, resize_displacement(forward, model.grid.tensor_shape).cpu())
        yield image.to(forward), mask.to(forward)
