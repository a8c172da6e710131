import itertools
import math

import pytest
import torch

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.fields import compose, exponentiate, resize_displacement
from atlasmith.core.grid import Grid
from atlasmith.core.sampling import warp
from atlasmith.losses.regularizers import diffusion
from atlasmith.networks import (
    NETWORKS,
    CovariateCode,
    Groupwise,
    UNet,
    held_out_folds,
    label_codes,
    reparameterize,
)
from atlasmith.networks.attention import SwinBlock, unwindows, windows
from atlasmith.networks.registration import VELOCITY_SCALE

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


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("shape", "inputs"), [((17, 9), 1), ((8, 40), 3), ((13, 16, 11), 2)])
def test_registration_networks_take_any_size_and_start_near_zero(
    name: str, shape: tuple[int, ...], inputs: int
) -> None:
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(NETWORKS[name](len(shape), inputs, 2 * len(shape)))
    fixed, moving = torch.rand(2, 2, inputs, *shape)
    output, again = (net(fixed, moving) for net in nets)
    assert output.shape == (2, 2 * len(shape), *[-(-n // 2) for n in shape])
    assert output.abs().max() < 1e-3
    torch.testing.assert_close(again, output, rtol=0, atol=0)
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in nets[0].parameters())
    one = nets[0](fixed[:1], moving[:1])
    torch.testing.assert_close(one, output[:1], rtol=1e-3, atol=1e-9)


def test_voxelmorph_has_the_published_size() -> None:
    sizes = [sum(p.numel() for p in NETWORKS["unet"](ndim, 1, ndim).parameters()) for ndim in (2, 3)]
    assert sizes == [109_170, 327_331]


@pytest.mark.parametrize("shape", [(18, 14), (10, 12, 14)])
def test_folded_kernels_give_the_same_answer(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = NETWORKS["lkunet"](len(shape), 1, len(shape)).double()
    torch.nn.init.normal_(net.body.head.weight)
    images = torch.rand(2, 1, 1, *shape).double()
    before, size = net(*images), len(list(net.parameters()))
    reparameterize(net)
    assert len(list(net.parameters())) < size
    torch.testing.assert_close(net(*images), before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("shifted", "groups"),
    [(False, [[0, 4], [4, 7]]), (True, [[0, 2], [2, 6], [6, 7]])],
    ids=["plain", "shifted"],
)
def test_attention_is_torchs_within_each_window(shifted: bool, groups: list[list[int]]) -> None:
    """Windows that end at the image, or that a shift would wrap around, hold what is really there."""
    torch.manual_seed(0)
    block = SwinBlock(2, 8, 2, shifted)
    oracle = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    oracle.in_proj_weight, oracle.in_proj_bias = block.qkv.weight, block.qkv.bias
    oracle.out_proj = block.project
    image = torch.rand(2, 8, 7, 3)
    groups_across = [[0, 2], [2, 3]] if shifted else [[0, 3]]
    expected = torch.empty_like(image)
    for start, stop in groups:
        for left, right in groups_across:
            tokens = image[:, :, start:stop, left:right].flatten(2).mT
            normed = block.before(tokens)
            tokens = tokens + oracle(normed, normed, normed, need_weights=False)[0]
            tokens = tokens + block.perceptron(block.between(tokens))
            expected[:, :, start:stop, left:right] = tokens.mT.reshape(2, 8, stop - start, right - left)
    torch.testing.assert_close(block(image), expected)


def test_the_bias_of_attention_depends_on_the_offset_alone() -> None:
    block = SwinBlock(3, 4, 1, False)
    assert block.bias.shape == (1, 7**3)
    assert (block.offsets.diagonal() == 7**3 // 2).all()
    places = torch.stack(torch.meshgrid(*[torch.arange(4)] * 3, indexing="ij")).flatten(1)
    pairs: dict[tuple[int, ...], int] = {}
    for i, j in itertools.product(range(0, 64, 5), range(64)):
        offset = tuple((places[:, i] - places[:, j]).tolist())
        assert pairs.setdefault(offset, int(block.offsets[i, j])) == block.offsets[i, j]
    assert len(set(pairs.values())) == len(pairs)


@pytest.mark.parametrize("shape", [(8, 4), (4, 8, 12)])
def test_windows_come_back(shape: tuple[int, ...]) -> None:
    image = torch.rand(2, 3, *shape)
    parts = windows(image, 4)
    assert parts.shape == (2, math.prod(shape) // 4 ** len(shape), 4 ** len(shape), 3)
    torch.testing.assert_close(parts[:, 0, 0], image.flatten(2)[:, :, 0])
    torch.testing.assert_close(unwindows(parts, 4, image.shape[2:]), image)


def rings(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and masks (count, 1, 48, 48) of soft ellipses of random places and sizes."""
    draw = torch.rand(count, 4, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
    center, radius = 20 + 8 * draw[:, :2], 8 + 6 * draw[:, 2:]
    x = torch.arange(48.0)
    away = ((x.view(1, 1, -1, 1) - center[:, 0]) / radius[:, 0]) ** 2
    distance = (away + ((x.view(1, 1, 1, -1) - center[:, 1]) / radius[:, 1]) ** 2).sqrt()
    return torch.sigmoid(8 * (1 - distance)), (distance < 1).float()


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    b = (b > 0.5).float()
    return (2 * (a * b).sum((1, 2, 3)) / (a.sum((1, 2, 3)) + b.sum((1, 2, 3)))).mean().item()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_learn_to_register_rings(name: str) -> None:
    torch.manual_seed(0)
    net = NETWORKS[name](2, 1, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)

    def velocity(fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        return VELOCITY_SCALE * net(fixed, moving)

    def moved(image: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
        return warp(image, resize_displacement(exponentiate(velocity, 6), image.shape[2:]))

    for step in range(50):
        images, _ = rings(16, step + 1)
        fixed, moving = images.chunk(2)
        v = velocity(fixed, moving)
        loss = (moved(moving, v) - fixed).square().mean() + 0.01 * diffusion(v, (1.0, 1.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.inference_mode():
        (fixed, moving), (truth, mask) = (x.chunk(2) for x in rings(32, 0))
        v = velocity(fixed, moving)
        before = dice(truth, mask)
        after = dice(truth, moved(mask, v))
        both = exponentiate(torch.cat([v, -v]), 6)
    assert after > 0.85 > before
    there, back = both.chunk(2)
    assert compose(back, there).norm(dim=1).mean() < 0.1  # half-resolution voxels


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
    model = Groupwise(grid, CovariateCode.of(names, COHORT), "unet_half", [4, 8], 5)
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
@pytest.mark.parametrize(("probabilistic", "decoder"), [(False, "film"), (True, "coordinates")])
def test_a_saved_model_comes_back(grid: Grid, probabilistic: bool, decoder: str, tmp_path) -> None:
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
    expected, found = (m.velocity(image, image) for m in (model, again))
    torch.testing.assert_close(found.mean, expected.mean, rtol=0, atol=0)
    assert probabilistic == (found.log_variance is not None)
    assert again.grid.same_as(grid) and again.code == model.code


@pytest.mark.parametrize("grid", GRIDS)
def test_the_decoder_stays_within_the_support(grid: Grid) -> None:
    model = Groupwise(grid, CovariateCode.of(["age", "sex"], COHORT), "unet_half", [4, 8], 5)
    torch.nn.init.normal_(model.decoder.head.weight)
    model.fov_mask[:, :, :4] = 0
    change = model.template(model.code.encode(COHORT[0])[None]) - model.base
    assert (change[:, :, :4] == 0).all()
    assert (change[:, :, 4:] != 0).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_labels_that_are_seen_join_the_intensities(grid: Grid, tmp_path) -> None:
    torch.manual_seed(0)
    seen = {"outputs": 3, "channels": [4, 8], "without": [["a", "c"], ["b"]]}
    model = Groupwise(grid, CovariateCode({}, {}), "unet_half", [4, 8], 5, segmenter=seen)
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
    seen_by = model.features(image, ["b", "c"])[:, 1:]
    torch.testing.assert_close(seen_by[0], second[0])  # which learned without b
    torch.testing.assert_close(seen_by[1], first[1])
    torch.testing.assert_close(model.features(image, ["new", "d"]), features)
    model.save(tmp_path / "model.safetensors")
    again = Groupwise.load(tmp_path / "model.safetensors")
    expected, found = (
        m.velocity(m.features(image, "ab"), m.features(image)).mean for m in (model.eval(), again)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_every_atlas_is_unseen_by_one_segmenter() -> None:
    assert held_out_folds(list("abcde"), 3) == [["a", "d"], ["b", "e"], ["c"]]
    assert held_out_folds(list("ab"), 3) == [["a"], ["b"]]
    assert held_out_folds(["a"], 3) == held_out_folds(list("abc"), 1) == [[]]


def test_a_channel_a_label_and_unions_of_many() -> None:
    torch.testing.assert_close(label_codes(5), torch.eye(5))
    many = label_codes(134)
    assert many.shape == (16, 134) and (many.sum(1) == 67).all()
    assert len({tuple(column) for column in many.T.tolist()}) == 134  # every label has a code of its own
    torch.testing.assert_close(label_codes(134), many)


def test_unknown_network_is_named() -> None:
    with pytest.raises(AtlasmithError, match=r"unknown network 'unett'. Did you mean 'unet'"):
        Groupwise(GRIDS[0], CovariateCode({}, {}), "unett", [4, 8], 5)
