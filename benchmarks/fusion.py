"""Label fusion on one finished run: every method, and ANTs' joint label fusion, of the same atlases.

    python benchmarks/fusion.py results-hippocampus-labels --targets 12

The atlases are propagated to the first so many targets again, into a temporary folder. Prints a Markdown
table: Dice and HD95 (means over labels, then targets, in the native grid or at `--spacing`) with the 95 %
interval of Dice, and the median seconds from propagated atlases in memory to labels. ANTs' is skipped where
antspyx is missing.

The expected calibration error (Guo et al. 2017, arXiv:1706.04599) in 15 bins follows, at voxels where
atlases disagree: of VoteNet's reliability, and of the label probabilities of `autocontext`.

With `--atlases N` the first N atlases of the cohort, after so many as `--skip` says, are the library; with
`--atlas-selection N` the N atlases that are most similar to a target are propagated to it. Networks are
trained again for either.

With `--leave-one-out` every subject with labels is an atlas, and segmented by all others; `autocontext` is
trained again, and applied by the classifiers that were trained without the subject. VoteNet isn't
cross-fitted and is left out; registration must be label-free.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import ants_image, labels_of, mean_dice

from atlasmith.config import Config, load_config
from atlasmith.core.grid import Array, Grid
from atlasmith.core.world import resample_labels
from atlasmith.evaluation import metrics, statistics
from atlasmith.fusion import train_fusers
from atlasmith.fusion.fuser import Predictor
from atlasmith.fusion.native import native_labels
from atlasmith.fusion.probabilities import most_probable_labels, weighted_probabilities
from atlasmith.fusion.propagated import ambiguous_voxels, read_propagated
from atlasmith.fusion.stage import SubjectFusion
from atlasmith.fusion.table import FUSERS
from atlasmith.io.images import Image, read_grid
from atlasmith.io.tables import Subject, read_cohort, read_label_values, write_cohort
from atlasmith.propagation import propagate_subject
from atlasmith.training.device import select_device

BINS = 15
ANTS = "ANTs JLF"
IMAGE_ALONE = "student without atlases"

Method = Callable[[SubjectFusion, Grid], Array]  # labels on the target's own grid


@dataclass
class Figures:
    """The figures of each method, a number a target, and samples of calibrated probabilities."""

    dice: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    hd95: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    calibration: dict[str, list[tuple[Array, Array]]] = field(default_factory=lambda: defaultdict(list))


def atlasmith(method: str, fusion: SubjectFusion, native: Grid) -> Array:
    """Fuse by one of our methods."""
    device = fusion.atlases.labels.device
    return native_labels(fusion.probabilities(method), fusion.atlases.grid, native, device)[0].cpu().numpy()


def ants(fusion: SubjectFusion, native: Grid) -> Array:
    """Fuse by antspyx; background gets a label above 0, since 0 can't win a voxel there."""
    import ants as antspyx

    atlases, settings = fusion.atlases, fusion.config.fusion.section("jlf")

    def picture(data: Array) -> Any:
        return ants_image(Image(atlases.grid.unsqueeze(data.astype(np.float32)), atlases.grid))

    labels, target, images = (x.cpu().numpy() for x in (atlases.labels, atlases.target[0], atlases.images[0]))
    values, index = np.unique(labels, return_inverse=True)
    index = index.reshape(labels.shape) + 1
    found = antspyx.joint_label_fusion(
        picture(target),
        picture(np.ones(target.shape)),
        atlas_list=[picture(image) for image in images],
        label_list=[picture(labels) for labels in index],
        beta=settings.beta,
        rho=settings.alpha,
        rad=settings.patch,
        r_search=settings.search,
    )["segmentation"].numpy()
    fused = values[np.rint(found).astype(int).clip(1, len(values)) - 1][None]
    weighted = weighted_probabilities(torch.from_numpy(fused), torch.ones(fused.shape))
    return native_labels(weighted, atlases.grid, native)[0].numpy()


def image_alone(fusion: SubjectFusion, native: Grid) -> Array:
    """Segment by the student without atlases, as `atlasmith predict --fast` does."""
    atlases = fusion.atlases
    none = {"labels": atlases.labels[:0], "images": atlases.images[:, :0], "ids": []}
    alone = replace(atlases, **none, present=None, valid=None)
    by_image = SubjectFusion(fusion.config, alone, fusion.subject, fusion.predictors)
    return atlasmith("student", by_image, native)


def mean_hd95(grid: Grid, found: Array, truth: Array, values: Array) -> float:
    """Compute the mean HD95 over the labels that both maps have, mm."""
    scores = [
        metrics.hd95_mm(
            metrics.surface_distances(
                grid.squeeze(truth == value), grid.squeeze(found == value), grid.tensor_spacing
            )
        )
        for value in values
        if (found == value).any() and (truth == value).any()
    ]
    return float(np.mean(scores)) if scores else np.nan


def calibration_error(samples: Sequence[tuple[Array, Array]]) -> float:
    """Compute the expected calibration error.

    Args:
        samples: Probabilities, and whether what they are of is true.

    Returns:
        The mean over bins, weighted by their samples, of |mean probability - share that is true|.
    """
    probabilities, true = (np.concatenate(parts) for parts in zip(*samples, strict=True))
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, probabilities - true, BINS)
    return float(np.abs(gaps).sum() / len(probabilities))


def read_options() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished output folder")
    parser.add_argument("--targets", type=int, default=12)
    parser.add_argument("--atlases", type=int)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--atlas-selection", type=int)
    parser.add_argument("--spacing", type=float, help="score at this voxel size, mm; by default each image's")
    parser.add_argument("--ignore", type=int, nargs="*", default=[], help="labels that are not scored")
    parser.add_argument("--leave-one-out", action="store_true")
    parser.add_argument("--methods", nargs="*", default=[*FUSERS, ANTS])
    return parser, parser.parse_args()


def choose_subjects(
    subjects: list[Subject], options: argparse.Namespace
) -> tuple[list[Subject], list[Subject]]:
    """Return the cohort with the library of atlases that is asked for, and the targets."""
    if options.leave_one_out:
        subjects = [s if s.labels is None else replace(s, role="atlas") for s in subjects]
        return subjects, [s for s in subjects if s.role == "atlas"]
    targets = [s for s in subjects if s.role == "target" and s.labels is not None][: options.targets]
    if options.atlases:
        atlases = [s for s in subjects if s.role == "atlas"]
        library = atlases[options.skip : options.skip + options.atlases]
        subjects = [s for s in subjects if s in library or s not in atlases]
    return subjects, targets


def score(
    config: Config,
    target: Subject,
    methods: dict[str, Method],
    predictors: dict[str, Predictor],
    options: argparse.Namespace,
    figures: Figures,
) -> None:
    """Add the figures of one target; a method whose package is missing is removed from `methods`."""
    if not config.layout.propagated_images(target.id).exists():
        propagate_subject(config, target.id)
    device = select_device(config.device)
    atlases, native = read_propagated(config.layout, target, device), read_grid(target.image)
    native = native.resampled(options.spacing)
    values = np.setdiff1d(read_label_values(config.layout.labels), options.ignore)
    truth = labels_of(target.labels, options.spacing).data
    fusion = SubjectFusion(config, atlases, target.id, predictors)
    for name in list(methods):
        start = time.perf_counter()
        try:
            found = methods[name](fusion, native)
        except ImportError as error:
            print(f"{name} is skipped: {error}", file=sys.stderr)
            del methods[name]
            continue
        figures.seconds[name].append(time.perf_counter() - start)
        figures.dice[name].append(mean_dice(found, truth, values))
        figures.hd95[name].append(mean_hd95(native, found, truth, values))

    where, manual = ambiguous_voxels(atlases).cpu().numpy(), labels_of(target.labels)
    true = resample_labels(manual.data, manual.grid, [], atlases.grid).numpy().ravel()[where]
    if "votenet" in methods:
        labels, reliability = (
            maps.flatten(1).cpu().numpy()[:, where]
            for maps in (atlases.labels, fusion.prediction(FUSERS["votenet"]).reliability)
        )
        figures.calibration["VoteNet"].append((reliability.ravel(), (labels == true).ravel()))
    if "autocontext" in methods:
        again = SubjectFusion(config, atlases, target.id, predictors)
        found = most_probable_labels(again.probabilities("autocontext"), atlases.labels.shape[1:], device)
        fused, confidence = (maps.cpu().numpy() for maps in found)
        figures.calibration["autocontext"].append((confidence.ravel()[where], fused.ravel()[where] == true))


def link_run(run: Path, output: Path, replaced: Sequence[str]) -> None:
    """Make a folder of links to a finished run's files, but for those of some patterns."""
    shutil.copytree(run, output, copy_function=os.symlink, ignore=shutil.ignore_patterns(*replaced))


def print_figures(figures: Figures, targets: int, config: Config) -> None:
    """Print the table, and the calibration errors."""
    print(f"{targets} targets\n\n| method | Dice | 95 % interval | HD95, mm | s |\n|---|---|---|---|---|")
    for name, values in figures.dice.items():
        low, high = statistics.bootstrap_interval(np.array(values), config.seed, config.score.bootstrap)
        print(
            f"| {name} | {np.mean(values):.4f} | {low:.3f} to {high:.3f} "
            f"| {np.mean(figures.hd95[name]):.2f} | {np.median(figures.seconds[name]):.1f} |"
        )
    for name, samples in figures.calibration.items():
        print(f"\n{name}: calibration error {100 * calibration_error(samples):.1f} %")


def main() -> None:
    parser, options = read_options()
    run = options.run.resolve()
    config = load_config(run / "config.yaml").model_copy(update={"output": run})
    if options.leave_one_out:
        if config.template.label_similarity:
            parser.error("labels are part of this run's registration (template.label_similarity)")
        options.methods = [n for n in options.methods if n not in FUSERS or FUSERS[n].section != "votenet"]
    subjects, targets = choose_subjects(read_cohort(config.layout.cohort), options)
    fusers = [name for name in options.methods if name in FUSERS]
    fusion = config.fusion.model_copy(update={"methods": fusers, "atlas_selection": options.atlas_selection})
    known: dict[str, Method] = {name: partial(atlasmith, name) for name in FUSERS}
    known |= {ANTS: ants, IMAGE_ALONE: image_alone}
    methods = {name: known[name] for name in options.methods}
    other_library = options.leave_one_out or options.atlases or options.atlas_selection
    figures, predictors = Figures(), {}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        config = config.model_copy(update={"output": output, "fusion": fusion})
        replaced = ["*propagated*", "cohort.tsv"]
        if other_library:
            replaced += [f"{fuser.section}*" for fuser in FUSERS.values() if fuser.training]
        link_run(run, output, replaced)
        write_cohort(config.layout.cohort, subjects, config.cohort.covariates)
        if other_library and fusion.networks:
            for subject in subjects:
                if subject.role == "atlas":
                    propagate_subject(config, subject.id)
            train_fusers(config)
        for target in targets:
            score(config, target, methods, predictors, options, figures)
            means = (f"{name} {np.mean(values):.4f}" for name, values in figures.dice.items())
            print(target.id, *means, file=sys.stderr, flush=True)
    print_figures(figures, len(targets), config)


if __name__ == "__main__":
    main()
