"""Evaluate a conditional template on held-out subjects: specificity, and slope of a label's volume.

    python benchmarks/conditional.py results-oasis2d --covariate age --label 1 --range 60 90 --steps 400

The subjects of a finished run, ordered by the covariate, are divided into folds. For each fold a conditional
and an unconditional template are trained on all others, from the run's affine alignment. Prints a Markdown
table:

- specificity: NCC and mean squared difference between each held-out subject's aligned image and the template
  at that subject's covariate, minus those of the unconditional template; with the paired Wilcoxon test;
- slope over the covariate of a label's fraction of all labels: of the template, from the labels of the
  training's atlases, with `--method` also from the segmentations of all its subjects, and of held-out
  subjects, from their own manual labels; their ratio with a 95 % interval over subjects.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from retrain import link_affine_stage
from scipy.stats import wilcoxon

from atlasmith.config import Config, load_config, parse_config
from atlasmith.core.grid import Array
from atlasmith.evaluation.metrics import ncc
from atlasmith.fusion import fuse_subject, train_fusers
from atlasmith.inference.conditional_labels import ConditionalLabels, segmentations_of
from atlasmith.io.images import read_labels
from atlasmith.io.tables import Subject, read_cohort, read_label_values
from atlasmith.networks import Groupwise
from atlasmith.propagation import propagate_subject
from atlasmith.registration import register_subjects
from atlasmith.template import train
from atlasmith.training.dataset import AlignedImages

RESAMPLES = 2000


def trained(
    config: Config, subjects: Sequence[Subject], folder: Path, registered: Sequence[str]
) -> Groupwise:
    """Train a template of some subjects in `folder`, and register some of these to it."""
    config = link_affine_stage(config.output, config, folder, subjects)
    train(config)
    register_subjects(config, registered)
    return Groupwise.load(config.layout.template_weights)


def segment(config: Config, subjects: Sequence[Subject]) -> None:
    """Train the fusion method of a config, and segment its subjects, atlases by all other atlases."""
    for subject in subjects:
        propagate_subject(config, subject.id)
    train_fusers(config)
    for subject in subjects:
        fuse_subject(config, subject.id)


def slope(x: Sequence[float] | Array, y: Sequence[float] | Array) -> float:
    """Compute the slope of the regression line."""
    return float(np.polyfit(x, y, 1)[0])


def fraction(subject: Subject, values: Array, label: int) -> float:
    """Compute the fraction of a label in all labels of a subject's manual segmentation."""
    assert subject.labels is not None
    data = read_labels(subject.labels).data
    return float((data == label).sum() / np.isin(data, values).sum())


@dataclass
class Fold:
    """Figures of one fold.

    slope: Slope of the template's label fraction over the covariate. gains: NCC and mean squared difference
    of each held-out subject, conditional minus unconditional. points: Covariate and label fraction of the
    held-out subjects with labels. seconds: Time of both trainings.
    """

    slope: float
    gains: list[tuple[float, float]]
    points: list[tuple[float, float]]
    seconds: float


class Experiment:
    """Train without one fold of a run's subjects at a time, and evaluate on it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.name = options, options.covariate
        run = options.run.resolve()
        settings = load_config(run / "config.yaml").model_copy(update={"output": run}).resolved()
        settings["template"] |= {"condition_on": [self.name], "evaluate_at": {}}
        if options.method:
            settings["fusion"] |= {"methods": [options.method], "train_subjects": True}
        if options.steps:
            settings["template"]["steps"] = options.steps
        self.conditional = parse_config(settings)
        settings["template"] |= {"condition_on": []}
        self.unconditional = parse_config(settings)
        self.layout = self.conditional.layout
        self.values = np.array(read_label_values(self.layout.labels))
        cohort = [s for s in read_cohort(self.layout.cohort) if s.covariates[self.name] is not None]
        self.cohort = sorted(cohort, key=self.covariate)

    def covariate(self, subject: Subject) -> float:
        return float(subject.covariates[self.name])  # type: ignore[arg-type]

    def fold(self, fold: int) -> Fold:
        """Train on all subjects but those of a fold, and evaluate on these."""
        held_out = self.cohort[fold :: self.options.folds]
        kept = sorted((s for s in self.cohort if s not in held_out), key=lambda subject: subject.id)
        if self.options.all_labels:
            kept = [replace(s, role="atlas") if s.labels is not None else s for s in kept]
        start, plain = time.monotonic(), None
        folder = Path(tempfile.mkdtemp())
        try:
            used = [s.id for s in kept if s.role == "atlas" or self.options.method]
            model = trained(self.conditional, kept, folder / "with", used)
            if not (self.options.all_labels or self.options.method):  # this one serves specificity alone
                plain = trained(self.unconditional, kept, folder / "without", [])
            config = self.conditional.model_copy(update={"output": folder / "with"})
            if self.options.method:
                segment(config, kept)
            with torch.inference_mode():
                method = self.options.method
                segmentations = segmentations_of(config, kept, method) if method else {}
                labels = ConditionalLabels(config.layout, model, kept, self.values, segmentations)
        finally:
            shutil.rmtree(folder)
        seconds = time.monotonic() - start
        low, high = self.options.range
        points = [
            (self.covariate(subject), fraction(subject, self.values, self.options.label))
            for subject in held_out
            if subject.labels is not None and low <= self.covariate(subject) <= high
        ]
        with torch.inference_mode():
            gains = self.gains(model, plain, held_out) if plain is not None else []
            return Fold(self.template_slope(model, labels), gains, points, seconds)

    def template_slope(self, model: Groupwise, labels: ConditionalLabels) -> float:
        """Compute the slope over the covariate of the label's fraction in the template."""
        column, fractions = [*self.values].index(self.options.label), []
        ages = np.linspace(*self.options.range, 7)
        for age in ages:
            here = labels(model.code.encode({self.name: float(age)}))[0]
            fractions.append(float(here[column].sum() / here.sum()))
        return slope(ages, fractions)

    def gains(
        self, model: Groupwise, plain: Groupwise, held_out: Sequence[Subject]
    ) -> list[tuple[float, float]]:
        """Compare held-out images with the conditional template minus the unconditional one."""
        images = AlignedImages(self.layout, held_out, model.grid)
        gains = []
        for index, subject in enumerate(held_out):
            image, mask = (x[0, 0].numpy() for x in images.batch([index]))
            templates = (
                model.template(model.code.encode({self.name: self.covariate(subject)})[None]),
                plain.template(torch.zeros(1, 0)),
            )
            inside = mask > 0
            own, other = (template[0, 0].numpy()[inside] for template in templates)
            visible = image[inside]
            difference = np.mean((own - visible) ** 2) - np.mean((other - visible) ** 2)
            gains.append((ncc(own, visible) - ncc(other, visible), float(difference)))
        return gains


def print_table(folds: Sequence[Fold], name: str) -> None:
    """Print the figures of all folds as a Markdown table."""
    ages, found = np.array([point for fold in folds for point in fold.points]).T
    of_template, of_subjects = float(np.mean([fold.slope for fold in folds])), slope(ages, found)
    random = np.random.default_rng(0)
    samples = random.integers(len(ages), size=(RESAMPLES, len(ages)))
    low, high = np.percentile([of_template / slope(ages[s], found[s]) for s in samples], (2.5, 97.5))
    slopes = ", ".join(f"{fold.slope:.2e}" for fold in folds)
    print("\n| what | figure |\n|---|---|")
    print(f"| slope of the label's fraction, template, by fold | {slopes} |")
    print(f"| slope, {len(ages)} held-out subjects | {of_subjects:.2e} |")
    print(f"| ratio | {of_template / of_subjects:.2f} ({low:.2f} to {high:.2f}) |")
    gains = np.array([gain for fold in folds for gain in fold.gains]).T
    titles = ("NCC", "mean squared difference") if len(gains) else ()
    for title, values in zip(titles, gains, strict=True):
        test = wilcoxon(values)
        print(
            f"| {title}, template at the subject's {name} minus the unconditional one, "
            f"{len(values)} subjects | {values.mean():+.2e}, p = {test.pvalue:.1e} |"
        )
    print(f"| s per fold | {np.median([fold.seconds for fold in folds]):.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished output folder; its affine stage is enough")
    parser.add_argument("--covariate", required=True)
    parser.add_argument("--label", type=int, required=True)
    parser.add_argument("--range", type=float, nargs=2, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="training steps, instead of the run's")
    parser.add_argument(
        "--method", help="fusion method that segments all subjects of the training; the slope alone"
    )
    parser.add_argument(
        "--all-labels",
        action="store_true",
        help="subjects with labels are atlases; the slope alone",
    )
    options = parser.parse_args()
    experiment, folds = Experiment(options), []
    for index in range(options.folds):
        folds.append(experiment.fold(index))
        print(f"fold {index + 1}: slope {folds[-1].slope:.3g}, {folds[-1].seconds:.0f} s", flush=True)
    print_table(folds, options.covariate)


if __name__ == "__main__":
    main()
