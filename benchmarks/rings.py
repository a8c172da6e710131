"""Measure how much of a planted effect of age a conditional template recovers, on rings of growing radius.

    python benchmarks/rings.py

Makes slices of rings, each with a random smooth deformation and noise, of subjects with evenly distributed
ages; the affine stage is left out, since it would remove differences of size. Prints a Markdown table: the
slope of the radius of the templates from 30 to 70 years divided by the planted one, with and without rounds
of refinement, and the sharpness of the template (the mean gradient on the ring at 50 years, divided by that
of a single ring).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from figures import Record, make_parser, print_header, print_row
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
SLOPE = 0.15  # voxels a year: 9 voxels from 20 to 80 years


def ring(age: float, displacement: Array) -> Array:
    """Draw (SIZE, SIZE) of a ring whose points are displaced by (2, SIZE, SIZE)."""
    x, y = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2 + displacement
    radius = 16 + SLOPE * (age - 50)
    return np.exp(-((np.hypot(x, y) - radius) ** 2) / (2 * WIDTH**2))


def make_cohort(folder: Path, subjects: int, seed: int, **template: object) -> Config:
    """Make a cohort whose stages before the template are finished."""
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
        displacement = np.stack([gaussian_filter(random.normal(size=(SIZE, SIZE)), 8) for _ in range(2)])
        displacement *= 2 / displacement.std()
        image = ring(age, displacement) + 0.03 * random.normal(size=(SIZE, SIZE))
        image = np.clip(image, 0, 1)[..., None].astype(np.float32)
        name = f"{index:03d}"
        path = folder / f"{name}.nii.gz"
        for file in (path, layout.preprocessed(name), layout.affine_image(name)):
            write_image(file, image, grid)
        write_affine(layout.affine(name), np.eye(4))
        rows.append(Subject(name, "train", path, covariates={"age": float(age)}))
    write_cohort(layout.cohort, rows, ["age"])
    return config


def slope_and_sharpness(config: Config) -> tuple[float, float]:
    """Measure the template's slope over the planted one, and its sharpness at 50 over a single ring's."""
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
        # The number of voxels of a circle is proportional to its radius.
        radii.append((bright * radius / np.maximum(radius, 1)).sum() / (bright / np.maximum(radius, 1)).sum())

    def sharpness(image: Array) -> float:
        return float(np.hypot(*np.gradient(image))[np.abs(radius - 16) < 3 * WIDTH].mean())

    single = ring(50, np.zeros((2, SIZE, SIZE)))
    return float(np.polyfit(ages, radii, 1)[0] / SLOPE), sharpness(images[2]) / sharpness(single)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, nargs="*", default=[0, 1, 3, 6])
    parser.add_argument("--seeds", type=int, default=3, help="number of repetitions")
    options = parser.parse_args()
    note = f"{options.subjects} slices, {options.seeds} seeds"
    record = Record(options.record, dataset="rings", n=options.subjects, note=note)
    print_header("rounds of refinement", "slope recovered, by seed", "sharpness", "s")
    for rounds in options.rounds:
        slopes, sharpness, start = [], [], time.perf_counter()
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                config = make_cohort(
                    Path(folder), options.subjects, seed, steps=options.steps, refinement={"rounds": rounds}
                )
                train(config)
                slope, sharp = slope_and_sharpness(config)
            slopes.append(slope)
            sharpness.append(sharp)
        seconds = (time.perf_counter() - start) / options.seeds
        print_row(
            rounds,
            ", ".join(f"{slope:.3f}" for slope in slopes),
            f"{np.mean(sharpness):.2f}",
            f"{seconds:.0f}",
        )
        figures = {f"slope_ratio_seed_{seed}": slope for seed, slope in enumerate(slopes, start=1)}
        figures["sharpness_ratio"] = float(np.mean(sharpness))
        method = f"{rounds} round{'' if rounds == 1 else 's'} of groupwise refinement"
        record.add("template", method, figures, seconds=seconds)


if __name__ == "__main__":
    main()
