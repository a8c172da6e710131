"""The template after training: rounds of registering people to it, and of averaging what they bring to it.

The groupwise iteration of Guimond et al. 2000 (doi:10.1006/cviu.1999.0815) and Avants et al. 2010
(doi:10.1016/j.neuroimage.2009.09.062), for a template that is a function of covariates: means become
regressions, of the images and of the velocities. What the velocities have in common, or in common with a
covariate, is change that the template should show; it is taken out of them before the images are averaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from tempfile import TemporaryFile

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, max_pool3d
from tqdm import tqdm

from atlasmith import instance, processes
from atlasmith.aligned import AlignedImages
from atlasmith.config import Config
from atlasmith.io.tables import write_tsv
from atlasmith.losses import to_mm
from atlasmith.networks import Groupwise
from atlasmith.regression import regression
from atlasmith.training import autocast, generator
from atlasmith.warp import compose, exponentiate, half_shape, resize_displacement, warp

SUPPORT_MARGIN = 3  # voxels


def start_from_regression(model: Groupwise, images: AlignedImages, codes: Tensor) -> None:
    """The template's first value: at each voxel, the regression of the aligned images on the covariates.

    Its support is where most images have data in the whole neighbourhood.
    """
    erode = {2: max_pool2d, 3: max_pool3d}[model.grid.ndim]
    whole = torch.zeros_like(model.base)
    mine = processes.share(range(len(codes)))

    def each() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal whole
        for index in mine:
            image, mask = images.batch([index])
            whole = whole - erode(-mask, 2 * SUPPORT_MARGIN + 1, 1, SUPPORT_MARGIN)
            yield image, mask

    _set(model, *regression(each(), codes[mine]))
    model.support.copy_((processes.total(whole) > len(codes) / 2).float())


def _set(model: Groupwise, base: Tensor, slopes: Tensor) -> None:
    model.base.data.copy_(base)
    if model.slopes is not None:
        model.slopes.data.copy_(slopes[:, 0])


def refine_template(config: Config, model: Groupwise, images: AlignedImages, codes: Tensor) -> None:
    """Replace the template by what registered images average to, round by round, in place.

    In each round the velocities of some people, drawn once, and in the last one of everybody, go on by
    instance optimisation from where they were. Base and slopes become the regression of the images brought
    to the mean covariates. The decoder falls silent, and so do the slopes until the last round: they would
    show a moving edge as a change of intensities, and leave growth nothing to explain.
    """
    settings, device = config.template.refinement, model.base.device
    if settings.rounds == 0:
        return
    order = torch.randperm(len(codes), generator=generator(config.seed, 5)).tolist()
    drawn = processes.share(sorted(order[: settings.subjects]))
    everyone = processes.share(range(len(codes)))
    codes = codes.to(device)
    velocities = _Velocities(model, len(codes))
    model.eval()
    if model.decoder is not None and model.slopes is not None:
        for parameter in (model.slopes, *model.decoder.head.parameters()):
            parameter.data.zero_()
    progress = tqdm(
        total=(settings.rounds - 1) * len(drawn) + len(everyone),
        desc="refinement",
        disable=None if processes.leads() else True,
    )
    rows = []
    for turn in range(settings.rounds):
        last = turn == settings.rounds - 1
        people = everyone if last else drawn
        if last and turn > 0:  # no round has made the template central before the first
            _set_lean(model, images, codes)
        for person in people:
            image, mask = (x.to(device) for x in images.batch([person]))
            with torch.no_grad(), autocast(device):
                template = model.template_features(codes[person][None])
                image = model.features(image, [images.subjects[person].id])
                if person not in velocities:
                    velocities[person] = model.velocity(template, image).mean.float()
            judge = instance.judge(config, model.grid, template.float(), image.float(), mask)
            velocities[person] = instance.optimise(
                judge, velocities[person], settings.steps, settings.learning_rate
            )
            progress.update()
        with torch.no_grad():
            moved = _centre(model, velocities, people, codes)
            before = model.base.clone()
            base, slopes = regression(_brought(model, images, people, velocities, codes), codes[people])
            _set(model, base, slopes if last else torch.zeros_like(slopes))
            change = float((model.base - before).square().mean().sqrt())
        count = len(codes) if last else min(settings.subjects, len(codes))
        rows.append({"round": turn + 1, "people": count, "moved_mm": moved, "changed": change})
        if processes.leads():
            print(
                f"refinement: round {turn + 1} of {settings.rounds}, the template moved by {moved:.3f} mm "
                f"and changed by {change:.4f}",
                flush=True,
            )
    progress.close()
    if processes.leads():
        write_tsv(config.layout.template_refinement, rows, list(rows[0]))


def _set_lean(model: Groupwise, images: AlignedImages, codes: Tensor) -> None:
    """The network has learned from another template. What its velocities to this one, which rounds have made
    central, have in common says nothing about anyone: registrations that start from there stay there, where
    images show little."""
    summed = torch.zeros_like(model.lean)
    for person in processes.share(range(len(codes))):
        code, (image, _) = codes[person], images.batch([person])
        with torch.no_grad(), autocast(code.device):
            features = model.features(image.to(code), [images.subjects[person].id])
            summed += model.velocity(model.template_features(code[None]), features).mean.float()
    model.lean += processes.total(summed) / len(codes)


class _Velocities:
    """People's velocities (1, d, *half), in a file without a name: memory doesn't grow with the cohort."""

    def __init__(self, model: Groupwise, people: int) -> None:
        shape = (people, 1, model.grid.ndim, *half_shape(model.grid.tensor_shape))
        with TemporaryFile() as file:
            self._values = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
        self._known: set[int] = set()
        self._device = model.base.device

    def __contains__(self, person: int) -> bool:
        return person in self._known

    def __getitem__(self, person: int) -> Tensor:
        return torch.from_numpy(np.array(self._values[person])).to(self._device)

    def __setitem__(self, person: int, velocity: Tensor) -> None:
        self._values[person] = velocity.cpu().numpy()
        self._known.add(person)


def _centre(model: Groupwise, velocities: _Velocities, people: list[int], codes: Tensor) -> float:
    """Take out of people's velocities, in place, what they have in common, for which the template moves
    instead, and what goes with the covariates, which is growth.

    Each is a field on the template at its own covariates; to be compared they are carried along the growth.
    Returns the mean length, mm, of what they had in common.
    """
    ones = torch.ones_like(velocities[people[0]][:, :1])

    def carried(field: Tensor, person: int, way: int) -> Tensor:
        return warp(field, model.grown(codes[person][None])[way], padding="border") if model.grows else field

    there = ((carried(velocities[person], person, 1), ones) for person in people)
    common, slopes = regression(there, codes[people])
    for person in people:
        known = common + torch.einsum("k,kc...->c...", codes[person], slopes)
        velocities[person] = velocities[person] - carried(known, person, 0)
    model.growth -= slopes  # last: what came by the old one went back by it
    return float(to_mm(common, model.grid.coarser_spacing(common.shape[2:])).norm(dim=1).mean())


def _brought(
    model: Groupwise, images: AlignedImages, people: list[int], velocities: _Velocities, codes: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each person's image on the template at the mean covariates, interpolated once, and its mask."""
    for person in people:
        forward = exponentiate(velocities[person], model.squarings)
        if model.grows:
            forward = compose(forward, model.grown(codes[person][None])[1])
        image, mask = images.through(person, resize_displacement(forward, model.grid.tensor_shape).cpu())
        yield image.to(forward), mask.to(forward)
