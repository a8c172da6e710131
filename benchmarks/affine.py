"""Failure rate of affine registration: every image of a run, as it is and rotated by up to 45 degrees.

    python benchmarks/affine.py results-hippocampus

Each preprocessed image is registered to the run's affine reference, by atlasmith and by the tools that are
installed, once with its own header and once rotated about its center of mass (the header alone, by a random
angle about a random axis, of a fixed seed). A registration has failed where its correlation is `GAP` below
the best that any tool reached for this image in either pose. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from peers import GREEDY_AFFINE, ants_image, remove_files
from scipy.spatial.transform import Rotation

from atlasmith.affine.engines import ENGINES
from atlasmith.affine.search import one_thread, register_affine
from atlasmith.affine.working_image import WorkingImage, resample
from atlasmith.config import load_config
from atlasmith.core.grid import Array, Grid
from atlasmith.evaluation.metrics import ncc
from atlasmith.io.images import Image, read_antialiased, read_image
from atlasmith.io.tables import read_cohort
from atlasmith.io.transforms import from_sitk, to_sitk

GAP = 0.1
# Resamples an image onto the grid of the reference, through the affine that it finds.
Tool = Callable[[Image, Image], Array]


def align_by(engine: str, reference: Image, image: Image) -> Array:
    spacing = min(reference.grid.tensor_spacing)
    fixed, moving = (WorkingImage.from_image(x, spacing) for x in (reference, image))
    with one_thread():
        matrix = register_affine(fixed, moving, ENGINES[engine])
    return resample(image, matrix, reference.grid, fill=0)


def ants() -> Tool:
    import ants as antspyx

    def align(reference: Image, image: Image) -> Array:
        found = antspyx.registration(ants_image(reference), ants_image(image), type_of_transform="Affine")
        remove_files(found)
        return reference.grid.unsqueeze(found["warpedmovout"].numpy())

    return align


def greedy() -> Tool:
    from picsl_greedy import Greedy3D

    def align(reference: Image, image: Image) -> Array:
        tool = Greedy3D()
        fixed, moving = (to_sitk(x.data, x.grid) for x in (reference, image))
        tool.execute(GREEDY_AFFINE, fixed=fixed, moving=moving, matrix=None)
        tool.execute("-d 3 -V 0 -rf fixed -rm moving moved -r matrix", moved=None)
        return from_sitk(sitk.Cast(tool["moved"], sitk.sitkFloat32))

    return align


TOOLS: dict[str, Callable[[], Tool]] = {
    **{f"atlasmith-{engine}": partial(partial, align_by, engine) for engine in ENGINES},
    "ANTs": ants,
    "greedy": greedy,
}


def rotated(image: Image, degrees: float, random: np.random.Generator) -> Image:
    """Rotate an image about its center of mass, by its header."""
    grid = image.grid
    axis = np.zeros(3)
    if grid.ndim == 3:
        axis = random.normal(size=3)
    else:  # within its plane
        axis = np.linalg.inv(grid.affine[:3, :3])[next(a for a in range(3) if a not in grid.axes)]
    rotation = np.eye(4)
    angle = np.deg2rad(random.uniform(-degrees, degrees))
    rotation[:3, :3] = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
    points = np.argwhere(image.data > 0.1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    center = points.mean(axis=0)
    rotation[:3, 3] = center - rotation[:3, :3] @ center
    return replace(image, grid=Grid(grid.shape, rotation @ grid.affine))


def correlation(reference: Image, image: Image, moved: Array) -> float:
    """Compute NCC within the object, where the image has data (a crop is 0 outside its field of view).

    -1 where less than half of the possible overlap is left.
    """
    inside = reference.data > 0.1
    overlap = inside & (moved != 0)
    offered = image.data.size * np.prod(image.grid.spacing) / np.prod(reference.grid.spacing)
    enough = overlap.sum() > min(inside.sum(), offered) / 2
    return ncc(reference.data[overlap], moved[overlap]) if enough else -1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="an output folder with an affine reference")
    parser.add_argument("--angle", type=float, default=45, help="degrees")
    parser.add_argument("--subjects", type=int, help="number of subjects; all by default")
    parser.add_argument("--tools", nargs="*", default=list(TOOLS), choices=list(TOOLS))
    options = parser.parse_args()
    config = load_config(options.run / "config.yaml").model_copy(update={"output": options.run})
    reference = read_image(config.layout.affine_reference)
    spacing = min(reference.grid.tensor_spacing)
    tools: dict[str, Tool] = {}
    for name in options.tools:
        try:
            tools[name] = TOOLS[name]()
        except ImportError as error:
            print(f"{name} is skipped: {error}", file=sys.stderr)
    subjects = read_cohort(config.layout.cohort)[: options.subjects]
    quality = np.zeros((len(subjects), len(tools), 2))
    seconds = np.zeros_like(quality)
    for i, subject in enumerate(subjects):
        image = read_antialiased(config.layout.preprocessed(subject.id), spacing)
        poses = image, rotated(image, options.angle, np.random.default_rng([config.seed, i]))
        for (j, tool), (k, pose) in ((a, b) for a in enumerate(tools.values()) for b in enumerate(poses)):
            start = time.perf_counter()
            moved = tool(reference, pose)
            seconds[i, j, k] = time.perf_counter() - start
            quality[i, j, k] = correlation(reference, pose, moved)
        print(f"sub-{subject.id}: {quality[i].round(3).tolist()}", file=sys.stderr, flush=True)
    failed = quality < quality.max(axis=(1, 2), keepdims=True) - GAP
    print(f"{len(subjects)} images, rotated by up to {options.angle:g} degrees\n")
    print("| tool | failed, as it is | failed, rotated | mean correlation, both | s |\n|---|---|---|---|---|")
    for j, name in enumerate(tools):
        as_is, rotation = (f"{100 * failed[:, j, k].mean():.1f} %" for k in (0, 1))
        means = " and ".join(f"{quality[:, j, k].mean():.3f}" for k in (0, 1))
        print(f"| {name} | {as_is} | {rotation} | {means} | {np.median(seconds[:, j]):.2f} |")


if __name__ == "__main__":
    main()
