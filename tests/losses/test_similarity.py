"""Every similarity under common tests, then references and closed forms of single ones."""

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss, GlobalMutualInformationLoss, LocalNormalizedCrossCorrelationLoss
from scipy.ndimage import uniform_filter
from skimage import metrics
from torch.nn.functional import avg_pool3d, grid_sample, mse_loss, pad

from atlasmith.losses import SIMILARITY
from atlasmith.losses.similarity.filters import BoxWindows, box_mean, gaussian_blur, gaussian_mean
from atlasmith.losses.similarity.histogram import bspline_counts
from atlasmith.losses.similarity.structure import mind_ssc

Shape = tuple[int, ...]
SHAPES = [(21, 19), (14, 13, 15)]
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]

# Similarities that aren't 0 for identical images; they are still lower than for others.
NOT_ZERO = {"mi", "nmi", "lmi", "ngf"}
# The value for a constant image, for similarities that are defined by statistical dependence.
OF_CONSTANTS = {
    "pcc": 1,
    "lncc": 1,
    "lncc_gaussian": 1,
    "lncc_multiscale": 1,
    "mi": 0,
    "nmi": 1,
    "lmi": 0,
    "cr": 1,
    "lcr": 1,
    "ngf": 1,
}
# Similarities that are invariant to gain and offset, and to inversion too.
INVARIANT = {
    "gain": [
        "pcc",
        "lncc",
        "lncc_gaussian",
        "lncc_multiscale",
        "mind",
        "mi",
        "nmi",
        "lmi",
        "cr",
        "lcr",
        "ngf",
    ],
    "inversion": ["lncc", "lncc_gaussian", "lncc_multiscale", "mind", "mi", "nmi", "lmi", "cr", "lcr", "ngf"],
}


def blobs(shape: Shape, batch: int = 2, seed: int = 0) -> torch.Tensor:
    """Smooth random images (batch, 1, *shape) in double precision, each from 0 to 1."""
    noise = torch.randn(batch, 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    smooth = gaussian_blur(noise, 1.3)
    low, high = (
        x.view(-1, *[1] * (smooth.ndim - 1)) for x in (smooth.flatten(1).amin(1), smooth.flatten(1).amax(1))
    )
    return (smooth - low) / (high - low)


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
@pytest.mark.parametrize("name", SIMILARITY)
class TestEach:
    def test_best_at_identity(self, name: str, shape: Shape) -> None:
        similarity = SIMILARITY[name]
        fixed, other = blobs(shape), blobs(shape, seed=1)
        same, shifted, unlike = (
            similarity(fixed, fixed),
            similarity(fixed, fixed.roll(1, 2)),
            similarity(fixed, other),
        )
        if name not in NOT_ZERO:
            assert same.item() == pytest.approx(0, abs=0.05)
        assert same < shifted < unlike

    def test_symmetric(self, name: str, shape: Shape) -> None:
        fixed, moved = blobs(shape), blobs(shape, seed=1)
        torch.testing.assert_close(SIMILARITY[name](fixed, moved), SIMILARITY[name](moved, fixed))

    def test_gradient(self, name: str, shape: Shape) -> None:
        fixed, moved = blobs(shape, 1), blobs(shape, 1, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(lambda m: SIMILARITY[name](fixed, m), moved, fast_mode=True)

    def test_values_outside_the_mask_have_no_effect(self, name: str, shape: Shape) -> None:
        fixed, moved = blobs(shape), blobs(shape, seed=1)
        mask = torch.ones_like(fixed)
        mask[:, :, :3] = 0
        changed = moved.clone()
        changed[:, :, :3] += 5
        similarity = SIMILARITY[name]
        torch.testing.assert_close(similarity(fixed, moved, mask), similarity(fixed, changed, mask))
        torch.testing.assert_close(similarity(fixed, moved, torch.ones_like(mask)), similarity(fixed, moved))
        assert not torch.isclose(similarity(fixed, changed), similarity(fixed, moved))

    def test_a_batch_is_its_subjects(self, name: str, shape: Shape) -> None:
        fixed, moved = blobs(shape, 3), blobs(shape, 3, seed=1)
        moved[2] *= 0.3
        together = SIMILARITY[name](fixed, moved, reduction="none")
        alone = [SIMILARITY[name](fixed[[i]], moved[[i]]) for i in range(3)]
        torch.testing.assert_close(together, torch.stack(alone))
        torch.testing.assert_close(SIMILARITY[name](fixed, moved), together.mean())

    @pytest.mark.parametrize("value", [0.0, 0.7])
    def test_constant_images_and_empty_masks_are_defined(self, name: str, shape: Shape, value: float) -> None:
        constant = torch.full((1, 1, *shape), value, requires_grad=True)
        image = blobs(shape, 1).float()
        loss = SIMILARITY[name](constant, constant)
        assert loss.item() == pytest.approx(OF_CONSTANTS.get(name, 0), abs=1e-3)
        against, empty = SIMILARITY[name](image, constant), SIMILARITY[name](image, constant, 0 * image)
        if name in OF_CONSTANTS:
            assert against.item() == pytest.approx(OF_CONSTANTS[name], abs=1e-3)
        assert torch.isfinite(empty)
        (loss + against + empty).backward()
        assert torch.isfinite(constant.grad).all()

    def test_invariance(self, name: str, shape: Shape) -> None:
        fixed, moved = blobs(shape), blobs(shape, seed=1)
        for change, changed in (("gain", 0.01 * moved + 3), ("inversion", 1 - moved)):
            equal = torch.isclose(SIMILARITY[name](fixed, changed), SIMILARITY[name](fixed, moved), rtol=1e-3)
            assert equal == (name in INVARIANT[change]), change

    @pytest.mark.parametrize("device", DEVICES)
    def test_low_precision_is_summed_in_high(self, name: str, shape: Shape, device: str) -> None:
        fixed, moved = blobs(shape).float().to(device), blobs(shape, seed=1).float().to(device)
        expected = SIMILARITY[name](fixed.bfloat16().float(), moved.bfloat16().float())
        with torch.autocast(device, dtype=torch.bfloat16):
            found = SIMILARITY[name](fixed.bfloat16(), moved.bfloat16())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected)

    def test_shapes_that_differ_are_refused(self, name: str, shape: Shape) -> None:
        with pytest.raises(ValueError, match="of one shape"):
            SIMILARITY[name](blobs(shape), blobs(shape)[:, :, 1:])
        with pytest.raises(ValueError, match="'mean' or 'none'"):
            SIMILARITY[name](blobs(shape), blobs(shape), reduction="sum")


SIZE = 48
REMAPS = {
    "same": lambda x: x,
    "inverted": lambda x: 1 - x,
    "remapped": lambda x: torch.cos(5 * x) / 2 + 0.5,
}
ACROSS_CONTRASTS = ["mi", "nmi", "cr", "mind", "ngf"]


class TestRecovery:
    """A known smooth displacement is recovered by descent on a coarse one."""

    def image(self) -> torch.Tensor:
        noise = torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
        smooth = gaussian_blur(noise, 3.0)
        return (smooth - smooth.amin()) / (smooth.amax() - smooth.amin())

    def warp(self, image: torch.Tensor, control: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shift = torch.nn.functional.interpolate(
            control, size=image.shape[2:], mode="bicubic", align_corners=True
        )
        axis = torch.linspace(-1, 1, SIZE)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)[None]
        points = grid + shift.movedim(1, -1) * 2 / (SIZE - 1)
        return grid_sample(image, points.flip(-1), align_corners=True, padding_mode="border"), shift

    def error(self, name: str, contrast: str) -> float:
        """Mean error of the displacement, relative to the mean length of the true one."""
        true_control = 2.5 * torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(4))
        moving = self.image()
        target, truth = self.warp(moving, true_control)
        target = REMAPS[contrast](target)
        control = torch.zeros_like(true_control).requires_grad_()
        optimizer = torch.optim.Adam([control], lr=0.15)
        for _ in range(120):
            moved, shift = self.warp(moving, control)
            loss = SIMILARITY[name](target, moved)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(
            (shift - truth)[..., 6:-6, 6:-6].norm(dim=1).mean() / truth[..., 6:-6, 6:-6].norm(dim=1).mean()
        )

    @pytest.mark.parametrize("name", SIMILARITY)
    def test_same_contrast(self, name: str) -> None:
        assert self.error(name, "same") < 0.3

    @pytest.mark.parametrize("name", INVARIANT["inversion"])
    def test_inverted_contrast(self, name: str) -> None:
        assert self.error(name, "inverted") < 0.3

    @pytest.mark.parametrize("name", ACROSS_CONTRASTS)
    def test_remapped_contrast(self, name: str) -> None:
        assert self.error(name, "remapped") < 0.4

    @pytest.mark.parametrize("name", ["mse", "mae", "pcc", "ssim"])
    def test_inversion_is_not_recovered_without_invariance(self, name: str) -> None:
        assert self.error(name, "inverted") > 0.6


def test_mse_is_torchs() -> None:
    a, b = torch.rand(2, 1, 5, 6), torch.rand(2, 1, 5, 6)
    torch.testing.assert_close(SIMILARITY["mse"](a, b), mse_loss(a, b))


def test_pcc_is_numpys() -> None:
    a, b = blobs((9, 8), 1), blobs((9, 8), 1, seed=1)
    expected = 1 - np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert SIMILARITY["pcc"](a, b).item() == pytest.approx(expected)


def test_lncc_is_the_mean_of_squared_local_correlations() -> None:
    a, b = np.random.default_rng(0).random((2, 14, 13))
    w, half = 5, 2
    mean = lambda x: uniform_filter(x, w)[half:-half, half:-half]  # noqa: E731
    cross = mean(a * b) - mean(a) * mean(b)
    variances = (mean(a * a) - mean(a) ** 2) * (mean(b * b) - mean(b) ** 2)
    expected = 1 - (cross**2 / (variances + 1e-3 * a.var() * b.var())).mean()
    ours = SIMILARITY["lncc"](torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None], window=w)
    assert ours.item() == pytest.approx(expected, abs=1e-9)


def test_lncc_omits_the_background() -> None:
    image = torch.zeros(1, 1, 60, 60)
    image[..., 20:40, 20:40] = torch.rand(20, 20, generator=torch.Generator().manual_seed(0))
    assert SIMILARITY["lncc"](image, image, window=5) < 0.02
    assert SIMILARITY["lncc"](image, image, window=5, compat="voxelmorph") > -0.3


def survey_lncc(a: torch.Tensor, b: torch.Tensor, w: int = 9) -> float:
    """Zero-padded sums by a convolution with ones."""
    kernel = torch.ones(1, 1, w, w, w, dtype=a.dtype)
    sums = [torch.nn.functional.conv3d(x, kernel, padding=w // 2) for x in (a, b, a * a, b * b, a * b)]
    n = w**3
    cross = sums[4] - sums[0] * sums[1] / n
    return -float((cross**2 / ((sums[2] - sums[0] ** 2 / n) * (sums[3] - sums[1] ** 2 / n) + 1e-5)).mean())


def test_lncc_of_voxelmorph() -> None:
    a, b = blobs((14, 13, 15), 1), blobs((14, 13, 15), 1, seed=1)
    assert SIMILARITY["lncc"](a, b, compat="voxelmorph").item() == pytest.approx(survey_lncc(a, b), abs=1e-8)


class TestMonai:
    def pair(self, shape: Shape = (14, 13, 15)) -> tuple[torch.Tensor, torch.Tensor]:
        return blobs(shape).float(), blobs(shape, seed=1).float()

    @pytest.mark.parametrize("window", [3, 9])
    def test_lncc(self, window: int) -> None:
        a, b = self.pair()
        expected = LocalNormalizedCrossCorrelationLoss(spatial_dims=3, kernel_size=window)(b, a)
        ours = SIMILARITY["lncc"](a, b, window=window, compat="monai")
        assert ours.item() == pytest.approx(expected.item(), abs=1e-5)

    def test_mi(self) -> None:
        a, b = self.pair()
        expected = GlobalMutualInformationLoss(kernel_type="gaussian", num_bins=23, sigma_ratio=0.5)(b, a)
        ours = SIMILARITY["mi"](a, b, bins=23, sigma=0.5, compat="monai")
        assert ours.item() == pytest.approx(expected.item(), abs=1e-5)

    def test_dice(self) -> None:
        a, b = self.pair()
        expected = DiceLoss(squared_pred=True, smooth_nr=1e-5, smooth_dr=1e-5)(b, a)
        assert SIMILARITY["dice"](a, b).item() == pytest.approx(expected.item(), abs=1e-5)


def test_ssim_is_scikit_images() -> None:
    for shape in ((24, 21), (16, 15, 14)):
        a, b = blobs(shape, 1), blobs(shape, 1, seed=1)
        expected = metrics.structural_similarity(
            a[0, 0].numpy(),
            b[0, 0].numpy(),
            gaussian_weights=True,
            use_sample_covariance=False,
            data_range=1.0,
        )
        assert SIMILARITY["ssim"](a, b).item() == pytest.approx(1 - expected, abs=1e-7)


def test_nmi_of_hard_bins_is_scikit_images() -> None:
    random = np.random.default_rng(0)
    a = random.integers(0, 8, (20, 20))
    b = (a + random.integers(0, 3, a.shape)) % 8
    expected = metrics.normalized_mutual_information(a, b, bins=8)
    ours = SIMILARITY["nmi"](*(torch.from_numpy(x / 7.0)[None, None] for x in (a, b)), bins=8, sigma=0.05)
    assert 2 - ours.item() == pytest.approx(expected, abs=1e-6)


def dense_mi(a: torch.Tensor, b: torch.Tensor, bins: int = 32, eps: float = 1e-10) -> torch.Tensor:
    """The counts of all voxels at once, from the formula."""
    centers = torch.linspace(0, 1, bins, dtype=a.dtype)
    counts = []
    for x in (a, b):
        x = (x - x.min()) / (x.max() - x.min())
        weight = torch.exp(-(((x.reshape(-1, 1) - centers) * (bins - 1)) ** 2) / 2)
        counts.append(weight / weight.sum(1, keepdim=True))
    joint = counts[0].T @ counts[1] / a.numel()
    product = joint.sum(1, keepdim=True) * joint.sum(0)
    return -(joint * ((joint + eps) / (product + eps)).log()).sum()


def test_mi_in_chunks_is_the_dense_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlasmith.losses.similarity.histogram.VOXELS_PER_CHUNK", 100)
    a, b = blobs((14, 13, 15), 1), blobs((14, 13, 15), 1, seed=1).requires_grad_()
    ours, expected = SIMILARITY["mi"](a, b), dense_mi(a, b)
    torch.testing.assert_close(ours, expected)
    gradients = [torch.autograd.grad(value, b, retain_graph=True)[0] for value in (ours, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("shape", "nats"), [((100, 100), 0.84), ((40, 40, 40), 0.27)])
def test_lmi_of_independent_noise(shape: Shape, nats: float) -> None:
    """The bias that the documentation states, at the default settings."""
    random = torch.Generator().manual_seed(0)
    fixed, moved = (torch.rand(1, 1, *shape, generator=random) for _ in range(2))
    assert SIMILARITY["lmi"](fixed, moved).item() == pytest.approx(-nats, abs=0.02)


def survey_ratio(x: torch.Tensor, y: torch.Tensor, bins: int = 32) -> torch.Tensor:
    """The fraction of x's variance that y explains, with counts that aren't normalized, from the formula."""
    x, y = x.flatten(), y.flatten()
    weight = torch.exp(-(((y[:, None] - torch.linspace(0, 1, bins, dtype=y.dtype)) * (bins - 1)) ** 2))
    number = weight.sum(0)
    mean = (weight * x[:, None]).sum(0) / number
    return (number * (mean - x.mean()) ** 2).sum() / number.sum() / (x.var() + 1e-5)


def test_survey_values() -> None:
    a, b = blobs((14, 13, 15), 1), blobs((14, 13, 15), 1, seed=1)
    ratio = -(survey_ratio(a, b) + survey_ratio(b, a)) / 6
    torch.testing.assert_close(SIMILARITY["cr"](a, b, compat="survey"), ratio)
    assert SIMILARITY["mi"](a, b, compat="survey").item() == pytest.approx(dense_mi(a, b).item(), abs=1e-3)
    # A constant region counts as perfect there, and is left out here.
    flat = torch.zeros_like(a)
    assert SIMILARITY["lncc_gaussian"](flat, flat, compat="survey").item() == pytest.approx(0)
    for name, compat in (("lncc", "monai"), ("lncc_gaussian", "survey")):
        with pytest.raises(ValueError, match="takes no mask"):
            SIMILARITY[name](a, b, torch.ones_like(a), compat=compat)


def test_bspline_counts_have_the_value_as_their_mean() -> None:
    x = torch.linspace(0, 1, 101, dtype=torch.float64)
    counts = bspline_counts(32)(x)
    torch.testing.assert_close(counts.sum(-1), torch.ones_like(x))
    torch.testing.assert_close((counts @ torch.arange(32, dtype=torch.float64) - 2) / 27, x)


def test_correlation_ratio_of_a_function_and_of_noise() -> None:
    x = torch.linspace(0, 1, 10_000, dtype=torch.float64).view(1, 1, 100, 100)
    parabola = (x - 0.5) ** 2
    # x explains the parabola; the parabola is the same in both halves, and explains nothing of x.
    assert SIMILARITY["cr"](x, parabola).item() == pytest.approx(0.5, abs=0.03)
    noise = torch.rand(1, 1, 100, 100, generator=torch.Generator().manual_seed(0)).double()
    assert SIMILARITY["cr"](x, noise).item() > 0.98


def test_mind_is_invariant_to_inversion_and_independent_of_the_batch() -> None:
    a = blobs((14, 13, 15), 2)
    assert SIMILARITY["mind"](a, 1 - a).item() < 1e-12
    torch.testing.assert_close(mind_ssc(a)[:1], mind_ssc(a[:1]))
    assert mind_ssc(a).shape == (2, 12, 14, 13, 15)
    assert mind_ssc(a[:, :, 0]).shape == (2, 4, 13, 15)


def test_mind_is_the_twelve_shift_form() -> None:
    """Inside, where the padding has no effect: patch distances between the two neighbors of each pair."""
    a = blobs((18, 17, 16), 1)
    radius = dilation = 2
    margin = 2 * dilation
    padded = pad(a, [margin] * 6, mode="replicate")
    units = [torch.tensor([s if i == k else 0 for i in range(3)]) for k in range(3) for s in (-1, 1)]
    found = []
    for i, p in enumerate(units):
        for q in units[i + 1 :]:
            if ((p - q) ** 2).sum() == 2:
                one, two = (padded.roll([int(-dilation * s) for s in u], (2, 3, 4)) for u in (p, q))
                found.append(avg_pool3d((one - two) ** 2, 2 * radius + 1, stride=1, padding=radius))
    distance = torch.cat(found, 1)[(..., *[slice(margin, -margin)] * 3)]
    distance = distance - distance.amin(1, keepdim=True)
    variance = distance.mean(1, keepdim=True)
    expected = torch.exp(-distance / variance.clamp(0.001 * variance.mean(), 1000 * variance.mean()))
    inner = (..., *[slice(margin, -margin)] * 3)
    torch.testing.assert_close(mind_ssc(a)[inner], expected[inner], atol=1e-5, rtol=0)


def test_features_of_a_network() -> None:
    torch.manual_seed(0)
    a, b = blobs((14, 13, 15)).float(), blobs((14, 13, 15), seed=1).float()
    network = torch.nn.Conv3d(1, 4, 3, stride=2)
    mask = torch.ones_like(a)
    assert SIMILARITY["feature"](a, a, mask, network=network).item() == 0
    assert SIMILARITY["feature"](a, b, mask, network=network) > 0.01


def test_dice_of_hard_labels_and_of_empty_ones() -> None:
    a, b = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    a[0, 0, :2], b[0, 0, :1] = 1, 1  # 8 and 4 voxels, 4 shared; the second label is empty in both
    assert SIMILARITY["dice"](a, b).item() == pytest.approx(1 - (2 * 4 / 12 + 1) / 2, abs=1e-5)


def test_multiscale_dice_has_a_gradient_without_overlap() -> None:
    a, b = torch.zeros(1, 1, 30, 30), torch.zeros(1, 1, 30, 30)
    a[..., 4:8, 4:8], b[..., 14:18, 4:8] = 1, 1
    nearer = b.roll(-3, 2)
    assert SIMILARITY["dice"](a, b) == SIMILARITY["dice"](a, nearer)
    assert SIMILARITY["dice_multiscale"](a, nearer) < SIMILARITY["dice_multiscale"](a, b) - 0.01


@pytest.mark.parametrize("width", range(1, 10))
def test_box_mean(width: int) -> None:
    x = torch.rand(1, 2, 19, 12, 17, dtype=torch.float64)
    torch.testing.assert_close(box_mean(x, (width, 4, 5)), avg_pool3d(x, (width, 4, 5), stride=1))
    torch.testing.assert_close(
        BoxWindows((width, 1, 3), 2).sums(x)[0, 0, 0, 0, 0], x[0, 0, : 2 * width : 2, 0, :5:2].sum()
    )


def test_gaussian_mean_of_a_line_is_its_middle() -> None:
    x = torch.arange(20.0, dtype=torch.float64).view(1, 1, 20, 1)
    torch.testing.assert_close(gaussian_mean(x, (9, 1), 1.5), x[:, :, 4:-4])


def test_gaussian_derivatives_of_a_parabola() -> None:
    x = torch.arange(-20.0, 21, dtype=torch.float64).view(1, 1, -1, 1).expand(1, 1, 41, 41)
    first, second = (gaussian_blur(x**2, 1.5, axes)[0, 0, 20, 20] for axes in ((2,), (2, 2)))
    torch.testing.assert_close(
        torch.stack([first, second]), torch.tensor([0.0, 2.0]).double(), atol=1e-3, rtol=0
    )
