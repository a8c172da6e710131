"""Cross-fitted segmenters and their channels of labels."""

import torch

from atlasmith.networks import held_out_folds, label_codes


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
