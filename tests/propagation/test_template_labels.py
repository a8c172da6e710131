"""Labels of the template, and their propagation to a subject."""

import numpy as np
import pytest
import torch

from atlasmith.config import Config
from atlasmith.core.label_sampling import LabelSampler
from atlasmith.core.world import resampling_coordinates
from atlasmith.io.images import read_grid, read_image, read_labels
from atlasmith.io.tables import read_cohort, read_tsv
from atlasmith.io.transforms import read_composite
from atlasmith.propagation import label_template, propagate_from_template
from atlasmith.propagation.template_labels import _vote


def test_probabilities_are_fractions_of_the_atlases_and_the_most_frequent_label_wins(
    toy_registered: Config,
) -> None:
    layout = toy_registered.layout
    label_template(toy_registered)
    assert [row["index"] for row in read_tsv(layout.template_label_table)] == ["4", "1000"]
    labels, probabilities = read_labels(layout.template_labels), read_image(layout.template_probabilities)
    assert labels.grid.same_as(read_grid(layout.template_image)) and probabilities.grid.same_as(labels.grid)
    total = np.zeros(probabilities.data.shape)
    atlases = [s for s in read_cohort(layout.cohort) if s.role == "atlas"]
    for atlas in atlases:
        own = read_labels(atlas.labels)
        voxels = resampling_coordinates(own.grid, read_composite(layout.forward(atlas.id)), labels.grid)
        moved = LabelSampler(torch.from_numpy(own.grid.squeeze(own.data)))(voxels).numpy()
        total += labels.grid.unsqueeze(moved)[..., None] == np.array([4, 1000])
    np.testing.assert_allclose(probabilities.data, total / len(atlases), atol=1e-6)
    background = 1 - probabilities.data.sum(axis=-1, keepdims=True)
    complete = np.concatenate([background, probabilities.data], axis=-1)
    most_frequent = np.array([0, 4, 1000])[complete.argmax(axis=-1)]
    ordered = np.sort(complete, axis=-1)
    clear = ordered[..., -1] > ordered[..., -2] + 1e-6
    np.testing.assert_array_equal(labels.data[clear], most_frequent[clear])


def test_the_labels_of_the_template_overlap_those_of_a_target(toy_registered: Config) -> None:
    layout = toy_registered.layout
    label_template(toy_registered)
    propagate_from_template(toy_registered, "09")
    truth = read_labels(next(s for s in read_cohort(layout.cohort) if s.id == "09").labels)
    found = read_labels(layout.segmentation("09", "template"))
    assert found.grid.same_as(truth.grid)
    for value in (4, 1000):
        both = ((found.data == value) & (truth.data == value)).sum()
        assert 2 * both / ((found.data == value).sum() + (truth.data == value).sum()) > 0.85, value


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 1)], ids=["3-D", "2-D"])
def test_votes_are_counted_as_by_one_hot_maps(shape: tuple[int, int, int]) -> None:
    """With ties, atlases without a vote, and a label that none has."""
    random = np.random.default_rng(3)
    indices = random.choice([0, 1, 2, 4], (5, *shape)).astype(np.int16)
    votes = random.integers(5, 8, shape).astype(np.int32)
    counts = np.stack([(indices == index).sum(0) for index in range(1, 5)], axis=-1)
    background = votes - counts.sum(-1)
    expected = np.where(counts.max(-1) > background, counts.argmax(-1) + 1, 0)
    probabilities, labels = _vote(torch.from_numpy(indices), torch.from_numpy(votes), 4)
    np.testing.assert_array_equal(labels.numpy(), expected)
    np.testing.assert_allclose(probabilities, counts / votes[..., None], rtol=1e-6)
    assert probabilities.dtype == np.float32 and set(expected.ravel()) == {0, 1, 2, 4}
