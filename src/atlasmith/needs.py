"""What jobs need of memory and time, for schedulers: lines through what they took (docs/scaling.md)."""

from __future__ import annotations

from collections.abc import Callable

from atlasmith.config import Config

# GiB of a job, and for each million voxels of the template's grid: images are taken to be about as large.
BASE, EACH = 1.0, 0.35
SPARE = 1.5  # of memory and time, over what was measured
SLOWER = 4.0  # a core of an old cluster than one of those that were measured
STARTING = 10.0  # minutes that no job is too short for


def memory_mb(stage: str, config: Config, voxels: int, atlases: int) -> int:
    """Of one job, of `voxels` in the template's grid and so many atlases, on a CPU."""
    millions = voxels / 1e6
    gib = BASE + EACH * millions
    if stage == "template":
        gib += 0.4 * config.template.batch_size * millions
    elif stage in ("propagate", "fuse"):
        gib += 0.02 * _voters(config, atlases) * millions
    elif stage == "template_labels":
        gib += 1.4 * millions  # with some 130 labels
    elif stage == "fuse_train":
        gib += 0.02 * _voters(config, atlases) * millions + 4
    return round(1024 * SPARE * gib)


def runtime_minutes(stage: str, config: Config, voxels: int, people: int, atlases: int) -> int:
    """Of one job on so many people, on one core."""
    millions = voxels / 1e6
    template, register = config.template, config.register_
    fits = 0.6 * millions  # seconds of a step of instance optimisation
    rounds = template.refinement
    drawn = max(rounds.rounds - 1, 0) * min(rounds.subjects, people) + min(rounds.rounds, 1) * people
    voters = _voters(config, atlases)
    seconds: dict[str, Callable[[], float]] = {
        "affine_reference": lambda: (
            config.affine.iterations * min(config.affine.reference_subjects, people) * (0.5 + millions)
        ),
        "affine": lambda: people * (0.5 + 3 * millions),
        "template": lambda: (
            template.steps * template.batch_size * 1.7 * millions + drawn * rounds.steps * fits
        ),
        "register": lambda: people * (0.5 + register.refine_steps * fits + 5 * millions),
        "propagate": lambda: people * voters * (0.05 + 1.5 * millions + register.pair_steps * fits),
        "fuse": lambda: people * (1 + 2 * voters * millions),
        "fuse_train": lambda: 600 + 2 * atlases * voters * millions,
        "score": lambda: people * (1 + 10 * millions),
    }
    spent = seconds.get(stage, lambda: people * (0.1 + 0.5 * millions))()
    return round(STARTING + SPARE * SLOWER * spent / 60)


def _voters(config: Config, atlases: int) -> int:
    return min(config.fusion.closest or atlases, atlases)
