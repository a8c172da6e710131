import pytest
import torch

from atlasmith.errors import AtlasmithError
from atlasmith.geometry import Grid
from atlasmith.networks import CovariateCode, Groupwise, UNet

GRIDS = [
    Grid((17, 14, 1), torch.eye(4).numpy()),
    Grid((13, 16, 11), torch.diag(torch.tensor([2.0, 1, 3, 1])).numpy()),
]


@pytest.mark.parametrize("shape", [(17, 9), (13, 16, 11)])
@pytest.mark.parametrize("stride", [1, 2])
def test_unet_takes_any_size_and_starts_near_zero(shape: tuple[int, ...], stride: int) -> None:
    net = UNet(len(shape), 2, 3, [4, 8, 8], first_stride=stride)
    output = net(torch.rand(2, 2, *shape))
    assert output.shape == (2, 3, *[-(-n // stride) for n in shape])
    assert output.abs().max() < 1e-3


COHORT = [
    {"age": 20.0, "sex": "F", "dose": 1.0},
    {"age": 40.0, "sex": "M", "dose": None},
    {"age": 60.0, "sex": "F", "dose": 3.0},
    {"age": 80.0, "sex": None, "dose": 2.0},
]


def test_codes_have_mean_zero_and_missing_values_are_the_mean() -> None:
    code = CovariateCode.of(["age", "sex", "dose"], COHORT)
    assert code.size == 4
    codes = torch.stack([code.encode(subject) for subject in COHORT])
    torch.testing.assert_close(codes.mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    assert codes[:, 0].std(correction=0).item() == pytest.approx(1)
    assert (code.encode({}) == 0).all()
    with pytest.raises(AtlasmithError, match="sex: 'X' wasn't in the cohort"):
        code.encode({"sex": "X"})


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("names", [[], ["age", "sex"]])
def test_model_starts_at_its_base_and_at_the_identity(grid: Grid, names: list[str]) -> None:
    torch.manual_seed(0)
    model = Groupwise(grid, CovariateCode.of(names, COHORT), "unet", [4, 8], 5)
    torch.nn.init.uniform_(model.base)
    codes = torch.stack([model.code.encode(subject) for subject in COHORT])
    template = model.template(codes)
    assert template.shape == (4, 1, *grid.tensor_shape)
    torch.testing.assert_close(template, model.base.expand_as(template), atol=1e-3, rtol=0)
    torch.testing.assert_close(model.template(torch.zeros(1, model.code.size)), model.base)
    velocity = model.velocity(template, torch.rand_like(template)).mean
    assert velocity.shape == (4, grid.ndim, *[-(-n // 2) for n in grid.tensor_shape])
    assert velocity.abs().max() < 1e-3


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("probabilistic", [False, True])
def test_a_saved_model_comes_back(grid: Grid, probabilistic: bool, tmp_path) -> None:
    model = Groupwise(grid, CovariateCode.of(["age", "sex"], COHORT), "unet", [4, 8], 5, probabilistic)
    torch.nn.init.normal_(model.network.head.weight)
    torch.nn.init.normal_(model.slopes)
    model.save(tmp_path / "model.safetensors")
    again = Groupwise.load(tmp_path / "model.safetensors")
    code = model.code.encode(COHORT[0])[None]
    torch.testing.assert_close(again.template(code), model.template(code), rtol=0, atol=0)
    image = torch.rand(1, 1, *grid.tensor_shape)
    expected, found = (m.velocity(image, image) for m in (model, again))
    torch.testing.assert_close(found.mean, expected.mean, rtol=0, atol=0)
    assert probabilistic == (found.log_variance is not None)
    assert again.grid.same_as(grid) and again.code == model.code


@pytest.mark.parametrize("grid", GRIDS)
def test_the_decoder_stays_within_the_support(grid: Grid) -> None:
    model = Groupwise(grid, CovariateCode.of(["age", "sex"], COHORT), "unet", [4, 8], 5)
    torch.nn.init.normal_(model.decoder.head.weight)
    model.support[:, :, :4] = 0
    change = model.template(model.code.encode(COHORT[0])[None]) - model.base
    assert (change[:, :, :4] == 0).all()
    assert (change[:, :, 4:] != 0).all()


def test_unknown_network_is_named() -> None:
    with pytest.raises(AtlasmithError, match=r"unknown network 'unett'. Did you mean 'unet'"):
        Groupwise(GRIDS[0], CovariateCode({}, {}), "unett", [4, 8], 5)
