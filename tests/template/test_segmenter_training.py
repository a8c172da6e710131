"""Training of the segmentation networks whose label probabilities registration compares."""

from dataclasses import replace
from pathlib import Path

import torch

from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Grid
from atlasmith.io.files import read_json
from atlasmith.io.tables import read_cohort
from atlasmith.networks import Segmenters, held_out_folds
from atlasmith.template.segmenter import train_segmenters
from atlasmith.training.dataset import AlignedImages, Cache


def trained_segmenters(config: Config, images: AlignedImages, steps: int) -> Segmenters:
    values = config.resolved()
    values["template"]["segmenter"] = {"channels": [8, 16], "steps": steps}
    config = parse_config(values)
    torch.manual_seed(0)
    atlases = [subject.id for subject in images.subjects if subject.role == "atlas"]
    trained = Segmenters(2, 2, config.template.segmenter.channels, held_out_folds(atlases, 2))
    train_segmenters(config, trained, images, torch.device("cpu"))
    config.layout.segmenter_checkpoint.unlink()
    config.layout.segmenter_training.unlink()
    return trained


def test_a_segmenter_does_not_depend_on_its_held_out_labels(toy: Config, tmp_path: Path) -> None:
    subjects = read_cohort(toy.layout.cohort)
    grid = Grid.from_dict(read_json(toy.layout.grid))
    images, changed = (
        AlignedImages(toy.layout, subjects, grid, cache=Cache(tmp_path, 10**9)) for _ in range(2)
    )
    held_out = held_out_folds([subject.id for subject in subjects if subject.role == "atlas"], 2)[0]
    for index, subject in enumerate(subjects):
        if subject.id in held_out:
            changed.cache.get(("labels", index), lambda: torch.full(grid.tensor_shape, 4).int())
    expected, found = (trained_segmenters(toy, x, 4) for x in (images, changed))
    for name, value in expected.each[0].state_dict().items():
        assert torch.equal(found.each[0].state_dict()[name], value)
    assert not torch.equal(found.each[1].body.head.weight, expected.each[1].body.head.weight)


def test_segmenters_find_the_labels_of_targets(toy: Config) -> None:
    subjects = read_cohort(toy.layout.cohort)
    images = AlignedImages(toy.layout, subjects, Grid.from_dict(read_json(toy.layout.grid)))
    segmenters = trained_segmenters(toy, images, 80)
    for index, subject in enumerate(subjects):
        if subject.role != "target":
            continue
        truth = AlignedImages(toy.layout, [replace(subject, role="atlas")], images.grid).labels(0)
        predicted = segmenters(images.batch([index])[0])[0] > 0.5
        for channel, value in enumerate((4, 1000)):
            found, true = predicted[channel], truth == value
            assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.8, (subject.id, value)
