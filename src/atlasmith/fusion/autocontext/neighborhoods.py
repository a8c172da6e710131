"""Averages of a label's maps around the voxels where it has votes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.core.boxes import flat_index, widened
from atlasmith.fusion.aligned import AlignedAtlases, Box
from atlasmith.fusion.autocontext.candidates import Candidates, at_voxels
from atlasmith.losses.similarity.filters import box_mean

RADII = (1, 2, 4)  # of averages, voxels
MARGIN = 4  # around a label's box: the largest of these
MIN_DEVIATION = 0.02  # SD of a label's intensities at least; intensities are in [0, 1]
STABILIZING_WEIGHT = 1e-3  # of the whole label's intensities in local statistics


class Target:
    """The target's intensities at the M voxels where atlases disagree.

    Attributes:
        intensities: (C, M).
        smoothed: (C, M), their averages of radius 1.
        gradients: (C, d, M).
    """

    def __init__(self, atlases: AlignedAtlases, candidates: Candidates) -> None:
        self.atlases, self.candidates = atlases, candidates
        images, voxels, shape = atlases.target, candidates.voxels, candidates.agreed.shape
        self.intensities = at_voxels(images, voxels)
        around = F.pad(images[None], [1, 1] * len(shape), mode="replicate")
        self.smoothed = at_voxels(box_mean(around, [3] * len(shape))[0], voxels)
        self.gradients = _gradients(images, candidates.places, shape)


@dataclass(frozen=True)
class Averages:
    """Averages of maps around V voxels.

    Args:
        means: (maps, V) for each of `RADII`, of the first one without weights and moments.
        gradient: (d, V), of the average of radius 1 of the first map.
        weights: The position among the maps of the weights of intensities, which their first and second
            moments of each channel follow.
    """

    means: Sequence[Tensor]
    gradient: Tensor
    weights: int

    def intensities(self, channel: int, deviation: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Compute the weighted mean intensity (V,), about the center of the moments, and SD (V,) around.

        Args:
            channel: The channel.
            deviation: SD about the center, which counts with the center where there is no weight around.

        Yields:
            Those of each radius but the first.
        """
        position = self.weights + 1 + 2 * channel
        for maps in self.means[1:]:
            total = maps[self.weights] + STABILIZING_WEIGHT
            mean = maps[position] / total
            squares = (maps[position + 1] + STABILIZING_WEIGHT * deviation.square()) / total
            yield mean, ((squares - mean.square()).clamp(min=0) + MIN_DEVIATION**2).sqrt()

    def alignment(self, gradient: Tensor) -> Tensor:
        """Compute the cosine (V,) between the gradients of the first map and of an image (d, V)."""
        lengths = (self.gradient.square().sum(dim=0) * gradient.square().sum(dim=0)).sqrt()
        return (self.gradient * gradient).sum(dim=0) / (lengths + 1e-3)


class Neighborhood:
    """A label's box with a margin, within the image, and the V voxels where atlases disagree on the label.

    Args:
        target: The target.
        value: The label.
        box: Its bounding box.
        part: Its part of the votes.

    Attributes:
        images: (C, *shape) of the box.
        comparable: (*shape), where intensities say something; None: everywhere.
        intensities, smoothed, gradients: See `Target`, at the V voxels.
    """

    def __init__(self, target: Target, value: int, box: Box, part: slice) -> None:
        atlases, candidates = target.atlases, target.candidates
        rows, self.size = candidates.rows[part], candidates.agreed.shape
        self.tight, self.box = box, widened(box, MARGIN, self.size)
        self.value, self.agreed = value, candidates.agreed[self.box] == value
        self.images = atlases.target[:, *self.box]
        self.comparable = None if atlases.comparable is None else atlases.comparable[self.box]
        self.places = candidates.places.index_select(1, rows)
        self.intensities = target.intensities.index_select(1, rows)
        self.smoothed = target.smoothed.index_select(1, rows)
        self.gradients = target.gradients.index_select(2, rows)

    def map_of(self, values: Tensor) -> Tensor:
        """Make a map (*shape) of values (V,): 1 where all atlases have the label, 0 elsewhere."""
        result = self.agreed.float()
        result.view(-1)[flat_index(self.places, result.shape, [s.start for s in self.box])] = values
        return result

    def comparable_part(self, weights: Tensor) -> Tensor:
        """Set weights (*shape) to 0 where intensities say nothing."""
        return weights if self.comparable is None else weights * self.comparable

    def averages(self, maps: Sequence[Tensor], weights: Tensor, centers: Sequence[Tensor]) -> Averages:
        """Average maps, weights, and the weighted moments of intensities.

        Args:
            maps: (*shape), each.
            weights: (*shape), of the intensities; they may be the last map.
            centers: Of the intensities of each channel, about which the moments are.
        """
        stack = [*maps] if weights is maps[-1] else [*maps, weights]
        position = len(stack) - 1
        for image, center in zip(self.images, centers, strict=True):
            centered = image - center
            moment = weights * centered
            stack += [moment, moment * centered]
        outside = [
            n
            for s, size in zip(self.tight[::-1], self.size[::-1], strict=True)
            for n in (max(MARGIN - s.start, 0), max(s.stop + MARGIN - size, 0))
        ]
        padded = torch.stack(stack)
        if any(outside):  # where the values of the image's border continue
            padded = F.pad(padded[None], outside, mode="replicate")[0]
        start = [s.start for s in self.tight]
        before = [n - 1 for n in start]
        small = _average(padded[: len(maps)], 1, border=1)
        gradient = _gradients(small[:1], self.places, self.size, before)[0]
        means = [_at(small, self.places, before)]
        means += [_at(_average(padded, radius), self.places, start) for radius in RADII[1:]]
        return Averages(means, gradient, position)


def _average(maps: Tensor, radius: int, border: int = 0) -> Tensor:
    """The averages of radius 1, 2 or 4 of maps (K, *shape) without their margin, but for a border."""
    rim = MARGIN - radius - border
    inner = maps[None, :, *[slice(rim, n - rim) for n in maps.shape[1:]]]
    return box_mean(inner, [2 * radius + 1] * (maps.ndim - 1))[0]


def _at(maps: Tensor, places: Tensor, start: Sequence[int]) -> Tensor:
    """The values (K, V) of maps (K, *shape), which begin at `start`, at places (d, V)."""
    return maps.flatten(1).index_select(1, flat_index(places, maps.shape[1:], start))


def _gradients(
    maps: Tensor, places: Tensor, size: Sequence[int], start: Sequence[int] | None = None
) -> Tensor:
    """Differentiate maps (C, *shape) at places (d, V): (C, d, V).

    Central differences, or one-sided ones at the ends of an image of `size`; 0 along an axis of one voxel.
    start: Where the maps begin in the image; None: they are of all of it.
    """
    start, maps = start or [0] * len(size), maps.contiguous()
    flat, index, found = maps.flatten(1), flat_index(places, maps.shape[1:], start), []
    for place, n, stride in zip(places, size, maps.stride()[1:], strict=True):
        up, down = (place + 1).clamp(max=n - 1) - place, (place - 1).clamp(min=0) - place
        upper, lower = (flat.index_select(1, index + step * stride) for step in (up, down))
        found.append((upper - lower) / (up - down).clamp(min=1))
    return torch.stack(found, dim=1)
