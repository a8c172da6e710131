"""How much of a planted effect a conditional template gives back: rings whose radius has_covariate_velocity with age.

    python benchmarks/rings.py

Makes slices of rings, each with a random smooth warp and noise, of people whose ages are spread evenly; the
affine stage is left out, since it would take size away. Prints a Markdown table: the slope of the radius that
templates from 30 to 70 show, as a share of the planted one, with and without rounds of refinement, and how
sharp the template is (the mean gradient on the ring at 50, as a share of a single ring's).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Array, Grid
from atlasmith.io.files import write_json
from atlasmith.io.images import write_image
from atlasmith.io.tables import Subject, write_cohort
from atlasmith.io.transforms import write_affine
from atlasmith.networks import Groupwise
from atlasmith.template import train

SIZE, WIDTH = 64, 2.0
SLOPE = 0.15  # voxels a year: as much as 9 from 20 to 80


def ring(age: float, bend: Array) -> Array:
    """(SIZE, SIZE) of a ring whose points are displaced by `bend` (2, SIZE, SIZE)."""
    x, y = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2 + bend
    radius = 16 + SLOPE * (age - 50)
    return np.exp(-((np.hypot(x, y) - radius) ** 2) / (2 * WIDTH**2))


def prepare(folder: Path, subjects: int, seed: int, **template: object) -> Config:
    """A cohort that stands before the template stage."""
    random = np.random.default_rng(seed)
    config = parse_config(
        {
            "output": str(folder),
            "seed": seed,
            "device": "cpu",
            "cohort": {"bids": str(folder), "covariates": ["age"]},
            "template": {"condition_on": ["age"], **template},
        }
    )
    layout = config.layout
    affine = np.eye(4)
    affine[:2, 3] = -(SIZE - 1) / 2
    grid = Grid((SIZE, SIZE, 1), affine)
    write_json(layout.grid, grid.to_dict())
    rows = []
    for index, age in enumerate(np.linspace(20, 80, subjects)):
        bend = np.stack([gaussian_filter(random.normal(size=(SIZE, SIZE)), 8) for _ in range(2)])
        bend *= 2 / bend.std()
        image = ring(age, bend) + 0.03 * random.normal(size=(SIZE, SIZE))
        image = np.clip(image, 0, 1)[..., None].astype(np.float32)
        name = f"{index:03d}"
        path = folder / f"{name}.nii.gz"
        write_image(path, image, grid)
        write_image(layout.affine_image(name), image, grid)
        write_affine(layout.affine(name), np.eye(4))
        rows.append(Subject(name, "train", path, covariates={"age": float(age)}))
    write_cohort(layout.cohort, rows, ["age"])
    return config


def shown(config: Config) -> tuple[float, float]:
    """Slope of the template's radius over the planted one, and its sharpness at 50 over a single ring's."""
    model = Groupwise.load(config.layout.template_weights)
    x, y = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    radius = np.hypot(x, y)
    ages = np.linspace(30, 70, 5)
    radii, images = [], []
    for age in ages:
        with torch.inference_mode():
            image = model.template(model.code.encode({"age": float(age)})[None])[0, 0].numpy()
        images.append(image)
        bright = np.maximum(image - 0.2 * image.max(), 0)
        # A circle has more voxels the larger it is.
        radii.append((bright * radius / np.maximum(radius, 1)).sum() / (bright / np.maximum(radius, 1)).sum())

    def sharpness(image: Array) -> float:
        return float(np.hypot(*np.gradient(image))[np.abs(radius - 16) < 3 * WIDTH].mean())

    one = ring(50, np.zeros((2, SIZE, SIZE)))
    return float(np.polyfit(ages, radii, 1)[0] / SLOPE), sharpness(images[2]) / sharpness(one)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, nargs="*", default=[0, 1, 3, 6])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print("| rounds of refinement | slope recovered, by seed | sharpness | s |\n|---|---|---|---|")
    for rounds in options.rounds:
        slopes, sharp, start = [], [], time.perf_counter()
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                config = prepare(
                    Path(folder), options.subjects, seed, steps=options.steps, refinement={"rounds": rounds}
                )
                train(config)
                slope, sharpness = shown(config)
            slopes.append(f"{slope:.3f}")
            sharp.append(sharpness)
        seconds = (time.perf_counter() - start) / options.seeds
        print(f"| {rounds} | {', '.join(slopes)} | {np.mean(sharp):.2f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
