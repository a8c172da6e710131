"""Labels of unlabelled scans, by another fusion method, from which the student learns as well."""

from __future__ import annotations

import shutil
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.cache import BoundedCache
from atlasmith.fusion.fuser import Predictor
from atlasmith.fusion.library import CACHE_BYTES
from atlasmith.fusion.probabilities import most_probable_labels
from atlasmith.fusion.propagated import read_propagated
from atlasmith.fusion.stage import SubjectFusion
from atlasmith.fusion.student.settings import SECTION, choose_unlabelled
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.training.checkpoints import Checkpoint
from atlasmith.training.device import cpu_if_memory_is_short, select_device

STEPS = 255  # of a confidence from 0 to 1, as it is kept


@dataclass(frozen=True, eq=False)
class PseudoLabelled:
    """A scan with pseudo-labels, on its fusion grid, on the CPU.

    Args:
        image: (C, *shape), half precision.
        labels: (F, *shape), the most probable ones, int32, without each fold of the atlases.
        confidence: (F, *shape) uint8, their probabilities times `STEPS`; 0 where the scan is excluded.
    """

    image: Tensor
    labels: Tensor
    confidence: Tensor


class PseudoLabels:
    """The unlabelled scans of a run, each labelled when it is first asked for, and kept.

    Args:
        config: The run's config.
        subjects: Those to which atlases were propagated, see `read_unlabelled`.
        folds: F sets of participants. A network that learned from labels by all atlases, and knows the images
            that an atlas resembles most, would have seen that atlas's labels.
        digest: Identifies what the labels depend on; labels with another one are made anew.
    """

    def __init__(
        self, config: Config, subjects: Sequence[Subject], folds: Sequence[Container[str]], digest: str
    ) -> None:
        self.config, self.subjects, self.folds, self.digest = config, list(subjects), folds, digest
        self._predictors: dict[tuple[str, str], Predictor] = {}
        self._cache: BoundedCache[PseudoLabelled] = BoundedCache(CACHE_BYTES)

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, index: int) -> PseudoLabelled:
        """Return a scan with its pseudo-labels."""
        return self._cache.get(index, lambda: self._read(self.subjects[index]))

    def _read(self, subject: Subject) -> PseudoLabelled:
        """Read a scan's pseudo-labels from disk, or make and write them."""
        kept = Checkpoint(self._folder / f"{subject.id}.safetensors", self.digest)
        found = kept.load()
        if found is not None:
            return PseudoLabelled(**found[1])
        labelled = _label(self.config, subject, self.folds, self._predictors)
        kept.save({}, vars(labelled))
        return labelled

    @property
    def _folder(self) -> Path:
        checkpoint = self.config.layout.fuser_checkpoint(SECTION)
        return checkpoint.with_name(f"{SECTION}_unlabelled")

    def remove(self) -> None:
        """Delete all labels, once the network that learned from them is safe."""
        shutil.rmtree(self._folder, ignore_errors=True)


def read_unlabelled(config: Config) -> list[Subject]:
    """Read which scans without manual labels the student learns from.

    Args:
        config: The run's config; without `fusion.train_subjects` there are none.
    """
    if not config.fusion.learns_from_unlabelled:
        return []
    path = config.layout.cohort
    chosen = choose_unlabelled(subject.id for subject in read_cohort(path) if subject.role == "train")
    passed = {subject.id: subject for subject in read_cohort(path, passed="propagate")}
    return [passed[name] for name in chosen if name in passed]


@cpu_if_memory_is_short
@torch.no_grad()
def _label(
    config: Config,
    subject: Subject,
    folds: Sequence[Container[str]],
    predictors: dict[tuple[str, str], Predictor],
) -> PseudoLabelled:
    atlases = read_propagated(config.layout, subject, select_device(config.device))
    method, shape, device = config.fusion.pseudo_label_method, atlases.labels.shape[1:], atlases.labels.device
    labels, confidences = [], []
    for fold in folds:
        others = atlases.without(fold)
        if not others.ids:  # of few selected atlases all may be in one fold
            labels.append(torch.zeros(shape, dtype=torch.int32))
            confidences.append(torch.zeros(shape, dtype=torch.uint8))
            continue
        fusion = SubjectFusion(config, others, subject.id, predictors)
        found, confidence = most_probable_labels(fusion.probabilities(method), shape, device)
        if others.comparable is not None:
            confidence = confidence * others.comparable
        labels.append(found.cpu())
        confidences.append((STEPS * confidence.clamp(0, 1)).round().byte().cpu())
    return PseudoLabelled(atlases.target.half().cpu(), torch.stack(labels), torch.stack(confidences))
