"""Adam that starts from displacements of key points, with thin-plate splines between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.core.chunks import at_once
from atlasmith.core.fields import determinant, per_channel
from atlasmith.core.sampling import coordinates, local_mean, resize
from atlasmith.core.thin_plates import thin_plate_spline
from atlasmith.optimization.descriptors import Features, block_mean, describe_both, mean_difference
from atlasmith.optimization.discrete_search import block_sizes, mean_field
from atlasmith.optimization.objective import InstanceObjective
from atlasmith.optimization.optimizer import Optimizer
from atlasmith.optimization.refinement import refine

PATCH = 1  # radius of the compared patches, voxels of the key points' grid
DISTANCE = 1  # up to which a key point is the most distinctive, likewise
LEAST = 1e-4  # of the largest distinctiveness, that a key point has
EDGE = 0.01  # of the structure tensor's trace, added to its diagonal
SPLINE_STEP = 3  # of the grid on which splines are evaluated, voxels of the coefficients' grid
FAR = 1e6  # mm
TINY = 1e-12


@Optimizer.declare(
    "Matched key points and splines, then Adam (VoxelMorph++). For large displacements of fine detail."
)
def keypoints(
    objective: InstanceObjective,
    start: Tensor,
    steps: int,
    learning_rate: float,
    points: int = 512,
    grid: int = 3,
    reach: int = 5,
    neighbors: int = 8,
    relaxation: float = 0.1,
    radius: int = 1,
    dilation: int = 2,
    labels: float = 10.0,
) -> list[Tensor]:
    """Match key points of the fixed image, then minimize the objective by Adam.

    (VoxelMorph++, Heinrich and Hansen 2022, arXiv:2203.00046.) Patches of MIND-SSC descriptors around
    distinctive points are compared to those of the moving image within reach; a mean field over the graph of
    nearest neighbors regularizes these costs, the softmax of which has the points' mean displacements, and a
    thin-plate spline those between them. Adam starts from the result or from `start`, whichever is better.
    Unlike theirs no network predicts the costs.

    Args:
        objective: As in `Optimizer`.
        start: Likewise.
        steps: Number of steps of Adam.
        learning_rate: Likewise of Adam.
        points: Largest number of key points.
        grid: Spacing of the grid of key points and displacements, in the smallest voxels.
        reach: Number of displacements on each side along each axis, one voxel of this grid apart.
        neighbors: Number of nearest key points that a point should agree with.
        relaxation: Of the spline: see `thin_plate_spline`.
        radius: Of the descriptors, voxels: see `mind_ssc`.
        dilation: Likewise.
        labels: Factor of the squared differences of label probabilities, where there are any.

    Returns:
        The better starts, then a few iterates.
    """
    search = KeyPointSearch(points, grid, reach, neighbors, relaxation)
    spacing, half = objective.spacing(objective.fixed.shape[2:]), start.shape[2:]
    with torch.no_grad():
        features = describe_both(objective, radius, dilation, labels)
        intensities = objective.fixed[:, : objective.mask.shape[1]]
        found = search(intensities, *features, spacing, half)
    return refine(objective, start, found, steps, learning_rate)


@dataclass(frozen=True)
class KeyPointSearch:
    """Find displacements by matching key points: see `keypoints` for the arguments."""

    points: int = 512
    grid: int = 3
    reach: int = 5
    neighbors: int = 8
    relaxation: float = 0.1

    def __call__(
        self,
        image: Tensor,
        fixed: Sequence[Features],
        moving: Sequence[Features],
        spacing: Sequence[float],
        shape: Sequence[int],
    ) -> Tensor:
        """Find the displacement between images.

        Args:
            image: Intensities (B, C, *size) of the fixed images.
            fixed: Their features, (B, K, C', *size).
            moving: Features of the moving images.
            spacing: Size (d) of their voxels, mm.
            shape: Size of the grid of the result, with the same corner voxels.

        Returns:
            Displacement (B, d, *shape), voxels of its grid.
        """
        size, ndim = image.shape[2:], len(shape)
        blocks = block_sizes(self.grid, spacing, size)
        first, second = ([kind.pooled(blocks) for kind in features] for features in (fixed, moving))
        places, present = key_points(block_mean(image, blocks), first[0].weight[:, :, 0], self.points)
        cost = patch_costs(first, second, places, self.reach)
        own, block = (per_channel(x, image).flatten() for x in (spacing, blocks))
        places_mm = (places * block + (block - 1) / 2) * own
        average = _average_over_neighbors(places_mm, present, self.neighbors)
        found_mm = mean_field(cost, ndim, average).mT * block * own
        # The spline is smooth: it is evaluated on a coarser grid.
        coarse = [min(-(-n // SPLINE_STEP) + 1, n) for n in shape]
        extent = [(n - 1) * voxel for n, voxel in zip(size, spacing, strict=True)]
        voxel = per_channel([mm / max(n - 1, 1) for mm, n in zip(extent, coarse, strict=True)], image)
        targets = (coordinates(coarse, image) * voxel).flatten(2)[0].T
        spline = thin_plate_spline(places_mm, found_mm, targets, present, self.relaxation)
        displacement_mm = resize(spline.mT.unflatten(2, coarse), shape)
        result = [(n - 1) / mm if mm else 0.0 for mm, n in zip(extent, shape, strict=True)]
        return displacement_mm * per_channel(result, displacement_mm)


def key_points(image: Tensor, weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the most distinctive points of images: each more distinctive than its neighbors.

    Args:
        image: (B, C, *shape), 2-D or 3-D.
        weight: (B, C, *shape), from 0 where a channel is unknown to 1.
        count: Largest number of points.

    Returns:
        Voxel coordinates (B, N, d), of N = `count` points or of all voxels, most distinctive first; and which
        of these are key points, (B, N), 1 or 0.

    Example:
        >>> image = torch.zeros(1, 1, 9, 9)
        >>> image[..., 5, 2] = 1
        >>> places, present = key_points(image, torch.ones_like(image), 2)
        >>> places[0, 0], present
        (tensor([5, 2]), tensor([[1., 0.]]))
    """
    shape = image.shape[2:]
    pool = {2: F.max_pool2d, 3: F.max_pool3d}[len(shape)]
    found = (distinctiveness(image) * weight).sum(1)
    highest = pool(found[:, None], 2 * DISTANCE + 1, stride=1, padding=DISTANCE)[:, 0]
    ranked = torch.where(found == highest, found, 0).flatten(1)
    values, index = ranked.topk(min(count, ranked.shape[1]), dim=1)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    places = [index // stride % n for stride, n in zip(strides, shape, strict=True)]
    return torch.stack(places, dim=2), (values > LEAST * values[:, :1]).to(image)


def distinctiveness(image: Tensor) -> Tensor:
    """Compute the inverse of the trace of the inverse structure tensor, large where all directions differ.

    (Foerstner and Guelch 1987, "A fast operator for detection and precise location of distinct points,
    corners and centres of circular features", ISPRS Intercommission Workshop, Interlaken.)

    Args:
        image: (B, C, *shape), 2-D or 3-D, of any size.

    Returns:
        (B, C, *shape).
    """
    ndim, shape = image.ndim - 2, image.shape[2:]
    padded = F.pad(image, [1] * 2 * ndim, mode="replicate")
    slopes = []
    for axis, n in enumerate(shape):
        inner = padded
        for other, m in enumerate(shape):
            inner = inner if other == axis else inner.narrow(2 + other, 1, m)
        slopes.append((inner.narrow(2 + axis, 2, n) - inner.narrow(2 + axis, 0, n)) / 2)
    gradient = torch.stack(slopes, dim=2).flatten(0, 1)
    rows = [local_mean((gradient * slope[:, None]).flatten(0, 1), 1) for slope in gradient.unbind(1)]
    rows = [row.view(gradient.shape) for row in rows]
    trace = torch.stack([row[:, axis] for axis, row in enumerate(rows)]).sum(0)
    for axis, row in enumerate(rows):
        row[:, axis] += EDGE * trace
    # The trace of the adjugate, over the determinant, is that of the inverse.
    pairs = itertools.combinations(range(ndim), 2)
    minors = [rows[i][:, i] * rows[j][:, j] - rows[i][:, j].square() for i, j in pairs]
    adjugate = torch.stack(minors).sum(0) if ndim == 3 else (1 + 2 * EDGE) * trace
    return (determinant(rows) / adjugate.clamp(min=TINY)).view(image.shape)


def patch_costs(fixed: Sequence[Features], moving: Sequence[Features], places: Tensor, reach: int) -> Tensor:
    """Compare patches of features around points to those at every displacement within reach.

    Args:
        fixed: Features of the fixed images on a grid, (B, K, C, *shape).
        moving: Those of the moving ones; outside of the grid they are 0.
        places: Voxel coordinates (B, N, d) of the points.
        reach: As in `correlate`.

    Returns:
        Costs (B, (2 * reach + 1)^d, N), in the order of `correlation_offsets`.
    """
    total = []
    for target, image in zip(fixed, moving, strict=True):
        size = math.prod(image.values.shape[:3]) * (2 * (reach + PATCH) + 1) ** places.shape[2]
        count = max(at_once(places.device, gpu=2**28) // size, 1)
        parts = [_patch_costs(target, image, part, reach) for part in places.split(count, dim=1)]
        total.append(torch.cat(parts, dim=2))
    return torch.stack(total).sum(0)


def _patch_costs(fixed: Features, moving: Features, places: Tensor, reach: int) -> Tensor:
    """`patch_costs` of one group of features and a few points."""
    ndim, side = places.shape[2], 2 * reach + 1
    target, known = (_patches(x, places, PATCH, 0.0) for x in (fixed.values, fixed.weight))
    image, given = (
        _patches(x, places, reach + PATCH, outside)
        for x, outside in ((moving.values, 0.0), (moving.weight, 1.0))
    )
    difference = weight = torch.zeros((), device=places.device)
    for offset in itertools.product(range(2 * PATCH + 1), repeat=ndim):
        weights = _window(known, offset, 1) * _window(given, offset, side)
        squared = (_window(target, offset, 1) - _window(image, offset, side)).square()
        difference = difference + (squared * weights).mean(2)
        weight = weight + weights[:, :, 0]
    # From (B, K, N, *displacements) to (B, K, L, N).
    means = [x.flatten(3).mT / (2 * PATCH + 1) ** ndim for x in (difference, weight)]
    return mean_difference(means[0], means[1], fixed.scale)


def _window(x: Tensor, start: Sequence[int], side: int) -> Tensor:
    """View the part (B, K, C, N, *[side] * d) of patches (B, K, C, N, ...) from a voxel on."""
    for axis, first in enumerate(start, start=4):
        x = x.narrow(axis, first, side)
    return x


def _patches(x: Tensor, places: Tensor, radius: int, fill: float) -> Tensor:
    """The neighborhoods (B, K, C, N, *[2 * radius + 1] * d) of points (B, N, d) in maps (B, K, C, *shape),
    with `fill` outside."""
    ndim, side = places.shape[2], 2 * radius + 1
    padded = F.pad(x, [radius] * 2 * ndim, value=fill)
    strides = [math.prod(padded.shape[4 + axis :]) for axis in range(ndim)]
    within = coordinates([side] * ndim, x).flatten(2)[0].long()
    first, inner = (
        torch.stack([axis * stride for axis, stride in zip(each, strides, strict=True)]).sum(0)
        for each in (places.unbind(2), within)
    )
    index = (first[:, :, None] + inner).flatten(1)[:, None, None].expand(-1, *x.shape[1:3], -1)
    return padded.flatten(3).gather(3, index).unflatten(3, (-1, *[side] * ndim))


def _average_over_neighbors(places: Tensor, present: Tensor, neighbors: int) -> Callable[[Tensor], Tensor]:
    """Make the function that averages (B, L, N) over each of N points (B, N, d) and its nearest neighbors."""
    distance = torch.cdist(places, places) + FAR * (1 - present)[:, None]
    nearest = distance.topk(min(neighbors + 1, places.shape[1]), dim=2, largest=False).indices
    flat = nearest.flatten(1)[:, None]
    weight = present[:, None].gather(2, flat).unflatten(2, nearest.shape[1:])

    def average(cost: Tensor) -> Tensor:
        of_neighbors = cost.gather(2, flat.expand(-1, cost.shape[1], -1)).unflatten(2, nearest.shape[1:])
        return (of_neighbors * weight).sum(3) / weight.sum(3).clamp(min=1)

    return average
