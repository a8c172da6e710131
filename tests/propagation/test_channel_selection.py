"""Atlas selection and template labels with several channels and excluded regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from channel_cohort import LESIONS, write_channel_cohort

from atlasmith.config import Config
from atlasmith.io.images import read_grid, read_image, read_labels, write_image
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.propagation import label_template, select_atlases


def with_warped_images(folder: Path) -> tuple[Config, dict[str, Subject]]:
    """A cohort whose images lie in template space; the label template is the plane of target 08."""
    config = write_channel_cohort(folder)
    fusion = config.fusion.model_copy(update={"atlas_selection": 2, "margin": 0.0})
    config = config.model_copy(update={"fusion": fusion})
    layout, subjects = config.layout, {s.id: s for s in read_cohort(config.layout.cohort)}
    write_image(
        layout.template_labels, read_labels(subjects["08"].labels).data, read_grid(subjects["08"].image)
    )
    return config, subjects


def test_atlases_are_selected_by_the_channels_that_both_have(tmp_path: Path) -> None:
    config, subjects = with_warped_images(tmp_path)
    layout, random = config.layout, np.random.default_rng(0)
    atlases = [s for s in subjects.values() if s.role == "atlas"]
    own = random.random((28, 26, 1)).astype(np.float32)
    similar = {"T1w": ("03", "05"), "T2w": ("01", "04")}
    for name, subject in subjects.items():
        for channel in subject.channels:
            noise = 0.05 if name in similar[channel] else 1.0
            data = own + noise * random.normal(size=own.shape)
            data = own if subject.role == "target" else data
            write_image(layout.warped(name, channel), data.astype(np.float32), read_grid(subject.image))
    # 01 has T2w alone; 04 resembles the target in T2w alone; 03 and 05 in T1w, which 08 alone can tell.
    assert [s.id for s in select_atlases(config, subjects["08"], atlases)] == ["03", "05"]
    assert "01" in [s.id for s in select_atlases(config, subjects["06"], atlases)]


def test_excluded_voxels_have_no_part_in_the_selection(tmp_path: Path) -> None:
    config, subjects = with_warped_images(tmp_path)
    layout, random = config.layout, np.random.default_rng(0)
    own = random.random((28, 26, 1)).astype(np.float32)
    for name, subject in subjects.items():
        noise = {"07": 0, "00": 0.5, "02": 0.5 + 1e-3, "04": 1, "06": 0}.get(name, 2)
        for channel in subject.channels:
            data = own + noise * np.random.default_rng(1).normal(size=own.shape)
            if name == "00":  # the best, but for its lesion in template space: registered by the identity
                data[LESIONS["00"]] = 40
            write_image(layout.warped(name, channel), data.astype(np.float32), read_grid(subject.image))
    atlases = [s for s in subjects.values() if s.role == "atlas"]
    assert [s.id for s in select_atlases(config, subjects["07"], atlases)] == ["00", "02"]


@pytest.mark.parametrize("depth", [1, 3])
def test_the_template_has_the_labels_of_those_that_are_not_excluded(tmp_path: Path, depth: int) -> None:
    config = write_channel_cohort(tmp_path, depth)
    layout, subjects = config.layout, {s.id: s for s in read_cohort(config.layout.cohort)}
    grid = read_grid(subjects["00"].image)
    write_image(layout.template_image, np.zeros(grid.shape, np.float32), grid)
    label_template(config)
    probabilities = read_image(layout.template_probabilities).data
    ids = [f"{k:02d}" for k in range(6)]
    moved = np.stack(
        [
            np.roll(read_labels(subjects[name].labels).data, -(k % 4) - 4 * (k % 2), axis=0)
            for k, name in enumerate(ids)
        ]
    )
    voting = np.ones(moved.shape, bool)
    voting[0][LESIONS["00"]] = False
    for index, value in enumerate((1, 2)):
        share = ((moved == value) & voting).sum(axis=0) / voting.sum(axis=0)
        np.testing.assert_allclose(probabilities[:18, ..., index], share[:18], atol=1e-6)
