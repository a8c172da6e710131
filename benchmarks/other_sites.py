"""Dice on images as from another site: of all methods of a run, and of the student by the image alone.

    python benchmarks/other_sites.py results-hippocampus --targets 10

The run has `student` in its fusion methods. The images of its first so many targets are changed in each of
the ways of `SITES`, and predicted as new ones. Prints a Markdown table: mean Dice over labels, then targets,
in the native grid, and how many of the segmentations with registration are said to need review. The
correlation of the last method's predicted Dice with its own follows, over those of all sites that need none.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import peers
from figures import Record, make_parser, print_header, print_row
from scipy.ndimage import gaussian_filter, uniform_filter1d
from unsuitable_images import Variant, write_variants

from atlasmith.config import Config, load_config
from atlasmith.core.grid import Array
from atlasmith.evaluation.statistics import bootstrap_interval
from atlasmith.inference import predict_all
from atlasmith.io.tables import Subject, read_cohort, read_label_values

STUDENT = "student"


def same(data: Array, affine: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Leave the image as it is."""
    return data, affine


def noisy(data: Array, affine: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Add noise of a tenth of the range to both parts of a complex signal, of which the magnitude remains."""
    real, imaginary = 0.1 * np.percentile(data, 99) * random.normal(size=(2, *data.shape))
    return np.hypot(data + real, imaginary), affine


def dark(data: Array, affine: Array, random: np.random.Generator, gamma: float = 0.5) -> tuple[Array, Array]:
    """Lower the contrast of what is bright: a gamma of 0.5."""
    high = np.percentile(data, 99)
    return high * np.clip(data / high, 0, None) ** gamma, affine


def bright(data: Array, affine: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Lower the contrast of what is dark: a gamma of 2."""
    return dark(data, affine, random, gamma=2)


def biased(data: Array, affine: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Multiply by a smooth field with a standard deviation of 0.3."""
    field = gaussian_filter(random.normal(size=data.shape), [n / 4 if n > 1 else 0 for n in data.shape])
    return data * np.exp(0.3 * (field - field.mean()) / field.std()), affine


def thick(data: Array, affine: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Blur as slices of three voxels do."""
    axis = max(axis for axis in range(3) if data.shape[axis] > 1)
    return uniform_filter1d(data, 3, axis), affine


SITES: dict[str, Variant] = {f.__name__: f for f in (same, noisy, dark, bright, biased, thick)}


def mean_dice(subject: Subject, segmentation: Path, values: Array) -> float:
    """Compute the mean Dice over labels of the segmentation of an image of `write_variants`."""
    assert subject.labels is not None
    files = [nib.as_closest_canonical(nib.load(path)) for path in (subject.labels, segmentation)]
    truth, found = (np.asarray(file.dataobj).astype(np.int32) for file in files)
    return peers.mean_dice(found.reshape(truth.shape), truth, values)


def segment(
    config: Config, targets: Sequence[Subject], images: list[Path], folder: Path
) -> tuple[dict[str, list[float]], list[float]]:
    """Segment images of targets in both ways; the Dice of each method, and that predicted of the last one.

    It is NaN where the segmentation needs review.
    """
    values, figures = np.array(read_label_values(config.layout.labels)), {}
    by_scan = {image.name.partition(".")[0]: s for image, s in zip(images, targets, strict=True)}
    for fast, methods in ((False, config.fusion.methods), (True, [STUDENT])):
        layout = replace(config.layout, output=folder / f"fast-{fast}")
        predictions = predict_all(config.output, images, {}, layout.output, fast=fast)
        for found in predictions:
            if found.error is not None:
                raise found.error
        if not fast:
            predicted = [math.nan if p.predicted_dice is None else p.predicted_dice for p in predictions]
        for method in methods:
            paths = [layout.segmentation(found.scan, method) for found in predictions]
            subjects = [by_scan[found.scan] for found in predictions]
            scores = [mean_dice(s, path, values) for s, path in zip(subjects, paths, strict=True)]
            figures[f"{method} without atlases" if fast else method] = scores
    return figures, predicted


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--targets", type=int, default=10)
    options = parser.parse_args()
    config = load_config(options.run / "config.yaml").model_copy(update={"output": options.run})
    cohort = read_cohort(config.layout.cohort)
    targets = [s for s in cohort if s.role == "target" and s.labels is not None][: options.targets]
    record = Record(options.record, dataset=config.template.name.lower(), n=len(targets))
    pairs: list[tuple[float, float]] = []
    print_header("site", *config.fusion.methods, f"{STUDENT} without atlases", "need review")
    for name, change in SITES.items():
        with tempfile.TemporaryDirectory() as folder:
            images = write_variants([subject.image for subject in targets], change, Path(folder))
            figures, predicted = segment(config, targets, images, Path(folder))
        pairs += zip(predicted, figures[config.fusion.methods[-1]], strict=True)
        review = sum(map(math.isnan, predicted))
        print_row(name, *(f"{np.mean(scores):.3f}" for scores in figures.values()), review)
        for method, scores in figures.items():
            interval = bootstrap_interval(np.array(scores), config.seed, config.score.bootstrap)
            record.add("robustness", method, {f"dice_{name}": (float(np.mean(scores)), *interval)})
    found, true = np.array(pairs)[np.isfinite(pairs).all(axis=1)].T
    print(f"\npredicted and true Dice: r {np.corrcoef(found, true)[0, 1]:.2f}, {len(true)} images")


if __name__ == "__main__":
    main()
