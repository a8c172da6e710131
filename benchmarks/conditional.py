"""A conditional template judged by people that it hasn't seen: is it closer to them, does it age as they do?

    python benchmarks/conditional.py results-oasis2d --covariate age --label 1 --range 60 90 --steps 400

The people of a finished run, ordered by the covariate, are dealt into folds. For each fold a conditional and
an unconditional template are trained on everyone else, from the run's affine alignment. Prints a Markdown
table:

- specificity: NCC and mean squared difference between each left-out person's aligned image and the template
  at that person's covariate, less those of the unconditional template; with the paired Wilcoxon test;
- truth: the slope over the covariate of a label's share of all labels, of the template, by labels that the
  training's atlases gave it, and of left-out people, by their own manual labels; their ratio with a 95 %
  interval over people.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from retrain import beside
from scipy.stats import wilcoxon

from atlasmith.config import Config, load_config, parse_config
from atlasmith.core.grid import Array, Grid
from atlasmith.evaluation.metrics import ncc
from atlasmith.inference.conditional_labels import ConditionalLabels
from atlasmith.io.files import read_json
from atlasmith.io.images import read_labels
from atlasmith.io.tables import Subject, read_cohort, read_label_values
from atlasmith.networks import Groupwise
from atlasmith.registration import register_subjects
from atlasmith.template import train
from atlasmith.training.dataset import AlignedImages

RESAMPLES = 2000


def trained(config: Config, people: Sequence[Subject], folder: Path, labelled: bool) -> Groupwise:
    """A template of `people` in `folder`, with the atlases' labels on it where asked."""
    config = beside(config.output, config, folder, people)
    train(config)
    if labelled:
        register_subjects(config, [subject.id for subject in people if subject.role == "atlas"])
    return Groupwise.load(config.layout.template_weights)


def slope(x: Sequence[float] | Array, y: Sequence[float] | Array) -> float:
    return float(np.polyfit(x, y, 1)[0])


def share(subject: Subject, values: Array, label: int) -> float:
    """Of a label in all labels of a person's manual segmentation."""
    assert subject.labels is not None
    data = read_labels(subject.labels).data
    return float((data == label).sum() / np.isin(data, values).sum())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished output folder; its affine stage is enough")
    parser.add_argument("--covariate", required=True)
    parser.add_argument("--label", type=int, required=True)
    parser.add_argument("--range", type=float, nargs=2, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of training, in place of the run's")
    parser.add_argument(
        "--all-labels",
        action="store_true",
        help="whoever has labels is an atlas; the slope alone",
    )
    options = parser.parse_args()
    run, name = options.run.resolve(), options.covariate
    settings = load_config(run / "config.yaml").model_copy(update={"output": run}).resolved()
    settings["template"] |= {"condition_on": [name], "evaluate_at": {}}
    if options.steps:
        settings["template"]["steps"] = options.steps
    conditional = parse_config(settings)
    settings["template"] |= {"condition_on": []}
    unconditional = parse_config(settings)

    layout = conditional.layout
    grid = Grid.from_dict(read_json(layout.grid))
    values = np.array(read_label_values(layout.labels))
    column = [*values].index(options.label)
    cohort = [s for s in read_cohort(layout.cohort) if s.covariates[name] is not None]
    number = {subject.id: float(subject.covariates[name]) for subject in cohort}
    cohort.sort(key=lambda subject: number[subject.id])
    points = np.linspace(*options.range, 7)
    gains, slopes, people, seconds = [], [], [], []
    for fold in range(options.folds):
        left_out = cohort[fold :: options.folds]
        kept = sorted((s for s in cohort if s not in left_out), key=lambda subject: subject.id)
        if options.all_labels:
            kept = [replace(s, role="atlas") if s.labels is not None else s for s in kept]
        start = time.monotonic()
        folder = Path(tempfile.mkdtemp())
        try:
            model = trained(conditional, kept, folder / "with", labelled=True)
            if not options.all_labels:  # of which specificity knows nothing
                plain = trained(unconditional, kept, folder / "without", labelled=False)
            there = conditional.model_copy(update={"output": folder / "with"})
            with torch.inference_mode():
                labels = ConditionalLabels(there, model, kept, values)
        finally:
            shutil.rmtree(folder)
        seconds.append(time.monotonic() - start)
        with torch.inference_mode():
            shares = []
            for point in points:
                here = labels(model.code.encode({name: float(point)}))[0]
                shares.append(float(here[column].sum() / here.sum()))
            slopes.append(slope(points, shares))
            images = AlignedImages(layout, left_out, grid)
            for index, subject in enumerate([] if options.all_labels else left_out):
                image, mask = (x[0, 0].numpy() for x in images.batch([index]))
                templates = (
                    model.template(model.code.encode({name: number[subject.id]})[None]),
                    plain.template(torch.zeros(1, 0)),
                )
                inside = mask > 0
                own, other = (template[0, 0].numpy()[inside] for template in templates)
                seen = image[inside]
                gains.append(
                    (
                        ncc(own, seen) - ncc(other, seen),
                        np.mean((own - seen) ** 2) - np.mean((other - seen) ** 2),
                    )
                )
        people += [
            (number[subject.id], share(subject, values, options.label))
            for subject in left_out
            if subject.labels is not None and options.range[0] <= number[subject.id] <= options.range[1]
        ]
        print(f"fold {fold + 1}: slope {slopes[-1]:.3g}, {seconds[-1]:.0f} s", flush=True)

    ages, found = np.array(people).T
    mine, theirs = float(np.mean(slopes)), slope(ages, found)
    random = np.random.default_rng(0)
    drawn = random.integers(len(ages), size=(RESAMPLES, len(ages)))
    low, high = np.percentile([mine / slope(ages[d], found[d]) for d in drawn], (2.5, 97.5))
    print("\n| what | figure |\n|---|---|")
    print(f"| slope of the label's share, template, by fold | {', '.join(f'{s:.2e}' for s in slopes)} |")
    print(f"| slope, {len(ages)} people left out | {theirs:.2e} |")
    print(f"| ratio | {mine / theirs:.2f} ({low:.2f} to {high:.2f}) |")
    titles = ("NCC", "mean squared difference") if gains else ()
    for title, values_ in zip(titles, np.array(gains).T, strict=True):
        test = wilcoxon(values_)
        print(
            f"| {title}, template at the person's {name} less the unconditional one, {len(values_)} people "
            f"| {values_.mean():+.2e}, p = {test.pvalue:.1e} |"
        )
    print(f"| s a fold | {np.median(seconds):.0f} |")


if __name__ == "__main__":
    main()
