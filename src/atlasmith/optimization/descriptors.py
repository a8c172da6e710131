"""What discrete searches compare: descriptors of intensities, and label probabilities, where known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.losses.similarity.structure import eroded, mind_ssc
from atlasmith.networks.correlation import correlate
from atlasmith.optimization.objective import InstanceObjective

KNOWN = 0.1  # of a voxel's descriptors, from which on they are compared
DESCRIPTORS = 12  # of MIND-SSC in 3-D, over which costs are summed, and not averaged


class Features(NamedTuple):
    """Features of images, in K kinds whose differences are averaged.

    Attributes:
        values: (B, K, C, *shape).
        weight: (B, K, 1, *shape), from 0 where a kind is unknown to 1.
        scale: Factor of their mean squared difference in a cost.
    """

    values: Tensor
    weight: Tensor
    scale: float

    def pooled(self, steps: Sequence[int]) -> Features:
        """Average over blocks of `steps` (d) voxels, the last of which repeat the image's border."""

        def pool(x: Tensor) -> Tensor:
            return block_mean(x.flatten(0, 1), steps).unflatten(0, x.shape[:2])

        weight = pool(self.weight)
        values = pool(self.values * self.weight) / weight.clamp(min=KNOWN)
        return self._replace(values=values, weight=weight)

    def slices(self, normal: int) -> Features:
        """Return the slices (B * n, K, C, *plane) across an axis of volumes."""
        values, weight = (x.movedim(3 + normal, 1).flatten(0, 1) for x in (self.values, self.weight))
        return self._replace(values=values, weight=weight)


def block_mean(x: Tensor, steps: Sequence[int]) -> Tensor:
    """Average (B, C, *shape) over blocks of `steps` (d) voxels, the last of which repeat the border."""
    sizes = zip(reversed(x.shape[2:]), reversed(steps), strict=True)
    margins = [margin for n, step in sizes for margin in (0, -n % step)]
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[len(steps)]
    return pool(F.pad(x, margins, mode="replicate"), tuple(steps))


def describe(image: Tensor, mask: Tensor, radius: int, dilation: int, labels: float) -> list[Features]:
    """Compute the features of images.

    Args:
        image: C channels of intensities, then L probabilities of labels, (B, C + L, *shape).
        mask: (B, C, *shape), 1 where a channel is known.
        radius: As in `mind_ssc`.
        dilation: Likewise.
        labels: Factor of the squared difference of label probabilities, summed over labels.

    Returns:
        The descriptors of the channels, then the label probabilities if there are any.
    """
    batch, count = mask.shape[:2]
    known = eroded(mask.flatten(0, 1)[:, None], radius + dilation)
    descriptors = mind_ssc(image[:, :count].flatten(0, 1)[:, None], known, radius, dilation)
    shape = (batch, count)
    features = [Features(descriptors.unflatten(0, shape), known.unflatten(0, shape), DESCRIPTORS)]
    if image.shape[1] > count:
        anywhere = mask.amax(1, keepdim=True)[:, None]
        features.append(Features(image[:, None, count:], anywhere, labels * (image.shape[1] - count)))
    return features


def describe_both(
    objective: InstanceObjective, radius: int, dilation: int, labels: float
) -> tuple[list[Features], list[Features]]:
    """Compute the features of the fixed and of the moving images of an objective: see `describe`."""
    everywhere = torch.ones_like(objective.mask)
    known = everywhere if objective.fixed_mask is None else objective.fixed_mask
    return (
        describe(objective.fixed, known, radius, dilation, labels),
        describe(objective.moving, objective.mask, radius, dilation, labels),
    )


def mean_difference(difference: Tensor, weight: Tensor, scale: float) -> Tensor:
    """Average weighted squared differences over kinds of features: the cost of displacements.

    Args:
        difference: Weighted sum over a kind's channels, averaged, (B, K, L, *points).
        weight: Their weights, averaged, (B, K, L, *points).
        scale: Factor of the cost.

    Returns:
        (B, L, *points). A displacement to where nothing is known has the mean cost of the others.
    """
    total, weights = difference.sum(1), weight.sum(1)
    known = (weights > KNOWN).to(total)
    mean = (total * known).sum(1, keepdim=True) / (weights * known).sum(1, keepdim=True).clamp(min=KNOWN)
    return scale * torch.where(weights > KNOWN, total / weights.clamp(min=KNOWN), mean)


def dense_costs(fixed: Sequence[Features], moving: Sequence[Features], reach: int) -> Tensor:
    """Compute the cost volume of features on one grid.

    Args:
        fixed: Features of the fixed images on a grid, 2-D or 3-D.
        moving: Those of the moving ones; outside of the grid they are 0.
        reach: As in `correlate`.

    Returns:
        (B, (2 * reach + 1)^d, *shape).
    """
    total = []
    for target, image in zip(fixed, moving, strict=True):
        f, known, m, given = (
            x.flatten(0, 1) for x in (target.values, target.weight, image.values, image.weight)
        )
        channels, kinds = f.shape[1], target.values.shape[:2]
        missing = 1 - given  # 0 outside of the grid
        length, other = (x.square().sum(1, keepdim=True) for x in (f, m))
        # One correlation for all terms of |f - m|^2 where both are known.
        products = correlate(
            torch.cat([-2 * known * f, known, -known * length], dim=1),
            torch.cat([given * m, given * other, missing], dim=1),
            reach,
        )
        difference = (known * length + (channels + 2) * products).clamp(min=0) / channels
        weight = known - correlate(known, missing, reach)
        total.append(
            mean_difference(difference.unflatten(0, kinds), weight.unflatten(0, kinds), target.scale)
        )
    return torch.stack(total).sum(0)
