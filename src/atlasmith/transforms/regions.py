"""A velocity for each of several regions, which slide along each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlasmith.core.fields import compose_velocities, per_channel
from atlasmith.core.sampling import antialias, resize, warp
from atlasmith.transforms.parametrization import (
    DIRECTIONS,
    FORWARD,
    DeformationModel,
    Parametrization,
)
from atlasmith.transforms.stationary import integrate_velocity

ITERATIONS = 10  # of k-means
SHARPNESS = 8.0  # difference of the logits between the centers of neighboring classes
UNCLAIMED = 1e-4  # membership of each region in the inverse map where regions have moved apart


@dataclass(frozen=True)
class RegionVelocity(DeformationModel):
    """Integrate a stationary velocity for each region, and mix the displacements by the regions' memberships.

    At the border between two regions the displacement may jump, as where organs slide along each other, while
    a regularizer of velocities acts on each region's field (Chen et al. 2021, arXiv:2107.04440). Theirs takes
    the regions from segmentations; here memberships are the softmax of logits among the coefficients, which
    networks and optimizers change, and which start from the image's classes: see `initial`.

    The coefficients (B, channels, *shape) are the velocities of all regions, then the logits, then unused
    channels up to a multiple of d. The inverse map mixes the regions' inverse displacements by the
    memberships that they carry along; where regions have moved apart, all of them equally.

    Args:
        integration_steps: As in `exponentiate`.
        regions: Number of regions.
    """

    regions: int = 3

    def channels(self, ndim: int) -> int:
        """Return the number of components of all velocities, and of the logits, as whole vectors."""
        return ndim * (self.regions + -(-self.regions // ndim))

    def velocities(self, coefficients: Tensor) -> Tensor:
        """Return the velocities (B * regions, d, *shape)."""
        ndim = coefficients.ndim - 2
        return coefficients[:, : self.regions * ndim].unflatten(1, (-1, ndim)).flatten(0, 1)

    def memberships(self, coefficients: Tensor) -> Tensor:
        """Return the regions' memberships (B, regions, *shape), whose sum is 1."""
        start = self.regions * (coefficients.ndim - 2)
        return coefficients[:, start : start + self.regions].softmax(dim=1)

    def maps(
        self,
        coefficients: Tensor,
        spacing: Sequence[float],
        directions: Sequence[int] = DIRECTIONS,
        save_memory: bool = False,
    ) -> dict[int, Tensor]:
        """Mix the exponentials of the velocities, and those of their negatives."""
        memberships = self.memberships(coefficients)
        own = integrate_velocity(
            self.velocities(coefficients), self.integration_steps, directions, save_memory
        )
        found = {}
        for direction, displacements in own.items():
            weights = memberships
            if direction != FORWARD:
                weights = _carried(memberships, displacements) + UNCLAIMED
                weights = weights / weights.sum(dim=1, keepdim=True)
            found[direction] = _mixed(weights, displacements)
        return found

    def tangent(self, coefficients: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the mixture (B, d, *shape) of the velocities, linear in these at given memberships."""
        return _mixed(self.memberships(coefficients), self.velocities(coefficients))

    def lift(self, velocity: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return coefficients with the velocity (B, d, *shape) in all regions, and logits of 0."""
        repeated = velocity.repeat(1, self.regions, *[1] * (velocity.ndim - 2))
        rest = self.channels(velocity.shape[1]) - repeated.shape[1]
        return torch.cat([repeated, repeated.new_zeros(len(velocity), rest, *velocity.shape[2:])], dim=1)

    def regularized(self, coefficients: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the velocities (B * regions, d, *shape)."""
        return self.velocities(coefficients)

    @torch.no_grad()
    def initial(self, fixed: Tensor, shape: Sequence[int]) -> Tensor:
        """Return velocities of 0, and logits by which the regions are classes of the fixed images.

        The classes are those of k-means on all channels, from centers that divide the range of the first
        channel evenly: of intensities alone, regions of similar intensity; where the caller gives label
        probabilities too, as `Groupwise.features` does, groups of labels that share their intensities.

        Args:
            fixed: Features (B, C, *size), the reference channel of intensities first.
            shape: Size of the coefficients' grid.
        """
        ratios = [(n - 1) / max(m - 1, 1) for n, m in zip(fixed.shape[2:], shape, strict=True)]
        features = resize(antialias(fixed.float(), ratios), shape)
        with torch.autocast(fixed.device.type, enabled=False):
            logits = _class_logits(features.flatten(2), self.regions).unflatten(2, tuple(shape))
        velocities = self.regions * len(shape)
        rest = self.channels(len(shape)) - velocities - self.regions
        zeros = logits.new_zeros(len(logits), velocities + rest, *shape)
        return torch.cat([zeros[:, :velocities], logits, zeros[:, velocities:]], dim=1)

    def compose(self, outer: Tensor, inner: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return coefficients of outer after inner: in each region see `compose_velocities`; logits add."""
        own = compose_velocities(self.velocities(outer), self.velocities(inner))
        total = outer + inner
        velocities = own.unflatten(0, (len(outer), -1)).flatten(1, 2)
        return torch.cat([velocities, total[:, velocities.shape[1] :]], dim=1)

    def rescale(self, coefficients: Tensor, ratios: Sequence[float]) -> Tensor:
        """Convert the velocities, not the logits, to voxels of another size."""
        factors = [*ratios] * self.regions
        factors += [1.0] * (self.channels(len(ratios)) - len(factors))
        return coefficients * per_channel(factors, coefficients)


def _mixed(memberships: Tensor, fields: Tensor) -> Tensor:
    """Mix fields (B * regions, d, *shape) by memberships (B, regions, *shape)."""
    return (memberships[:, :, None] * fields.unflatten(0, memberships.shape[:2])).sum(dim=1)


def _carried(memberships: Tensor, displacements: Tensor) -> Tensor:
    """Memberships (B, regions, *shape), each warped by the displacement (B * regions, d, *shape) of its
    region."""
    moved = warp(memberships.flatten(0, 1)[:, None], displacements, padding="border")
    return moved[:, 0].unflatten(0, memberships.shape[:2])


def _class_logits(features: Tensor, count: int) -> Tensor:
    """Logits (B, count, N) of classes of features (B, C, N), from the squared distances to their centers."""
    first = features[:, :1]
    low, high = first.amin(dim=2, keepdim=True), first.amax(dim=2, keepdim=True)
    share = (torch.arange(count, device=features.device, dtype=features.dtype) + 0.5) / count
    centers = features.mean(dim=2, keepdim=True).repeat(1, 1, count)
    distances = _squared_distances(first, low + (high - low) * share)
    for _ in range(ITERATIONS):
        nearest = distances.argmin(dim=1, keepdim=True)
        members = (nearest == torch.arange(count, device=features.device)[:, None]).to(features)
        sizes = members.sum(dim=2)[:, None]
        means = torch.einsum("bcn,brn->bcr", features, members) / sizes.clamp(min=1)
        centers = torch.where(sizes > 0, means, centers)
        distances = _squared_distances(features, centers)
    between = _squared_distances(centers, centers)
    same = torch.eye(count, device=features.device, dtype=torch.bool)
    scale = between.masked_fill(same, torch.inf).amin(dim=2).mean(dim=1).clamp(min=1e-12)
    return -SHARPNESS * distances / scale[:, None, None]


def _squared_distances(points: Tensor, centers: Tensor) -> Tensor:
    """Squared distances (B, R, N) of points (B, C, N) from centers (B, C, R)."""
    return (points[:, :, None] - centers[..., None]).square().sum(dim=1)


region_velocity = Parametrization(
    RegionVelocity,
    "A stationary velocity for each of several regions. For organs that slide along each other.",
    diffeomorphic=False,
)
