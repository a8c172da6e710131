"""Propagation of one atlas to one subject: a finished run against tools that register each pair.

    python benchmarks/registration.py results-hippocampus --pairs 150
    python benchmarks/registration.py results-brain --spacing 2

Prints a Markdown table: Dice (the mean over labels, then pairs, on the target's own grid or one of
`--spacing`) with its 95 % interval over the targets, and seconds per pair, from images in memory to
the warped label map. All tools get the same pairs, and preprocessed images. Tools that are missing
(`pip install -e '.[peers]'`) are skipped.

atlasmith registers each subject once, to the template; a pair is then the sampling of labels alone. The time
of a new subject follows the table.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import ants_image, labels_of, load_greedy, mean_dice, normalized, remove_files

from atlasmith.affine.engines import ENGINES
from atlasmith.affine.search import one_thread, register_affine
from atlasmith.affine.working_image import WorkingImage
from atlasmith.config import Config, load_config
from atlasmith.core.grid import Array, Step
from atlasmith.core.label_sampling import LabelSampler
from atlasmith.core.world import to_voxels, transform_points, world_points
from atlasmith.evaluation import statistics
from atlasmith.io.images import Image, read_antialiased, read_image
from atlasmith.io.tables import Subject, read_cohort, read_label_values
from atlasmith.io.transforms import from_sitk, read_composite, to_sitk
from atlasmith.registration.stage import load_registration
from atlasmith.training.dataset import AlignedImages

# From target and atlas to labels on the target's grid.
Method = Callable[[Subject, Subject], Array]


steps_of = cache(read_composite)


def through_template(config: Config, spacing: float | None) -> Method:
    """Compose target to template to atlas, and sample the labels once."""

    def label(target: Subject, atlas: Subject) -> Array:
        labels, grid = labels_of(atlas.labels, spacing), labels_of(target.labels, spacing).grid
        steps: list[Step] = [
            *steps_of(config.layout.inverse(target.id)),
            *steps_of(config.layout.forward(atlas.id)),
        ]
        voxels = to_voxels(transform_points(steps, world_points(grid)), labels.grid, grid.tensor_shape)
        moved = LabelSampler(torch.from_numpy(labels.grid.squeeze(labels.data)))(voxels)
        return grid.unsqueeze(moved.numpy())

    return label


def ants(kind: str, spacing: float | None) -> Method:
    """Use antspyx with its defaults for `kind`: affine, then SyN."""
    import ants as antspyx

    @cache
    def load(path: Path, labels: bool) -> Any:
        return ants_image(labels_of(path, spacing) if labels else normalized(path, spacing))

    def label(target: Subject, atlas: Subject) -> Array:
        fixed = load(target.image, False)
        found = antspyx.registration(fixed, load(atlas.image, False), type_of_transform=kind)
        moved = antspyx.apply_transforms(
            fixed, load(atlas.labels, True), found["fwdtransforms"], interpolator="genericLabel"
        )
        remove_files(found)
        return np.rint(labels_of(target.labels, spacing).grid.unsqueeze(moved.numpy())).astype(np.int32)

    return label


def greedy(spacing: float | None) -> Method:
    """Use picsl-greedy: affine, then deformable, both with NCC over 5 voxels an axis; nearest labels."""
    run_greedy = load_greedy()

    @cache
    def load(path: Path, labels: bool) -> Any:
        source = labels_of(path, spacing) if labels else normalized(path, spacing)
        return to_sitk(source.data.astype(np.float32), source.grid)

    def label(target: Subject, atlas: Subject) -> Array:
        tool = run_greedy(load(target.image, False), load(atlas.image, False))
        tool.execute(
            "-d 3 -V 0 -rf fixed -ri NN -rm labels moved -r field matrix",
            labels=load(atlas.labels, True),
            moved=None,
        )
        return np.rint(from_sitk(tool["moved"])).astype(np.int32)

    return label


PEERS: dict[str, Callable[[float | None], Method]] = {
    "greedy": greedy,
    "ANTs SyN": partial(ants, "SyN"),
    "ANTs SyN, CC": partial(ants, "SyNCC"),
}


def measure(
    method: Method, pairs: list[tuple[Subject, Subject]], labels: Array, spacing: float | None
) -> tuple[Array, float]:
    """Compute Dice of each pair (N,), and the median seconds."""
    scores, seconds = [], []
    for atlas, target in pairs:
        for subject in (atlas, target):
            normalized(subject.image, spacing)
            labels_of(subject.labels, spacing)
        start = time.perf_counter()
        predicted = method(target, atlas)
        seconds.append(time.perf_counter() - start)
        truth = labels_of(target.labels, spacing).data
        scores.append(mean_dice(predicted, truth, labels))
    return np.array(scores), float(np.median(seconds))


def seconds_of_new_subject(config: Config, subject: Subject, repeats: int = 5) -> dict[str, float]:
    """Measure the median seconds of each step for one new subject, with model and image in memory."""
    optimized, network_alone = load_registration(config), load_registration(config)
    network_alone.steps = 0
    grid = optimized.model.grid
    image, mask = AlignedImages(config.layout, [subject], grid).batch([0])
    code = optimized.model.code.encode(subject.covariates)[None]
    features = optimized.model.features
    spacing = min(grid.tensor_spacing)
    fixed = WorkingImage.from_image(Image(read_image(config.layout.affine_reference).data, grid), spacing)
    moving = WorkingImage.from_image(
        read_antialiased(config.layout.preprocessed(subject.id), spacing), spacing
    )

    def affine() -> None:
        with one_thread():
            register_affine(fixed, moving, ENGINES[config.affine.engine])

    steps = {
        "affine": affine,
        "network": lambda: network_alone.to_template_space(code, mask, features(image)),
        "network and instance optimization": lambda: optimized.to_template_space(code, mask, features(image)),
    }
    found = {}
    for name, step in steps.items():
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        found[name] = float(np.median(seconds))
    return found


def chosen(subjects: list[Subject], count: int | None) -> list[tuple[Subject, Subject]]:
    """Choose pairs of an atlas and a target."""
    atlases = [s for s in subjects if s.role == "atlas"]
    targets = [s for s in subjects if s.role == "target" and s.labels is not None]
    pairs = [(atlas, target) for target in targets for atlas in atlases]
    if count is not None and count < len(pairs):
        pairs = random.Random(0).sample(pairs, count)
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished output folder")
    parser.add_argument("--pairs", type=int, help="number of pairs, drawn at random; all by default")
    parser.add_argument("--spacing", type=float, help="voxel size for all, mm; each image's own by default")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    options = parser.parse_args()
    config = load_config(options.run / "config.yaml").model_copy(update={"output": options.run})
    subjects = read_cohort(config.layout.cohort)
    pairs = chosen(subjects, options.pairs)
    labels = np.array(read_label_values(config.layout.labels))

    print(f"{len(pairs)} pairs\n\n| method | Dice | 95 % interval | s per pair |\n|---|---|---|---|")
    methods: dict[str, Callable[[float | None], Method]] = {
        "atlasmith, through the template": partial(through_template, config)
    }
    for name, make in {**methods, **{peer: PEERS[peer] for peer in options.peers}}.items():
        try:
            method = make(options.spacing)
        except ImportError as error:
            print(f"{name} is skipped: {error}", file=sys.stderr)
            continue
        scores, seconds = measure(method, pairs, labels, options.spacing)
        targets = {target.id for _, target in pairs}
        means = [scores[[target.id == name for _, target in pairs]].mean() for name in sorted(targets)]
        interval = statistics.summary(np.array(means), config.seed, config.score.bootstrap)
        low, high = interval["ci95_low"], interval["ci95_high"]
        print(f"| {name} | {scores.mean():.3f} | {low:.3f} to {high:.3f} | {seconds:.3f} |", flush=True)
    print("\n| a new subject | s |\n|---|---|")
    for name, seconds in seconds_of_new_subject(config, pairs[0][1]).items():
        print(f"| {name} | {seconds:.3f} |")


if __name__ == "__main__":
    main()
