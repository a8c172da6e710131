"""Groupwise refinement: rounds of registering subjects to the template and averaging them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from atlasmith.config import Config, parse_config
from atlasmith.core.fields import exponentiate, resize_displacement
from atlasmith.core.grid import Grid
from atlasmith.core.sampling import warp
from atlasmith.io.tables import Subject, read_tsv
from atlasmith.io.weights import read_weights
from atlasmith.networks import CovariateCode, Groupwise
from atlasmith.template import refinement
from atlasmith.template.refinement import _Refinement, initialize_template, refine_template

SIZE = 48


def model_of(shape: tuple[int, int, int], covariates: dict[str, tuple[float, float]]) -> Groupwise:
    torch.manual_seed(0)
    return Groupwise(Grid(shape, np.eye(4)), CovariateCode(covariates, {}), "unet_half", [4, 8], 6)


@pytest.mark.parametrize("shape", [(41, 37, 1), (31, 33, 29)])
def test_a_scaling_covariate_velocity_scales_the_template(shape: tuple[int, int, int]) -> None:
    model = model_of(shape, {"age": (50.0, 10.0)})
    half = model.covariate_velocity.shape[2:]
    offsets = torch.stack(torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in half), indexing="ij"))
    model.set_covariate_velocity(-0.1 * offsets[None])
    size = torch.tensor(model.grid.tensor_shape)
    radius = sum(
        ((torch.arange(n) - (n - 1) / 2).view([-1 if a == b else 1 for b in range(len(size))]) / 6) ** 2
        for a, n in enumerate(size.tolist())
    )
    model.base.data[0, 0] = torch.exp(-radius / 2)
    # Two standard deviations above the mean age the object is larger by a factor of e^0.2.
    code = model.code.encode({"age": 70.0})
    scaled = model.template(code[None])[0, 0].detach()
    torch.testing.assert_close(scaled, torch.exp(-radius / 2 / np.exp(0.4)), rtol=0, atol=0.01)
    torch.testing.assert_close(model.template(0 * code[None])[0, 0], model.base[0, 0], rtol=0, atol=1e-6)


class Rings:
    """Aligned images of randomly deformed rings, whose radius depends linearly on the covariate.

    Args:
        count: Number of subjects.
        slope: Voxels by which the radius increases for each unit of the encoded covariate.
        deformation: Standard deviation of the random displacements, voxels.
    """

    def __init__(self, count: int, slope: float, deformation: float = 1.2) -> None:
        random = np.random.default_rng(0)
        self.codes = torch.linspace(-1.7, 1.7, count)[:, None]
        self.radius = np.hypot(*(np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2))
        images = []
        for code in self.codes[:, 0].tolist():
            field = np.stack([gaussian_filter(random.normal(size=(SIZE, SIZE)), 6) for _ in range(2)])
            x, y = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2 + deformation * field / field.std()
            images.append(np.exp(-((np.hypot(x, y) - 13 - slope * code) ** 2) / 8))
        self.images = torch.tensor(np.array(images), dtype=torch.float32)[:, None]
        self.subjects = [Subject(f"{index:03d}", "train", Path()) for index in range(count)]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        images = self.images[list(indices)]
        return images, torch.ones_like(images)

    def warped(self, index: int, displacement: Tensor) -> tuple[Tensor, Tensor]:
        moved = warp(self.images[[index]], displacement)
        return moved, torch.ones_like(moved)

    def slope_and_contrast(self, model: Groupwise) -> tuple[float, float]:
        """Voxels by which the template's radius increases for each unit of the code, and its contrast."""
        radii = []
        for code in (-1.0, 0.0, 1.0):
            image = model.template(torch.full((1, model.code.size), code))[0, 0].detach().numpy()
            bright = np.maximum(image - 0.3 * image.max(), 0) / np.maximum(self.radius, 1)
            radii.append(float((bright * self.radius).sum() / bright.sum()))
        return (radii[2] - radii[0]) / 2, float(model.base.max())


def refined(rings: Rings, config: Config, codes: Tensor) -> Groupwise:
    model = model_of((SIZE, SIZE, 1), {"age": (0.0, 1.0)} if codes.shape[1] else {})
    initialize_template(model, rings, codes)  # type: ignore[arg-type]
    model.requires_grad_(False)
    refine_template(config, model, rings, codes, "digest")  # type: ignore[arg-type]
    return model


def config_of(folder: Path, rounds: int) -> Config:
    return parse_config(
        {
            "output": str(folder),
            "cohort": {"bids": "."},
            "template": {"refinement": {"rounds": rounds, "subjects": 24, "learning_rate": 0.1}},
        }
    )


def test_a_planted_covariate_effect_is_recovered_and_the_template_is_sharp(tmp_path: Path) -> None:
    rings = Rings(30, 2.5)
    (slope, contrast), (_, before) = (
        rings.slope_and_contrast(refined(rings, config_of(tmp_path, rounds), rings.codes))
        for rounds in (5, 0)
    )
    assert 0.85 * 2.5 < slope < 1.1 * 2.5
    moved = [float(row["moved_mm"]) for row in read_tsv(tmp_path / "model" / "template_refinement.tsv")]
    assert len(moved) == 5 and moved[-1] < moved[0] / 2
    assert before < 0.6 and contrast > 0.85


def test_without_covariates_the_template_is_deterministic_and_gains_contrast(tmp_path: Path) -> None:
    rings = Rings(20, 0.0, deformation=2.5)
    none = rings.codes[:, :0]
    models = [refined(rings, config_of(tmp_path, 3), none) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in models), strict=True))
    before = refined(rings, config_of(tmp_path, 0), none)
    assert float(models[0].base.max()) > float(before.base.max()) + 0.1


@pytest.mark.parametrize("interrupt_at", [3, 9, 14])
def test_an_interrupted_refinement_resumes_with_the_subjects_that_are_missing(
    interrupt_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rings = Rings(6, 1.0)
    uninterrupted = refined(rings, config_of(tmp_path / "complete", 3), rings.codes)
    real, calls = refinement.optimize, 0

    def interrupted(*args: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == interrupt_at:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(refinement, "optimize", interrupted)
    config = config_of(tmp_path / "interrupted", 3)
    with pytest.raises(KeyboardInterrupt):
        refined(rings, config, rings.codes)
    resumed = refined(rings, config, rings.codes)
    assert calls == 3 * 6 + 1  # only the interrupted subject twice
    again = refined(rings, config, rings.codes)  # interrupted once more, before its results were written
    assert calls == 3 * 6 + 1
    for model in (resumed, again):
        for name, value in model.state_dict().items():
            assert torch.equal(value, uninterrupted.state_dict()[name]), name
    layouts = [config_of(tmp_path / name, 3).layout for name in ("complete", "interrupted")]
    assert layouts[0].template_refinement.read_text() == layouts[1].template_refinement.read_text()
    assert layouts[0].template_modes.read_bytes() == layouts[1].template_modes.read_bytes()


class Modal(Rings):
    """Aligned images of a texture that is stretched along one mode, by a different amount in each subject."""

    def __init__(self, count: int) -> None:
        random = np.random.default_rng(3)
        texture = torch.tensor(gaussian_filter(random.normal(size=(SIZE, SIZE)), 1.6), dtype=torch.float32)
        x, y = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
        window = np.exp(-(x**2 + y**2) / 180)
        self.mode = torch.tensor(np.stack([window * x, -0.6 * window * y]), dtype=torch.float32)[None] / 5
        self.scores = torch.tensor(random.permutation(np.linspace(-1.5, 1.5, count)))
        base = ((texture - texture.min()) / (texture.max() - texture.min()))[None, None]
        paths = [exponentiate(-float(score) * self.mode, 6) for score in self.scores]
        self.images = torch.cat([warp(base, path, padding="border") for path in paths])
        self.codes = torch.zeros(count, 0)
        self.subjects = [Subject(f"{index:03d}", "train", Path()) for index in range(count)]


def test_the_first_mode_is_the_planted_one(tmp_path: Path) -> None:
    cohort, config = Modal(12), config_of(tmp_path, 2)
    refined(cohort, config, cohort.codes)
    modes = read_weights(config.layout.template_modes)[1]["modes"]
    planted = resize_displacement(cohort.mode, modes.shape[2:])[0]
    assert len(modes) == 10
    correlation = (modes[0] * planted).sum() / (modes[0].norm() * planted.norm())
    assert abs(correlation) > 0.95
    assert float(modes[0].norm() / planted.norm()) == pytest.approx(float(cohort.scores.std()), rel=0.15)
    rows = read_tsv(config.layout.template_mode_table)
    assert [row["mode"] for row in rows] == [str(number) for number in range(1, 11)]
    shares = [float(row["explained_variance"]) for row in rows]
    assert shares[0] > 0.9 and shares == sorted(shares, reverse=True) and sum(shares) < 1.0
    size = 2 * modes[0].square().sum(0).mean().sqrt()  # voxels of 2 mm
    assert float(rows[0]["sd_mm"]) == pytest.approx(float(size), rel=0.1)
    refined(cohort, config_of(tmp_path, 0), cohort.codes)
    assert not config.layout.template_modes.exists()


def test_a_refinement_of_another_config_starts_anew(tmp_path: Path) -> None:
    rings, config = Rings(6, 1.0), config_of(tmp_path, 2)
    wanted = refined(rings, config, rings.codes)
    stale = config.layout.refinement_checkpoint / "0-optimized" / "1.npy"
    stale.parent.mkdir()
    np.save(stale, np.full((1, 2, SIZE // 2, SIZE // 2), 100.0, np.float32))
    other = model_of((SIZE, SIZE, 1), {"age": (0.0, 1.0)})
    initialize_template(other, rings, rings.codes)  # type: ignore[arg-type]
    other.requires_grad_(False)
    refine_template(config, other, rings, rings.codes, "other")  # type: ignore[arg-type]
    torch.testing.assert_close(other.base, wanted.base)


def test_the_mean_coefficients_of_the_network_is_removed(tmp_path: Path) -> None:
    rings = Rings(6, slope=0)
    codes = torch.zeros(6, 0)
    model = model_of((SIZE, SIZE, 1), {})
    initialize_template(model, rings, codes)  # type: ignore[arg-type]
    torch.manual_seed(0)
    torch.nn.init.normal_(model.network.body.head.weight)
    torch.nn.init.constant_(model.network.body.head.bias, 3.0)

    def mean_coefficients() -> Tensor:
        with torch.no_grad():
            found = [model.coefficients(model.base, rings.batch([k])[0]).mean for k in range(6)]
        return torch.cat(found).mean(0)

    assert mean_coefficients().abs().mean() > 0.01
    state = _Refinement(config_of(tmp_path, 1), model, rings, codes, "digest")  # type: ignore[arg-type]
    state._update_mean_coefficients()
    assert mean_coefficients().abs().max() < 1e-5
