import inspect

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from atlasmith.losses import REGULARISERS, SIMILARITY, pair
from atlasmith.losses.similarity import box_mean

SHAPES = [(12, 11), (9, 10, 8)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SIMILARITY)
class TestSimilarity:
    def images(self, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        random = torch.Generator().manual_seed(0)
        return tuple(torch.rand(2, 1, *shape, dtype=torch.float64, generator=random) for _ in range(2))  # type: ignore[return-value]

    def test_best_at_identity(self, name: str, shape: tuple[int, ...]) -> None:
        fixed, moved = self.images(shape)
        same, other = SIMILARITY[name](fixed, fixed), SIMILARITY[name](fixed, moved)
        assert same.item() == pytest.approx(0, abs=0.02)
        assert other > same + 0.05

    def test_symmetric(self, name: str, shape: tuple[int, ...]) -> None:
        fixed, moved = self.images(shape)
        torch.testing.assert_close(SIMILARITY[name](fixed, moved), SIMILARITY[name](moved, fixed))

    def test_gradient(self, name: str, shape: tuple[int, ...]) -> None:
        fixed, moved = self.images(shape)
        moved.requires_grad_()
        assert torch.autograd.gradcheck(lambda m: SIMILARITY[name](fixed, m), moved, fast_mode=True)

    def test_mask_hides(self, name: str, shape: tuple[int, ...]) -> None:
        fixed, moved = self.images(shape)
        mask = torch.ones(2, 1, *shape, dtype=torch.float64)
        mask[:, :, :2] = 0
        changed = moved.clone()
        changed[:, :, :2] += 5
        torch.testing.assert_close(
            SIMILARITY[name](fixed, moved, mask), SIMILARITY[name](fixed, changed, mask)
        )
        everything = SIMILARITY[name](fixed, moved, torch.ones_like(mask))
        torch.testing.assert_close(everything, SIMILARITY[name](fixed, moved))

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_constant_images_are_finite(self, name: str, shape: tuple[int, ...], value: float) -> None:
        constant = torch.full((1, 1, *shape), value, requires_grad=True)
        loss = SIMILARITY[name](constant, constant, torch.zeros(1, 1, *shape))
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(constant.grad).all()


def test_mse_is_torchs() -> None:
    a, b = torch.rand(2, 1, 5, 6), torch.rand(2, 1, 5, 6)
    torch.testing.assert_close(SIMILARITY["mse"](a, b), torch.nn.functional.mse_loss(a, b))


def test_lncc_ignores_local_gain_and_offset() -> None:
    image = torch.rand(1, 1, 16, 16, 16)
    assert SIMILARITY["lncc"](image, 0.5 - 0.4 * image, window=5) < 0.02


def test_lncc_is_the_mean_of_squared_local_correlations() -> None:
    a, b = np.random.default_rng(0).random((2, 14, 13))
    w, half = 5, 2
    mean = lambda x: uniform_filter(x, w)[half:-half, half:-half]  # noqa: E731
    cross = mean(a * b) - mean(a) * mean(b)
    variances = (mean(a * a) - mean(a) ** 2) * (mean(b * b) - mean(b) ** 2)
    expected = 1 - (cross**2 / (variances + 1e-5)).mean()
    ours = SIMILARITY["lncc"](torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None], window=w)
    assert ours.item() == pytest.approx(expected, abs=1e-5)


def test_lncc_leaves_out_the_background() -> None:
    image = torch.zeros(1, 1, 40, 40)
    image[..., 10:24, 10:24] = torch.rand(14, 14)
    padded = torch.nn.functional.pad(image, (30, 30, 30, 30))
    other = image.roll(2, -1)
    assert SIMILARITY["lncc"](padded, padded, window=5) < 0.02
    bare, wide = (
        SIMILARITY["lncc"](a, torch.nn.functional.pad(other, [(a.shape[-1] - 40) // 2] * 4), window=5)
        for a in (image, padded)
    )
    torch.testing.assert_close(bare, wide)


def test_box_mean_of_uneven_windows() -> None:
    x = torch.rand(1, 2, 9, 8, 7)
    expected = torch.nn.functional.avg_pool3d(x, (3, 4, 5), stride=1)
    torch.testing.assert_close(box_mean(x, (3, 4, 5)), expected)


def test_dice_of_hard_labels_and_of_empty_ones() -> None:
    a, b = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    a[0, 0, :2], b[0, 0, :1] = 1, 1  # 8 and 4 voxels, 4 shared; the second label is empty in both
    assert SIMILARITY["dice"](a, b).item() == pytest.approx(1 - (2 * 4 / 12 + 1) / 2, abs=1e-5)


def ramp(ndim: int, spacing: tuple[float, ...], n: int = 8) -> torch.Tensor:
    """Coordinates in mm (1, d, *shape)."""
    axes = [torch.arange(n, dtype=torch.float64) * s for s in spacing]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 2.0, 1.3), (1.0, 3.0)])
class TestRegularisers:
    def test_zero_field(self, spacing: tuple[float, ...]) -> None:
        for name, function in REGULARISERS.items():
            zero = torch.zeros(1, len(spacing), *[6] * len(spacing))
            assert function(zero, spacing).item() == 0, name

    def test_diffusion_of_a_stretch(self, spacing: tuple[float, ...]) -> None:
        x = ramp(len(spacing), spacing)
        field = torch.zeros_like(x)
        field[:, 0] = 0.1 * x[:, 0]
        assert REGULARISERS["diffusion"](field, spacing).item() == pytest.approx(0.01 / len(spacing) ** 2)

    def test_bending_of_quadratics_and_affines(self, spacing: tuple[float, ...]) -> None:
        x = ramp(len(spacing), spacing)
        d = len(spacing)
        field = torch.zeros_like(x)
        field[:, 0] = x[:, 0] ** 2 / 2
        assert REGULARISERS["bending"](field, spacing).item() == pytest.approx(1 / d)
        field[:, 0] = x[:, 0] * x[:, 1]
        assert REGULARISERS["bending"](field, spacing).item() == pytest.approx(2 / d)
        field[:, 0] = 3 * x[:, 0] - x[:, 1] + 2
        assert REGULARISERS["bending"](field, spacing).item() == pytest.approx(0, abs=1e-12)

    def test_bending_sees_a_checkerboard(self, spacing: tuple[float, ...]) -> None:
        index = ramp(len(spacing), (1.0,) * len(spacing)).sum(1, keepdim=True)
        field = ((-1) ** index).expand(-1, len(spacing), *[-1] * len(spacing))
        assert REGULARISERS["bending"](field, spacing) > 1

    def test_magnitude_is_in_mm(self, spacing: tuple[float, ...]) -> None:
        field = torch.ones(2, len(spacing), *[6] * len(spacing)) * 2
        assert REGULARISERS["magnitude"](field, spacing).item() == pytest.approx(4 * len(spacing))

    def test_gradients(self, spacing: tuple[float, ...]) -> None:
        field = torch.rand(1, len(spacing), *[4] * len(spacing), dtype=torch.float64, requires_grad=True)
        for function in REGULARISERS.values():
            assert torch.autograd.gradcheck(lambda f, call=function: call(f, spacing), field)


def test_centrality_estimates_the_squared_mean_without_bias() -> None:
    """Over all batches of two drawn with replacement, the mean is the cohort's own squared mean."""
    cohort = torch.randn(5, 2, 6, 7, dtype=torch.float64) + 0.3
    batches = [REGULARISERS["centrality"](cohort[[i, j]], (1.0, 1.0)) for i in range(5) for j in range(5)]
    expected = cohort.mean(0).square().sum(0).mean()
    torch.testing.assert_close(torch.stack(batches).mean(), expected)


def test_every_entry_has_a_docstring_and_defaults() -> None:
    for table, positional in ((SIMILARITY, 2), (REGULARISERS, 2)):
        for name, function in table.items():
            assert function.__doc__, name
            parameters = list(inspect.signature(function).parameters.values())
            assert all(p.default is not p.empty for p in parameters[positional:]), name


@pytest.mark.parametrize("shape", SHAPES)
def test_pair_weighs_its_terms_and_is_symmetric(shape: tuple[int, ...]) -> None:
    """Swapping template and image and turning the velocity round changes nothing but the mask's part."""
    a, b = torch.rand(1, 1, *shape), torch.rand(1, 1, *shape)
    mask = torch.ones_like(a)
    velocity = 0.3 * torch.randn(1, len(shape), *[-(-n // 2) for n in shape])
    spacing = (2.0,) * len(shape)

    def terms(weight: float, x: torch.Tensor, y: torch.Tensor, v: torch.Tensor) -> dict[str, torch.Tensor]:
        judged = pair(
            x,
            y,
            mask,
            v,
            squarings=5,
            velocity_spacing=spacing,
            similarity={"mse": {"weight": weight}},
            regularisation={"diffusion": {"weight": 0.1}, "centrality": {"weight": 1.0}},
        )
        assert judged.loss.item() == pytest.approx(sum(t.item() for t in judged.terms.values()))
        return judged.terms

    one = terms(1.0, a, b, velocity)
    assert set(one) == {"mse", "diffusion"}
    assert terms(2.0, a, b, velocity)["mse"].item() == pytest.approx(2 * one["mse"].item())
    assert terms(1.0, a, a, 0 * velocity)["mse"].item() < 1e-9
