"""Memory and time of jobs, as schedulers get them."""

import re

import pytest
from tiny import Tiny

from atlasmith.config import Config, parse_config
from atlasmith.workflow.resources import GIB, memory_mb, runtime_minutes, training_bytes

STAGES = [
    "preprocess",
    "affine_reference",
    "affine",
    "template",
    "register",
    "propagate",
    "fuse_train",
    "fuse",
    "score",
    "report",
]


def config(**sections: object) -> Config:
    return parse_config({"cohort": {"bids": "d"}, **sections})


@pytest.mark.parametrize("stage", STAGES)
def test_larger_grids_and_cohorts_get_more(stage: str) -> None:
    small, large = 150_000, 7_000_000
    assert 1000 < memory_mb(stage, config(), small, 30) < memory_mb(stage, config(), large, 30) < 64_000
    few, many = (runtime_minutes(stage, config(), large, subjects, 30) for subjects in (8, 50))
    assert few <= many and runtime_minutes(stage, config(), small, 8, 30) < few


def test_settings_that_save_memory_or_time_lower_the_resources() -> None:
    voxels = 7_000_000
    memory = [memory_mb("template", config(template={"batch_size": n}), voxels, 30) for n in (2, 4)]
    assert memory[0] < 0.7 * memory[1]
    minutes = [
        runtime_minutes("register", config(register={"instance_optimization": {"steps": n}}), voxels, 8, 30)
        for n in (0, 40)
    ]
    assert minutes[0] < 0.3 * minutes[1]
    selected = config(fusion={"atlas_selection": 10})
    assert memory_mb("propagate", selected, voxels, 1000) == memory_mb("propagate", config(), voxels, 10)
    assert runtime_minutes("fuse", selected, voxels, 8, 1000) == runtime_minutes(
        "fuse", config(), voxels, 8, 10
    )
    channels = config(cohort={"bids": "d", "suffix": ["T1w", "T2w", "FLAIR"]})
    for stage in ("propagate", "fuse", "fuse_train"):
        assert memory_mb(stage, channels, voxels, 30) > memory_mb(stage, config(), voxels, 30)
    n4 = [runtime_minutes("preprocess", config(preprocess={"n4": n4}), voxels, 8, 30) for n4 in (False, True)]
    assert n4[0] < 0.5 * n4[1]


def test_the_student_gets_the_time_of_its_training() -> None:
    """69 minutes of one core were measured, and an old core may take four times as long."""
    methods = {"autocontext": 1, "student": 1, "student at half": 0.5}
    minutes = {}
    for name, share in methods.items():
        fusion = {"methods": [name.split()[0]], "student": {"steps": round(12000 * share)}}
        minutes[name] = runtime_minutes("fuse_train", config(fusion=fusion), 147_456, 30, 30)
    assert minutes["student"] > 4 * 69 > minutes["student at half"] > 2 * minutes["autocontext"]


def test_training_memory_is_proportional_to_batch_and_voxels() -> None:
    assert training_bytes(2_000, 4) == pytest.approx(2 * training_bytes(1_000, 4))
    assert training_bytes(1_000, 8) == pytest.approx(2 * training_bytes(1_000, 4))
    assert training_bytes(1_000, 4, saved_per_voxel=530) == pytest.approx(2 * training_bytes(1_000, 4, 265))
    # A weight, its gradient and the two moments of Adam, four bytes each.
    assert training_bytes(1_000, 4, weights=10**6) - training_bytes(1_000, 4) == pytest.approx(16 * 10**6)


def test_the_check_of_the_cohort_agrees_with_training_and_scheduler(tiny: Tiny) -> None:
    shape, batch_size = [4000, 3000, 2000], 4
    voxels = 4000 * 3000 * 2000
    (problem,) = tiny.problems(template={"shape": shape, "batch_size": batch_size})
    required = GIB * float(re.findall(r"needs about ([\d.]+) GiB", problem)[0])
    assert training_bytes(voxels, batch_size) == pytest.approx(required, rel=0.25)
    given = memory_mb("template", config(template={"batch_size": batch_size}), voxels, 4) * 2**20
    assert required < given < 2.5 * required
