"""Attention in windows."""

import itertools
import math

import pytest
import torch

from atlasmith.networks.attention import (
    GlobalBlock,
    SwinBlock,
    merge_windows,
    partition_windows,
    position_code,
)


@pytest.mark.parametrize(
    ("shifted", "groups"),
    [(False, [[0, 4], [4, 7]]), (True, [[0, 2], [2, 6], [6, 7]])],
    ids=["plain", "shifted"],
)
def test_attention_equals_torch_in_each_window(shifted: bool, groups: list[list[int]]) -> None:
    """Windows at the border of the image, and those that a shift would wrap around, have fewer voxels."""
    torch.manual_seed(0)
    block = SwinBlock(2, 8, 2, shifted)
    reference = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    reference.in_proj_weight, reference.in_proj_bias = block.qkv.weight, block.qkv.bias
    reference.out_proj = block.project
    image = torch.rand(2, 8, 7, 3)
    groups_across = [[0, 2], [2, 3]] if shifted else [[0, 3]]
    expected = torch.empty_like(image)
    for start, stop in groups:
        for left, right in groups_across:
            tokens = image[:, :, start:stop, left:right].flatten(2).mT
            normed = block.attention_norm(tokens)
            tokens = tokens + reference(normed, normed, normed, need_weights=False)[0]
            tokens = tokens + block.mlp(block.mlp_norm(tokens))
            expected[:, :, start:stop, left:right] = tokens.mT.reshape(2, 8, stop - start, right - left)
    torch.testing.assert_close(block(image), expected)


def test_bias_of_attention_depends_on_the_offset_alone() -> None:
    block = SwinBlock(3, 4, 1, False)
    assert block.bias.shape == (1, 7**3)
    assert (block.offsets.diagonal() == 7**3 // 2).all()
    positions = torch.stack(torch.meshgrid(*[torch.arange(4)] * 3, indexing="ij")).flatten(1)
    pairs: dict[tuple[int, ...], int] = {}
    for i, j in itertools.product(range(0, 64, 5), range(64)):
        offset = tuple((positions[:, i] - positions[:, j]).tolist())
        assert pairs.setdefault(offset, int(block.offsets[i, j])) == block.offsets[i, j]
    assert len(set(pairs.values())) == len(pairs)


@pytest.mark.parametrize("shape", [(8, 4), (4, 8, 12)])
def test_merging_inverts_partitioning(shape: tuple[int, ...]) -> None:
    image = torch.rand(2, 3, *shape)
    parts = partition_windows(image, 4)
    assert parts.shape == (2, math.prod(shape) // 4 ** len(shape), 4 ** len(shape), 3)
    torch.testing.assert_close(parts[:, 0, 0], image.flatten(2)[:, :, 0])
    torch.testing.assert_close(merge_windows(parts, 4, image.shape[2:]), image)


def test_windows_of_a_long_image_are_the_same_in_half_precision() -> None:
    block, image = SwinBlock(2, 8, 2, True), torch.rand(1, 8, 4, 1022)
    padded = torch.nn.functional.pad(image, [0, 2])
    masks = [block._attention_mask(image.to(t), padded.to(t)) for t in (torch.float32, torch.bfloat16)]
    assert torch.equal(*masks)


@pytest.mark.parametrize("margin", [0, 1, 4])
@pytest.mark.parametrize(
    ("shifted", "groups"),
    [(False, [[0, 4], [4, 7]]), (True, [[0, 2], [2, 6], [6, 7]])],
    ids=["plain", "shifted"],
)
def test_windows_search_another_image_within_their_margin(
    shifted: bool, groups: list[list[int]], margin: int
) -> None:
    torch.manual_seed(0)
    block = SwinBlock(2, 8, 2, shifted, margin)
    reference = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    reference.in_proj_weight, reference.in_proj_bias = block.qkv.weight, block.qkv.bias
    reference.out_proj = block.project
    image, other = torch.rand(2, 2, 8, 7, 3)
    groups_across = [[0, 2], [2, 3]] if shifted else [[0, 3]]
    # A window that a shift, or the padding, cuts off has its whole margin nevertheless.
    starts = {start: (start if start or not shifted else -2) for start in (0, 2, 4, 6)}
    expected = torch.empty_like(image)
    for start, stop in groups:
        for left, right in groups_across:
            tokens = image[:, :, start:stop, left:right].flatten(2).mT
            corners = [starts[start], starts[left]]
            searched = other[
                :,
                :,
                max(corners[0] - margin, 0) : corners[0] + 4 + margin,
                max(corners[1] - margin, 0) : corners[1] + 4 + margin,
            ]
            context = block.attention_norm(searched.flatten(2).mT)
            tokens = tokens + reference(block.attention_norm(tokens), context, context, need_weights=False)[0]
            tokens = tokens + block.mlp(block.mlp_norm(tokens))
            expected[:, :, start:stop, left:right] = tokens.mT.reshape(2, 8, stop - start, right - left)
    torch.testing.assert_close(block(image, other), expected)


def test_bias_depends_on_the_offset_alone_with_a_margin() -> None:
    block = SwinBlock(2, 4, 1, False, margin=2)
    assert block.bias.shape == (1, 11**2)
    searched = torch.stack(torch.meshgrid(*[torch.arange(-2, 6)] * 2, indexing="ij")).flatten(1)
    queried = torch.stack(torch.meshgrid(*[torch.arange(4)] * 2, indexing="ij")).flatten(1)
    offsets = queried[:, :, None] - searched[:, None] + 5
    assert torch.equal(block.offsets, offsets[0] * 11 + offsets[1])


@pytest.mark.parametrize("shape", [(7, 6), (5, 4, 6)], ids=str)
def test_deformable_windows_sample_at_their_offsets(shape: tuple[int, ...]) -> None:
    """Without offsets they are plain ones; with the same offset everywhere, those of the shifted image."""
    torch.manual_seed(0)
    block = SwinBlock(len(shape), 8, 2, True, deformable=True)
    plain = SwinBlock(len(shape), 8, 2, True)
    plain.load_state_dict(block.state_dict(), strict=False)
    image, other = torch.rand(2, 1, 8, *shape)
    for parameter in block.deformation.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(block(image, other), plain(image, other))
    torch.testing.assert_close(block(image), plain(image))
    block.deformation.bias.data[0] = 1.0
    after = torch.cat([other[:, :, 1:], other[:, :, -1:]], dim=2)
    torch.testing.assert_close(block(image, other), plain(image, after))


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2)], ids=str)
def test_global_attention_equals_a_softmax_over_all_voxels(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    block = GlobalBlock(6, 2)
    image, other = torch.rand(2, 1, 6, *shape)
    tokens, context = (x.flatten(2).mT for x in (image, other))
    code = position_code(shape, image)
    assert len(code.flatten(2)[0].mT.unique(dim=0)) == math.prod(shape)
    query, _, _ = block.qkv(block.attention_norm(tokens)).chunk(3, -1)
    _, key, value = block.qkv(block.attention_norm(context)).chunk(3, -1)
    parts = []
    for head in (slice(0, 3), slice(3, 6)):
        q, k = ((x + code.flatten(2).mT)[..., head] for x in (query, key))
        parts.append((q @ k.mT / math.sqrt(3)).softmax(-1) @ value[..., head])
    tokens = tokens + block.project(torch.cat(parts, dim=-1))
    tokens = tokens + block.mlp(block.mlp_norm(tokens))
    torch.testing.assert_close(block(image, other), tokens.mT.reshape(image.shape))
