"""The groupwise affine reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from phantom import COARSE, head, transformed, world, write_images_cohort, write_posed_heads
from scipy.linalg import expm, logm

from atlasmith.affine import build_reference, stage
from atlasmith.affine.reference import average, center_matrices, choose
from atlasmith.core.grid import Array
from atlasmith.core.intensity import normalize
from atlasmith.io.images import read_image
from atlasmith.io.tables import Subject, write_cohort


def test_reference_is_unbiased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, poses = write_posed_heads(tmp_path)
    config = write_images_cohort(tmp_path, COARSE, images, iterations=2)
    build_reference(config)
    written = config.layout.affine_reference.read_bytes()

    # Neither the order of the rows nor the number of threads matters.
    write_cohort(config.layout.cohort, [Subject(k, "train", images[k]) for k in ("s2", "s0", "s1")], [])
    monkeypatch.setattr(stage, "_available_cores", lambda: 1)
    build_reference(config)
    assert config.layout.affine_reference.read_bytes() == written

    # All poses times one common matrix have the identity as their mean: the reference has that pose.
    mean = center_matrices([_linear(matrix) for matrix in poses])
    common = np.linalg.inv(_linear(poses[0])) @ mean[0]
    expected = normalize(transformed(head, np.linalg.inv(common))(world(COARSE)))
    found = read_image(config.layout.affine_reference).data
    inside = expected > 0.05
    assert np.corrcoef(found[inside], expected[inside])[0, 1] > 0.8
    sizes = [np.ptp(np.argwhere(data > 0.3), axis=0) for data in (found, expected)]
    assert np.abs(sizes[0] - sizes[1]).max() <= 1

    # A second round makes it sharper.
    sharpness = {2: np.var(found[inside])}
    config = write_images_cohort(tmp_path, COARSE, images, iterations=1)
    build_reference(config)
    sharpness[1] = np.var(read_image(config.layout.affine_reference).data[inside])
    assert sharpness[2] > sharpness[1]


def _linear(matrix: Array) -> Array:
    matrix = matrix.copy()
    matrix[:3, 3] = 0
    return matrix


def test_mean_transform_is_the_identity() -> None:
    rng = np.random.default_rng(0)
    matrices = [expm(np.r_[rng.normal(0, 0.2, (3, 4)), np.zeros((1, 4))]) for _ in range(6)]
    centered = center_matrices(matrices)
    np.testing.assert_allclose(np.mean([logm(m) for m in centered], axis=0), 0, atol=1e-9)
    common = [np.linalg.inv(a) @ b for a, b in zip(matrices, centered, strict=True)]
    np.testing.assert_allclose(common, [common[0]] * 6, atol=1e-9)


def test_an_image_that_is_turned_does_not_tilt_the_mean() -> None:
    rng = np.random.default_rng(0)
    matrices = [expm(np.r_[rng.normal(0, 0.1, (3, 4)), np.zeros((1, 4))]) for _ in range(5)]
    turned = np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrices[0]
    centered = center_matrices([*matrices, turned])
    np.testing.assert_allclose(centered[:5], center_matrices(matrices), atol=1e-9)
    np.testing.assert_allclose(centered[5], turned @ np.linalg.inv(matrices[0]) @ centered[0], atol=1e-9)


def test_choice_of_subjects_is_stable() -> None:
    subjects = [f"{index:03d}" for index in range(30)]
    chosen = choose(subjects, 10)
    assert chosen == sorted(chosen) and len(chosen) == 10
    assert choose(subjects[::-1], 10) == chosen
    rest = [subject for subject in subjects if subject != chosen[0]]
    assert all(subject in choose(rest, 10) for subject in chosen[1:])


def test_average_ignores_voxels_outside_the_field_of_view() -> None:
    a, b = np.array([1.0, np.nan, np.nan]), np.array([3.0, 5.0, np.nan])
    np.testing.assert_array_equal(average(iter([a, b])), [2, 5, 0])
