"""The trained model: its template, its velocities, and its file."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Grid
from atlasmith.core.sampling import coarsen, resize
from atlasmith.io.weights import read_weights, write_tensors
from atlasmith.networks import DECODERS, CovariateCode, Groupwise
from atlasmith.networks.registration.base import VELOCITY_SCALE
from atlasmith.transforms import FORWARD

GRIDS = [
    Grid((17, 14, 1), torch.eye(4).numpy()),
    Grid((13, 16, 11), torch.diag(torch.tensor([2.0, 1, 3, 1])).numpy()),
]
COHORT = [
    {"age": 20.0, "sex": "F", "dose": 1.0},
    {"age": 40.0, "sex": "M", "dose": None},
    {"age": 60.0, "sex": "F", "dose": 3.0},
    {"age": 80.0, "sex": None, "dose": 2.0},
]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("names", [[], ["age", "sex"]])
def test_model_starts_at_its_base_and_at_the_identity(grid: Grid, names: list[str]) -> None:
    torch.manual_seed(0)
    model = Groupwise(grid, CovariateCode.of(names, COHORT), "unet_half", [4, 8], 5)
    torch.nn.init.uniform_(model.base)
    codes = torch.stack([model.code.encode(subject) for subject in COHORT])
    template = model.template(codes)
    assert template.shape == (4, 1, *grid.tensor_shape)
    torch.testing.assert_close(template, model.base.expand_as(template), atol=1e-3, rtol=0)
    torch.testing.assert_close(model.template(torch.zeros(1, model.code.size)), model.base)
    velocity = model.coefficients(template, torch.rand_like(template)).mean
    assert velocity.shape == (4, grid.ndim, *[-(-n // 2) for n in grid.tensor_shape])
    assert velocity.abs().max() < 1e-3


@pytest.mark.parametrize("network", ["unet_half", "lapirn", "sdhnet"])
@pytest.mark.parametrize(
    ("grid", "spacing", "levels"),
    [(Grid((32, 48, 1), np.eye(4)), 2.0, 2), (Grid((33, 32, 16), GRIDS[1].affine), 3.0, 3)],
)
def test_a_network_on_a_coarser_grid(
    network: str, grid: Grid, spacing: float, levels: int, tmp_path: Path
) -> None:
    """It gives what it gives there, in the voxels of the template's grid."""
    torch.manual_seed(0)
    coarse_grid = grid.coarser(spacing)
    corners = [g.affine @ [*(np.array(g.shape) - 1), 1] for g in (grid, coarse_grid)]
    np.testing.assert_allclose(*corners)
    coarse = Groupwise(coarse_grid, CovariateCode({}, {}), network, None, 5, cascades=2).eval()
    for name, weights in coarse.network.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.normal_(weights, std=0.05)
    torch.nn.init.uniform_(coarse.base)
    fine = coarse.at(grid).eval()
    fine.save(tmp_path / "fine.safetensors")
    loaded = Groupwise.load(tmp_path / "fine.safetensors")
    assert loaded.levels == levels and coarse.levels == 1
    images = torch.rand(2, 1, 1, *grid.tensor_shape)
    with torch.no_grad():
        expected = coarse.coefficients(*(coarsen(x, coarse_grid.tensor_shape) for x in images)).mean
        found = loaded.coefficients(*images).mean
    assert expected.abs().max() > 1e-4
    own = [g.coarser_spacing(x.shape[2:]) for g, x in ((coarse_grid, expected), (grid, found))]
    expected, found = (
        x * torch.tensor(mm).view(1, -1, *[1] * grid.ndim)
        for x, mm in zip((expected, found), own, strict=True)
    )
    torch.testing.assert_close(found, resize(expected, found.shape[2:]))
    torch.testing.assert_close(coarsen(fine.base, coarse_grid.tensor_shape), coarse.base, rtol=0, atol=0.8)


def test_weights_by_version_0_11_are_converted(tmp_path: Path) -> None:
    """Its heads weren't scaled, and its mean had another name."""
    model = Groupwise(GRIDS[1], CovariateCode({}, {}), "dualstream", [8, 16], 5).eval()
    for level in model.network.levels:
        torch.nn.init.normal_(level[-1].weight, std=0.1)
    model.mean_coefficients.fill_(0.25)
    model.save(tmp_path / "new.safetensors")
    metadata, tensors = read_weights(tmp_path / "new.safetensors")
    for name in ("parametrization", "network_settings", "parametrization_settings"):
        del metadata["settings"][name]
    tensors["mean_velocity"] = tensors.pop("mean_coefficients")
    for index, width in enumerate((16, 8)):
        tensors[f"network.levels.{index}.2.weight"] *= 36 / (27 * width)
    write_tensors(tmp_path / "old.safetensors", tensors, metadata)
    images = torch.rand(2, 1, 1, *GRIDS[1].tensor_shape)
    expected, found = (
        m.coefficients(*images).mean for m in (model, Groupwise.load(tmp_path / "old.safetensors"))
    )
    assert expected.abs().amax() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    del tensors["network.levels.0.0.0.weight"]
    write_tensors(tmp_path / "old.safetensors", tensors, metadata)
    with pytest.raises(AtlasmithError, match="network 'dualstream' had other layers"):
        Groupwise.load(tmp_path / "old.safetensors")


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("probabilistic", "decoder"), [(False, "film"), (True, "coordinates")])
def test_saved_model_is_loaded(grid: Grid, probabilistic: bool, decoder: str, tmp_path: Path) -> None:
    code = CovariateCode.of(["age", "sex"], COHORT)
    model = Groupwise(grid, code, "unet_half", [4, 8], 5, probabilistic, decoder=decoder)
    for parameter in model.decoder.head.parameters():
        torch.nn.init.normal_(parameter)
    torch.nn.init.normal_(model.network.body.head.weight)
    torch.nn.init.normal_(model.slopes)
    model.save(tmp_path / "model.safetensors")
    again = Groupwise.load(tmp_path / "model.safetensors")
    code = model.code.encode(COHORT[0])[None]
    torch.testing.assert_close(again.template(code), model.template(code), rtol=0, atol=0)
    image = torch.rand(1, 1, *grid.tensor_shape)
    expected, found = (m.coefficients(image, image) for m in (model, again))
    torch.testing.assert_close(found.mean, expected.mean, rtol=0, atol=0)
    assert probabilistic == (found.log_variance is not None)
    assert again.grid.same_as(grid) and again.code == model.code


@pytest.mark.parametrize("grid", GRIDS)
def test_decoder_is_limited_to_the_fov_mask(grid: Grid) -> None:
    model = Groupwise(grid, CovariateCode.of(["age", "sex"], COHORT), "unet_half", [4, 8], 5)
    torch.nn.init.normal_(model.decoder.head.weight)
    model.fov_mask[:, :, :4] = 0
    change = model.template(model.code.encode(COHORT[0])[None]) - model.base
    assert (change[:, :, :4] == 0).all()
    assert (change[:, :, 4:] != 0).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_label_probabilities_join_the_intensities(grid: Grid, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = {"outputs": 3, "channels": [4, 8], "without": [["a", "c"], ["b"]]}
    model = Groupwise(grid, CovariateCode({}, {}), "unet_half", [4, 8], 5, segmenter=settings)
    assert model.segmenters is not None
    for segmenter in model.segmenters.each:
        torch.nn.init.normal_(segmenter.body.head.weight, std=0.1)
    torch.nn.init.normal_(model.network.body.head.weight)
    image = torch.rand(2, 1, *grid.tensor_shape)
    features = model.features(image)
    assert features.shape == (2, 4, *grid.tensor_shape)
    torch.testing.assert_close(features[:, :1], image)
    assert ((features[:, 1:] > 0) & (features[:, 1:] < 1)).all() and features[:, 1:].std() > 1e-3
    first, second = (segmenter(image) for segmenter in model.segmenters.each)
    torch.testing.assert_close(features[:, 1:], (first + second) / 2)
    held_out = model.features(image, ["b", "c"])[:, 1:]
    torch.testing.assert_close(held_out[0], second[0])  # which is trained without b
    torch.testing.assert_close(held_out[1], first[1])
    torch.testing.assert_close(model.features(image, ["new", "d"]), features)
    model.save(tmp_path / "model.safetensors")
    again = Groupwise.load(tmp_path / "model.safetensors")
    expected, found = (
        m.coefficients(m.features(image, "ab"), m.features(image)).mean for m in (model.eval(), again)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_unknown_network_is_named() -> None:
    with pytest.raises(AtlasmithError, match=r"unknown network 'unett'. Did you mean 'unet'"):
        Groupwise(GRIDS[0], CovariateCode({}, {}), "unett", [4, 8], 5)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_model_of_two_channels_is_stored_and_rebuilt(decoder: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    grid, code = GRIDS[0], CovariateCode.of(["age", "sex"], COHORT)
    settings = {"outputs": 3, "channels": [4, 4], "without": [["a"], ["b"]]}
    model = Groupwise(
        grid, code, "unet_half", [4, 8], 5, segmenter=settings, decoder=decoder, image_channels=2
    )
    torch.nn.init.normal_(model.base)
    assert model.slopes is not None
    torch.nn.init.normal_(model.slopes)
    model.save(tmp_path / "model.safetensors")
    again = Groupwise.load(tmp_path / "model.safetensors")
    codes = torch.stack([code.encode(row) for row in COHORT])
    template = model.eval().template(codes)
    assert template.shape == (len(COHORT), 2, *grid.tensor_shape)
    torch.testing.assert_close(again.template(codes), template, rtol=0, atol=0)
    # The slopes of a channel are those of no other.
    slopes = model.slopes.unflatten(0, (code.size, 2))
    linear = model.base + torch.einsum("bk,kc...->bc...", codes, slopes)
    assert (template - linear).abs().max() < 1e-2 * template.abs().max()
    features = [model.features(template), model.template_features(codes)]
    assert features[0].shape[1] == 5
    torch.testing.assert_close(features[0], features[1])
    assert model.coefficients(features[0], features[1]).mean.shape[1] == grid.ndim


def conditional_model() -> Groupwise:
    torch.manual_seed(0)
    return Groupwise(GRIDS[1], CovariateCode.of(["age"], COHORT), "unet_half", [4, 8], 5)


def test_autocast_leaves_the_template_in_single_precision() -> None:
    """Intensities of 1 + code / 1000, which half precision can't tell from 1."""
    model = conditional_model()
    model.base.data.fill_(1)
    model.slopes.data.fill_(1e-3)
    for parameter in model.decoder.head.parameters():
        parameter.data.zero_()
    velocity = torch.zeros_like(model.covariate_velocity)
    velocity[:, 0] = 300.0  # by which half precision would be wrong by a voxel
    model.set_covariate_velocity(velocity)
    code = torch.tensor([[0.99], [1.01]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        template, (forward, _) = model.template(code), model.covariate_transform(code)
    expected = (1 + 1e-3 * code).view(2, 1, 1, 1, 1).expand_as(template)
    torch.testing.assert_close(template, expected, rtol=0, atol=2e-7)
    torch.testing.assert_close(forward[:, 0].mean((1, 2, 3)), 300 * code[:, 0], rtol=1e-5, atol=0)


def test_a_model_knows_whether_its_shape_depends_on_the_covariates(tmp_path: Path) -> None:
    model, other = conditional_model(), conditional_model()
    assert not model.has_covariate_velocity
    model.set_covariate_velocity(torch.ones_like(model.covariate_velocity))
    assert model.has_covariate_velocity and copy.deepcopy(model).has_covariate_velocity
    assert model.double().has_covariate_velocity
    model.save(tmp_path / "model.safetensors")
    assert Groupwise.load(tmp_path / "model.safetensors").has_covariate_velocity
    # As a training with an adversary stores both.
    pair = torch.nn.ModuleList([other])
    pair.load_state_dict({f"0.{name}": value for name, value in model.state_dict().items()})
    assert other.has_covariate_velocity
    model.set_covariate_velocity(torch.zeros_like(model.covariate_velocity))
    assert not model.has_covariate_velocity
    other.load_state_dict(model.state_dict())
    assert not other.has_covariate_velocity


def test_a_network_warps_by_the_regions_of_the_image_on_a_padded_grid() -> None:
    """Regions keep their place where a network has padded the grid of 9 by 7 voxels."""
    model = Groupwise(
        GRIDS[0], CovariateCode({}, {}), "cyclemorph", [4, 8], 5, parametrization="region_velocity"
    )
    template, channels = torch.zeros(1, 1, 17, 14), model.deformation.channels(2)
    template[:, :, 10:] = 1
    identity = model.coefficients(template, template).mean
    output = torch.tensor([0.5, 0.0, 0.0, 0.25, -0.25, 0.5]).view(1, -1, 1, 1).expand(1, -1, 16, 12)
    output = torch.nn.functional.pad(output, [0, 0] * 2 + [0, channels - 6])
    found = model.network.displacement(output, (16, 12))[..., :9, :7]
    coefficients = identity + VELOCITY_SCALE * output[..., :9, :7]
    expected = model.deformation.maps(coefficients, (2.0, 2.0), [FORWARD])[FORWARD]
    assert found[:, 0].std() > 0.5
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    "parametrization", ["stationary_velocity", "displacement", "time_dependent_velocity"]
)
def test_a_network_composes_as_the_parametrization_does(parametrization: str) -> None:
    model = Groupwise(GRIDS[0], CovariateCode({}, {}), "cascades", [4, 8], 5, parametrization=parametrization)
    model.coefficients(*torch.rand(2, 1, 1, 17, 14))
    count = model.deformation.channels(2)
    outer, inner = torch.rand(2, 1, count + 2, 9, 7)
    # Half-resolution voxels that are those of the outputs' grid, or a half and a third of them.
    for half, sizes in (((9, 7), [1.0, 1.0]), ((17, 19), [1 / 2, 1 / 3])):
        found = model.network.composed(outer, inner, half)
        units = VELOCITY_SCALE * torch.tensor(sizes * (count // 2)).view(-1, 1, 1)
        spacing = [2 / size for size in sizes]
        expected = model.deformation.compose(units * outer[:, :count], units * inner[:, :count], spacing)
        torch.testing.assert_close(found[:, :count], expected / units)
        torch.testing.assert_close(found[:, count:], inner[:, count:])
