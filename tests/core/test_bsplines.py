"""B-splines: partition of unity, the closed form, and SimpleITK's BSplineTransform."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.interpolate import BSpline

from atlasmith.core.bsplines import basis_matrix, spread, uniform_knots

DOUBLE = torch.zeros((), dtype=torch.float64)
NON_UNIFORM = torch.tensor([-0.5, 1.0, 1.75, 5.0, 9.0, 9.5])


@pytest.mark.parametrize("knots", [0.7, 1.0, 2.5, 4.0, 30.0, NON_UNIFORM], ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_partition_of_unity(n: int, knots: float | torch.Tensor) -> None:
    matrix = basis_matrix(n, knots, torch.zeros(()))
    assert matrix.dtype == torch.float32
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(1), torch.ones(n), atol=1e-6, rtol=0)


def test_uniform_knots_give_the_closed_form() -> None:
    n, spacing = 12, 3.5
    knots = uniform_knots(n, spacing, DOUBLE)
    centers = torch.cat([knots[:1] - spacing, knots, knots[-1:] + spacing])
    distance = ((torch.arange(n)[:, None] - centers) / spacing).abs()
    expected = torch.where(
        distance < 1, 2 / 3 - distance**2 + distance**3 / 2, (2 - distance).clamp(min=0) ** 3 / 6
    )
    torch.testing.assert_close(basis_matrix(n, spacing, DOUBLE), expected)
    torch.testing.assert_close(basis_matrix(n, knots, DOUBLE), expected)


def test_non_uniform_knots_give_the_splines_of_scipy() -> None:
    matrix = basis_matrix(10, NON_UNIFORM, DOUBLE)
    knots = NON_UNIFORM.double().numpy()
    ends = np.arange(1, 4)
    extended = np.concatenate(
        [knots[0] - (knots[1] - knots[0]) * ends[::-1], knots, knots[-1] + (knots[-1] - knots[-2]) * ends]
    )
    expected = BSpline.design_matrix(np.arange(10.0), extended, 3).toarray()
    np.testing.assert_allclose(matrix, expected, atol=1e-12)


def test_knots_have_a_gradient() -> None:
    knots = NON_UNIFORM.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: basis_matrix(10, t, DOUBLE), knots)


@pytest.mark.parametrize("shape", [(9, 13), (8, 9, 5)], ids=str)
def test_parity_with_simpleitk(shape: tuple[int, ...]) -> None:
    ndim, spacing = len(shape), 3.0
    knots = [uniform_knots(n, spacing, DOUBLE) for n in shape]
    transform = sitk.BSplineTransform(ndim, 3)
    transform.SetTransformDomainOrigin([t[0].item() for t in knots])
    transform.SetTransformDomainPhysicalDimensions([(t[-1] - t[0]).item() for t in knots])
    transform.SetTransformDomainMeshSize([len(t) - 1 for t in knots])
    coefficients = torch.randn(1, ndim, *[len(t) + 2 for t in knots])
    # ITK's first index is the fastest.
    transform.SetParameters(
        coefficients[0].permute(0, *range(ndim, 0, -1)).flatten().double().numpy().tolist()
    )
    found = spread(coefficients, [basis_matrix(n, spacing, coefficients) for n in shape])[0]
    for index in np.ndindex(*shape):
        point = [float(i) for i in index]
        expected = np.subtract(transform.TransformPoint(point), point)
        np.testing.assert_allclose(found[:, *index], expected, atol=1e-5)
