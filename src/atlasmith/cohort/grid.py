"""The template's grid: large enough for every object, small enough for memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from atlasmith.cohort.problems import Problems, abbreviate, refuse
from atlasmith.config import Config
from atlasmith.config.template import TemplateSection
from atlasmith.core.grid import Array, Grid
from atlasmith.core.machine import total_memory
from atlasmith.workflow.resources import GIB, template_bytes


def common_grid(
    config: Config, grids: Mapping[str, Grid], extents: Sequence[Array], problems: Problems
) -> Grid | None:
    """Decide the template's grid, from images of one dimension.

    Args:
        config: The run's config.
        grids: Grids of the images by subject id.
        extents: Sizes (3,) of the objects that build the template, mm.
        problems: Where images of different dimensions, and a grid too large for memory, are added.

    Returns:
        The grid, or None where it can't be decided.
    """
    flat_axes = {name: _flat_axis(grid) for name, grid in grids.items()}
    if len(set(flat_axes.values())) > 1:
        groups = []
        for flat in dict.fromkeys(flat_axes.values()):
            ids = abbreviate([f"sub-{name}" for name, other in flat_axes.items() if other == flat])
            groups.append(f"3-D: {ids}" if flat is None else f"2-D, one voxel along {'xyz'[flat]}: {ids}")
        found = f"images differ in dimension ({'; '.join(groups)})"
        problems.add(config.cohort.bids, found, "Keep those of one kind.")
        return None
    if not extents:
        return None
    flat = next(iter(flat_axes.values()))
    grid = problems.collect(decide_grid, extents, flat, config.template)
    if grid is not None:
        problems.collect(_check_memory, grid, extents, flat, config.template)
    return grid


def _flat_axis(grid: Grid) -> int | None:
    """The axis that a 2-D grid doesn't have."""
    return next((axis for axis in range(3) if axis not in grid.axes), None)


def decide_grid(extents: Sequence[Array], flat: int | None, template: TemplateSection) -> Grid:
    """Decide the template's grid: RAS, centered on the world's origin, of the config's spacing.

    Where the config gives no shape, the grid holds the largest extent of each axis, in a multiple of 8
    voxels, so that networks halve it without padding.

    Args:
        extents: Sizes (3,) of the objects, mm: see `foreground_extent`.
        flat: The axis that 2-D images don't have; None in 3-D.
        template: `spacing` and `shape` decide.

    Returns:
        The grid.

    Raises:
        InputError: If the config's shape has other dimensions than the images.

    Example:
        >>> from atlasmith.config.template import TemplateSection
        >>> decide_grid([np.array([48.0, 30.0, 20.0])], None, TemplateSection(spacing=1.0)).shape
        (48, 32, 24)
    """
    if template.shape is None:
        voxels = np.max(extents, axis=0) / template.spacing
        # Less a millionth, so that 48 voxels that came out as 48.0000001 stay 48.
        shape = [8 * max(1, math.ceil(n / 8 - 1e-6)) for n in voxels]
        if flat is not None:
            shape[flat] = 1
    else:
        shape = list(template.shape)
        if flat is not None and len(shape) == 2:
            shape.insert(flat, 1)
        flat_axes = [axis for axis, size in enumerate(shape) if size == 1]
        if len(shape) != 3 or flat_axes != ([] if flat is None else [flat]):
            sizes = (
                "three sizes above 1" if flat is None else f"two sizes above 1 (axis {flat} has one voxel)"
            )
            refuse("config: template.shape", f"this is {template.shape}", f"Give {sizes}.")
    affine = np.diag([template.spacing] * 3 + [1.0])
    affine[:3, 3] = template.spacing * (1 - np.array(shape)) / 2
    return Grid((shape[0], shape[1], shape[2]), affine)


def _check_memory(grid: Grid, extents: Sequence[Array], flat: int | None, template: TemplateSection) -> None:
    """Raise `InputError`, with a voxel size that fits, if training would exceed the machine's memory."""
    available, coarse = total_memory(), grid.coarser(template.coarse_spacing)

    def needed(finest: Grid) -> float:
        training = finest.coarser(template.coarse_spacing)
        return template_bytes(math.prod(training.shape), math.prod(finest.shape), template.batch_size)

    required = needed(grid)
    if required <= available:
        return
    if template.shape is None:
        spacing, fitting = template.spacing, grid
        while needed(fitting) > available:
            digit = 10.0 ** (math.floor(math.log10(spacing)) - 1)
            spacing = math.ceil(1.05 * spacing / digit) * digit  # 5 % more, to two digits
            fitting = decide_grid(extents, flat, template.model_copy(update={"spacing": spacing}))
        remedy = f"Set template.spacing to {spacing:g} mm or more, or lower template.batch_size."
    else:
        remedy = "Lower template.shape (and raise template.spacing), or template.batch_size."
    if template.refinement.rounds:
        remedy += " A larger template.training_spacing lowers what training needs, and nothing else."
    refuse(
        "config: template",
        f"training on a grid of {' x '.join(map(str, coarse.shape))} voxels of "
        f"{template.coarse_spacing:g} mm needs about {required / GIB:.1f} GiB, and this machine has "
        f"{available / GIB:.1f}",
        remedy,
    )
