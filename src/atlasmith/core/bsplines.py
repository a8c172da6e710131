"""Cubic B-splines on uniform and non-uniform knots, by one matrix for each axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

DEGREE = 3


def uniform_knots(n: int, spacing: float, like: Tensor) -> Tensor:
    """Return knots at a distance of `spacing` voxels that cover n voxels symmetrically.

    Args:
        n: Size of the grid along an axis.
        spacing: Distance of the knots, voxels.
        like: Gives the device.

    Returns:
        At least two knots, in voxels, in double precision.

    Example:
        >>> uniform_knots(9, 3.0, torch.zeros(()))
        tensor([-0.5000,  2.5000,  5.5000,  8.5000], dtype=torch.float64)
    """
    intervals = max(math.ceil((n - 1) / spacing), 1)
    steps = torch.arange(intervals + 1, device=like.device, dtype=torch.float64)
    return (n - 1) / 2 + spacing * (steps - intervals / 2)


def basis_matrix(n: int, knots: float | Tensor, like: Tensor) -> Tensor:
    """Evaluate the cubic B-splines on knots at the voxels 0 to n - 1, by Cox and de Boor's recursion.

    (de Boor 1972, doi:10.1016/0021-9045(72)90080-9.) The first and the last interval repeat beyond the
    knots. On uniform knots there is a control point at each knot and one beyond each end: those of ITK's
    BSplineTransform whose mesh has the knots' intervals.

    Args:
        n: Size of the grid along an axis.
        knots: Distance of `uniform_knots`, or K of any distances, strictly increasing, voxels.
        like: Gives device and type.

    Returns:
        Weights (n, K + 2) of the control points. Rows sum to 1 from the first to the last knot.

    Example:
        >>> basis_matrix(3, 2.0, torch.zeros(())) * 48
        tensor([[ 8., 32.,  8.,  0.],
                [ 1., 23., 23.,  1.],
                [ 0.,  8., 32.,  8.]])
    """
    inner = knots.double() if isinstance(knots, Tensor) else uniform_knots(n, knots, like)
    beyond = torch.arange(1, DEGREE + 1, device=like.device, dtype=torch.float64)
    first, last = inner[1] - inner[0], inner[-1] - inner[-2]
    t = torch.cat([inner[0] - first * beyond.flip(0), inner, inner[-1] + last * beyond])
    x = torch.arange(n, device=like.device, dtype=torch.float64)[:, None]
    basis = ((t[:-1] <= x) & (x < t[1:])).double()
    for degree in range(1, DEGREE + 1):
        rising = (x - t[: -degree - 1]) / (t[degree:-1] - t[: -degree - 1])
        falling = (t[degree + 1 :] - x) / (t[degree + 1 :] - t[1:-degree])
        basis = rising * basis[:, :-1] + falling * basis[:, 1:]
    return basis.to(like.dtype)


def spread(coefficients: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Evaluate B-splines on a grid from the values of their control points.

    Args:
        coefficients: (B, C, *control_points), 2-D or 3-D.
        matrices: For each axis, the weights (n, control points) of `basis_matrix`.

    Returns:
        (B, C, *shape).

    Example:
        >>> matrices = [basis_matrix(n, 4.0, torch.zeros(())) for n in (6, 9)]
        >>> bool(torch.allclose(spread(torch.ones(1, 1, 5, 5), matrices), torch.ones(1, 1, 6, 9)))
        True
    """
    for axis, matrix in enumerate(matrices, start=2):
        coefficients = (coefficients.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return coefficients
