"""The affine stage, against planted transforms of an image given in closed form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from phantom import (
    COARSE,
    HEADERS,
    TEMPLATE,
    assert_close,
    centered_grid,
    head,
    pose,
    save,
    slab,
    transformed,
    world,
    write_images_cohort,
    write_posed_heads,
)

from atlasmith.affine import align_subject, build_reference
from atlasmith.affine.engines import ENGINES, AffineEngine
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array
from atlasmith.core.intensity import normalize
from atlasmith.io.images import read_image, write_image
from atlasmith.io.transforms import read_affine


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["LPS", "PIR", "oblique", "anisotropic"])
def test_planted_affine_is_found_in_3d(tmp_path: Path, name: str, engine: str) -> None:
    planted = pose((6, -8, 10), (1.1, 0.95, 1.05), (60, -40, 25))
    shape = np.ceil(44 / np.linalg.norm(HEADERS[name], axis=0)).astype(int)
    header = np.eye(4)
    header[:3, :3] = HEADERS[name]
    header[:3, 3] = planted[:3, 3] - header[:3, :3] @ ((shape - 1) / 2) + [2, -1, 1]
    path = save(tmp_path / "a.nii.gz", transformed(head, planted), header, tuple(shape))
    config = write_images_cohort(tmp_path, TEMPLATE, {"a": path}, engine=engine)
    write_image(config.layout.affine_reference, normalize(head(world(TEMPLATE))), TEMPLATE)
    align_subject(config, "a")
    points = world(TEMPLATE)
    assert_close(read_affine(config.layout.affine("a")), planted, points[head(points) > 0.3], 0.5)
    moved = read_image(config.layout.affine_image("a"))
    assert moved.grid.same_as(TEMPLATE)
    assert moved.data.min() >= 0 and moved.data.max() <= 1
    assert np.abs(moved.data - normalize(head(points))).mean() < 0.02


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("axes", [(0, 1), (0, 2)])
@pytest.mark.parametrize("flip", [(-1, 1), (-1, -1)])
def test_planted_affine_is_found_in_2d(
    tmp_path: Path, axes: tuple[int, int], flip: tuple[int, int], engine: str
) -> None:
    """A slice in any plane, its header flipped, far from the template's world; 3 mm thick."""
    across = 3 - sum(axes)
    sizes = [64, 64, 64]
    sizes[across] = 1
    grid = centered_grid((sizes[0], sizes[1], sizes[2]))
    planted = np.eye(4)
    angle = np.radians(9)
    plane = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag(
        [1.08, 0.94]
    )
    planted[np.ix_(axes, axes)] = plane
    planted[list(axes), 3] = [30, -20]
    planted[across, across], planted[across, 3] = 3, 50
    function = transformed(slab, planted)
    header = np.zeros((4, 4))
    header[3, 3] = 1
    header[axes[0], 0], header[axes[1], 1], header[across, 2] = *(0.9 * np.array(flip)), 3
    header[:3, 3] = planted[:3, 3] - header[:3, :3] @ [34, 36, 0]
    path = save(tmp_path / "a.nii.gz", function, header, (70, 74))
    config = write_images_cohort(tmp_path, grid, {"a": path}, engine=engine)
    write_image(config.layout.affine_reference, normalize(slab(world(grid))), grid)
    align_subject(config, "a")
    points = world(grid)
    assert_close(read_affine(config.layout.affine("a")), planted, points[slab(points) > 0.3], 0.5)
    assert np.abs(read_image(config.layout.affine_image("a")).data - normalize(slab(points))).mean() < 0.02


def crop(points: Array) -> Array:
    """Texture everywhere: no background."""
    rng = np.random.default_rng(3)
    waves = [np.cos(points @ rng.uniform(-0.35, 0.35, 3) + rng.uniform(0, 6)) for _ in range(12)]
    return 3 + sum(waves)


@pytest.mark.parametrize("engine", ENGINES)
def test_small_crops_without_background(tmp_path: Path, engine: str) -> None:
    grid = centered_grid((40, 48, 32))
    planted = pose((3, -4, 5), (1.04, 0.97, 1), (17, 22, 13))
    header = np.eye(4)
    header[:3, 3] = 1.5
    path = save(tmp_path / "a.nii.gz", transformed(crop, planted), header, (31, 40, 24))
    config = write_images_cohort(tmp_path, grid, {"a": path}, engine=engine)
    write_image(config.layout.affine_reference, normalize(crop(world(grid))), grid)
    align_subject(config, "a")
    points = world(grid)[10:30, 12:36, 10:22]
    assert_close(read_affine(config.layout.affine("a")), planted, points, 0.5)


@pytest.mark.parametrize(
    "divergence",
    [
        pose(offset=(500, 0, 0)),
        pose(scale=(0.05, 0.05, 0.05)),
        pose(scale=(4, 4, 4)),
        pose((0, 0, 90)),
        pose(scale=(-1, 1, 1)),
        pose(scale=(1e-9, 1, 1)),
    ],
)
def test_diverged_result_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, divergence: Array
) -> None:
    """Whatever the optimizer returns, the result is no worse than the start."""
    planted = pose(offset=(5, -3, 2))
    path = save(tmp_path / "a.nii.gz", transformed(head, planted), TEMPLATE.affine, (44, 44, 44))
    config = write_images_cohort(tmp_path, TEMPLATE, {"a": path}, engine="diverging")
    write_image(config.layout.affine_reference, normalize(head(world(TEMPLATE))), TEMPLATE)
    diverge = AffineEngine(lambda *arguments: [start @ divergence for start in arguments[2]], "Diverge.")
    monkeypatch.setitem(ENGINES, "diverging", diverge)
    align_subject(config, "a")
    found = read_affine(config.layout.affine("a"))
    np.testing.assert_allclose(found[:3, :3], np.eye(3), atol=1e-6)
    np.testing.assert_allclose(found[:3, 3], planted[:3, 3], atol=1)


@pytest.mark.parametrize("engine", ENGINES)
def test_same_bytes_twice(tmp_path: Path, engine: str) -> None:
    images, _ = write_posed_heads(tmp_path)
    config = write_images_cohort(tmp_path, COARSE, images, engine=engine)
    write_image(config.layout.affine_reference, normalize(head(world(COARSE))), COARSE)
    written = []
    for _ in range(2):
        align_subject(config, "s2")
        written.append(
            [config.layout.affine("s2").read_bytes(), config.layout.affine_image("s2").read_bytes()]
        )
    assert written[0] == written[1]


def test_errors_name_the_remedy(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", head, centered_grid((30, 30, 1)).affine, (30, 30))
    config = write_images_cohort(tmp_path, TEMPLATE, {"abc": path})
    with pytest.raises(AtlasmithError, match="Did you mean 'abc'"):
        align_subject(config, "abd")
    with pytest.raises(AtlasmithError, match="is missing"):
        align_subject(config, "abc")
    with pytest.raises(AtlasmithError, match="2-D, but the template's grid is 3-D"):
        build_reference(config)


def test_no_torch() -> None:
    """In hundreds of short jobs, importing torch would take longer than the registration."""
    code = "import atlasmith.affine, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
