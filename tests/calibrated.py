"""Take a registered toy cohort on to a calibrated quality of its segmentations."""

from __future__ import annotations

from atlasmith.config import Config
from atlasmith.fusion import assess_quality, fuse_subject, train_fusers
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.propagation import label_template, propagate_subject


def calibrate(config: Config) -> list[Subject]:
    """Propagate the atlases, segment each by the others, and fit the quality; return the cohort."""
    cohort = read_cohort(config.layout.cohort)
    for subject in cohort:
        if subject.role != "train":
            propagate_subject(config, subject.id)
    label_template(config)
    train_fusers(config)
    for subject in cohort:
        if subject.role == "atlas":
            fuse_subject(config, subject.id)
    assess_quality(config)
    return cohort
