"""Register one image to another, without a template, a cohort or a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlasmith.config.choices import term_problems
from atlasmith.config.template import TemplateSection
from atlasmith.core.errors import InputError
from atlasmith.core.grid import Array, Grid, Step
from atlasmith.core.inpainting import fill
from atlasmith.core.intensity import antialias, normalize
from atlasmith.core.sampling import MASK_THRESHOLD, half_shape
from atlasmith.core.world import apply_affine, resample
from atlasmith.io.images import Image, as_image
from atlasmith.optimization import InstanceObjective, PointSets, instance_objective, optimize
from atlasmith.registration.deformation import Deformation, displacements
from atlasmith.training.device import select_device
from atlasmith.transforms import deformation_model

Terms = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class RegistrationResult:
    """What `register` found.

    Attributes:
        warped: The moving image, in its own intensities, on the fixed grid, interpolated once; in the shape
            of the fixed image, 0 outside the moving field of view. Of several channels the first.
        forward: The pull-back from the fixed to the moving world that resamples the moving image onto the
            fixed grid: a displacement field on that grid and an affine, RAS mm, first applied first.
            `write_composite` writes it for ITK.
        inverse: The pull-back that resamples the fixed image onto the moving grid.
        log_jacobian: Logarithm of the Jacobian determinant of the forward displacement, in the shape of the
            fixed image.
        terms: The weighted terms of the objective, by name.
        metrics: Folding (%), SD of the log-Jacobian, inverse consistency (mm) and displacement (mm), by name.
        warped_channels: Every channel of the moving image, as `warped`, where it was given by channels.
    """

    warped: Array
    forward: list[Step]
    inverse: list[Step]
    log_jacobian: Array
    terms: dict[str, float]
    metrics: dict[str, float]
    warped_channels: dict[str, Array] = field(default_factory=dict)


def register(
    fixed: Image | Array | Mapping[str, Image | Array],
    moving: Image | Array | Mapping[str, Image | Array],
    spacing: float | Sequence[float] = 1.0,
    *,
    affine: Array | None = None,
    network: Callable[[Tensor, Tensor], Tensor] | None = None,
    steps: int = 40,
    learning_rate: float = 0.2,
    levels: int = 3,
    exclude_fixed: Array | None = None,
    exclude_moving: Array | None = None,
    normalize_intensities: bool = True,
    points: tuple[Array, Array] | None = None,
    surfaces: tuple[Array, Array] | None = None,
    points_weight: float = 0.1,
    similarity: Terms | None = None,
    channel_similarity: Mapping[str, Terms] | None = None,
    regularization: Terms | None = None,
    integration_steps: int = 6,
    parametrization: str = "stationary_velocity",
    parametrization_settings: Mapping[str, Any] | None = None,
    optimizer: str = "adam",
    optimizer_settings: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> RegistrationResult:
    """Register an image to another, by default by a diffeomorphism, the exponential of a stationary velocity.

    It minimizes the objective that templates are trained with, by default by Adam, coarse to fine.
    Similarities are averaged over both directions and over the channels that both images have. Intensities
    are normalized first, and nothing depends on the state of a random generator.

    Args:
        fixed: The image onto whose grid the other is resampled, 2-D or 3-D; an array (*shape) lies in the
            world with its first voxel at the origin. Several channels, on one grid, are given by name:
            `{"T1w": first, "T2w": second}`.
        moving: The other image, of as many dimensions, likewise.
        spacing: Voxel size of arrays, mm: one for all axes, or one for each.
        affine: Pull-back (4, 4) from the fixed to the moving world, RAS mm, such as
            `atlasmith.affine.align` finds; None: the images are aligned.
        network: Function of both images (1, C, *shape) on the fixed grid, with intensities in [0, 1], that
            predicts coefficients (1, channels, *half) to start from, in voxels of their own grid; then
            `levels` is 1. None starts from the identity.
        steps: Steps of the optimization on each level.
        learning_rate: Its initial learning rate, voxels of the coefficients' grid.
        levels: Levels of resolution, each in voxels twice as large as the next, of optimizers that have them.
        exclude_fixed: Boolean array in the shape of the fixed image, such as a lesion: what nothing is
            learned from; None: nothing.
        exclude_moving: Likewise in the shape of the moving image.
        normalize_intensities: False where they are comparable and in [0, 1] as they are, such as the
            `atlasmith.core.labels.signed_distances` of two label maps.
        points: Corresponding points of the fixed and the moving image, such as landmarks: (N, 3) each, in the
            world of their image, RAS mm, or (N, 2) of 2-D arrays. Their mean distance is a further term.
        surfaces: Points on surfaces, such as the vertices of meshes, likewise, but (N, 3) and (M, 3): the
            further term is the mean distance to the nearest point of the other set.
        points_weight: Weight of these terms, per mm.
        similarity: Similarities of the objective, by name, each with `weight` and settings; None: the
            default of `template.similarity`.
        channel_similarity: Those of single channels, by the channel's name, in the place of `similarity`.
        regularization: Regularizers, likewise; None: the default of `template.regularization`.
        integration_steps: Squarings of the exponential.
        parametrization: A name in `atlasmith.transforms.PARAMETRIZATIONS`.
        parametrization_settings: Its settings; None: the defaults.
        optimizer: A name in `atlasmith.optimization.OPTIMIZERS`.
        optimizer_settings: Its settings; None: the defaults.
        device: `cpu`, `cuda`, or `auto`.

    Returns:
        Warped image, transforms in both directions, log-Jacobian, and terms of the objective.

    Raises:
        AtlasmithError: For an unknown similarity, regularizer, parametrization or optimizer, and for a weight
            or setting that can't be used.
        ValueError: When one image is 2-D and the other 3-D, when they have no channel in common, when the
            channels of an image or what is excluded have other grids, when the numbers of corresponding
            points differ, or for a negative number of steps or a learning rate that isn't above 0.

    Example:
        >>> x, y = np.mgrid[:40, :40] - 20
        >>> fixed, moving = (np.maximum(0, 1 - np.hypot(x, y / a) ** 2 / 200) for a in (1.0, 1.3))
        >>> result = register(fixed, moving, spacing=2.0, device="cpu")
        >>> bool(abs(result.warped - fixed).mean() < 0.2 * abs(moving - fixed).mean())
        True
        >>> result.metrics["nonpositive_jacobian_percent"]
        0.0
    """
    own = channel_similarity or {}
    _check_arguments(similarity or {}, regularization or {}, own, steps, learning_rate)
    target = _Input.of(fixed, spacing, exclude_fixed, normalize_intensities)
    source = _Input.of(moving, spacing, exclude_moving, normalize_intensities)
    grid, processor = target.grid, select_device(device)
    names = _common_channels(target, source)
    affine = np.eye(4) if affine is None else affine
    terms = TemplateSection().objective | {
        "channel_similarity": {index: own[name] for index, name in enumerate(names) if name in own},
        "deformation": deformation_model(parametrization, parametrization_settings, integration_steps),
        "points": _point_sets(points, surfaces, points_weight, affine, grid, processor),
    }
    chosen = {"similarity": similarity, "regularization": regularization}
    terms |= {name: given for name, given in chosen.items() if given is not None}
    objective = _objective(target, source, names, affine, terms, processor)
    start, levels = _start(objective, network), levels if network is None else 1
    found = optimize(objective, start, steps, learning_rate, optimizer, optimizer_settings, levels)
    with torch.no_grad():
        values = objective(found).terms
        maps = displacements(objective.deformation, found, grid)
        deformation = Deformation(*maps, affine, grid).on_grid
    warped = {name: deformation.warp(x).reshape(target.shape) for name, x in source.channels.items()}
    return RegistrationResult(
        warped=next(iter(warped.values())),
        forward=deformation.forward_steps,
        inverse=deformation.inverse_steps,
        log_jacobian=deformation.log_jacobian.reshape(target.shape),
        terms={name: float(value) for name, value in values.items()},
        metrics={name: value for name, value, _ in deformation.metrics(objective.fixed[:, :1])},
        warped_channels=warped if isinstance(moving, Mapping) else {},
    )


def _check_arguments(
    similarity: Terms, regularization: Terms, own: Mapping[str, Terms], steps: int, learning_rate: float
) -> None:
    """Check what `register` is given, but for the images; own: similarities of single channels."""
    problems = [
        *term_problems("similarity", similarity, "similarity"),
        *term_problems("regularization", regularization, "regularizer"),
        *(p for name, terms in own.items() for p in term_problems(f"channel {name}", terms, "similarity")),
    ]
    if problems:
        raise InputError(problems)
    if steps < 0 or not learning_rate > 0:
        raise ValueError(f"{steps} steps at a learning rate of {learning_rate}: give at least 0, and above 0")


@dataclass(frozen=True, eq=False)
class _Input:
    """One of the two images: its channels on one grid, the shape in which it was given, what is excluded of
    it (X, Y, Z), and whether to normalize intensities."""

    channels: dict[str, Image]
    grid: Grid
    shape: tuple[int, ...]
    exclude: Array | None
    normalize: bool

    @classmethod
    def of(
        cls,
        image: Image | Array | Mapping[str, Image | Array],
        spacing: float | Sequence[float],
        exclude: Array | None,
        normalize: bool,
    ) -> _Input:
        given = image if isinstance(image, Mapping) else {"": image}
        channels = {name: as_image(each, spacing) for name, each in given.items()}
        first = next(iter(given.values()))
        shape, grid = (first.data if isinstance(first, Image) else first).shape, as_image(first, spacing).grid
        if not all(channel.grid.same_as(grid) for channel in channels.values()):
            raise ValueError("the channels of an image must lie on one grid")
        if exclude is not None and exclude.shape != shape:
            raise ValueError(f"what is excluded has the shape {exclude.shape}, and the image {shape}")
        excluded = None if exclude is None else exclude.reshape(grid.shape) != 0
        return cls(channels, grid, shape, excluded, normalize)

    def known(self) -> Array:
        """Return 1 where the image may be compared, (1, X, Y, Z)."""
        excluded = np.zeros(self.grid.shape, dtype=bool) if self.exclude is None else self.exclude
        return (~excluded)[None].astype(np.float32)

    def normalized(self, names: Sequence[str]) -> Array:
        """Fill what is excluded, and normalize the channels (C, X, Y, Z)."""
        filled = [self.channels[name].data for name in names]
        if self.exclude is not None:
            filled = [fill(data, self.exclude, spacing=self.grid.spacing) for data in filled]
        if self.normalize:
            filled = [normalize(data, ignore=self.exclude) for data in filled]
        return np.stack(filled)

    def resampled(
        self, names: Sequence[str], affine: Array, grid: Grid, device: torch.device
    ) -> tuple[Array, Array]:
        """Resample the normalized channels (C, X, Y, Z) through an affine onto `grid`, with where they are
        known there (1, X, Y, Z)."""
        size = min(grid.tensor_spacing)
        data = [antialias(channel, self.grid, size) for channel in self.normalized(names)]
        both = np.stack([self.grid.squeeze(channel) for channel in (*data, self.known()[0])])
        found = resample(torch.from_numpy(both)[None].to(device), self.grid, [affine], grid)
        *images, weight = found[0].cpu().numpy()
        known = grid.unsqueeze((weight > MASK_THRESHOLD).astype(np.float32))
        return np.stack([grid.unsqueeze(image) for image in images]), known[None]


def _common_channels(target: _Input, source: _Input) -> list[str]:
    """The names of the channels that both images have."""
    ndim, other = target.grid.ndim, source.grid.ndim
    if ndim != other:
        raise ValueError(f"a {ndim}-D and a {other}-D image can't be registered")
    names = [name for name in target.channels if name in source.channels]
    if not names:
        raise ValueError(f"no common channel: {[*target.channels]} and {[*source.channels]}")
    return names


def _objective(
    target: _Input,
    source: _Input,
    names: Sequence[str],
    affine: Array,
    terms: Mapping[str, Any],
    device: torch.device,
) -> InstanceObjective:
    """Bind the objective to the common channels of both images, the moving one resampled onto the fixed grid.

    terms: Keyword arguments of `instance_objective`.
    """
    grid = target.grid
    stacks = [target.normalized(names), *source.resampled(names, affine, grid, device), target.known()]
    fixed, moving, mask, known = (
        torch.from_numpy(np.stack([grid.squeeze(data) for data in stack]))[None].float().to(device)
        for stack in stacks
    )
    return instance_objective(
        fixed,
        moving,
        mask.expand_as(fixed),
        grid,
        fixed_mask=None if target.exclude is None else known.expand_as(fixed),
        **terms,
    )


@torch.no_grad()
def _start(objective: InstanceObjective, network: Callable[[Tensor, Tensor], Tensor] | None) -> Tensor:
    """The coefficients (1, channels, *half) that the optimization starts from."""
    if network is not None:
        return network(objective.fixed, objective.moving)
    return objective.deformation.initial(objective.fixed, half_shape(objective.fixed.shape[2:]))


def _point_sets(
    points: tuple[Array, Array] | None,
    surfaces: tuple[Array, Array] | None,
    weight: float,
    affine: Array,
    grid: Grid,
    device: torch.device,
) -> list[PointSets]:
    """Locate points of both images, (N, d or 3) in the world of each, in the fixed grid."""
    if points is not None and len(points[0]) != len(points[1]):
        raise ValueError(f"{len(points[0])} points can't correspond to {len(points[1])}")
    to_voxels = np.linalg.inv(grid.affine)

    def locate(given: Array, to_fixed: Array) -> Tensor:
        in_world = torch.zeros(len(given), 3, dtype=torch.float64)
        in_world[:, : given.shape[1]] = torch.as_tensor(given)
        voxels = apply_affine(to_voxels @ to_fixed, in_world)
        return voxels[None, :, list(grid.axes)].float().to(device)

    return [
        PointSets(locate(sets[0], np.eye(4)), locate(sets[1], np.linalg.inv(affine)), weight, corresponding)
        for sets, corresponding in ((points, True), (surfaces, False))
        if sets is not None
    ]
