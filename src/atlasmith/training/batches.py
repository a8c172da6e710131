"""Which subjects a training step sees."""

from __future__ import annotations

import itertools

import torch

from atlasmith.training.device import seeded_generator


def draw_batch(seed: int, subjects: int, batch_size: int, step: int) -> list[int]:
    """Draw the subjects of a training step: the next ones of passes over the cohort in random order.

    Args:
        seed: The config's seed; each pass has an order of its own.
        subjects: Size of the cohort.
        batch_size: Subjects of a step.
        step: The step's index.

    Returns:
        Indices of the subjects. A batch that spans two passes may hold a subject twice.
    """
    chosen = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        random = seeded_generator(seed, 0, position // subjects)
        chosen.append(int(torch.randperm(subjects, generator=random)[position % subjects]))
    return chosen


def pair_dependence(subjects: int, batch_size: int, step: int) -> float:
    """Compute how far the subjects of a step depend on each other, for the regularizer `centrality`.

    Args:
        subjects: Size of the cohort.
        batch_size: Subjects of a step.
        step: The step's index.

    Returns:
        The share of the batch's pairs that are of one pass, so that they can't be the same subject, over the
        number of subjects less one.

    Example:
        >>> pair_dependence(subjects=5, batch_size=4, step=0), pair_dependence(5, 4, 1)
        (0.25, 0.125)
    """
    passes = [position // subjects for position in range(step * batch_size, (step + 1) * batch_size)]
    pairs = list(itertools.combinations(passes, 2))
    same = sum(first == second for first, second in pairs)
    return same / max(len(pairs), 1) / max(subjects - 1, 1)
