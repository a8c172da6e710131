"""Resample atlases onto a target's grid: transforms are composed, and each atlas is interpolated once."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from atlasmith.core import boxes
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, Grid, Step
from atlasmith.core.label_sampling import LabelSampler
from atlasmith.core.sampling import sample
from atlasmith.core.world import (
    CPU,
    apply_affine,
    arrange,
    inside,
    to_voxels,
    transform_points,
    transform_points_each,
    world_points,
)
from atlasmith.io.images import Image
from atlasmith.training.device import select_device, to_device

STRIDE = 2  # voxels between the points by which the extent of the labels is first searched
MARGIN = 6  # voxels around the labels, unless the config says otherwise
ROUNDING = 1e-3  # of interpolated masks, at coordinates in single precision


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
    device: str = "auto",
) -> PropagatedLabels:
    """Resample atlases' labels, and their images, onto a target's grid.

    Labels are the argmax of linearly interpolated one-hot maps, 0 outside an atlas; intensities are linear.

    Args:
        labels: Label map of each atlas.
        transforms: For each atlas the steps from the target's world to the atlas's, in RAS mm, first applied
            first; each an affine (4, 4) or a `DisplacementField`.
        grid: The target's grid.
        images: Image of each atlas, on any grid of the atlas's world.
        device: `cpu`, `cuda`, or `auto`.

    Returns:
        Labels and images on the grid.

    Raises:
        AtlasmithError: Without atlases, and for labels that aren't integers from 0 to 2^31 - 1.

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
    limit = np.iinfo(np.int32).max
    for index, own in enumerate(labels):
        if own.data.size and (own.data.min() < 0 or own.data.max() > limit):
            raise AtlasmithError(
                f"label map {index} goes from {own.data.min()} to {own.data.max()}. Give integers from 0 to "
                f"{limit}."
            )
    steps = [[*own, to_labels(atlas)] for own, atlas in zip(transforms, labels, strict=True)]
    processor = select_device(device)
    moved = transform_points_each(steps, world_points(grid, processor))
    found = [
        sample_atlas(*atlas, grid, processor) for atlas in zip(labels, images or labels, moved, strict=True)
    ]
    return PropagatedLabels(
        torch.stack([own.labels for own in found]).cpu().numpy(),
        torch.cat([own.images for own in found]).cpu().numpy() if images else None,
    )


def to_labels(labels: Image) -> Array:
    """Return the affine (4, 4) from an atlas's world to voxels of its labels."""
    return np.linalg.inv(labels.grid.affine)


@dataclass(frozen=True, eq=False)
class SampledAtlas:
    """An atlas on a target's grid.

    Attributes:
        labels: (X, Y, Z), int32.
        images: Intensities (I, X, Y, Z) of its I images, zero outside.
        foreground: (X, Y, Z), where labels have more than half of the interpolated weight.
    """

    labels: Tensor
    images: Tensor
    foreground: Tensor


def sample_atlas(
    labels: Image, images: Image, voxels: Iterable[Tensor], grid: Grid, device: torch.device
) -> SampledAtlas:
    """Sample an atlas's labels and images at the voxels of a target's grid.

    Args:
        labels: Label map (X, Y, Z) of the atlas.
        images: Image (X, Y, Z) of the atlas, or a stack (X, Y, Z, I) of several, on the labels' grid or on
            another of the same world.
        voxels: Voxel coordinates in the labels of the target's voxels, in consecutive parts (n, 3), as
            `transform_points_each` gives them.
        grid: The target's grid.
        device: That of the coordinates, on which the atlas is sampled.
    """
    own, sampler = labels.grid, LabelSampler(_on_device(labels, np.int32, device)[0, 0])
    maps, same = _on_device(images, np.float32, device), images.grid.same_as(own)
    to_images = torch.from_numpy(np.linalg.inv(images.grid.affine) @ own.affine).to(device)
    found = []
    for part in voxels:
        points = arrange(part, own)
        label_map, foreground = sampler.with_foreground(points)
        if not same:
            points = arrange(apply_affine(to_images, part), images.grid)
        found.append((label_map.flatten(), sample(maps, points)[0].flatten(1), foreground.flatten()))
    label_map, image_maps, foreground = (torch.cat(parts, dim=-1) for parts in zip(*found, strict=True))
    return SampledAtlas(
        label_map.view(grid.shape), image_maps.view(-1, *grid.shape), foreground.view(grid.shape)
    )


def _on_device(image: Image, kind: type[np.generic], device: torch.device) -> Tensor:
    """The voxels of an image, or of a stack of I, in any byte order, as (1, I, *tensor_shape) of a type."""
    data = image.grid.squeeze(image.data if image.data.ndim == 4 else image.data[..., None])
    data = np.ascontiguousarray(np.moveaxis(data, -1, 0), dtype=kind)
    return to_device(torch.from_numpy(data), device)[None]


def intensities_at(images: Image, points: Tensor, grid: Grid) -> Tensor:
    """Sample a stack of I images, linearly, where the voxels of `grid` lie at world points (N, 3).

    Returns:
        (I, X, Y, Z), zero outside.
    """
    maps = _on_device(images, np.float32, points.device)
    return sample(maps, to_voxels(points, images.grid)).view(-1, *grid.shape)


def field_of_view_at(image: Grid, points: Tensor, grid: Grid) -> Tensor:
    """Tell (X, Y, Z) which voxels of `grid`, at world points (N, 3), lie within an image on grid `image`."""
    return inside(to_voxels(points, image).movedim(1, -1), image.tensor_shape).view(grid.shape)


def _near_labels(labels: Image, radius: float, device: torch.device) -> Tensor:
    """A mask (*tensor_shape) of the voxels within `radius` mm of a label, along each axis."""
    near = _on_device(labels, np.int32, device)[0, 0] != 0
    for axis, (n, size) in enumerate(zip(near.shape, labels.grid.tensor_spacing, strict=True)):
        steps = math.ceil(radius / size)
        padded = pad(near, [0, 0] * (near.ndim - axis - 1) + [steps] * 2)
        near = functools.reduce(torch.logical_or, (padded.narrow(axis, k, n) for k in range(2 * steps + 1)))
    return near


def likely_extent(
    labels: Sequence[Image],
    to_template: Sequence[Step],
    from_template: Sequence[Sequence[Step]],
    grid: Grid,
    margin: float | None = None,
    device: torch.device = CPU,
) -> list[slice] | None:
    """Find a box of the target's grid that surely holds all labels and a margin, by every second voxel.

    Args:
        labels: Label map of each atlas.
        to_template: Steps from the target's world to the template's.
        from_template: For each atlas the steps from the template's world to the atlas's.
        grid: The target's grid.
        margin: mm around the labels; None for `MARGIN` voxels.
        device: Where to compute.

    Returns:
        Slices of the grid's axes; None where no label reaches it.
    """
    coarse = grid.strided(STRIDE)
    points = transform_points(to_template, world_points(coarse, device)).float()
    reached = torch.zeros(len(points), dtype=torch.bool, device=device)
    for own, parts in zip(labels, transform_points_each(from_template, points), strict=True):
        near = _near_labels(own, STRIDE * max(grid.spacing), device).float()[None, None]
        weights = torch.cat([sample(near, to_voxels(part, own.grid)).flatten() for part in parts])
        reached |= weights > ROUNDING
    box = boxes.bounding_box(reached.view(coarse.shape))
    if box is None:
        return None
    pads = [pad + STRIDE for pad in _pads(grid, margin)]
    return [
        slice(max(0, STRIDE * s.start - pad), min(n, STRIDE * s.stop + pad))
        for s, pad, n in zip(box, pads, grid.shape, strict=True)
    ]


def bounding_box(occupied: Tensor, grid: Grid, margin: float | None = None) -> list[slice] | None:
    """Find the bounding box of a mask (X, Y, Z) on `grid` with `margin` mm around; None for an empty one.

    Without a margin it is `MARGIN` voxels of the finest axis.
    """
    box, pads = boxes.bounding_box(occupied), _pads(grid, margin)
    return box and [
        slice(max(0, s.start - pad), min(n, s.stop + pad))
        for s, pad, n in zip(box, pads, grid.shape, strict=True)
    ]


def _pads(grid: Grid, margin: float | None) -> list[int]:
    """A margin in voxels of each axis."""
    size = MARGIN * min(grid.tensor_spacing) if margin is None else margin
    # Less a millionth, so that 6 voxels that came out as 6.0000001 stay 6.
    return [math.ceil(size / own - 1e-6) for own in grid.spacing]
