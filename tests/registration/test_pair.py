"""Registration of one image to another, against planted diffeomorphisms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from atlasmith.affine import align
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.fields import exponentiate
from atlasmith.core.grid import Array, Grid, Step
from atlasmith.core.sampling import warp
from atlasmith.core.world import displacement_to_field, resample, transform_points, world_points
from atlasmith.io.images import Image, as_image
from atlasmith.registration import RegistrationResult, register

CASES = {
    "2d": ((96, 88), (1.0, 1.0)),
    "2d anisotropic": ((96, 52), (1.0, 1.7)),
    "3d": ((40, 44, 36), (1.0, 1.0, 1.0)),
    "3d anisotropic": ((44, 48, 22), (1.0, 1.0, 2.0)),
}


def textured_ellipsoid(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Array:
    """An ellipsoid with a smooth texture, zero outside."""
    texture = gaussian_filter(np.random.default_rng(0).normal(size=shape), [3 / s for s in spacing])
    radius = sum(((i - (n - 1) / 2) / (0.42 * n)) ** 2 for i, n in zip(np.indices(shape), shape, strict=True))
    image = (1 + 1.6 * texture / np.abs(texture).max()) * (radius < 1)
    return gaussian_filter(image, [1 / s for s in spacing]).astype(np.float32)


def plant(
    shape: tuple[int, ...], spacing: tuple[float, ...], length: float = 10.0
) -> tuple[Array, Array, Step]:
    """Fixed and moving image, and the planted displacement field, whose velocities are up to `length` mm."""
    moving = textured_ellipsoid(shape, spacing)
    random = np.random.default_rng(1)
    velocity = np.stack(
        [gaussian_filter(random.normal(size=shape), [11 / s for s in spacing]) for _ in shape]
    )
    velocity *= length / np.linalg.norm(velocity, axis=0).max()
    velocity /= np.reshape(spacing, (-1, *[1] * len(shape)))
    displacement = exponentiate(torch.from_numpy(velocity)[None].float(), 7)
    fixed = warp(torch.from_numpy(moving)[None, None], displacement)[0, 0].numpy()
    return fixed, moving, displacement_to_field(displacement[0], as_image(fixed, spacing).grid)


def errors(result: RegistrationResult, planted: Step, fixed: Array, grid: Grid) -> tuple[Array, Array]:
    """Lengths, mm, of the planted displacements and of the errors within the object."""
    points = world_points(grid)[torch.from_numpy(fixed.ravel() > 0.3)]
    truth = transform_points([planted], points)
    found = transform_points(result.forward, points)
    return (truth - points).norm(dim=1).numpy(), (found - truth).norm(dim=1).numpy()


@pytest.mark.parametrize("case", CASES)
def test_planted_diffeomorphism_is_found(case: str) -> None:
    shape, spacing = CASES[case]
    fixed, moving, planted = plant(shape, spacing)
    grid = as_image(fixed, spacing).grid
    result = register(fixed, moving, spacing, device="cpu")
    lengths, distances = errors(result, planted, fixed, grid)
    assert lengths.mean() > 1.5
    assert distances.mean() < 0.3 * lengths.mean() and np.quantile(distances, 0.95) < 0.5 * lengths.max()
    assert result.warped.shape == result.log_jacobian.shape == shape
    assert np.abs(result.warped - fixed).mean() < 0.15 * np.abs(moving - fixed).mean()
    assert result.metrics["nonpositive_jacobian_percent"] == 0
    points = world_points(grid)[torch.from_numpy(fixed.ravel() > 0.3)]
    back = transform_points(result.inverse, transform_points(result.forward, points))
    assert (back - points).norm(dim=1).mean() < 0.1
    assert set(result.terms) == {"lncc", "mse", "diffusion", "magnitude"}


def test_log_jacobian_is_the_planted_volume_change() -> None:
    """Rings that are a quarter larger in the moving image: a log-Jacobian of 2 log 1.25 within."""
    x, y = np.mgrid[:64, :64] - 31.5
    radius = np.hypot(x, y)
    fixed, moving = ((1 + np.cos(3 * np.pi * radius / r)) * (radius < r) for r in (16, 20))
    result = register(fixed, moving, device="cpu")
    assert result.log_jacobian[radius < 10].mean() == pytest.approx(2 * np.log(1.25), rel=0.15)


def test_levels_find_what_the_finest_one_misses() -> None:
    shape, spacing = CASES["2d"]
    fixed, moving, planted = plant(shape, spacing, length=20.0)
    grid = as_image(fixed, spacing).grid
    means = [
        errors(register(fixed, moving, spacing, levels=levels, device="cpu"), planted, fixed, grid)[1].mean()
        for levels in (1, 3)
    ]
    assert means[1] < 0.5 * means[0]


def test_a_network_gives_the_start() -> None:
    shape, spacing = CASES["2d"]
    fixed, moving, _ = plant(shape, spacing)
    inputs: list[tuple[torch.Size, float]] = []

    def network(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        inputs.extend((x.shape, float(x.max())) for x in (target, source))
        return torch.full((1, 2, 48, 44), 0.5)

    result = register(fixed, moving, spacing, network=network, steps=0, device="cpu")
    assert inputs == [((1, 1, *shape), 1.0)] * 2
    # Half a voxel of the velocity's grid, whose corner voxels are those of the images.
    expected = 0.5 * (np.array(shape) - 1) / (np.array([48, 44]) - 1)
    np.testing.assert_allclose(result.forward[0].vectors[48, 44, 0, :2], expected, rtol=1e-5)


def test_images_with_an_affine() -> None:
    """The moving image lies elsewhere, turned, in other voxels; its transforms are in the world."""
    shape, spacing = CASES["2d"]
    fixed, moving, planted = plant(shape, spacing, length=6.0)
    grid = as_image(fixed, spacing).grid
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    pose[:2, 3] = [120, -40]
    offset = np.array([[1, 0, 0, -8], [0, 1, 0, -8], [0, 0, 1, 0], [0, 0, 0, 1]])
    own = Grid((140, 132, 1), pose @ offset @ np.diag([0.8, 0.8, 1, 1]))
    data = resample(torch.from_numpy(moving)[None, None], grid, [np.linalg.inv(pose)], own)[0, 0].numpy()
    target, source = Image(fixed[..., None], grid), Image(data[..., None], own)
    result = register(target, source, affine=align(target, source), device="cpu")
    points = world_points(grid)[torch.from_numpy(fixed.ravel() > 0.3)]
    truth = transform_points([planted, pose], points)
    lengths = (transform_points([planted], points) - points).norm(dim=1)
    assert (transform_points(result.forward, points) - truth).norm(dim=1).mean() < 0.3 * lengths.mean()
    assert result.warped.shape == (*shape, 1)
    assert np.abs(result.warped[..., 0] - fixed).mean() < 0.3 * np.abs(moving - fixed).mean()


def test_terms_are_checked() -> None:
    image = np.eye(24)
    with pytest.raises(AtlasmithError, match=r"unknown similarity 'lnc'.*Did you mean 'lncc'"):
        register(image, image, similarity={"lnc": {"weight": 1.0}}, device="cpu")
    with pytest.raises(AtlasmithError, match=r"unknown regularizer 'difusion'.*Did you mean 'diffusion'"):
        register(image, image, regularization={"difusion": {"weight": 1.0}}, device="cpu")
    with pytest.raises(AtlasmithError, match=r"(?s)lncc\.window: 'wide' is no number.*mse: the weight is -1"):
        register(image, image, similarity={"lncc": {"weight": 1, "window": "wide"}, "mse": {"weight": -1}})
    with pytest.raises(AtlasmithError, match=r"channel T2w\.mi: there is no weight"):
        register(image, image, channel_similarity={"T2w": {"mi": {}}}, device="cpu")
    with pytest.raises(ValueError, match="-1 steps at a learning rate"):
        register(image, image, steps=-1, device="cpu")
    with pytest.raises(ValueError, match="2-D and a 3-D image"):
        register(image, np.stack([image] * 24), device="cpu")


def test_equal_images_stay_where_they_are() -> None:
    image = textured_ellipsoid((48, 40), (1.0, 1.0))
    result = register(image, image, device="cpu")
    assert result.metrics["displacement_mm"] < 0.1
    assert np.abs(result.warped - image).mean() < 0.005


def with_nucleus(shift: float, level: float = 0.9) -> dict[str, Array]:
    """A disc that both channels show, and a nucleus in it, `shift` pixels aside, that only T2w shows."""
    x, y = np.mgrid[:40, :40] - 19.5
    disc, nucleus = np.hypot(x, y) < 15, np.hypot(x - shift, y) < 5
    return {
        "T1w": gaussian_filter(0.8 * disc, 0.7),
        "T2w": gaussian_filter(np.where(nucleus, level, 0.4) * disc, 0.7),
    }


def nucleus_after(result: RegistrationResult, moving: Array) -> float:
    """Dice of the nucleus of T2w in the fixed image, where it isn't shifted, and of the warped one."""
    grid = as_image(moving).grid
    points = torch.from_numpy(moving)[None, None].float()
    warped = resample(points, grid, result.forward, grid)[0, 0].numpy() > 0.5
    fixed = with_nucleus(0.0)["T2w"] > 0.65
    return float(2 * (warped & fixed).sum() / (warped.sum() + fixed.sum()))


def test_the_channel_that_shows_a_structure_aligns_it() -> None:
    fixed, moving = with_nucleus(0.0), with_nucleus(3.0)
    nucleus = (moving["T2w"] > 0.65).astype(float)
    one = register(fixed["T1w"], moving["T1w"], device="cpu")
    both = register(fixed, moving, device="cpu")
    swapped, back = ({name: image[name] for name in ("T2w", "T1w")} for image in (fixed, moving))
    again = register(swapped, back, device="cpu")
    assert nucleus_after(one, nucleus) < 0.7 < 0.9 < nucleus_after(both, nucleus)
    assert not one.warped_channels and [*both.warped_channels] == ["T1w", "T2w"]
    np.testing.assert_array_equal(both.warped, both.warped_channels["T1w"])
    np.testing.assert_allclose(again.warped_channels["T2w"], both.warped_channels["T2w"], atol=1e-3)


def test_a_channel_of_inverted_contrast_needs_its_own_similarity() -> None:
    fixed, moving = with_nucleus(0.0), with_nucleus(3.0, level=0.1)
    nucleus = (with_nucleus(3.0)["T2w"] > 0.65).astype(float)
    terms = {"similarity": {"mse": {"weight": 50.0}}, "device": "cpu"}
    wrong = register(fixed, moving, **terms)
    right = register(fixed, moving, channel_similarity={"T2w": {"mi": {"weight": 3.0}}}, **terms)
    assert nucleus_after(wrong, nucleus) < 0.8 < 0.9 < nucleus_after(right, nucleus)


@pytest.mark.parametrize("damaged", ["fixed", "moving"])
def test_an_excluded_lesion_of_either_image_moves_nothing(damaged: str) -> None:
    shape, spacing = CASES["2d"]
    fixed, moving, _ = plant(shape, spacing)
    offsets = np.indices(shape) - np.array(shape).reshape(2, 1, 1) * 0.55
    distance = np.hypot(*offsets)
    images = {"fixed": fixed, "moving": moving}
    intact = register(*images.values(), spacing, device="cpu")
    images[damaged] = np.where(distance < 4, 3 * fixed.max(), images[damaged])
    excluded = register(*images.values(), spacing, device="cpu", **{f"exclude_{damaged}": distance < 5})
    included = register(*images.values(), spacing, device="cpu")
    first, *others = (result.forward[0].vectors for result in (intact, excluded, included))
    with_mask, without = (np.linalg.norm(other - first) / np.linalg.norm(first) for other in others)
    assert with_mask < 0.25 * without


def test_channels_and_exclusions_that_do_not_fit_are_refused() -> None:
    image = with_nucleus(0.0)
    with pytest.raises(ValueError, match="common channel"):
        register({"T1w": image["T1w"]}, {"T2w": image["T2w"]}, device="cpu")
    with pytest.raises(ValueError, match="one grid"):
        register(image, {"T1w": image["T1w"], "T2w": image["T2w"][:30]}, device="cpu")
    with pytest.raises(ValueError, match="shape"):
        register(image, image, device="cpu", exclude_fixed=np.ones((3, 3), dtype=bool))
