"""Cross-fitted segmenters and their channels of labels."""

import numpy as np
import pytest
import torch

from atlasmith.core.labels import label_index
from atlasmith.networks import held_out_folds, label_channels, label_codes


def test_every_atlas_is_held_out_once() -> None:
    assert held_out_folds(list("abcde"), 3) == [["a", "d"], ["b", "e"], ["c"]]
    assert held_out_folds(list("ab"), 3) == [["a"], ["b"]]
    assert held_out_folds(["a"], 3) == held_out_folds(list("abc"), 1) == [[]]


def test_one_channel_per_label_or_random_subsets() -> None:
    torch.testing.assert_close(label_codes(5), torch.eye(5))
    many = label_codes(134)
    assert many.shape == (16, 134) and (many.sum(1) == 67).all()
    assert len({tuple(column) for column in many.T.tolist()}) == 134  # the codes of all labels differ
    torch.testing.assert_close(label_codes(134), many)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_channels_are_membership_in_the_subsets(count: int) -> None:
    random = np.random.default_rng(count)
    values = np.sort(random.choice(2**30, count, replace=False))
    labels = random.choice([0, 5, 2**31 - 1, *values], (2, 7, 8, 9))  # 5 and the largest aren't the cohort's
    codes = label_codes(count)
    channels = label_channels(torch.from_numpy(label_index(labels, values)), codes)
    expected = [np.isin(labels, values[members.numpy() > 0]) for members in codes]
    np.testing.assert_array_equal(channels.numpy(), np.stack(expected, axis=1))
