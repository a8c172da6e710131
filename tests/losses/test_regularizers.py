"""Every regularizer under common tests, then closed forms and references of single ones."""

import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from atlasmith.core.fields import exponentiate
from atlasmith.losses import REGULARIZERS
from atlasmith.training.batches import draw_batch, pair_dependence

PLANE, SPACE = (1.5, 0.8), (0.7, 2.0, 1.3)
SPACINGS = [PLANE, SPACE]
ONE_FIELD = ("diffusion", "tv", "tv_isotropic", "bending", "elastic", "sobolev", "magnitude")
ONE_MAP = ("folding", "log_jacobian", "hyperelastic")
TWO_MAPS = ("inverse_consistency", "gradicon", "cycle")
NAMES = (*ONE_FIELD, *ONE_MAP, *TWO_MAPS, "kl", "centrality")
WEIGHTED = [n for n in NAMES if "voxel_weight" in inspect.signature(REGULARIZERS[n].function).parameters]
# Settings with which `folding` is above 0 for a field without folds.
SETTINGS = {"folding": {"threshold": 1.0}, "elastic": {"lam": 0.7}, "sobolev": {"power": 1.5}}


def compute(name: str, inputs: dict[str, Tensor], spacing: tuple[float, ...], **settings: object) -> Tensor:
    """The regularizer of those of `inputs` that it needs."""
    regularizer = REGULARIZERS[name]
    inputs = {"pair_dependence": 0.0, **inputs}  # type: ignore[dict-item]
    needed = {key: inputs[key] for key in regularizer.needs}
    value = regularizer(**needed, spacing=spacing, **settings)
    assert value.shape == ()
    return value


def of_field(name: str, field: Tensor, spacing: tuple[float, ...], **settings: object) -> float:
    """The regularizer of one field, as velocity or displacement."""
    return compute(name, {"velocity": field, "forward": field}, spacing, **settings).item()


def size(spacing: tuple[float, ...]) -> Tensor:
    return torch.tensor(spacing, dtype=torch.float64).view(1, -1, *[1] * len(spacing))


def coordinates_mm(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Tensor:
    """Coordinates in mm (1, d, *shape)."""
    axes = [torch.arange(n, dtype=torch.float64) * s for n, s in zip(shape, spacing, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def grid(spacing: tuple[float, ...], n: int = 6) -> Tensor:
    return coordinates_mm((n,) * len(spacing), spacing)


def linear(matrix: np.ndarray, x: Tensor) -> Tensor:
    return torch.einsum("ca,ba...->bc...", torch.as_tensor(matrix, dtype=x.dtype), x)


def noise(spacing: tuple[float, ...], batch: int = 2, n: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Rough inputs, away from kinks: displacements of parts of a voxel, almost inverse to each other."""
    random = torch.Generator().manual_seed(seed)
    d, shape = len(spacing), (n, n + 1, n)[: len(spacing)]

    def draw(channels: int) -> Tensor:
        return torch.randn(batch, channels, *shape, dtype=torch.float64, generator=random)

    return {
        "velocity": draw(d),
        "forward": (0.3 + 0.04 * draw(d)) * size(spacing),
        "inverse": (-0.2 + 0.04 * draw(d)) * size(spacing),
        "fixed": draw(1),
        "log_variance": draw(d),
    }


def zeros(spacing: tuple[float, ...], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Zero fields, and an image that isn't constant."""
    return {
        key: (value if key == "fixed" else torch.zeros_like(value)).to(dtype)
        for key, value in noise(spacing).items()
    }


@pytest.mark.parametrize("spacing", SPACINGS)
class TestEach:
    @pytest.mark.parametrize("name", [n for n in NAMES if n != "kl"])
    def test_identity_costs_nothing(self, name: str, spacing: tuple[float, ...]) -> None:
        inputs = zeros(spacing)
        for key in ("velocity", "forward", "inverse"):
            inputs[key].requires_grad_()
        value = compute(name, inputs, spacing)
        # Rounding of the coordinates at which the image is sampled.
        assert value.item() == pytest.approx(0, abs=1e-6 if name == "cycle" else 0)
        value.backward()
        for key in ("velocity", "forward", "inverse"):
            gradient = inputs[key].grad
            assert gradient is None or torch.isfinite(gradient).all()

    @pytest.mark.parametrize("name", [n for n in NAMES if n not in ("kl", "centrality")])
    def test_rough_fields_cost(self, name: str, spacing: tuple[float, ...]) -> None:
        assert compute(name, noise(spacing), spacing, **SETTINGS.get(name, {})) > 1e-3

    @pytest.mark.parametrize("name", NAMES)
    def test_gradient(self, name: str, spacing: tuple[float, ...]) -> None:
        inputs = noise(spacing)
        needed = [key for key in REGULARIZERS[name].needs if key in inputs]
        values = [inputs[key].requires_grad_() for key in needed]

        def call(*tensors: Tensor) -> Tensor:
            named = dict(zip(needed, tensors, strict=True))
            return compute(name, named, spacing, **SETTINGS.get(name, {}))

        assert torch.autograd.gradcheck(call, values, fast_mode=True)

    @pytest.mark.parametrize("name", [n for n in NAMES if n != "centrality"])
    def test_batch_is_the_mean_of_singles(self, name: str, spacing: tuple[float, ...]) -> None:
        inputs = noise(spacing, batch=3)
        inputs["inverse"][0] *= 4  # so that images differ in how much of them stays inside
        singles = [
            compute(name, {k: v[i : i + 1] for k, v in inputs.items()}, spacing, **SETTINGS.get(name, {}))
            for i in range(3)
        ]
        torch.testing.assert_close(
            compute(name, inputs, spacing, **SETTINGS.get(name, {})), torch.stack(singles).mean()
        )

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_summed_in_single(
        self, name: str, dtype: torch.dtype, spacing: tuple[float, ...]
    ) -> None:
        inputs = {key: value.to(dtype) for key, value in noise(spacing).items()}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = compute(name, inputs, spacing, **SETTINGS.get(name, {}))
        assert value.dtype == torch.float32
        doubles = {key: value.double() for key, value in inputs.items()}
        double = compute(name, doubles, spacing, **SETTINGS.get(name, {}))
        assert value.item() == pytest.approx(double.item(), rel=1e-4, abs=1e-6)

    @pytest.mark.parametrize("name", WEIGHTED)
    def test_constant_weight_is_a_factor(self, name: str, spacing: tuple[float, ...]) -> None:
        inputs = noise(spacing)
        plain = compute(name, inputs, spacing, **SETTINGS.get(name, {}))
        for batch in (1, 2):
            weight = torch.full_like(inputs["fixed"][:batch], 0.3)
            scaled = compute(name, inputs, spacing, **SETTINGS.get(name, {}), voxel_weight=weight)
            torch.testing.assert_close(scaled, 0.3 * plain)

    @pytest.mark.parametrize("name", WEIGHTED)
    def test_weight_is_local(self, name: str, spacing: tuple[float, ...]) -> None:
        """The cost is additive in the weight; changes where the weight is zero don't change it."""
        inputs = noise(spacing, n=9)
        left = torch.zeros_like(inputs["fixed"])
        left[:, :, :5] = torch.rand(left[:, :, :5].shape, dtype=left.dtype)
        settings = SETTINGS.get(name, {})
        part, rest, total = (
            compute(name, inputs, spacing, **settings, voxel_weight=w) for w in (left, 1 - left, None)
        )
        torch.testing.assert_close(part + rest, total)
        changed = {key: value.clone() for key, value in inputs.items()}
        for key in ("velocity", "forward", "inverse"):
            changed[key][:, :, 7:] *= 0.9
        torch.testing.assert_close(compute(name, changed, spacing, **settings, voxel_weight=left), part)

    @pytest.mark.parametrize("name", NAMES)
    def test_one_slice_is_finite(self, name: str, spacing: tuple[float, ...]) -> None:
        slices = {key: value[:, :, :1] for key, value in noise(spacing).items()}
        assert torch.isfinite(compute(name, slices, spacing))


@pytest.mark.parametrize("grids", [((40, 50), (70, 60)), ((24, 28, 26), (34, 30, 32))])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("centrality", "cycle")])
def test_cost_is_independent_of_the_grid(name: str, grids: tuple[tuple[int, ...], ...]) -> None:
    """The same field in mm has the same cost on any grid."""
    extent = 24.0

    def sampled(shape: tuple[int, ...]) -> float:
        spacing = tuple(extent / n for n in shape)
        x = coordinates_mm(shape, spacing) + size(spacing) / 2
        bump = (math.pi / extent * x).sin().prod(dim=1, keepdim=True).square()
        field = 0.8 * bump * (x / 4).cos()
        inputs = {"velocity": field, "forward": field, "inverse": field / 2}
        inputs["log_variance"] = torch.zeros_like(field)
        value = compute(name, inputs, spacing, **SETTINGS.get(name, {}))
        if name == "kl":  # less the part of the variance, which depends on the density of the voxels
            value = value - compute(name, inputs | {"velocity": 0 * field}, spacing)
        return value.item()

    coarse, fine = map(sampled, grids)
    assert coarse == pytest.approx(fine, rel=0.05) and fine > 1e-4


@pytest.mark.parametrize("spacing", SPACINGS)
class TestClosedForms:
    def test_stretch_along_one_axis(self, spacing: tuple[float, ...]) -> None:
        d, x = len(spacing), grid(spacing)
        field = torch.zeros_like(x)
        field[:, 1] = -0.1 * x[:, 1]
        assert of_field("diffusion", field, spacing) == pytest.approx(0.01 / d**2)
        assert of_field("tv", field, spacing) == pytest.approx(0.1 / d**2)
        assert of_field("tv_isotropic", field, spacing) == pytest.approx(0.1, rel=1e-4)
        assert of_field("elastic", field, spacing, mu=2, lam=3) == pytest.approx(0.035)
        assert of_field("log_jacobian", field, spacing) == pytest.approx(-math.log(0.9))
        assert of_field("hyperelastic", field, spacing, length=2, volume=3) == pytest.approx(
            2 * 0.01 + 3 * 0.1**4 / 0.9**2
        )
        assert of_field("folding", field, spacing, threshold=1) == pytest.approx(0.1)
        assert of_field("folding", field, spacing, threshold=1, corners=0, power=2) == pytest.approx(0.01)

    @pytest.mark.parametrize("scale", [0.5, 0.9, 1.5])
    def test_uniform_scaling(self, spacing: tuple[float, ...], scale: float) -> None:
        d, a = len(spacing), scale - 1
        field = a * grid(spacing)
        assert of_field("elastic", field, spacing, mu=2, lam=3) == pytest.approx(a**2 * (2 * d + 1.5 * d**2))
        assert of_field("log_jacobian", field, spacing) == pytest.approx(d * abs(math.log(scale)))
        volume = scale**d
        assert of_field("hyperelastic", field, spacing, length=0) == pytest.approx(
            (volume - 1) ** 4 / volume**2
        )
        for corners in (0, 1):
            value = of_field("folding", field, spacing, threshold=2, corners=corners)
            assert value == pytest.approx(max(2 - volume, 0))

    def test_linear_field(self, spacing: tuple[float, ...]) -> None:
        d = len(spacing)
        matrix = np.random.default_rng(1).normal(size=(d, d)) / 5
        field = linear(matrix, grid(spacing))
        determinant = np.linalg.det(np.eye(d) + matrix)
        strain = (matrix + matrix.T) / 2
        assert of_field("tv", field, spacing) == pytest.approx(np.abs(matrix).mean())
        assert of_field("tv_isotropic", field, spacing) == pytest.approx(np.linalg.norm(matrix), rel=1e-4)
        assert of_field("bending", field, spacing) == pytest.approx(0, abs=1e-12)
        assert of_field("elastic", field, spacing, lam=3) == pytest.approx(
            (strain**2).sum() + 1.5 * np.trace(strain) ** 2
        )
        assert of_field("log_jacobian", field, spacing) == pytest.approx(abs(np.log(determinant)))
        for corners in (0, 1):
            value = of_field("folding", field, spacing, threshold=2, corners=corners)
            assert value == pytest.approx(2 - determinant)

    def test_reflection_and_collapse(self, spacing: tuple[float, ...]) -> None:
        """J = -1 and J = 0, where the formulas are undefined: the tangents continue, with a gradient."""
        for stretch, determinant in ((-2.0, -1.0), (-1.0, 0.0)):
            field = torch.zeros_like(grid(spacing))
            field[:, 0] = stretch * grid(spacing)[:, 0]
            expected = abs(math.log(0.2) + (determinant - 0.2) / 0.2)
            assert of_field("log_jacobian", field, spacing, floor=0.2) == pytest.approx(expected)
            slope = -2 * 0.8**3 * 1.2 / 0.2**3
            expected = 0.8**4 / 0.2**2 + slope * (determinant - 0.2)
            assert of_field("hyperelastic", field, spacing, length=0, floor=0.2) == pytest.approx(expected)
            for name in ONE_MAP:
                worse, better = (
                    of_field(name, (1 + e) * field, spacing, **SETTINGS.get(name, {})) for e in (1e-3, 0)
                )
                assert worse > better, name

    def test_tangents_join_smoothly(self, spacing: tuple[float, ...]) -> None:
        x = grid(spacing)[:, :1]
        for name in ("log_jacobian", "hyperelastic"):
            stretches = torch.tensor([-0.8 - 1e-9, -0.8 + 1e-9], dtype=torch.float64, requires_grad=True)
            for stretch in stretches:
                field = torch.cat([stretch * x, x.expand(-1, len(spacing) - 1, *x.shape[2:]) * 0], dim=1)
                compute(name, {"forward": field}, spacing, floor=0.2).backward()
            assert stretches.grad is not None
            assert stretches.grad[0].item() == pytest.approx(stretches.grad[1].item(), rel=1e-6)

    def test_bending_of_quadratics(self, spacing: tuple[float, ...]) -> None:
        d, x = len(spacing), grid(spacing)
        field = torch.zeros_like(x)
        field[:, 0] = x[:, 0] ** 2 / 2
        assert of_field("bending", field, spacing) == pytest.approx(1 / d)
        field[:, 0] = x[:, 0] * x[:, 1]
        assert of_field("bending", field, spacing) == pytest.approx(2 / d)

    def test_rotations(self, spacing: tuple[float, ...]) -> None:
        d, x = len(spacing), grid(spacing)
        matrix = np.random.default_rng(0).normal(size=(d, d))
        spin = matrix - matrix.T
        assert of_field("elastic", linear(spin, x), spacing, lam=1) == pytest.approx(0, abs=1e-12)
        rotation = torch.linalg.matrix_exp(torch.from_numpy(spin)).numpy()
        assert of_field("log_jacobian", linear(rotation - np.eye(d), x), spacing) == pytest.approx(
            0, abs=1e-9
        )
        field = noise(spacing)["velocity"]
        turned = of_field("tv_isotropic", linear(rotation, field), spacing)
        assert turned == pytest.approx(of_field("tv_isotropic", field, spacing))
        mirrored = of_field("tv_isotropic", field.transpose(2, 3), (spacing[1], spacing[0], *spacing[2:]))
        assert mirrored == pytest.approx(of_field("tv_isotropic", field, spacing))

    @pytest.mark.parametrize("name", [n for n in (*ONE_FIELD, *ONE_MAP) if n != "folding"])
    def test_checkerboards_have_a_cost(self, name: str, spacing: tuple[float, ...]) -> None:
        parity = grid((1.0,) * len(spacing)).sum(dim=1, keepdim=True)
        field = (0.2 * (-1) ** parity).expand(-1, len(spacing), *parity.shape[2:])
        assert of_field(name, field, spacing) > 0.01

    def test_magnitude_is_in_mm(self, spacing: tuple[float, ...]) -> None:
        assert of_field("magnitude", torch.full((2, len(spacing), *[5] * len(spacing)), 2.0), spacing) == (
            pytest.approx(4 * len(spacing))
        )

    def test_shifts_that_are_not_inverse(self, spacing: tuple[float, ...]) -> None:
        shift = torch.full_like(grid(spacing), 0.5)
        inputs = {"forward": shift, "inverse": torch.full_like(shift, -0.2)}
        assert compute("inverse_consistency", inputs, spacing).item() == pytest.approx(0.09 * len(spacing))
        assert compute("gradicon", inputs, spacing).item() == pytest.approx(0, abs=1e-12)
        inputs["fixed"] = 2 * grid(spacing)[:, :1]
        assert compute("cycle", inputs, spacing).item() == pytest.approx(2 * 0.3)

    def test_gradicon_of_two_stretches(self, spacing: tuple[float, ...]) -> None:
        x = grid(spacing, n=8)
        centered = x - x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
        # No displacement leads out of the image.
        inputs = {"forward": -0.2 * centered, "inverse": -0.1 * centered}
        expected = len(spacing) * (0.8 * 0.9 - 1) ** 2
        assert compute("gradicon", inputs, spacing).item() == pytest.approx(expected)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_sobolev_is_a_laplacian_on_the_mirrored_field(spacing: tuple[float, ...]) -> None:
    field = noise(spacing)["velocity"]
    assert of_field("sobolev", field, spacing, alpha=0) == pytest.approx(
        of_field("magnitude", field, spacing)
    )
    bent = 0.5 * field
    for axis, step in enumerate(spacing, start=2):
        first, last = field.narrow(axis, 0, 1), field.narrow(axis, -1, 1)
        bent -= 2 * torch.cat([first, field, last], dim=axis).diff(n=2, dim=axis) / step**2
    once = of_field("sobolev", field, spacing, alpha=2, gamma=0.5)
    assert once == pytest.approx(of_field("magnitude", bent, spacing))
    twice = of_field("sobolev", field, spacing, alpha=2, gamma=0.5, power=2)
    assert twice == pytest.approx(of_field("sobolev", bent, spacing, alpha=2, gamma=0.5))


def test_folding_finds_a_fold_that_central_differences_miss() -> None:
    """The example of Liu et al. 2024: the middle one of 3 x 3 voxels is moved to (0, 2)."""
    field = torch.zeros(1, 2, 3, 3)
    field[0, :, 1, 1] = torch.tensor([-1.0, 1.0])
    field = field * size(PLANE).float()
    # The triangle at the middle voxel, in the cell that it is moved across, has determinant -1.
    assert of_field("folding", field, PLANE) == pytest.approx(1 / 16)
    middle = torch.zeros(1, 1, 3, 3)
    middle[..., 1, 1] = 9
    assert of_field("folding", field, PLANE, corners=0, voxel_weight=middle) == 0
    assert of_field("folding", field, PLANE, threshold=3, corners=0, voxel_weight=middle) == pytest.approx(
        3 - 1
    )


def test_folding_finds_a_fold_of_a_central_tetrahedron_alone() -> None:
    field = torch.zeros(1, 3, 2, 2, 2)
    field[0, :, 0, 1, 1] = torch.tensor([1.0, 0.5, 0.0])
    field[0, :, 1, 0, 1] = torch.tensor([-0.5, 0.0, 0.5])
    field[0, :, 1, 1, 0] = torch.tensor([-0.5, 1.0, 0.0])
    sides = torch.eye(3).add(1).fill_diagonal_(0) + torch.tensor([[1, 0.5, 0], [-0.5, 0, 0.5], [-0.5, 1, 0]])
    determinant = torch.linalg.det(sides).item() / 2  # the tetrahedron's is 2 where nothing moves
    assert determinant == pytest.approx(-0.4375)
    # It is weighted by its volume, a sixth of all ten.
    assert of_field("folding", field * size(SPACE).float(), SPACE) == pytest.approx(0.4375 / 6)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_inverse_maps_cost_little(spacing: tuple[float, ...]) -> None:
    shape = (24, 28) if len(spacing) == 2 else (14, 15, 16)
    x = coordinates_mm(shape, (1.0,) * len(shape))
    extent = torch.tensor(shape, dtype=x.dtype).view(1, -1, *[1] * len(shape)) - 1
    bump = (math.pi * x / extent).sin().prod(dim=1, keepdim=True)
    velocity = 1.5 * bump.expand(-1, len(shape), *shape)
    maps = exponentiate(torch.cat([velocity, -velocity]), 7) * size(spacing)
    inputs = {"forward": maps[:1], "inverse": maps[1:], "fixed": bump}
    for name in TWO_MAPS:
        apart = compute(name, inputs | {"inverse": 0 * maps[1:]}, spacing)
        assert compute(name, inputs, spacing) < 0.03 * apart, name


def test_cycle_omits_voxels_that_leave_the_image() -> None:
    image = torch.arange(6.0).expand(1, 1, 5, 6)
    forward = torch.zeros(1, 2, 5, 6)
    forward[:, 1] = 2 * PLANE[1]
    inputs = {"fixed": image, "forward": forward, "inverse": 0 * forward}
    assert compute("cycle", inputs, PLANE).item() == pytest.approx(2, abs=1e-5)
    far = inputs | {"forward": 100 * forward}
    assert compute("cycle", far, PLANE).item() == 0


@pytest.mark.parametrize("spacing", SPACINGS)
def test_kl_is_the_divergence_of_gaussians(spacing: tuple[float, ...]) -> None:
    """Up to a constant, of dense Gaussians."""
    shape, prior = ((3, 4), 7.0) if len(spacing) == 2 else ((3, 2, 2), 7.0)
    count = math.prod(shape)
    index = np.arange(count).reshape(shape)
    laplacian = np.zeros((count, count))
    for axis, step in enumerate(spacing):
        ahead = np.moveaxis(index, axis, 0)
        for i, j in zip(ahead[:-1].ravel(), ahead[1:].ravel(), strict=True):
            laplacian[[i, j], [i, j]] += 1 / step**2
            laplacian[[i, j], [j, i]] -= 1 / step**2
    # The Laplacian of a shift is zero; a small multiple of the identity makes it a proper precision.
    precision = torch.from_numpy(prior * laplacian + 1e-7 * np.eye(count))
    expected = torch.distributions.MultivariateNormal(
        torch.zeros(count, dtype=torch.float64), precision_matrix=precision
    )
    random = torch.Generator().manual_seed(0)
    gaps = []
    for _ in range(3):
        mean, log_variance = torch.randn(2, len(spacing), *shape, dtype=torch.float64, generator=random)
        dense = sum(
            torch.distributions.kl_divergence(
                torch.distributions.MultivariateNormal(m.flatten(), s.flatten().exp().diag()), expected
            )
            for m, s in zip(mean, log_variance, strict=True)
        )
        ours = REGULARIZERS["kl"](mean[None], log_variance[None], spacing, prior=prior)
        gaps.append(float(dense) / count - ours.item())
    assert np.ptp(gaps) < 1e-5


@pytest.mark.parametrize("spacing", SPACINGS)
def test_kl_is_minimal_at_the_variance_of_the_prior(spacing: tuple[float, ...]) -> None:
    shape = (5,) * len(spacing)
    log_variance = torch.zeros(1, len(spacing), *shape, dtype=torch.float64, requires_grad=True)
    REGULARIZERS["kl"](torch.zeros_like(log_variance), log_variance, spacing).backward()
    degree = sum(2 / step**2 for step in spacing)
    middle = (0, 0, *[2] * len(spacing))
    assert log_variance.grad is not None
    assert log_variance.grad[middle].item() == pytest.approx((25 * degree - 1) / 2 / math.prod(shape))


def centrality(fields: Tensor, dependence: float = 0.0) -> Tensor:
    return compute("centrality", {"forward": fields, "pair_dependence": dependence}, PLANE)  # type: ignore[dict-item]


def test_centrality_is_unbiased_for_independent_subjects() -> None:
    """Over all batches of two drawn with replacement, the mean is the cohort's own squared mean."""
    cohort = torch.randn(5, 2, 6, 7, dtype=torch.float64) + 0.3
    batches = [centrality(cohort[[i, j]]) for i in range(5) for j in range(5)]
    torch.testing.assert_close(torch.stack(batches).mean(), cohort.mean(0).square().sum(0).mean())
    torch.testing.assert_close(centrality(cohort[:1]), REGULARIZERS["magnitude"](cohort[:1], PLANE))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_centrality_is_unbiased_without_replacement(size: int) -> None:
    """Over all batches of different subjects, the mean is the cohort's own squared mean, whatever it is."""
    noise = torch.randn(5, 2, 6, 7, dtype=torch.float64)
    for cohort in (noise + 0.3, noise - noise.mean(0)):
        chosen = list(itertools.combinations(range(5), size))
        batches = torch.stack([centrality(cohort[list(indices)], 1 / 4) for indices in chosen])
        torch.testing.assert_close(batches.mean(), cohort.mean(0).square().sum(0).mean())
        uncorrected = torch.stack([centrality(cohort[list(indices)]) for indices in chosen]).mean()
        spread = (cohort - cohort.mean(0)).square().sum(1).mean()
        torch.testing.assert_close(uncorrected, batches.mean() - spread / 4)


@pytest.mark.parametrize(("subjects", "batch"), [(20, 4), (7, 4), (3, 4)])
def test_centrality_is_unbiased_as_training_draws(subjects: int, batch: int) -> None:
    """Batches may span two passes over the cohort. The template is exactly central."""
    cohort = torch.randn(subjects, 2, 8, 8, dtype=torch.float64)
    cohort -= cohort.mean(0)
    found, uncorrected = (
        torch.stack(
            [centrality(cohort[draw_batch(0, subjects, batch, step)], weight(step)) for step in range(1500)]
        )
        for weight in (lambda step: pair_dependence(subjects, batch, step), lambda step: 0.0)
    )
    error = found.std() / len(found) ** 0.5
    assert abs(found.mean()) < 4 * error
    assert uncorrected.mean() < -8 * error
