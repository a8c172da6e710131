"""Count the warnings that `atlasmith predict` gives of unsuitable images, made of proper ones, and of these.

    python benchmarks/unsuitable_images.py RESULTS IMAGE... [--others IMAGE...] [--variants N]

RESULTS is a finished run, and each IMAGE one of its kind, best one that it hasn't seen. The first N images
are made unsuitable in each of the ways of `VARIANTS`; `--others` are images of another anatomy.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from figures import Record, make_parser, print_header, print_row

from atlasmith.config import load_config
from atlasmith.core.grid import Array
from atlasmith.inference import Prediction, predict_all

Variant = Callable[[Array, Array, np.random.Generator], tuple[Array, Array]]


def noise(data: Array, affine: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Noise without anatomy."""
    return random.normal(data.mean(), data.std(), data.shape), affine


def upside_down(data: Array, affine: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Mirror the image along its last axis; the header doesn't tell."""
    return np.flip(data, _axes(data)[-1]), affine


def turned(data: Array, affine: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Turn the image by 180 degrees about its first axis, in 2-D within its plane."""
    return np.flip(data, _axes(data)[-2:]), affine


def inverted(data: Array, affine: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Invert the contrast of what isn't background."""
    high = np.percentile(data, 99.5)
    background = (data < 0.02 * high) if (data < 0.02 * high).mean() > 0.1 else np.zeros(data.shape, bool)
    return np.where(background, data, np.clip(1.1 * high - data, 0, None)), affine


def other_contrast(data: Array, affine: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Map intensities as T2 to T1 weighting, not monotonically."""
    share = np.clip(data / np.percentile(data, 99.5), 0, 1)
    return np.where(share < 0.1, share, np.clip(1.2 - share, 0, None) ** 1.5), affine


def cropped(data: Array, affine: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Cut off half of the field of view."""
    axis = _axes(data)[-2]
    return np.take(data, range(data.shape[axis] // 2), axis), affine


def small(data: Array, affine: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Give the voxels 0.45 of their size, as in another species."""
    return data, affine @ np.diag([0.45, 0.45, 0.45, 1])


VARIANTS: dict[str, Variant] = {
    "noise": noise,
    "upside-down": upside_down,
    "turned": turned,
    "inverted": inverted,
    "other contrast": other_contrast,
    "crop": cropped,
    "small": small,
}


def _axes(data: Array) -> tuple[int, ...]:
    return tuple(axis for axis in range(3) if data.shape[axis] > 1)


def write_variants(images: list[Path], variant: Variant, folder: Path) -> list[Path]:
    """Write a variant of each image."""
    paths = []
    for index, path in enumerate(images):
        file = nib.as_closest_canonical(nib.load(path))
        data = (
            np.asarray(file.dataobj, dtype=np.float32)
            .reshape(*file.shape, 1)[..., :1]
            .reshape((*file.shape, 1)[:3])
        )
        made, affine = variant(data, file.affine, np.random.default_rng(index))
        paths.append(folder / f"{variant.__name__.replace('_', '')}{index}.nii.gz")
        nib.Nifti1Image(np.ascontiguousarray(made, dtype=np.float32), affine).to_filename(paths[-1])
    return paths


def warned(results: Path, images: list[Path], folder: Path) -> list[Prediction]:
    """Predict images, and return those of which there is a warning, or no result."""
    predictions = predict_all(results, images, {}, folder)
    return [found for found in predictions if found.reasons or found.error is not None]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--others", type=Path, nargs="*", default=[])
    parser.add_argument("--variants", type=int, default=5)
    options = parser.parse_args()
    name = load_config(options.results / "config.yaml").template.name
    record = Record(options.record, dataset=name.lower(), note="images that the run hasn't seen")
    print_header("images", "warned", "of")
    with tempfile.TemporaryDirectory() as folder:
        groups = {"proper": options.images}
        for variant, make in VARIANTS.items():
            groups[variant] = write_variants(options.images[: options.variants], make, Path(folder))
        if options.others:
            groups["other anatomy"] = options.others
        for group, images in groups.items():
            found = warned(options.results, images, Path(folder) / group)
            print_row(group, len(found), len(images))
            for prediction in found if group == "proper" else []:
                print(prediction.scan, prediction.error, *prediction.reasons, file=sys.stderr)
            record.add("quality", group, {"warned_percent": 100 * len(found) / len(images)}, n=len(images))


if __name__ == "__main__":
    main()
