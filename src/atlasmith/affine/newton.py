"""Affine registration by Gauss-Newton steps on the normalized cross-correlation, in torch.

Where both images have zero mean and unit norm, half their squared distance is 1 - NCC, so that maximizing the
enhanced correlation coefficient (Evangelidis & Psarakis 2008, doi:10.1109/TPAMI.2008.113) is a least-squares
problem: a 12 x 12 system a step, and tens of steps in all. For images of one contrast.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from atlasmith.affine.scan import OVERLAP, Scan, largest_overlap, shrinkage
from atlasmith.core.grid import Array
from atlasmith.core.sampling import sample
from atlasmith.core.world import inside

STEPS = 20  # at most, at each level
DAMPING = 1e-3  # to start with, relative to the normal equations' diagonal (Marquardt)
PATIENCE = 1e-5  # of 1 + NCC; when no start gains more in a step, a level ends


def optimize(
    fixed: Scan, moving: Scan, starts: Sequence[Array], kind: str, levels: Sequence[tuple[int, int]]
) -> list[Array]:
    """Pull-backs (4, 4) in plain coordinates, each found from one of `starts`, all at once.

    kind: `rigid` or `affine`, relative to the start. levels: the sigma of each level's smoothing, voxels, and
    how many voxels of the fixed image it samples at most.
    """
    ndim, center = fixed.grid.ndim, torch.from_numpy(fixed.middle[: fixed.grid.ndim])
    spacing = min(fixed.grid.tensor_spacing)
    radius = float(np.linalg.norm(np.multiply(fixed.grid.tensor_shape, fixed.grid.tensor_spacing))) / 4
    basis = _basis(kind, ndim, radius)
    poses = torch.stack([_square(start, ndim) for start in starts])
    recentered = torch.eye(ndim + 1, dtype=torch.float64)
    recentered[:ndim, ndim] = center
    poses = poses @ recentered  # of points relative to the center
    possible = largest_overlap(fixed, moving)
    for blur, samples in levels:
        smooth = [_smooth(scan.picture, blur * spacing) for scan in (fixed, moving)]
        points, values = _samples(smooth[0], shrinkage(fixed.grid.tensor_shape, blur), samples)
        score = _Score(values, points - center, _Volume(smooth[1]), basis, possible)
        poses = _ascended(score, poses, basis)
    found = []
    for pose in (poses @ torch.linalg.inv(recentered)).numpy():
        matrix = np.eye(4)
        matrix[:ndim, :ndim], matrix[:ndim, 3] = pose[:ndim, :ndim], pose[:ndim, ndim]
        found.append(matrix)
    return found


def _square(matrix: Array, ndim: int) -> Tensor:
    """A (4, 4) pull-back as (d + 1, d + 1)."""
    kept = [*range(ndim), 3]
    return torch.from_numpy(matrix[np.ix_(kept, kept)])


def _basis(kind: str, ndim: int, radius: float) -> Tensor:
    """Generators (K, d + 1, d + 1) of the transforms about the origin: each moves a point at `radius` mm by
    about 1 mm, so that one damping suits them all."""
    generators = []
    for row in range(ndim):
        for column in range(ndim + 1):
            if kind == "rigid" and row >= column:
                continue
            generator = torch.zeros(ndim + 1, ndim + 1, dtype=torch.float64)
            generator[row, column] = 1 if column == ndim else 1 / radius
            if kind == "rigid" and column < ndim:
                generator[column, row] = -1 / radius
            generators.append(generator)
    return torch.stack(generators)


def _smooth(picture: sitk.Image, sigma: float) -> sitk.Image:
    return sitk.SmoothingRecursiveGaussian(picture, sigma) if sigma > 0 else picture


def _to_plain(picture: sitk.Image) -> tuple[Tensor, Tensor]:
    """Matrix (d, d) and origin (d,): voxels to plain coordinates."""
    ndim = picture.GetDimension()
    matrix = np.array(picture.GetDirection()).reshape(ndim, ndim) @ np.diag(picture.GetSpacing())
    return torch.from_numpy(matrix), torch.tensor(picture.GetOrigin(), dtype=torch.float64)


def _array(picture: sitk.Image) -> Tensor:
    """(*shape) in the order of the voxels' indices."""
    return torch.from_numpy(np.ascontiguousarray(sitk.GetArrayFromImage(picture).T)).float()


def _samples(picture: sitk.Image, stride: int, count: int) -> tuple[Tensor, Tensor]:
    """Plain coordinates (N, d) and values (N,) of every `stride`-th voxel an axis, at most `count`."""
    data = _array(picture)
    index = torch.stack(torch.meshgrid(*(torch.arange(0, n, stride) for n in data.shape), indexing="ij"))
    index = index.flatten(1)
    index = index[:, torch.linspace(0, index.shape[1] - 1, min(count, index.shape[1])).long()]
    matrix, origin = _to_plain(picture)
    return index.double().T @ matrix.T + origin, data[tuple(index)]


class _Volume:
    """The moving image with its derivatives, to be sampled."""

    def __init__(self, picture: sitk.Image) -> None:
        data = _array(picture)
        self.shape = data.shape
        self.channels = torch.stack([data, *torch.gradient(data)])[None]
        matrix, self.origin = _to_plain(picture)
        self.to_voxels = torch.linalg.inv(matrix)

    def at(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values (B, N), their gradients (B, N, d) a mm, and whether they lie inside, at points (B, N, d)."""
        voxels = ((points - self.origin) @ self.to_voxels.T).float()
        ndim, count = len(self.shape), len(points)
        where = voxels.flatten(0, 1).T.reshape(1, ndim, -1, *[1] * (ndim - 1))
        values = sample(self.channels, where, padding="border").reshape(1 + ndim, count, -1)
        return values[0], values[1:].movedim(0, -1) @ self.to_voxels.float(), inside(voxels, self.shape)


class _Score:
    """What `scan.similarity` gives at poses, and how to raise it.

    values (N,) of the fixed image at points (N, d) relative to the center; possible: the largest overlap.
    """

    def __init__(
        self, values: Tensor, points: Tensor, moving: _Volume, basis: Tensor, possible: float
    ) -> None:
        self.values, self.moving, self.possible = values, moving, possible
        self.points = torch.cat([points, torch.ones(len(points), 1, dtype=points.dtype)], dim=1)
        moves = torch.einsum("kij,nj->nki", basis, self.points)
        self.directions = moves[..., : points.shape[1]].float()  # (N, K, d)

    def __call__(self, poses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (B,) of poses (B, d + 1, d + 1), and for a small transform to the right of each the least
        squares' normal matrix (B, K, K) and the slope of NCC (B, K)."""
        ndim, wanted = self.directions.shape[2], self.values > 0
        moved, gradient, within = self.moving.at((self.points @ poses.mT)[..., :ndim])
        overlap = (within & wanted).sum(dim=1) / wanted.sum().clamp(min=1) / self.possible
        weight = within.float()
        target, seen = (_normalized(x.expand_as(weight), weight) for x in (self.values, moved))
        norm = ((moved - _mean(moved, weight)) * weight).norm(dim=1).clamp(min=1e-6)
        slopes = torch.einsum("bnd,nkd->bnk", gradient @ poses[:, :ndim, :ndim].float(), self.directions)
        slopes = (slopes - _mean(slopes, weight[..., None])) * weight[..., None] / norm[:, None, None]
        slopes = slopes - seen[..., None] * torch.einsum("bn,bnk->bk", seen, slopes)[:, None]
        score = (1 + (target * seen).sum(dim=1)) * (overlap / OVERLAP).clamp(max=1)
        normal = torch.einsum("bnk,bnl->bkl", slopes, slopes)
        slope = torch.einsum("bnk,bn->bk", slopes, target - seen)
        return score, normal.double(), slope.double()


def _ascended(score_of: _Score, poses: Tensor, basis: Tensor) -> Tensor:
    """`poses` (B, d + 1, d + 1) after Levenberg-Marquardt steps."""
    damping = torch.full((len(poses),), DAMPING, dtype=torch.float64)
    score, normal, slope = score_of(poses)
    for _ in range(STEPS):
        diagonal = torch.diag_embed(damping[:, None] * normal.diagonal(dim1=1, dim2=2) + 1e-9)
        change = torch.linalg.solve(normal + diagonal, slope)
        tried = poses @ torch.linalg.matrix_exp(torch.einsum("bk,kij->bij", change, basis))
        new = score_of(tried)
        gain = new[0] - score
        better = gain > 0
        poses = torch.where(better[:, None, None], tried, poses)
        score = torch.where(better, new[0], score)
        normal = torch.where(better[:, None, None], new[1], normal)
        slope = torch.where(better[:, None], new[2], slope)
        damping = torch.where(better, damping / 5, damping * 10).clamp(1e-6, 1e3)
        if not bool(((gain > PATIENCE) | (~better & (damping < 1))).any()):
            break
    return poses


def _mean(x: Tensor, weight: Tensor) -> Tensor:
    return (x * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1)


def _normalized(x: Tensor, weight: Tensor) -> Tensor:
    """Of zero mean and unit norm where `weight` (B, N) is 1, and 0 elsewhere."""
    x = (x - _mean(x, weight)) * weight
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-6)
