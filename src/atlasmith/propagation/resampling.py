"""Resample atlases onto a target's grid: transforms are composed, and each atlas is interpolated once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, Grid, Step
from atlasmith.core.sampling import LabelSampler, sample
from atlasmith.core.world import (
    arrange,
    inside,
    to_voxels,
    transform_points,
    transform_points_each,
    world_points,
)
from atlasmith.io.images import Image

STRIDE = 2  # voxels between the points by which the extent of the labels is first searched


@dataclass(frozen=True, eq=False)
class PropagatedLabels:
    """Atlases on a target's grid.

    Args:
        labels: Integer labels (N, X, Y, Z), one map an atlas.
        images: Intensities (N, X, Y, Z), or None without images.
    """

    labels: Array
    images: Array | None


def propagate(
    labels: Sequence[Image],
    transforms: Sequence[Sequence[Step]],
    grid: Grid,
    images: Sequence[Image] | None = None,
) -> PropagatedLabels:
    """Resample atlases' labels, and their images, onto a target's grid.

    Labels are the argmax of linearly interpolated one-hot maps, 0 outside an atlas; intensities are linear.

    Args:
        labels: Label map of each atlas.
        transforms: For each atlas the steps from the target's world to the atlas's, in RAS mm, first applied
            first; each an affine (4, 4) or a `DisplacementField`.
        grid: The target's grid.
        images: Image of each atlas, on any grid of the atlas's world.

    Returns:
        Labels and images on the grid.

    Raises:
        AtlasmithError: Without atlases, and for labels that aren't of an integer type.

    Example:
        >>> grid = Grid((4, 4, 4), np.eye(4))
        >>> atlas = Image(np.arange(64).reshape(4, 4, 4) // 32, grid)
        >>> shift = np.eye(4)
        >>> shift[0, 3] = 1  # the target's voxel x shows the atlas's voxel x + 1
        >>> propagate([atlas], [[shift]], grid).labels[0, :, 0, 0]
        array([0, 1, 1, 0], dtype=int32)
    """
    if not labels or not all(np.issubdtype(own.data.dtype, np.integer) for own in labels):
        kinds = ", ".join(sorted({str(own.data.dtype) for own in labels}))
        raise AtlasmithError(f"label maps are {kinds or 'missing'}. Give integers, one map for each atlas.")
    atlases = [Atlas(own, [] if images is None else [images[k]]) for k, own in enumerate(labels)]
    label_maps, image_maps = [], []
    steps = [[*own, atlas.to_voxels] for own, atlas in zip(transforms, atlases, strict=True)]
    for atlas, voxels in zip(atlases, transform_points_each(steps, world_points(grid)), strict=True):
        label_map, intensities, _ = atlas.sample(voxels, grid)
        label_maps.append(label_map)
        image_maps += [*intensities]
    return PropagatedLabels(np.stack(label_maps), None if images is None else np.stack(image_maps))


@dataclass(frozen=True, eq=False)
class Atlas:
    """Labels of an atlas and its images, on the labels' grid or on others of the same world."""

    labels: Image
    images: Sequence[Image] = ()

    @property
    def to_voxels(self) -> Array:
        """The affine (4, 4) from the atlas's world to voxels of its labels."""
        return np.linalg.inv(self.labels.grid.affine)

    def sample(self, voxels: Tensor, grid: Grid) -> tuple[Array, Array, Array]:
        """Sample labels and images at the voxels of a target's grid.

        Args:
            voxels: Voxel coordinates (N, 3) in the atlas's labels, of the target's voxels.
            grid: The target's grid, of N voxels.

        Returns:
            Labels (X, Y, Z), int32; intensities (I, X, Y, Z) of the I images, zero outside; and a mask
            (X, Y, Z) of the voxels where labels have more than half of the interpolated weight.
        """
        own = self.labels.grid
        points = arrange(voxels, own, grid.tensor_shape)
        label_map = torch.from_numpy(own.squeeze(self.labels.data).astype(np.int32))
        on_grid = [image for image in self.images if image.grid.same_as(own)]
        maps = [(label_map != 0).float()]
        maps += [torch.from_numpy(own.squeeze(image.data)).float() for image in on_grid]
        occupied, *found = sample(torch.stack(maps)[None], points)[0].numpy()
        if len(on_grid) < len(self.images):
            world = voxels @ torch.from_numpy(own.affine[:3, :3].T) + torch.from_numpy(own.affine[:3, 3])
        sampled, images = iter(found), np.zeros((len(self.images), *grid.shape), np.float32)
        for index, image in enumerate(self.images):
            here = image.grid.same_as(own)
            images[index] = grid.unsqueeze(next(sampled)) if here else intensities_at(image, world, grid)
        labels = LabelSampler(label_map)(points).numpy()
        return grid.unsqueeze(labels), images, grid.unsqueeze(occupied > 0.5)


def intensities_at(image: Image, points: Tensor, grid: Grid) -> Array:
    """Sample intensities (X, Y, Z), linearly, where the voxels of `grid` lie at world points (N, 3)."""
    voxels = to_voxels(points, image.grid, grid.tensor_shape)
    data = torch.from_numpy(image.grid.squeeze(image.data))[None, None].float()
    return grid.unsqueeze(sample(data, voxels)[0, 0].numpy())


def field_of_view_at(image: Grid, points: Tensor, grid: Grid) -> Array:
    """Tell (X, Y, Z) which voxels of `grid`, at world points (N, 3), lie within an image on grid `image`."""
    voxels = to_voxels(points, image, grid.tensor_shape)
    return grid.unsqueeze(inside(voxels.movedim(1, -1), image.tensor_shape)[0].numpy())


def _dilated_labels(labels: Image, radius: float) -> Image:
    """A mask of the voxels within `radius` mm of a label, along each axis."""
    occupied = torch.from_numpy(labels.data != 0).float()[None, None]
    for axis, (size, n) in enumerate(zip(labels.grid.spacing, labels.grid.shape, strict=True)):
        steps = [math.ceil(radius / size) if other == axis and n > 1 else 0 for other in range(3)]
        occupied = max_pool3d(occupied, [2 * step + 1 for step in steps], 1, steps)
    return Image(occupied[0, 0].numpy(), labels.grid)


def likely_extent(
    labels: Sequence[Image],
    to_template: Sequence[Step],
    from_template: Sequence[Sequence[Step]],
    grid: Grid,
    margin: float,
) -> list[slice] | None:
    """Find a box of the target's grid that surely holds all labels and a margin, by every second voxel.

    Args:
        labels: Label map of each atlas.
        to_template: Steps from the target's world to the template's.
        from_template: For each atlas the steps from the template's world to the atlas's.
        grid: The target's grid.
        margin: mm around the labels.

    Returns:
        Slices of the grid's axes; None where no label reaches it.
    """
    coarse = grid.strided(STRIDE)
    points, reached = transform_points(to_template, world_points(coarse)), np.zeros(coarse.shape, dtype=bool)
    for own, moved in zip(labels, transform_points_each(from_template, points), strict=True):
        dilated = _dilated_labels(own, STRIDE * max(grid.spacing))
        reached |= intensities_at(dilated, moved, coarse) > 0
    box = bounding_box(reached, coarse, 0)
    if box is None:
        return None
    pads = [math.ceil(margin / size) + STRIDE for size in grid.spacing]
    return [
        slice(max(0, STRIDE * s.start - pad), min(n, STRIDE * s.stop + pad))
        for s, pad, n in zip(box, pads, grid.shape, strict=True)
    ]


def bounding_box(occupied: Array, grid: Grid, margin: float) -> list[slice] | None:
    """Find the bounding box of a mask (X, Y, Z) on `grid` with `margin` mm around; None for an empty one."""
    box = []
    for axis in range(3):
        index = np.flatnonzero(occupied.any(axis=tuple(other for other in range(3) if other != axis)))
        if index.size == 0:
            return None
        pad = int(np.ceil(margin / grid.spacing[axis]))
        box.append(slice(max(0, int(index[0]) - pad), min(grid.shape[axis], int(index[-1]) + 1 + pad)))
    return box
