"""Register one image to another, without a template, a cohort or a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlasmith.config.template import TemplateSection
from atlasmith.core.fields import resize_displacement
from atlasmith.core.grid import Array, Grid, Step
from atlasmith.core.intensity import antialias, normalize
from atlasmith.core.sampling import MASK_THRESHOLD, half_shape, resize
from atlasmith.core.world import resample
from atlasmith.io.images import Image, as_image
from atlasmith.registration.deformation import Deformation, displacements, optimize_velocity
from atlasmith.training.device import select_device
from atlasmith.training.instance_optimization import instance_objective

Terms = Mapping[str, Mapping[str, Any]]

SMALLEST_AXIS = 16  # voxels of an axis that a coarse level keeps


@dataclass(frozen=True, eq=False)
class RegistrationResult:
    """What `register` found.

    Attributes:
        warped: The moving image, in its own intensities, on the fixed grid, interpolated once; in the shape
            of the fixed image, 0 outside the moving field of view.
        forward: The pull-back from the fixed to the moving world that resamples the moving image onto the
            fixed grid: a displacement field and an affine, RAS mm, first applied first. `write_composite`
            writes it for ITK.
        inverse: The pull-back that resamples the fixed image onto the moving grid.
        log_jacobian: Logarithm of the Jacobian determinant of the forward displacement, in the shape of the
            fixed image.
        terms: The weighted terms of the objective, by name.
        metrics: Folding (%), SD of the log-Jacobian, inverse consistency (mm) and displacement (mm), by name.
    """

    warped: Array
    forward: list[Step]
    inverse: list[Step]
    log_jacobian: Array
    terms: dict[str, float]
    metrics: dict[str, float]


def register(
    fixed: Image | Array,
    moving: Image | Array,
    spacing: float | Sequence[float] = 1.0,
    *,
    affine: Array | None = None,
    network: Callable[[Tensor, Tensor], Tensor] | None = None,
    steps: int = 40,
    learning_rate: float = 0.15,
    levels: int = 3,
    similarity: Terms | None = None,
    regularization: Terms | None = None,
    integration_steps: int = 6,
    device: str = "auto",
) -> RegistrationResult:
    """Register an image to another by a diffeomorphism, the exponential of a stationary velocity.

    The velocity minimizes the objective that templates are trained with, by Adam, coarse to fine.
    Similarities are averaged over both directions. Intensities are normalized first, and nothing is random.

    Args:
        fixed: The image onto whose grid the other is resampled, 2-D or 3-D; an array (*shape) lies in the
            world with its first voxel at the origin.
        moving: The other image, of as many dimensions.
        spacing: Voxel size of arrays, mm: one for all axes, or one for each.
        affine: Pull-back (4, 4) from the fixed to the moving world, RAS mm, such as
            `atlasmith.affine.align` finds; None: the images are aligned.
        network: Function of both images (1, 1, *shape) on the fixed grid, with intensities in [0, 1], that
            predicts a velocity (1, d, *half) to start from, in voxels of its own grid; then `levels` is 1.
            None starts from the identity.
        steps: Steps of the optimization on each level.
        learning_rate: Its initial learning rate, voxels of the velocity's grid.
        levels: Levels of resolution, each in voxels twice as large as the next.
        similarity: Similarities of the objective, by name, each with `weight` and settings; None: the
            default of `template.similarity`.
        regularization: Regularizers, likewise; None: the default of `template.regularization`.
        integration_steps: Squarings of the exponential.
        device: `cpu`, `cuda`, or `auto`.

    Returns:
        Warped image, transforms in both directions, log-Jacobian, and terms of the objective.

    Raises:
        AtlasmithError: For an unknown similarity or regularizer.
        ValueError: When one image is 2-D and the other 3-D.

    Example:
        >>> x, y = np.mgrid[:40, :40] - 20
        >>> fixed, moving = (np.maximum(0, 1 - np.hypot(x, y / a) ** 2 / 200) for a in (1.0, 1.3))
        >>> result = register(fixed, moving, spacing=2.0, device="cpu")
        >>> bool(abs(result.warped - fixed).mean() < 0.2 * abs(moving - fixed).mean())
        True
        >>> result.metrics["nonpositive_jacobian_percent"]
        0.0
    """
    shape = (fixed.data if isinstance(fixed, Image) else fixed).shape
    fixed, moving = as_image(fixed, spacing), as_image(moving, spacing)
    grid, processor = fixed.grid, select_device(device)
    if moving.grid.ndim != grid.ndim:
        raise ValueError(f"a {grid.ndim}-D and a {moving.grid.ndim}-D image can't be registered")
    affine = np.eye(4) if affine is None else affine
    images = (normalize(fixed.data), *_resampled(moving, affine, grid))
    objective = TemplateSection().objective | {"integration_steps": integration_steps}
    for name, terms in (("similarity", similarity), ("regularization", regularization)):
        objective |= {} if terms is None else {name: terms}
    sizes = [grid.tensor_shape] if network else _level_shapes(grid, levels)
    velocity = torch.zeros(1, grid.ndim, *half_shape(sizes[0]), device=processor)
    for size in sizes:
        target, source, mask = (x.to(processor) for x in _level(images, grid, size))
        with torch.no_grad():
            resized = resize_displacement(velocity, half_shape(size))
            start = resized if network is None else network(target, source)
        velocity = optimize_velocity(start, target, source, mask, grid, steps, learning_rate, objective)
    with torch.no_grad():
        values = instance_objective(target, source, mask, grid, **objective)(velocity).terms
    forward, inverse = (x.cpu() for x in displacements(velocity, integration_steps, grid))
    deformation = Deformation(forward, inverse, affine, grid)
    return RegistrationResult(
        warped=deformation.warp(moving).reshape(shape),
        forward=deformation.forward_steps,
        inverse=deformation.inverse_steps,
        log_jacobian=deformation.log_jacobian.reshape(shape),
        terms={name: float(value) for name, value in values.items()},
        metrics={name: value for name, value, _ in deformation.metrics(target.cpu())},
    )


def _resampled(moving: Image, affine: Array, grid: Grid) -> tuple[Array, Array]:
    """Normalize an image and resample it through an affine onto `grid`; with its field of view there."""
    data = antialias(normalize(moving.data), moving.grid, min(grid.tensor_spacing))
    tensor = torch.from_numpy(moving.grid.squeeze(data))
    both = torch.stack([tensor, torch.ones_like(tensor)])[None]
    image, weight = resample(both, moving.grid, [affine], grid)[0].numpy()
    return grid.unsqueeze(image), grid.unsqueeze((weight > MASK_THRESHOLD).astype(np.float32))


def _level_shapes(grid: Grid, levels: int) -> list[tuple[int, ...]]:
    """Return the shapes of the levels, coarse to fine: each has half the voxel size of the one before.

    Axes with larger voxels than a level's keep their own; all levels have the same corner voxels.
    """
    shapes: list[tuple[int, ...]] = []
    for level in range(levels):
        size = 2**level * min(grid.tensor_spacing)
        axes = zip(grid.tensor_shape, grid.tensor_spacing, strict=True)
        shape = tuple(round((n - 1) * own / max(own, size)) + 1 for n, own in axes)
        smallest = [min(SMALLEST_AXIS, n) for n in grid.tensor_shape]
        if any(n < limit for n, limit in zip(shape, smallest, strict=True)):
            break
        shapes.insert(0, shape)
    return shapes


def _level(images: Sequence[Array], grid: Grid, shape: tuple[int, ...]) -> list[Tensor]:
    """Antialias fixed and moving image and resize them, and a mask, to (1, 1, *shape) with equal corners."""
    size = min(grid.coarser_spacing(shape))
    smooth = [antialias(data, grid, size) for data in images[:2]]
    tensors = [torch.from_numpy(grid.squeeze(x))[None, None].float() for x in (*smooth, images[2])]
    image, other, mask = (resize(x, shape) for x in tensors)
    return [image, other, (mask > MASK_THRESHOLD).float()]
