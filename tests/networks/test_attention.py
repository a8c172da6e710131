"""Attention in windows."""

import itertools
import math

import pytest
import torch

from atlasmith.networks.attention import SwinBlock, merge_windows, partition_windows


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
