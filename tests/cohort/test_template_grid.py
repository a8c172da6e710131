"""The template's grid holds every object and fits into memory."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import ROWS, Tiny, only

from atlasmith.cohort import (
    check_cohort,
)
from atlasmith.cohort.grid import decide_grid
from atlasmith.config import parse_config


def test_two_and_three_dimensions_together(tiny: Tiny) -> None:
    tiny.change(tiny.image("sub-04"), lambda data: data[:, :, 4:5])
    only(tiny.problems(), tiny.bids, "sub-01, sub-02, sub-03", "one voxel along z: sub-04")


def test_a_grid_too_large_for_memory(tiny: Tiny) -> None:
    (problem,) = tiny.problems(template={"spacing": 0.001})
    assert "GiB" in problem and "template.spacing" in problem
    fitting = float(problem.split("template.spacing to ")[1].split()[0])
    check_cohort(tiny.config(template={"spacing": fitting}))
    assert tiny.problems(template={"spacing": 0.9 * fitting})  # not much larger than it must be
    only(tiny.problems(template={"shape": [40000, 40000, 40000]}), "40000 x 40000 x 40000", "template.shape")


@pytest.mark.parametrize("shape", [[16, 16], [16, 16, 1], [16, 16, 16, 1]])
def test_a_shape_of_another_dimension(tiny: Tiny, shape: list[int]) -> None:
    only(tiny.problems(template={"shape": shape}), "template.shape", shape)


def test_a_given_shape_is_used(tiny: Tiny) -> None:
    grid = check_cohort(tiny.config(template={"shape": [9, 10, 11]})).grid
    assert grid.shape == (9, 10, 11) and np.allclose(grid.center, 0)


@pytest.mark.parametrize("two_axes", [True, False])
def test_2d_images_get_a_2d_grid(tiny: Tiny, two_axes: bool) -> None:
    for row in ROWS:
        for path in (tiny.image(row["participant_id"]), tiny.labels(row["participant_id"])):
            if path.exists():
                tiny.change(path, lambda data: data[:, :, 4] if two_axes else data[:, :, 4:5])
    for shape in (None, [16, 16], [16, 16, 1]):
        assert check_cohort(tiny.config(template={"shape": shape})).grid.shape == (16, 16, 1)


@pytest.mark.parametrize(("millimetres", "voxels"), [(48.0, 48), (48.1, 56), (1.0, 8)])
def test_the_grid_is_a_multiple_of_eight(millimetres: float, voxels: int) -> None:
    template = parse_config({"cohort": {"bids": "."}}).template
    extents = [np.array([millimetres, 30.0, 20.0]), np.array([0.5, 40.0, 10.0])]
    assert decide_grid(extents, None, template).shape == (voxels, 40, 24)
