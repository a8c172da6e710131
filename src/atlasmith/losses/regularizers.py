"""Regularizers: what a deformation field, or a pair of them, costs. Each returns a scalar, 0 at best.

Fields are tensors (B, d, *shape), d 2 or 3, in mm on voxels of `spacing` mm; channel d moves along axis d,
and a displacement u is a pull-back, phi(x) = x + u(x). The first parameters are named after what is judged:

velocity: stationary velocity field.
forward, inverse: displacements of two maps that should be each other's inverse.
fixed: image (B, 1, *shape).
log_variance: log of the variance, in mm^2, of each component of the velocity, (B, d, *shape).

voxel_weight (1 or B, 1, *shape) multiplies what is averaged, voxel by voxel; where that stems from
differences, by its mean over the voxels that they span. Sums are in float32 at least, also under autocast.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from atlasmith.core import distributed
from atlasmith.core.fields import compose, jacobian_determinant
from atlasmith.core.sampling import warp
from atlasmith.losses.similarity.filters import box_mean

Function = TypeVar("Function", bound=Callable[..., Tensor])


def _precise(function: Function) -> Function:
    """`function` of its tensors in float32 at least, without autocast, which would sum products in half."""

    def upcast(x: Any) -> Any:
        return x.float() if isinstance(x, Tensor) and x.dtype != torch.float64 else x

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        device = next(x.device for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        with torch.autocast(device.type, enabled=False):
            return function(*map(upcast, args), **{name: upcast(x) for name, x in kwargs.items()})

    return cast(Function, wrapped)


def _mean(values: Tensor, voxel_weight: Tensor | None) -> Tensor:
    """Mean of `values` (B, C, *inner), each times the mean of `voxel_weight` (1 or B, 1, *shape) over the
    voxels that it spans, shape - inner + 1 along an axis. Without values, as on an axis of one voxel, 0."""
    if voxel_weight is not None:
        spans = [n - m + 1 for n, m in zip(voxel_weight.shape[2:], values.shape[2:], strict=True)]
        values = values * box_mean(voxel_weight, spans)
    return values.sum() / max(values.numel(), 1)


def _voxel_size(spacing: Sequence[float], field: Tensor) -> Tensor:
    """`spacing` as (1, d, 1, ...), to divide or multiply `field` (B, d, *shape) by."""
    return field.new_tensor(spacing).view(1, -1, *[1] * (field.ndim - 2))


def _difference(field: Tensor, axis: int, spacing: Sequence[float]) -> Tensor:
    """Forward difference along tensor axis `axis` (>= 2), per mm."""
    return field.diff(dim=axis) / spacing[axis - 2]


def _outer_sum(axes: Sequence[Tensor]) -> Tensor:
    """Sum (n0, n1, ...) of one value per axis and index, from vectors (n0), (n1), ..."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).sum(dim=0)


Vertex = tuple[int, ...]


def _simplices(ndim: int) -> Iterator[list[Vertex]]:
    """The simplices, as corners of the unit cell, of which Liu et al. 2024 (doi:10.1007/s11263-024-02047-1)
    measure the volume: one at each corner, and in 3-D two central tetrahedra. They fill the cell twice."""
    cell = list(itertools.product((0, 1), repeat=ndim))
    for corner in cell:
        yield [corner, *(v for v in cell if math.dist(v, corner) == 1)]
    if ndim == 3:
        for parity in (0, 1):
            yield [v for v in cell if sum(v) % 2 == parity]


def _gradients(field: Tensor, spacing: Sequence[float]) -> Iterator[tuple[float, Tensor]]:
    """For each simplex its share of the cell, and Du (B, component, axis, *(shape - 1)) of the field that is
    linear on it, per mm."""

    def at(vertex: Vertex) -> Tensor:
        values = field
        for axis, start in enumerate(vertex, start=2):
            values = values.narrow(axis, start, field.shape[axis] - 1)
        return values

    simplices = list(_simplices(len(spacing)))
    edges = np.array([np.subtract(others, first) for first, *others in simplices])  # (simplex, edge, axis)
    volumes = np.abs(np.linalg.det(edges))
    shares = (volumes / volumes.sum()).tolist()
    # Du = sum over edges of (rise along the edge) x (that edge's column of the inverse).
    inverses = np.linalg.inv(edges * np.array(spacing)).tolist()  # (simplex, axis, edge)
    for (first, *others), share, inverse in zip(simplices, shares, inverses, strict=True):
        rises = [at(vertex) - at(first) for vertex in others]
        columns = [
            sum((w * rise for w, rise in zip(row, rises, strict=True) if w), start=field.new_zeros(()))
            for row in inverse
        ]
        yield share, torch.stack(columns, dim=2)


def _over_cells(
    field: Tensor,
    spacing: Sequence[float],
    density: Callable[[Tensor], Tensor],
    voxel_weight: Tensor | None,
) -> Tensor:
    """Mean over the image of `density` (B, *cells) of Du (B, component, axis, *cells), for the field that is
    linear on each simplex.

    All derivatives belong to one place, so that rotations are told from shears, and one that no checkerboard
    hides from, as it does from central differences and from the mean gradient of a cell.
    """
    parts = (share * density(gradient) for share, gradient in _gradients(field, spacing))
    return _mean(functools.reduce(torch.add, parts).unsqueeze(1), voxel_weight)


def _determinant(gradient: Tensor) -> Tensor:
    """det(I + Du) (B, *cells) of Du (B, component, axis, *cells); written out, since LU of many small
    matrices is slow, and its derivative ill-defined where one is singular."""
    ndim = gradient.shape[1]
    identity = torch.eye(ndim, device=gradient.device, dtype=gradient.dtype)
    rows = (gradient + identity.view(1, ndim, ndim, *[1] * ndim)).unbind(dim=1)
    if ndim == 2:
        return rows[0][:, 0] * rows[1][:, 1] - rows[0][:, 1] * rows[1][:, 0]
    return (rows[0] * torch.linalg.cross(rows[1], rows[2], dim=1)).sum(dim=1)


@_precise
def diffusion(velocity: Tensor, spacing: Sequence[float], voxel_weight: Tensor | None = None) -> Tensor:
    """Mean squared first derivative over voxels, components and axes (Balakrishnan et al. 2019,
    doi:10.1109/TMI.2019.2897538). u = 0.1 x in 3-D gives 0.01 / 9."""
    axes = range(2, velocity.ndim)
    slopes = [_difference(velocity, axis, spacing) for axis in axes]
    return torch.stack([_mean(slope.square(), voxel_weight) for slope in slopes]).mean()


@_precise
def tv(velocity: Tensor, spacing: Sequence[float], voxel_weight: Tensor | None = None) -> Tensor:
    """Mean absolute first derivative over voxels, components and axes: anisotropic total variation (Rudin et
    al. 1992, doi:10.1016/0167-2789(92)90242-F), which, unlike `diffusion`, lets organs slide past others."""
    axes = range(2, velocity.ndim)
    slopes = [_difference(velocity, axis, spacing) for axis in axes]
    return torch.stack([_mean(slope.abs(), voxel_weight) for slope in slopes]).mean()


@_precise
def tv_isotropic(
    velocity: Tensor, spacing: Sequence[float], eps: float = 1e-6, voxel_weight: Tensor | None = None
) -> Tensor:
    """Mean Frobenius norm |Du|, whatever the orientation of axes and components: isotropic total variation
    (Vishnevskiy et al. 2017, doi:10.1109/TMI.2016.2610583), as sqrt(|Du|^2 + eps^2) - eps."""

    def norm(gradient: Tensor) -> Tensor:
        square = gradient.square().sum(dim=(1, 2))
        return square / ((square + eps**2).sqrt() + eps)  # the same, without cancellation

    return _over_cells(velocity, spacing, norm, voxel_weight)


@_precise
def bending(velocity: Tensor, spacing: Sequence[float], voxel_weight: Tensor | None = None) -> Tensor:
    """Bending energy, per mm: sum of the squared second derivatives, mixed ones twice, averaged over voxels
    and components (Rueckert et al. 1999, doi:10.1109/42.796284). Zero for affine fields.

    Compact three-point stencils, so that a checkerboard costs, unlike under differences of differences of
    central type.
    """
    energy = velocity.new_zeros(())
    for first in range(2, velocity.ndim):
        slope = _difference(velocity, first, spacing)
        for second in range(first, velocity.ndim):
            curvature = _difference(slope, second, spacing)
            energy = energy + (1 if first == second else 2) * _mean(curvature.square(), voxel_weight)
    return energy


@_precise
def elastic(
    velocity: Tensor,
    spacing: Sequence[float],
    mu: float = 1.0,
    lam: float = 0.0,
    voxel_weight: Tensor | None = None,
) -> Tensor:
    """Linear elastic energy, mean of mu E:E + lam/2 (tr E)^2 with the strain E = (Du + Du^T) / 2 and the Lamé
    constants mu and lam (Bajcsy and Kovačič 1989, doi:10.1016/S0734-189X(89)80014-3).

    Zero for infinitesimal rotations; u = a x gives mu d a^2 + lam/2 d^2 a^2.
    """

    def energy(gradient: Tensor) -> Tensor:
        strain = (gradient + gradient.transpose(1, 2)) / 2
        trace = strain.diagonal(dim1=1, dim2=2).sum(dim=-1)
        return mu * strain.square().sum(dim=(1, 2)) + lam / 2 * trace.square()

    return _over_cells(velocity, spacing, energy, voxel_weight)


@_precise
def sobolev(
    velocity: Tensor, spacing: Sequence[float], alpha: float = 3.0, gamma: float = 1.0, power: float = 1.0
) -> Tensor:
    """Squared length in the metric of LDDMM: mean over voxels of |(gamma - alpha Laplacian)^power v|^2, mm^2,
    with alpha in mm^2 (Beg et al. 2005, doi:10.1023/B:VISI.0000043755.93987.aa). alpha 0 gives `magnitude`.

    The cosine transform diagonalizes the Laplacian of three-point differences on a field mirrored at the
    faces of the image, which, unlike a periodic one, doesn't tie opposite faces together. A slope across a
    face is a kink in the mirror, and costs as such.
    """
    spectrum, eigenvalues = velocity, []
    for n, size in zip(velocity.shape[2:], spacing, strict=True):
        k = torch.arange(n, device=velocity.device, dtype=velocity.dtype)
        basis = (torch.pi / n * k[:, None] * (k + 0.5)).cos() * (2 / n) ** 0.5  # (frequency, voxel)
        basis[0] /= 2**0.5
        # The contracted axis comes back as the last, so that after one round the axes stand in order again.
        spectrum = torch.tensordot(spectrum, basis, dims=([2], [1]))
        eigenvalues.append((2 - 2 * (torch.pi / n * k).cos()) / size**2)
    return magnitude((gamma + alpha * _outer_sum(eigenvalues)) ** power * spectrum, spacing)


@_precise
def magnitude(velocity: Tensor, spacing: Sequence[float], voxel_weight: Tensor | None = None) -> Tensor:
    """Mean squared length, mm^2."""
    return _mean(velocity.square().sum(dim=1, keepdim=True), voxel_weight)


@_precise
def folding(
    forward: Tensor,
    spacing: Sequence[float],
    threshold: float = 0.0,
    corners: int = 1,
    power: float = 1.0,
    voxel_weight: Tensor | None = None,
) -> Tensor:
    """Mean of ReLU(threshold - J)^power of the Jacobian determinants J of phi.

    corners 1: of all simplices of each cell (2-D: 4 corners; 3-D: 8, 2 central tetrahedra), by volume. The
    defaults give the fraction of non-diffeomorphic volume (Liu et al. 2024, doi:10.1007/s11263-024-02047-1).
    corners 0: by central differences, which miss a fold of one voxel (Mok and Chung 2020, arXiv:2006.16148).
    threshold 0.5, power 2, corners 0 is NODEO's (Wu et al. 2022, arXiv:2108.03443).
    """

    def penalty(determinant: Tensor) -> Tensor:
        return (threshold - determinant).relu() ** power

    if corners:
        return _over_cells(forward, spacing, lambda gradient: penalty(_determinant(gradient)), voxel_weight)
    central = jacobian_determinant(forward / _voxel_size(spacing, forward))
    return _mean(penalty(central).unsqueeze(1), voxel_weight)


@_precise
def log_jacobian(
    forward: Tensor, spacing: Sequence[float], floor: float = 0.01, voxel_weight: Tensor | None = None
) -> Tensor:
    """Mean |log J| of the Jacobian determinants J of phi: growth by a factor costs as much as shrinkage by it
    (Rohlfing et al. 2003, doi:10.1109/TMI.2003.814791). phi(x) = s x gives d |log s|.

    Below `floor` the tangent replaces the logarithm, so folds cost the more, the deeper they are.
    """

    def density(gradient: Tensor) -> Tensor:
        determinant = _determinant(gradient)
        above = determinant.clamp(min=floor)
        return (above.log() + (determinant - above) / floor).abs()

    return _over_cells(forward, spacing, density, voxel_weight)


@_precise
def hyperelastic(
    forward: Tensor,
    spacing: Sequence[float],
    length: float = 1.0,
    volume: float = 1.0,
    floor: float = 0.1,
    voxel_weight: Tensor | None = None,
) -> Tensor:
    """Mean of length |Du|^2 + volume (J - 1)^4 / J^2, with J = det D phi: the length and volume terms of
    Burger et al. 2013 (doi:10.1137/110835955).

    Theirs is infinite at J <= 0. Here the tangent continues the volume term below J = `floor`, for a network
    may fold at first.
    """
    slope = 2 * (floor - 1) ** 3 * (floor + 1) / floor**3

    def energy(gradient: Tensor) -> Tensor:
        determinant = _determinant(gradient)
        above = determinant.clamp(min=floor)
        change = (above - 1) ** 4 / above**2 + slope * (determinant - above)
        return length * gradient.square().sum(dim=(1, 2)) + volume * change

    return _over_cells(forward, spacing, energy, voxel_weight)


def _round_trip(outer: Tensor, inner: Tensor, spacing: Sequence[float]) -> Tensor:
    """Displacement (B, d, *shape) of x -> outer(inner(x)), in mm: zero if one is the other's inverse."""
    size = _voxel_size(spacing, inner)
    return compose(outer / size, inner / size) * size


def _round_trips(forward: Tensor, inverse: Tensor, spacing: Sequence[float]) -> Tensor:
    """Both of them (B, 2 d, *shape), from either side."""
    ways = ((inverse, forward), (forward, inverse))
    return torch.cat([_round_trip(outer, inner, spacing) for outer, inner in ways], dim=1)


@_precise
def inverse_consistency(
    forward: Tensor, inverse: Tensor, spacing: Sequence[float], voxel_weight: Tensor | None = None
) -> Tensor:
    """Mean squared distance, mm^2, between x and where one map after the other is_main_process, over both orders
    (Christensen and Johnson 2001, doi:10.1109/42.932742; Greer et al. 2021, arXiv:2105.04459)."""
    return magnitude(_round_trips(forward, inverse, spacing), spacing, voxel_weight) / 2


@_precise
def gradicon(
    forward: Tensor, inverse: Tensor, spacing: Sequence[float], voxel_weight: Tensor | None = None
) -> Tensor:
    """Mean squared Frobenius norm of D(phi o psi) - I for the maps phi and psi, over both orders (Tian et al.
    2022, arXiv:2206.05897), by forward differences: like `inverse_consistency`, but free of translations."""
    entries = len(spacing) ** 2
    return entries * diffusion(_round_trips(forward, inverse, spacing), spacing, voxel_weight)


@_precise
def cycle(
    fixed: Tensor,
    forward: Tensor,
    inverse: Tensor,
    spacing: Sequence[float],
    voxel_weight: Tensor | None = None,
) -> Tensor:
    """Mean |A - A o phi o psi| of the image A and the maps phi, `forward`, and psi, `inverse` (Kim et al.
    2021, doi:10.1016/j.media.2021.102036), over the voxels that return to inside the image.

    A is interpolated once, at phi(psi(x)), so that blur doesn't count as error.
    """
    trip = _round_trip(forward, inverse, spacing) / _voxel_size(spacing, forward)
    back, coverage = warp(torch.cat([fixed, torch.ones_like(fixed)], dim=1), trip).chunk(2, dim=1)
    inside = (coverage > 0.999).to(fixed.dtype)
    share = inside.mean(dim=tuple(range(1, inside.ndim)), keepdim=True).clamp(min=1 / inside[0].numel())
    return _mean((fixed - back).abs() * inside / share, voxel_weight)


@_precise
def kl(velocity: Tensor, log_variance: Tensor, spacing: Sequence[float], prior: float = 25.0) -> Tensor:
    """Kullback-Leibler divergence, per voxel and up to a constant, of the posterior N(velocity, variance)
    from the prior of zero mean and precision `prior` times the grid's Laplacian, per mm (Dalca et al. 2019,
    doi:10.1016/j.media.2019.07.006). The constant leaves the value free to be negative.

    Sum over components of 1/2 (prior (degree variance + sum of squared differences) - log_variance); the
    degree counts a voxel's neighbors, fewer at the border, each as 1 / spacing^2. The authors' code weighs
    the differences 2 d times less, and so isn't the divergence of any two distributions.
    """
    degrees = []
    for n, size in zip(velocity.shape[2:], spacing, strict=True):
        neighbors = velocity.new_full((n,), 2.0)
        neighbors[0] -= 1
        neighbors[-1] -= 1
        degrees.append(neighbors / size**2)
    spread = (prior * _outer_sum(degrees) * log_variance.exp() - log_variance).sum(dim=1).mean()
    axes = range(2, velocity.ndim)
    roughness = torch.stack([_difference(velocity, axis, spacing).square().sum() for axis in axes]).sum()
    return (spread + prior * roughness / velocity[:, 0].numel()) / 2


@_precise
def centrality(forward: Tensor, spacing: Sequence[float]) -> Tensor:
    """Squared length of the cohort's mean displacement, mm^2, estimated from a batch of its displacements:
    zero when the template lies at the barycentre of its subjects (the term of Dalca et al. 2019,
    arXiv:1908.02738).

    The mean over pairs of different subjects of <u_i, u_j>, whose expectation is the square of the mean; so a
    value may be negative. One subject alone counts as the mean. The batch is that of all processes.
    """
    count = len(forward) * distributed.world_size()
    if count == 1:
        return magnitude(forward, spacing)
    summed = distributed.all_reduce_sum(forward.sum(dim=0, keepdim=True))
    pairs = summed.square() - distributed.all_reduce_sum(forward.square().sum(dim=0, keepdim=True))
    return pairs.sum(dim=1).mean() / (count * (count - 1))


REGULARISERS: dict[str, Callable[..., Tensor]] = {
    "diffusion": diffusion,
    "tv": tv,
    "tv_isotropic": tv_isotropic,
    "bending": bending,
    "elastic": elastic,
    "sobolev": sobolev,
    "folding": folding,
    "log_jacobian": log_jacobian,
    "hyperelastic": hyperelastic,
    "inverse_consistency": inverse_consistency,
    "gradicon": gradicon,
    "cycle": cycle,
    "kl": kl,
    "centrality": centrality,
    "magnitude": magnitude,
}
