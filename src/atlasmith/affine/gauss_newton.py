"""Affine registration by Gauss-Newton steps on the normalized cross-correlation, in torch.

Where both images have zero mean and unit norm, half their squared distance is 1 - NCC, so that maximizing the
enhanced correlation coefficient (Evangelidis & Psarakis 2008, doi:10.1109/TPAMI.2008.113) is a least-squares
problem: a 12 x 12 system per step, and tens of steps in all. For images of one contrast.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from atlasmith.affine.pyramid import pyramid
from atlasmith.affine.working_image import (
    FULL_OVERLAP,
    WorkingImage,
    evenly_spread,
    largest_overlap,
    voxels_to_physical,
)
from atlasmith.core.grid import Array
from atlasmith.core.sampling import sample, smooth
from atlasmith.core.world import inside

DAMPING = 1e-3  # initial, relative to the diagonal of the normal matrix (Marquardt)
FLOOR = 1e-7  # of the damping, relative to the largest entry of the diagonal: some motions change nothing
CONVERGENCE = 1e-5  # gain of the objective in a step below which a level ends for all starts


def optimize(
    fixed: WorkingImage, moving: WorkingImage, starts: Sequence[Array], kind: str, iterations: int
) -> list[Array]:
    """Maximize `working_image.similarity` from several starts at once, coarse to fine.

    Args:
        fixed: The fixed image.
        moving: The moving image.
        starts: Pull-backs (4, 4) in physical coordinates.
        kind: `rigid` or `affine`: the transform that is optimized, relative to the start.
        iterations: Steps per level, at most.

    Returns:
        A pull-back (4, 4) in physical coordinates for each start.
    """
    ndim, center = fixed.grid.ndim, torch.from_numpy(fixed.fov_center[: fixed.grid.ndim])
    radius = float(np.linalg.norm(np.multiply(fixed.grid.tensor_shape, fixed.grid.tensor_spacing))) / 4
    generators = _generators(kind, ndim)
    matrices = torch.stack([_homogeneous(start, ndim) for start in starts])
    recentered = torch.eye(ndim + 1, dtype=torch.float64)
    recentered[:ndim] *= radius
    recentered[:ndim, ndim] = center
    matrices = matrices @ recentered  # of points relative to the center, in units of the radius
    overlap = largest_overlap(fixed, moving)
    for sigma, stride, samples in pyramid(fixed.grid, kind):
        smoothed = [_smooth(image.itk, sigma) for image in (fixed, moving)]
        points, values = _samples(smoothed[0], fixed.itk, stride, samples)
        target = _MovingImage(smoothed[1], moving.itk)
        objective = _Objective(values, (points - center) / radius, target, generators, overlap)
        matrices = _maximize(objective, matrices, generators, iterations)
    found = []
    for affine in (matrices @ torch.linalg.inv(recentered)).numpy():
        matrix = np.eye(4)
        matrix[:ndim, :ndim], matrix[:ndim, 3] = affine[:ndim, :ndim], affine[:ndim, ndim]
        found.append(matrix)
    return found


def _homogeneous(matrix: Array, ndim: int) -> Tensor:
    """Reduce a pull-back (4, 4) to (d + 1, d + 1)."""
    kept = [*range(ndim), 3]
    return torch.from_numpy(matrix[np.ix_(kept, kept)])


def _generators(kind: str, ndim: int) -> Tensor:
    """Return the generators (K, d + 1, d + 1) of the transforms about the origin.

    Each moves a point at unit distance by about as much, so that one damping suits them all.
    """
    generators = []
    for row in range(ndim):
        for column in range(ndim + 1):
            if kind == "rigid" and row >= column:
                continue
            generator = torch.zeros(ndim + 1, ndim + 1, dtype=torch.float64)
            generator[row, column] = 1
            if kind == "rigid" and column < ndim:
                generator[column, row] = -1
            generators.append(generator)
    return torch.stack(generators)


def _smooth(image: sitk.Image, sigma: float) -> Tensor:
    """Return the voxels (*shape), in the order of their indices, smoothed by a Gaussian of `sigma` mm."""
    data = torch.from_numpy(np.ascontiguousarray(sitk.GetArrayViewFromImage(image).T)).float()
    return smooth(data[None, None], [sigma / size for size in image.GetSpacing()])[0, 0]


def _samples(data: Tensor, image: sitk.Image, stride: int, count: int) -> tuple[Tensor, Tensor]:
    """Return physical coordinates (N, d) and values (N,) of every `stride`-th voxel, `count` at most.

    data: (*shape), on the grid of `image`.
    """
    index = stride * evenly_spread(tuple(-(-n // stride) for n in data.shape), count)
    matrix = torch.from_numpy(voxels_to_physical(image))
    points = torch.from_numpy(index).double().T @ matrix[:-1, :-1].T + matrix[:-1, -1]
    return points, data[tuple(index)]


class _MovingImage:
    """The moving image (*shape), on the grid of `image`, and its gradient, sampled linearly."""

    def __init__(self, data: Tensor, image: sitk.Image) -> None:
        self.shape = data.shape
        self.channels = torch.stack([data, *torch.gradient(data)])[None]
        matrix = torch.from_numpy(voxels_to_physical(image))
        self.to_voxels, self.origin = torch.linalg.inv(matrix[:-1, :-1]), matrix[:-1, -1]

    def sample(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return values (B, N), gradients (B, d, N) per mm and which points (B, N, d) are inside (B, N)."""
        voxels = ((points - self.origin) @ self.to_voxels.T).float()
        ndim, count = len(self.shape), len(points)
        flat = voxels.flatten(0, 1).T.reshape(1, ndim, -1, *[1] * (ndim - 1))
        values = sample(self.channels, flat, padding="border").reshape(1 + ndim, count, -1)
        return values[0], self.to_voxels.mT.float() @ values[1:].movedim(0, 1), inside(voxels, self.shape)


class _Objective:
    """`working_image.similarity` of several transforms, with the terms of a Gauss-Newton step.

    Args:
        values: The fixed image (N,) at `points`.
        points: (N, d), physical coordinates relative to the center, in units of the radius.
        moving: The moving image.
        generators: See `_generators`.
        overlap: The largest overlap, see `working_image.largest_overlap`.
    """

    def __init__(
        self, values: Tensor, points: Tensor, moving: _MovingImage, generators: Tensor, overlap: float
    ) -> None:
        self.values, self.moving, self.largest_overlap = values, moving, overlap
        self.points = torch.cat([points, torch.ones(len(points), 1, dtype=points.dtype)], dim=1)
        # A point's motion by each generator is linear in its homogeneous coordinates.
        self.generators = generators[:, :-1].flatten(1)  # (K, d * (d + 1))
        self.homogeneous = self.points.float().T.contiguous()

    def __call__(self, matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate pull-backs (B, d + 1, d + 1).

        Returns the objective (B,), and for a small transform before each pull-back the normal matrix
        (B, K, K) of the least-squares problem and the gradient of NCC (B, K).
        """
        ndim, occupied = self.points.shape[1] - 1, self.values > 0
        moved, gradient, inside_fov = self.moving.sample((self.points @ matrices.mT)[..., :ndim])
        overlap = (inside_fov & occupied).sum(dim=1) / occupied.sum().clamp(min=1) / self.largest_overlap
        weight = inside_fov.float()
        target, source = (_standardize(x.expand_as(weight), weight) for x in (self.values, moved))
        norm = ((moved - _mean(moved, weight)) * weight).norm(dim=1).clamp(min=1e-6)
        gradient = matrices[:, :ndim, :ndim].mT.float() @ gradient * weight[:, None]
        # By each entry of the transform (B, d * (d + 1), N); then centered, and orthogonal to the image.
        slopes = (gradient[:, :, None] * self.homogeneous).flatten(1, 2)
        slopes.addcmul_(_mean(slopes.mT, weight[..., None]).mT, weight[:, None], value=-1)
        slopes.addcmul_(slopes @ source[..., None], source[:, None], value=-1)
        squares, by_target = slopes @ slopes.mT, slopes @ target[..., None]
        normal = self.generators @ squares.double() @ self.generators.T / norm[:, None, None] ** 2
        objective = (1 + (target * source).sum(dim=1)) * (overlap / FULL_OVERLAP).clamp(max=1)
        return objective, normal, (self.generators @ by_target.double())[..., 0] / norm[:, None]


def _maximize(objective: _Objective, matrices: Tensor, generators: Tensor, iterations: int) -> Tensor:
    """Improve pull-backs (B, d + 1, d + 1) by Levenberg-Marquardt steps."""
    damping = torch.full((len(matrices),), DAMPING, dtype=torch.float64)
    value, normal, gradient = objective(matrices)
    for _ in range(iterations):
        diagonal = normal.diagonal(dim1=1, dim2=2)
        floor = FLOOR * diagonal.amax(dim=1, keepdim=True).clamp(min=1e-30)
        damped = normal + torch.diag_embed(damping[:, None] * diagonal + floor)
        step = torch.linalg.solve(damped, gradient)
        candidates = matrices @ torch.linalg.matrix_exp(torch.einsum("bk,kij->bij", step, generators))
        new = objective(candidates)
        gain = new[0] - value
        better = gain > 0
        matrices = torch.where(better[:, None, None], candidates, matrices)
        value = torch.where(better, new[0], value)
        normal = torch.where(better[:, None, None], new[1], normal)
        gradient = torch.where(better[:, None], new[2], gradient)
        damping = torch.where(better, damping / 5, damping * 10).clamp(1e-6, 1e3)
        if not bool(((gain > CONVERGENCE) | (~better & (damping < 1))).any()):
            break
    return matrices


def _mean(x: Tensor, weight: Tensor) -> Tensor:
    """Compute the weighted mean along the second axis, which is kept."""
    return (x * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1)


def _standardize(x: Tensor, weight: Tensor) -> Tensor:
    """Scale (B, N) to zero mean and unit norm where `weight` (B, N) is 1, and to 0 elsewhere."""
    x = (x - _mean(x, weight)) * weight
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-6)
