import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.linalg import expm
from scipy.ndimage import gaussian_filter, map_coordinates

from atlasmith.core.fields import (
    compose,
    compose_velocities,
    exponentiate,
    jacobian_determinant,
    resize_displacement,
)
from atlasmith.core.grid import Grid
from atlasmith.core.sampling import coordinates, sample, sample_labels, warp
from atlasmith.core.world import displacement_to_field, resample, transform_points
from atlasmith.io.transforms import from_sitk, to_sitk, write_composite

SHAPES = [(13, 10), (12, 9, 11)]


def smooth_field(shape: tuple[int, ...], amplitude: float, seed: int = 0, sigma: float = 2.5) -> torch.Tensor:
    random = np.random.default_rng(seed)
    field = np.stack([gaussian_filter(random.normal(size=shape), sigma) for _ in shape])
    return torch.from_numpy(field / np.abs(field).max() * amplitude)[None].float()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("mode", "order"), [("bilinear", 1), ("nearest", 0)])
def test_warp_is_scipys(shape: tuple[int, ...], mode: str, order: int) -> None:
    image = torch.from_numpy(np.random.default_rng(1).normal(size=shape)).float()
    field = smooth_field(shape, 2.0)
    points = (coordinates(shape, field) + field)[0].numpy()
    expected = map_coordinates(image.numpy(), points, order=order, mode="nearest")
    ours = warp(image[None, None], field, mode, "border")[0, 0].numpy()  # type: ignore[arg-type]
    assert np.mean(np.abs(ours - expected) > 1e-4) < (0.01 if order == 0 else 1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_sampling_has_the_right_gradient(shape: tuple[int, ...]) -> None:
    image = torch.rand(1, 2, *shape, dtype=torch.float64, requires_grad=True)
    points = (coordinates(shape, image) * 0.71 + 0.93).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda i, p: sample(i, p)[..., :3], (image, points), fast_mode=True)


@pytest.mark.parametrize("ndim", [2, 3])
def test_exponential_of_a_linear_velocity(ndim: int) -> None:
    """exp(Ax) = expm(A) x, and the error halves with each squaring."""
    matrix = 0.05 * np.random.default_rng(2).normal(size=(ndim, ndim))
    n = 33
    x = coordinates((n,) * ndim, torch.zeros((), dtype=torch.float64)) - n // 2
    velocity = torch.einsum("ij,bj...->bi...", torch.from_numpy(matrix), x)
    expected = torch.einsum("ij,bj...->bi...", torch.from_numpy(expm(matrix) - np.eye(ndim)), x)
    middle = (..., *[slice(12, 21)] * ndim)
    errors = [(exponentiate(velocity, k) - expected)[middle].abs().max().item() for k in (5, 6, 7)]
    assert errors[2] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("shape", [(40, 36), (28, 24, 26)])
def test_negative_velocity_gives_the_inverse(shape: tuple[int, ...]) -> None:
    velocity = smooth_field(shape, 3.0, sigma=5)
    forward, inverse = exponentiate(velocity, 7), exponentiate(-velocity, 7)
    inner = (..., *[slice(5, -5)] * len(shape))
    assert compose(forward, inverse)[inner].abs().max() < 0.1
    assert (jacobian_determinant(forward) > 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_velocities_compose_as_their_exponentials_do(shape: tuple[int, ...]) -> None:
    outer, inner = (smooth_field(shape, 1.5, seed, sigma=4) for seed in range(2))
    expected = compose(exponentiate(outer, 7), exponentiate(inner, 7))
    inside = (slice(None), slice(None), *[slice(3, -3)] * len(shape))

    def error(velocity: torch.Tensor) -> float:
        return (exponentiate(velocity, 7) - expected)[inside].abs().mean().item()

    ours = error(compose_velocities(outer, inner))
    assert ours < 0.3 * error(outer + inner)
    assert ours < 0.3 * error(compose_velocities(inner, outer))


@pytest.mark.parametrize("ndim", [2, 3])
def test_linear_velocities_compose_to_half_their_commutator(ndim: int) -> None:
    a, b = np.random.default_rng(2).normal(size=(2, ndim, ndim)) / 10
    points = coordinates([5, 6, 7][:ndim], torch.zeros(())).double()

    def field(matrix: np.ndarray) -> torch.Tensor:
        return torch.einsum("ij,bj...->bi...", torch.from_numpy(matrix), points)

    expected = field(a + b + (a @ b - b @ a) / 2)
    torch.testing.assert_close(compose_velocities(field(a), field(b)), expected)


def test_composition_is_outer_after_inner() -> None:
    outer = torch.zeros(1, 2, 9, 9)
    outer[:, 0] = coordinates((9, 9), outer)[:, 0] * 0.5  # x -> 1.5 x
    inner = torch.full((1, 2, 9, 9), 1.0)  # x -> x + 1
    composed = compose(outer, inner)
    assert composed[0, 0, 4, 4] == pytest.approx(1.5 * 5 - 4)
    assert composed[0, 1, 4, 4] == pytest.approx(1.0)


@pytest.mark.parametrize("ndim", [2, 3])
def test_jacobian_of_a_linear_map_and_of_a_fold(ndim: int) -> None:
    matrix = np.diag([1.5, 0.5, 2.0][:ndim]) + 0.1
    x = coordinates((8,) * ndim, torch.zeros(()))
    linear = torch.einsum("ij,bj...->bi...", torch.from_numpy(matrix - np.eye(ndim)).float(), x)
    assert jacobian_determinant(linear).numpy() == pytest.approx(np.linalg.det(matrix), rel=1e-4)
    fold = torch.zeros(1, ndim, *[8] * ndim)
    fold[:, 0] = -2 * x[:, 0]  # a mirror
    assert (jacobian_determinant(fold) < 0).all()


@pytest.mark.parametrize(("shape", "integration_steps"), [((9, 8, 7), 7), ((9, 8, 7), 1), ((12, 10), 6)])
def test_saving_memory_changes_nothing(shape: tuple[int, ...], integration_steps: int) -> None:
    velocity = smooth_field(shape, 2.0).double().requires_grad_()
    plain, saving = (
        exponentiate(velocity, integration_steps, save_memory=choice) for choice in (False, True)
    )
    torch.testing.assert_close(saving, plain, rtol=0, atol=0)
    weight = torch.randn_like(plain)
    gradients = [torch.autograd.grad((x * weight).sum(), velocity)[0] for x in (plain, saving)]
    torch.testing.assert_close(*gradients)


def test_resizing_keeps_a_linear_displacement() -> None:
    fine = coordinates((9, 13, 17), torch.zeros(())) * 0.1
    coarse = resize_displacement(fine, (5, 7, 9))
    torch.testing.assert_close(coarse, coordinates((5, 7, 9), torch.zeros(())) * 0.1)
    torch.testing.assert_close(resize_displacement(coarse, (9, 13, 17)), fine)


AFFINES = {
    "RAS": np.diag([1.0, 1.0, 1.0, 1.0]),
    "LAS": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "LPS anisotropic": np.diag([-1.2, -0.8, 2.0, 1.0]),
    "oblique": np.array([[0.9, -0.3, 0.1, 5], [0.35, 1.1, 0.2, -4], [-0.1, -0.2, 1.3, 2], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize("name", AFFINES)
def test_pull_is_what_simpleitk_makes_of_the_exported_composite(name: str, tmp_path) -> None:
    moving = Grid((20, 18, 16), AFFINES[name])
    fixed_affine = np.diag([1.1, 1.0, 0.9, 1.0])
    fixed_affine[:3, 3] = moving.center - fixed_affine[:3, :3] @ [8, 8, 7.5]
    fixed = Grid((17, 17, 16), fixed_affine)
    data = gaussian_filter(np.random.default_rng(3).normal(size=moving.shape), 2).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = expm(0.05 * np.random.default_rng(4).normal(size=(3, 3)))
    affine[:3, 3] = moving.center - affine[:3, :3] @ moving.center + [0.5, -0.7, 0.3]
    steps = [displacement_to_field(smooth_field(fixed.shape, 1.5)[0], fixed), affine]
    write_composite(tmp_path / "x.h5", steps)

    ours = resample(torch.from_numpy(data)[None, None], moving, steps, fixed)[0, 0].numpy()
    itk = sitk.Resample(
        to_sitk(data, moving),
        to_sitk(np.zeros(fixed.shape, np.float32), fixed),
        sitk.ReadTransform(str(tmp_path / "x.h5")),
        sitk.sitkLinear,
        0.0,
    )
    # All voxels but those that rounding puts on this or that side of the image's edge.
    assert np.quantile(np.abs(ours - from_sitk(itk)), 0.999) < 1e-3 * np.ptp(data)


def test_field_is_zero_outside_and_acts_in_the_plane_of_a_slice() -> None:
    grid = Grid((6, 1, 5), np.diag([2.0, 3.0, 1.0, 1.0]))
    field = displacement_to_field(torch.ones(2, 6, 5), grid)
    np.testing.assert_allclose(field.vectors[3, 0, 2], [2.0, 0.0, 1.0])
    points = torch.tensor([[4.0, 0.0, 2.0], [40.0, 0.0, 2.0]])
    torch.testing.assert_close(
        transform_points([field], points), torch.tensor([[6.0, 0.0, 3.0], [40.0, 0.0, 2.0]])
    )


def test_pull_of_a_slice() -> None:
    grid = Grid((6, 7, 1), np.eye(4))
    image = torch.rand(1, 1, 6, 7)
    shift = np.eye(4)
    shift[0, 3] = 1
    moved = resample(image, grid, [shift], grid)
    torch.testing.assert_close(moved[0, 0, :-1], image[0, 0, 1:])


def test_steps_apply_from_first_to_last() -> None:
    scale, shift = np.diag([2.0, 2.0, 2.0, 1.0]), np.eye(4)
    shift[:3, 3] = 1
    point = torch.tensor([[1.0, 1.0, 1.0]])
    assert transform_points([scale, shift], point)[0, 0] == 3
    assert transform_points([shift, scale], point)[0, 0] == 4


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_are_the_argmax_of_linear_one_hot_maps(shape: tuple[int, ...]) -> None:
    values = torch.tensor([0, 3, 4, 1000])
    labels = values[torch.from_numpy(np.random.default_rng(5).integers(0, 4, shape))]
    points = coordinates(shape, torch.zeros(())) + smooth_field(shape, 3.0, seed=6)
    one_hot = (labels == values.view(-1, *[1] * len(shape))).float()[None]
    scores = sample(one_hot, points)
    scores[:, 0] += 1 - scores.sum(1)  # outside is background
    clear = scores.topk(2, dim=1).values.diff(dim=1)[0, 0].abs() > 1e-4
    ours = sample_labels(labels, points)
    assert torch.equal(ours[clear], values[scores.argmax(1)[0]][clear])
    assert clear.float().mean() > 0.95


def test_ties_between_labels_go_to_the_smallest() -> None:
    labels = torch.tensor([[7, 2], [2, 7]])
    middle = torch.full((1, 2, 1, 1), 0.5)
    assert sample_labels(labels, middle).item() == 2
