"""Registration error on the demo cohort, whose warps are known: a finished run against tools for pairs.

    python benchmarks/demo.py results --pairs 40

A point of one subject's brain is transformed to another subject's by the planted transforms, and by each
tool. Prints a Markdown table: median and 95th percentile of the distance, mm, and seconds for a pair. All
tools get the same pairs, points and preprocessed images. Registration through the template has no cost for
a pair, and for a subject that which `benchmarks/registration.py` prints.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from peers import ants_image, load_greedy, normalized, remove_files
from torch import Tensor

from atlasmith.config import Config, load_config
from atlasmith.core.grid import Array, DisplacementField
from atlasmith.core.world import transform_points
from atlasmith.demo.generator import truth_layout
from atlasmith.demo.grading import points_in_brain
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.io.transforms import LPS, read_affine, read_composite, to_sitk
from atlasmith.registration import pair

POINTS = 1000
# From points (N, 3) of the fixed subject's world to the moving subject's, RAS mm.
Method = Callable[[Subject, Subject, Tensor], Tensor]


def affine(config: Config, fixed: Subject, moving: Subject, points: Tensor) -> Tensor:
    to_fixed, to_moving = (read_affine(config.layout.affine(s.id)) for s in (fixed, moving))
    return transform_points([np.linalg.inv(to_fixed), to_moving], points)


def through_template(config: Config, fixed: Subject, moving: Subject, points: Tensor) -> Tensor:
    layout = config.layout
    return transform_points(
        [*read_composite(layout.inverse(fixed.id)), *read_composite(layout.forward(moving.id))], points
    )


def each_pair(config: Config, fixed: Subject, moving: Subject, points: Tensor) -> Tensor:
    """`atlasmith.registration.register` from the affine alignment, without template and network."""
    images = [normalized(subject.image) for subject in (fixed, moving)]
    to_fixed, to_moving = (read_affine(config.layout.affine(s.id)) for s in (fixed, moving))
    regularization = config.template.regularization
    found = pair.register(*images, affine=to_moving @ np.linalg.inv(to_fixed), regularization=regularization)
    return transform_points(found.forward, points)


def greedy() -> Method:
    """picsl-greedy: affine, then the deformation, both with NCC over 5 voxels an axis."""
    run_greedy = load_greedy()

    def register(fixed: Subject, moving: Subject, points: Tensor) -> Tensor:
        images = [normalized(subject.image) for subject in (fixed, moving)]
        pictures = [to_sitk(image.data, image.grid) for image in images]
        tool = run_greedy(*pictures)
        tool.execute("-d 3 -V 0 -rf fixed -rc composite -r field matrix", composite=None)
        vectors = np.transpose(sitk.GetArrayFromImage(tool["composite"]), (2, 1, 0, 3)) * np.diag(LPS)[:3]
        return transform_points([DisplacementField(images[0].grid, vectors.astype(np.float32))], points)

    return register


def ants(kind: str) -> Method:
    import ants as antspyx
    import pandas

    def register(fixed: Subject, moving: Subject, points: Tensor) -> Tensor:
        images = [ants_image(normalized(subject.image)) for subject in (fixed, moving)]
        found: dict[str, Any] = antspyx.registration(images[0], images[1], type_of_transform=kind)
        lps = points.numpy() * np.diag(LPS)[:3]
        # Points are transformed in the direction in which images are pulled back.
        table = pandas.DataFrame(lps, columns=["x", "y", "z"])
        moved = antspyx.apply_transforms_to_points(3, table, found["fwdtransforms"])
        remove_files(found)
        return torch.from_numpy(moved[["x", "y", "z"]].to_numpy() * np.diag(LPS)[:3])

    return register


PEERS: dict[str, Callable[[], Method]] = {"greedy": greedy, "ANTs SyN": lambda: ants("SyN")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished output folder of the demo cohort")
    parser.add_argument("--pairs", type=int, default=40, help="number of pairs, drawn at random")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    options = parser.parse_args()
    config = load_config(options.run / "config.yaml").model_copy(update={"output": options.run})
    methods: dict[str, Method] = {
        "affine": partial(affine, config),
        "atlasmith": partial(through_template, config),
        "atlasmith, each pair": partial(each_pair, config),
    }
    for name in options.peers:
        try:
            methods[name] = PEERS[name]()
        except ImportError as error:
            print(f"{name} is skipped: {error}", file=sys.stderr)
    truth = truth_layout(config.cohort.bids)
    base_points = points_in_brain(config.cohort.bids, POINTS, config.seed)
    pairs = list(itertools.permutations(read_cohort(config.layout.cohort), 2))
    pairs = random.Random(0).sample(pairs, min(options.pairs, len(pairs)))
    errors: dict[str, list[Array]] = {name: [] for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for fixed, moving in pairs:
        points = transform_points(read_composite(truth.forward(fixed.id)), base_points)
        expected = transform_points(read_composite(truth.forward(moving.id)), base_points)
        for name, method in methods.items():
            start = time.perf_counter()
            found = method(fixed, moving, points)
            seconds[name].append(time.perf_counter() - start)
            errors[name].append(torch.linalg.vector_norm(found - expected, dim=1).numpy())
        print(*(f"{name} {np.median(e[-1]):.2f}" for name, e in errors.items()), file=sys.stderr, flush=True)
    print(f"{len(pairs)} pairs, {POINTS} points in the brain each\n")
    print("| tool | median, mm | 95th percentile, mm | s for a pair |\n|---|---|---|---|")
    for name in methods:
        pooled = np.concatenate(errors[name])
        print(
            f"| {name} | {np.median(pooled):.2f} | {np.quantile(pooled, 0.95):.2f} "
            f"| {np.median(seconds[name]):.2f} |"
        )


if __name__ == "__main__":
    main()
