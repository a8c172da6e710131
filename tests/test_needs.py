"""What is asked of a scheduler."""

import pytest

from atlasmith.config import Config, parse_config
from atlasmith.workflow.resources import memory_mb, runtime_minutes

STAGES = ["affine_reference", "affine", "template", "register", "propagate", "fuse_train", "fuse", "score"]


def config(**sections: object) -> Config:
    return parse_config({"cohort": {"bids": "d"}, **sections})


@pytest.mark.parametrize("stage", [*STAGES, "report"])
def test_more_is_asked_for_larger_grids_and_cohorts(stage: str) -> None:
    small, large = 150_000, 7_000_000
    assert 1000 < memory_mb(stage, config(), small, 30) < memory_mb(stage, config(), large, 30) < 64_000
    few, many = (runtime_minutes(stage, config(), large, people, 30) for people in (8, 50))
    assert few <= many and runtime_minutes(stage, config(), small, 8, 30) < few


def test_what_the_config_saves_isnt_asked_for() -> None:
    voxels = 7_000_000
    batch = [memory_mb("template", config(template={"batch_size": n}), voxels, 30) for n in (2, 4)]
    assert batch[0] < 0.7 * batch[1]
    steps = [
        runtime_minutes("register", config(register={"instance_optimization": {"steps": n}}), voxels, 8, 30)
        for n in (0, 40)
    ]
    assert steps[0] < 0.3 * steps[1]
    chosen = config(fusion={"atlas_selection": 10})
    assert memory_mb("propagate", chosen, voxels, 1000) == memory_mb("propagate", config(), voxels, 10)
    assert runtime_minutes("fuse", chosen, voxels, 8, 1000) == runtime_minutes(
        "fuse", config(), voxels, 8, 10
    )
