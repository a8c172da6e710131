"""Training of the segmentation networks whose label probabilities registration compares."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from second_device import DEVICE, SecondDevice

from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Grid
from atlasmith.io.files import read_json
from atlasmith.io.tables import read_cohort
from atlasmith.networks import Segmenters, held_out_folds
from atlasmith.template.segmenter import SegmenterTraining, train_segmenters
from atlasmith.training.dataset import AlignedImages, Cache


def untrained(config: Config, images: AlignedImages, steps: int) -> tuple[Config, Segmenters]:
    values = config.resolved()
    values["template"] |= {"segmenter": {"channels": [8, 16], "steps": steps}, "checkpoint_every": 2}
    config = parse_config(values)
    torch.manual_seed(0)
    atlases = [subject.id for subject in images.subjects if subject.role == "atlas"]
    return config, Segmenters(2, 2, config.template.segmenter.channels, held_out_folds(atlases, 2))


def trained_segmenters(config: Config, images: AlignedImages, steps: int) -> Segmenters:
    config, trained = untrained(config, images, steps)
    train_segmenters(config, trained, images)
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
            changed.cache.get(("labels", grid.shape, index), lambda: torch.ones(grid.tensor_shape).int())
    expected, found = (trained_segmenters(toy, x, 4) for x in (images, changed))
    for name, value in expected.each[0].state_dict().items():
        assert torch.equal(found.each[0].state_dict()[name], value)
    assert not torch.equal(found.each[1].body.head.weight, expected.each[1].body.head.weight)


def test_an_interrupted_training_resumes_to_the_same_weights(
    toy: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects, grid = read_cohort(toy.layout.cohort), Grid.from_dict(read_json(toy.layout.grid))
    images = AlignedImages(toy.layout, subjects, grid)
    expected = trained_segmenters(toy, images, 5)
    config, interrupted = untrained(toy, images, 5)
    step = SegmenterTraining.step

    def stopped(training: SegmenterTraining, index: int) -> dict[str, torch.Tensor]:
        if index == 3:
            raise KeyboardInterrupt
        return step(training, index)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SegmenterTraining, "step", stopped)
        train_segmenters(config, interrupted, images)
    assert config.layout.segmenter_checkpoint.exists()
    resumed = trained_segmenters(toy, images, 5)
    for name, value in expected.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)


def test_on_a_gpu_a_step_waits_for_nothing(toy: Config, tmp_path: Path, second_device: SecondDevice) -> None:
    subjects, grid = read_cohort(toy.layout.cohort), Grid.from_dict(read_json(toy.layout.grid))
    images = AlignedImages(toy.layout, subjects, grid, Cache(tmp_path, 10**9), DEVICE)
    config, segmenters = untrained(toy, images, 2)
    training = SegmenterTraining(config, segmenters.to(DEVICE), images)
    with training.batches:
        second_device.clear()
        loss = training.step(0)["loss"]
        assert not second_device.waits and loss.device == DEVICE


def test_segmenters_find_the_labels_of_targets(toy: Config) -> None:
    subjects = read_cohort(toy.layout.cohort)
    images = AlignedImages(toy.layout, subjects, Grid.from_dict(read_json(toy.layout.grid)))
    segmenters = trained_segmenters(toy, images, 80)
    for index, subject in enumerate(subjects):
        if subject.role != "target":
            continue
        truth = AlignedImages(toy.layout, [replace(subject, role="atlas")], images.grid)
        truth = truth.label_indices(0)
        predicted = segmenters(images.batch([index])[0])[0] > 0.5
        for channel, found in enumerate(predicted):
            true = truth == channel + 1
            assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.8, (subject.id, channel)
