"""What jobs need of memory and time, for schedulers: lines through what they took (docs/scaling.md)."""

from __future__ import annotations

from atlasmith.config import Config

# GiB of a job, and for each million voxels of the template's grid: images are taken to be about as large.
BASE, EACH = 1.0, 0.35
VOXELS_LEARNED = 4.0  # GiB of what fusion's networks learn from
SPARE = 1.5  # of memory and time, over what was measured
SLOWER = 4.0  # a core of an old cluster than one of those that were measured
STARTING = 10.0  # minutes that no job is too short for


def memory_mb(stage: str, config: Config, voxels: int, atlases: int) -> int:
    """Of one job, of `voxels` in the template's grid and so many atlases, on a CPU."""
    stacks = 0.02 * _voters(config, atlases)
    more = {
        "template": 0.4 * config.template.batch_size,
        "template_labels": 0.4,  # with some 130 labels
        "propagate": stacks,
        "fuse": stacks,
        "fuse_train": stacks,
    }
    gib = BASE + (EACH + more.get(stage, 0)) * voxels / 1e6
    return round(1024 * SPARE * (gib + (VOXELS_LEARNED if stage == "fuse_train" else 0)))


def runtime_minutes(stage: str, config: Config, voxels: int, people: int, atlases: int) -> int:
    """Of one job on so many people, on one core."""
    millions, voters = voxels / 1e6, _voters(config, atlases)
    template, register, rounds = (
        config.template,
        config.register_.instance_optimization,
        config.template.refinement,
    )
    fits = 0.6 * millions  # seconds of a step of instance optimization
    drawn = max(rounds.rounds - 1, 0) * min(rounds.subjects, people) + min(rounds.rounds, 1) * people
    averaged = config.affine.iterations * min(config.affine.reference_subjects, people)
    seconds = {
        "affine_reference": averaged * (0.5 + millions),
        "affine": people * (0.5 + 3 * millions),
        "template": template.steps * template.batch_size * 1.7 * millions + drawn * rounds.steps * fits,
        "register": people * (0.5 + register.steps * fits + 5 * millions),
        "propagate": people * voters * (0.05 + 1.5 * millions + register.pairwise_steps * fits),
        "fuse": people * (1 + 2 * voters * millions),
        "fuse_train": 600 + 2 * atlases * voters * millions,
        "score": people * (1 + 10 * millions),
    }
    spent = seconds.get(stage, people * (0.1 + 0.5 * millions))
    return round(STARTING + SPARE * SLOWER * spent / 60)


def _voters(config: Config, atlases: int) -> int:
    return min(config.fusion.atlas_selection or atlases, atlases)
