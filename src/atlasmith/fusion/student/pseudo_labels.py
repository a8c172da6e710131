"""Labels of unlabelled scans, by another fusion method, from which the student learns as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.fusion.fuser import Predictor
from atlasmith.fusion.probabilities import most_probable_labels
from atlasmith.fusion.propagated import read_propagated
from atlasmith.fusion.stage import SubjectFusion
from atlasmith.fusion.student.settings import MOST_UNLABELLED
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.training.device import cpu_if_memory_is_short, select_device


@dataclass(frozen=True, eq=False)
class PseudoLabelled:
    """A scan with pseudo-labels, on its fusion grid; on the CPU, since many are kept.

    Args:
        image: (C, *shape), half precision.
        labels: (*shape), the most probable ones.
        confidence: (*shape), their probabilities, half precision; 0 where the scan is excluded.
    """

    image: Tensor
    labels: Tensor
    confidence: Tensor


class PseudoLabels:
    """The unlabelled scans of a run, each labelled when it is first asked for.

    Args:
        config: The run's config.
        subjects: Those to which atlases were propagated.
    """

    def __init__(self, config: Config, subjects: Sequence[Subject]) -> None:
        self.config, self.subjects = config, list(subjects)
        self._predictors: dict[tuple[str, str], Predictor] = {}
        self._labelled: dict[int, PseudoLabelled] = {}

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, index: int) -> PseudoLabelled:
        """Return a scan with its pseudo-labels."""
        if index not in self._labelled:
            self._labelled[index] = _label(self.config, self.subjects[index], self._predictors)
        return self._labelled[index]


def read_unlabelled(config: Config) -> list[Subject]:
    """Read which scans without manual labels the student learns from.

    Args:
        config: The run's config; without `fusion.train_subjects` there are none.
    """
    if not config.fusion.train_subjects:
        return []
    cohort = read_cohort(config.layout.cohort, passed="propagate")
    return [subject for subject in cohort if subject.role == "train"][:MOST_UNLABELLED]


@cpu_if_memory_is_short
@torch.no_grad()
def _label(config: Config, subject: Subject, predictors: dict[tuple[str, str], Predictor]) -> PseudoLabelled:
    atlases = read_propagated(config.layout, subject, select_device(config.device))
    fusion = SubjectFusion(config, atlases, subject.id, predictors)
    shape, device = atlases.labels.shape[1:], atlases.labels.device
    labels, confidence = most_probable_labels(
        fusion.probabilities(config.fusion.pseudo_label_method), shape, device
    )
    if atlases.target_valid is not None:
        confidence = confidence * atlases.target_valid
    return PseudoLabelled(atlases.target.half().cpu(), labels.cpu(), confidence.half().cpu())
