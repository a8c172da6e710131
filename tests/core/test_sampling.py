"""Sampling and warping on one grid."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from smooth import smooth_field

from atlasmith.core import sampling
from atlasmith.core.label_sampling import LabelSampler
from atlasmith.core.sampling import coordinates, resize, sample, warp

SHAPES = [(13, 10), (12, 9, 11)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("mode", "order"), [("bilinear", 1), ("nearest", 0)])
def test_warp_equals_scipy(shape: tuple[int, ...], mode: str, order: int) -> None:
    image = torch.from_numpy(np.random.default_rng(1).normal(size=shape)).float()
    field = smooth_field(shape, 2.0)
    points = (coordinates(shape, field) + field)[0].numpy()
    expected = map_coordinates(image.numpy(), points, order=order, mode="nearest")
    ours = warp(image[None, None], field, mode, "border")[0, 0].numpy()  # type: ignore[arg-type]
    assert np.mean(np.abs(ours - expected) > 1e-4) < (0.01 if order == 0 else 1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_of_sampling(shape: tuple[int, ...]) -> None:
    image = torch.rand(1, 2, *shape, dtype=torch.float64, requires_grad=True)
    points = (coordinates(shape, image) * 0.71 + 0.93).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda i, p: sample(i, p)[..., :3], (image, points), fast_mode=True)


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("shape", [(7, 9), (5, 6, 7)])
def test_gradients_of_a_warp_are_autograds(shape: tuple[int, ...], padding: sampling.Padding) -> None:
    """Against those of sampling at points, and of what needs a gradient alone."""
    random = torch.Generator().manual_seed(0)
    image, shift = (torch.rand(2, c, *shape, generator=random).double() for c in (3, len(shape)))
    shift = 4 * shift - 2
    found = []
    for needed in ((True, True), (True, False), (False, True)):
        given = [x.clone().requires_grad_(n) for x, n in zip((image, shift), needed, strict=True)]
        points = coordinates(shape, shift) + given[1]
        for result in (warp(*given, padding=padding), sample(given[0], points, padding=padding)):
            wanted = [x for x in given if x.requires_grad]
            found.append((result, *torch.autograd.grad(result.square().sum(), wanted)))
    for ours, expected in zip(found[::2], found[1::2], strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(("shape", "count"), [((12, 10), 6), ((13, 10), 1), ((9, 5, 7), 3)])
def test_slabs_give_what_whole_images_give(
    shape: tuple[int, ...], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = torch.Generator().manual_seed(1)
    image, shift = (torch.rand(2, c, *shape, generator=random).double() for c in (2, len(shape)))
    assert sampling.slab_count(image, shape[0]) == count
    shift = 6 * shift - 3

    def found() -> list[torch.Tensor]:
        given = [x.clone().requires_grad_() for x in (image, shift)]
        moved = warp(*given)
        torch.testing.assert_close(
            sample(image, coordinates(shape, shift) + shift), moved, rtol=0, atol=1e-12
        )
        return [moved, *torch.autograd.grad(moved.square().sum(), given)]

    slabs = found()
    monkeypatch.setattr(sampling, "SUMMED_VALUES", 3 * image[0].numel())  # at most three slabs
    fewer = found()
    monkeypatch.setattr(sampling, "MAX_SLABS", 1)
    for ours, expected in zip(fewer, found(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    for ours, expected in zip(slabs, found(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_an_image_has_the_same_bytes_in_any_batch() -> None:
    image, shift = torch.rand(3, 1, 16, 12, 10), smooth_field((16, 12, 10), 3.0).repeat(3, 1, 1, 1, 1)

    def found(chosen: slice) -> list[torch.Tensor]:
        given = [x[chosen].clone().requires_grad_() for x in (image, shift)]
        moved = warp(*given)
        return [moved, *torch.autograd.grad(moved.square().sum(), given)]

    for alone, together in zip(found(slice(1, 2)), found(slice(0, 3)), strict=True):
        assert torch.equal(alone[0], together[1])


def test_no_point_is_sampled_without_an_error() -> None:
    assert sample(torch.rand(1, 2, 4, 5, 6), torch.zeros(1, 3, 0, 1, 1)).shape == (1, 2, 0, 1, 1)


def test_a_warp_has_the_same_bytes_on_any_number_of_threads() -> None:
    image, shift = torch.rand(1, 1, 16, 12, 10), smooth_field((16, 12, 10), 3.0)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            given = [x.clone().requires_grad_() for x in (image, shift)]
            moved = warp(*given)
            found.append([moved, *torch.autograd.grad(moved.square().sum(), given)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_are_the_argmax_of_linear_one_hot_maps(shape: tuple[int, ...]) -> None:
    values = torch.tensor([0, 3, 4, 1000])
    labels = values[torch.from_numpy(np.random.default_rng(5).integers(0, 4, shape))]
    points = coordinates(shape, torch.zeros(())) + smooth_field(shape, 3.0, seed=6)
    one_hot = (labels == values.view(-1, *[1] * len(shape))).float()[None]
    scores = sample(one_hot, points)
    scores[:, 0] += 1 - scores.sum(1)  # outside is background
    clear = scores.topk(2, dim=1).values.diff(dim=1)[0, 0].abs() > 1e-4
    ours = LabelSampler(labels)(points)
    assert torch.equal(ours[clear], values[scores.argmax(1)[0]][clear])
    assert clear.float().mean() > 0.95


def test_ties_between_labels_go_to_the_smallest() -> None:
    labels = torch.tensor([[7, 2], [2, 7]])
    middle = torch.full((1, 2, 1, 1), 0.5)
    assert LabelSampler(labels)(middle).item() == 2


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_in_a_part_of_the_map_and_their_foreground(shape: tuple[int, ...]) -> None:
    labels = torch.zeros(shape, dtype=torch.int32)
    part = tuple(slice(n // 3, n // 3 + 4) for n in shape)
    labels[part] = torch.from_numpy(np.random.default_rng(7).integers(0, 9, labels[part].shape)).int()
    points = coordinates(shape, torch.zeros(())) + smooth_field(shape, 3.0, seed=8)
    found, foreground = LabelSampler(labels).with_foreground(points)
    weight = sample((labels != 0).float()[None, None], points)[0, 0]
    clear = (weight - 0.5).abs() > 1e-4
    assert torch.equal(foreground[clear], weight[clear] > 0.5) and foreground.any()
    assert foreground[found != 0].all()
    one_hot = torch.stack([labels == value for value in range(9)]).float()[None]
    scores = sample(one_hot, points)
    scores[:, 0] += 1 - scores.sum(1)
    clear = scores.topk(2, dim=1).values.diff(dim=1)[0, 0].abs() > 1e-4
    assert torch.equal(found[clear], scores.argmax(1)[0].int()[clear])


def test_a_map_without_labels_has_none_anywhere() -> None:
    found, foreground = LabelSampler(torch.zeros(3, 4, 5, dtype=torch.int32)).with_foreground(
        torch.linspace(-9, 9, 60).view(1, 3, 1, 1, 20)
    )
    assert not found.any() and not foreground.any()


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_dont_depend_on_how_many_points_are_sampled_at_a_time(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = torch.from_numpy(np.random.default_rng(9).integers(0, 4, shape))
    points = coordinates(shape, torch.zeros(())) + smooth_field(shape, 3.0, seed=10)
    expected = LabelSampler(labels)(points)
    monkeypatch.setattr(sampling, "CPU_POINTS", 7)
    assert torch.equal(LabelSampler(labels)(points), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("old", "new"),
    [((13, 10), (9, 17)), ((5, 7, 9), (10, 3, 9)), ((1, 4, 4), (3, 8, 8)), ((6, 6, 6), (1, 4, 5))],
)
def test_resize_equals_torch(old: tuple[int, ...], new: tuple[int, ...], dtype: torch.dtype) -> None:
    """The values and the gradient of torch's interpolation, also under autocast and after inference."""
    image = torch.rand(2, 3, *old, dtype=dtype, requires_grad=True)
    mode = "bilinear" if len(old) == 2 else "trilinear"
    expected = torch.nn.functional.interpolate(image, new, mode=mode, align_corners=True)
    with torch.inference_mode():
        resize(image, new)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = resize(image, new)
    torch.testing.assert_close(found, expected)
    upstream = torch.rand_like(expected)
    gradients = [torch.autograd.grad(x, image, upstream)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_resize_in_half_precision_is_torchs() -> None:
    """Whose weights are exact."""
    image = 30 * torch.rand(1, 1, 7, 8, 9).bfloat16()
    expected = torch.nn.functional.interpolate(image, (14, 16, 18), mode="trilinear", align_corners=True)
    torch.testing.assert_close(resize(image, (14, 16, 18)), expected, rtol=0, atol=0)
