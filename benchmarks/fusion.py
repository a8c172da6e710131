"""Label fusion on one finished run: every method, and ANTs' joint label fusion, from the same warped atlases.

    python benchmarks/fusion.py results-hippocampus-labels --targets 12

The atlases are propagated to the first so many targets again, into a temporary folder. Prints a Markdown
table: Dice and HD95 (means over labels, then targets, in the native grid or at `--spacing`) with the 95 %
interval of Dice, and the median seconds from warped atlases in memory to labels. ANTs' is skipped where
antspyx is missing.

How well probabilities are calibrated follows, where voters disagree: VoteNet's, that an atlas is right, and
those of each label that `evidence` gives; the expected calibration error (Guo et al. 2017) in 15 bins.

With `--atlases N` the first N atlases of the cohort, after so many as `--skip` says, are the library; with
`--closest N` the N that look most like a target vote. Networks are trained anew for either.

With `--leave-one-out` everyone who has labels is an atlas, and segmented by all others; `evidence` is trained
anew, and decides by the juries alone that didn't learn from the person. VoteNet isn't cross-fitted so, and is
left out; labels may not have a part in registration.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from peers import ants_image, labels_of

from atlasmith.config import load_config
from atlasmith.config.schema import JLFSection
from atlasmith.core.grid import Array, Grid
from atlasmith.core.labels import label_index
from atlasmith.core.world import resample_labels
from atlasmith.evaluation import metrics, statistics
from atlasmith.fusion import train_fusers
from atlasmith.fusion.apply import on_native
from atlasmith.fusion.autocontext import read_autocontext
from atlasmith.fusion.methods import FUSERS, Votes, fuse, plurality, shares
from atlasmith.fusion.propagated import Stack, disputed, read_stack
from atlasmith.fusion.votenet import Trust
from atlasmith.io.images import Image, read_grid
from atlasmith.io.tables import read_cohort, read_label_values, write_cohort
from atlasmith.propagation import propagate_subject

BINS = 15

Method = Callable[[Stack, Grid, Votes], Array]  # a target's atlases and its own grid to labels on that grid


def ours(method: str, stack: Stack, native: Grid, votes: Votes) -> Array:
    return on_native(fuse(method, votes), stack.grid, native)[0]


def ants(settings: JLFSection, stack: Stack, native: Grid, votes: Votes) -> Array:
    """antspyx, with a label of its own for background, which couldn't win a voxel else."""
    import ants as antspyx

    def picture(data: Array) -> Any:
        return ants_image(Image(stack.grid.unsqueeze(data.astype(np.float32)), stack.grid))

    values, index = np.unique(stack.labels, return_inverse=True)
    index = index.reshape(stack.labels.shape) + 1
    found = antspyx.joint_label_fusion(
        picture(stack.target),
        picture(np.ones(stack.target.shape)),
        atlas_list=[picture(image) for image in stack.images],
        label_list=[picture(labels) for labels in index],
        beta=settings.beta,
        rho=settings.alpha,
        rad=settings.patch,
        r_search=settings.search,
    )["segmentation"].numpy()
    fused = values[np.rint(found).astype(int).clip(1, len(values)) - 1]
    return on_native(shares(fused[None], np.ones((1, *fused.shape), np.float32)), stack.grid, native)[0]


def _hd95(grid: Grid, found: Array, truth: Array) -> float:
    if not (found.any() and truth.any()):
        return np.nan
    masks = (grid.squeeze(mask) for mask in (truth, found))
    return metrics.hd95_mm(metrics.surface_distances(*masks, grid.tensor_spacing))


def calibration_error(judged: list[tuple[Array, Array]]) -> float:
    """Of probabilities and whether what they speak for is right: the mean over bins, by how much falls into
    each, of how far the mean probability is from the share that is right."""
    values, hits = (np.concatenate(parts) for parts in zip(*judged, strict=True))
    places = np.minimum((values * BINS).astype(int), BINS - 1)
    gaps = np.bincount(places, values - hits, BINS)
    return float(np.abs(gaps).sum() / len(values))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished output folder")
    parser.add_argument("--targets", type=int, default=12)
    parser.add_argument("--atlases", type=int)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--closest", type=int)
    parser.add_argument(
        "--spacing", type=float, help="judge at this voxel size, mm; each image's own by default"
    )
    parser.add_argument("--leave-one-out", action="store_true")
    parser.add_argument("--methods", nargs="*", default=[*FUSERS, "ANTs JLF"])
    options = parser.parse_args()
    run = options.run.resolve()
    config = load_config(run / "config.yaml").model_copy(update={"output": run})
    everyone = read_cohort(config.layout.cohort)
    targets = [s for s in everyone if s.role == "target" and s.labels is not None][: options.targets]
    if options.leave_one_out:
        if config.template.label_similarity:
            parser.error("in this run labels have a part in registration (template.label_similarity)")
        options.methods = [name for name in options.methods if not name.startswith("votenet")]
        everyone = [s if s.labels is None else replace(s, role="atlas") for s in everyone]
        targets = [s for s in everyone if s.role == "atlas"]
    elif options.atlases:
        atlases = [s for s in everyone if s.role == "atlas"]
        kept = atlases[options.skip : options.skip + options.atlases]
        everyone = [s for s in everyone if s in kept or s not in atlases]
    fusers = [name for name in options.methods if name in FUSERS]
    fusion = config.fusion.model_copy(update={"methods": fusers, "atlas_selection": options.closest})
    config = config.model_copy(update={"fusion": fusion})
    another = options.leave_one_out or options.atlases or options.closest  # library than the run's
    library = [s for s in everyone if s.role == "atlas"]
    labels = np.array(read_label_values(config.layout.labels))
    known: dict[str, Method] = {name: partial(ours, name) for name in FUSERS}
    known["ANTs JLF"] = partial(ants, fusion.jlf)
    methods = {name: known[name] for name in options.methods}
    dice: dict[str, list[float]] = {name: [] for name in methods}
    hd95: dict[str, list[float]] = {name: [] for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    judged: dict[str, list[tuple[Array, Array]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "run"
        made = ["*propagated*", "cohort.tsv"]
        made += ["votenet*", "evidence*"] if another else []
        shutil.copytree(run, there, copy_function=os.symlink, ignore=shutil.ignore_patterns(*made))
        config = config.model_copy(update={"output": there})
        write_cohort(config.layout.cohort, everyone, config.cohort.covariates)
        if another and fusion.networks:
            for atlas in library:
                propagate_subject(config, atlas.id)
            train_fusers(config)
        judge, jury = cache(lambda: Trust(config)), cache(lambda: read_autocontext(config))
        for target in targets:
            if not config.layout.propagated_images(target.id).exists():
                propagate_subject(config, target.id)
            stack, native = read_stack(config.layout, target), read_grid(target.image)
            if options.spacing:
                native = native.resampled(options.spacing)
            manual = labels_of(target.labels, options.spacing)
            truth = manual.data
            drawn, where = labels_of(target.labels), disputed(stack)
            own = resample_labels(drawn.data, drawn.grid, [], stack.grid).numpy().ravel()
            if "votenet" in methods:
                said = judge()(stack).reshape(len(stack.labels), -1)[:, where]
                voted = stack.labels.reshape(len(stack.labels), -1)[:, where]
                judged["VoteNet"].append((said.ravel(), (voted == own[where]).ravel()))
            verdict = cache(lambda stack=stack, target=target: [*jury().verdict(stack, target.id)])
            for name in list(methods):
                votes = Votes(
                    stack.labels,
                    stack.images,
                    stack.target,
                    cache(lambda stack=stack: judge()(stack)),
                    lambda stack=stack: judge().correlation(stack),
                    lambda verdict=verdict: iter(verdict()),
                    fusion,
                )
                start = time.perf_counter()
                try:
                    found = methods[name](stack, native, votes)
                except ImportError as error:
                    print(f"{name} is skipped: {error}", file=sys.stderr)
                    del methods[name], dice[name]
                    continue
                seconds[name].append(time.perf_counter() - start)
                pair = [label_index(data, labels).ravel() for data in (truth, found)]
                dice[name].append(float(np.nanmean(labels.dice(labels.count_overlap(*pair, len(labels))))))
                masks = ((found == value, truth == value) for value in labels)
                hd95[name].append(float(np.nanmean([_hd95(native, *both) for both in masks])))
            if "autocontext" in methods:
                labelled, said = plurality(verdict(), stack.target.shape)
                judged["autocontext"].append((said.ravel()[where], labelled.ravel()[where] == own[where]))
            print(target.id, *(f"{n} {np.mean(d):.4f}" for n, d in dice.items()), file=sys.stderr, flush=True)
    print(
        f"{len(targets)} targets\n\n| method | Dice | 95 % interval | HD95, mm | s |\n|---|---|---|---|---|"
    )
    for name, values in dice.items():
        low, high = statistics.bootstrap_interval(np.array(values), config.seed, config.score.bootstrap)
        print(
            f"| {name} | {np.mean(values):.4f} | {low:.3f} to {high:.3f} | {np.mean(hd95[name]):.2f} "
            f"| {np.median(seconds[name]):.1f} |"
        )
    for name, pairs in judged.items():
        print(f"\n{name}: calibration error {100 * calibration_error(pairs):.1f} %")


if __name__ == "__main__":
    main()
