"""Planted shifts: which optimizers find a displacement of many voxels that no network has predicted.

    python benchmarks/shifts.py results-hippocampus --pairs 60 --shift 15

Each pair is two subjects of a finished run, atlases where there are some, affinely aligned, on a grid that is
larger by the shift on each side; the moving one is shifted by so many voxels in a random direction. The
optimizers with their defaults and the tools that are installed (`pip install -e '.[peers]'`) register each
pair from the identity, with the shift and without. Prints a Markdown table: the share of shifts that are
found, to 2 voxels in the median displacement within the object; the same for the difference to the median
displacement of the same method without a shift, which is the subjects' difference of anatomy; Dice of the
atlases' labels; and seconds.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from figures import Figure, Record, make_parser, print_header, print_row
from peers import ALIGNED, Peer
from torch import Tensor

from atlasmith.config import Config, load_config
from atlasmith.core.fields import resize_displacement
from atlasmith.core.grid import Array, Grid
from atlasmith.core.sampling import half_shape, warp
from atlasmith.evaluation import metrics
from atlasmith.evaluation.statistics import summary
from atlasmith.io.files import read_json
from atlasmith.io.tables import read_cohort, read_label_values
from atlasmith.optimization import OPTIMIZERS, instance_objective, optimize
from atlasmith.training.dataset import AlignedImages
from atlasmith.transforms import FORWARD

FOUND = 2.0  # voxels that a found shift may be off
OBJECT_LEVEL = 0.1  # of the fixed image's 99th percentile, above which a voxel belongs to the object


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images (1, C, *shape) on one grid, the moving one shifted, with masks and what is evaluated.

    Attributes:
        shift: (d), voxels.
        inside: Boolean (*shape), the object.
        labels: Indices (1, 1, *shape) of the labels of both; None: there are none.
    """

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor
    mask: Tensor
    grid: Grid
    shift: Array
    inside: Array
    labels: tuple[Tensor, Tensor] | None

    def without_shift(self) -> Pair:
        """Move the moving image and its mask back."""
        back, axes = (-self.shift).tolist(), list(range(2, self.moving.ndim))
        return replace(self, moving=self.moving.roll(back, axes), mask=self.mask.roll(back, axes))


# From a pair to the displacement (d, *shape) that resamples the moving image, voxels.
Method = Callable[[Pair], Tensor]


def make_pairs(config: Config, count: int, distance: int) -> Iterator[Pair]:
    """Draw pairs of subjects, of atlases where there are some, and plant shifts of `distance` voxels."""
    subjects = read_cohort(config.layout.cohort)
    atlases = [subject for subject in subjects if subject.role == "atlas"]
    labeled = len(atlases) > 1
    grid, margin = Grid.from_dict(read_json(config.layout.grid)), distance + 1
    images = AlignedImages(config.layout, atlases if labeled else subjects, grid)
    x, y, z = (n + 2 * margin if axis in grid.axes else n for axis, n in enumerate(grid.shape))
    draw = random.Random(0)
    for _ in range(count):
        chosen = draw.sample(range(len(images.subjects)), 2)
        direction = np.array([draw.gauss(0, 1) for _ in grid.axes])
        shift = np.rint(distance * direction / np.linalg.norm(direction)).astype(int)
        tensors = list(images.batch(chosen))
        if labeled:
            indices = [images.label_indices(index) for index in chosen]
            tensors.append(torch.stack(indices)[:, None].float())
        larger = [F.pad(tensor, [margin] * 2 * len(shift)) for tensor in tensors]
        yield _pair(larger, Grid((x, y, z), grid.affine), shift)


def _pair(tensors: Sequence[Tensor], grid: Grid, shift: Array) -> Pair:
    """Shift the moving one of two images, masks and perhaps labels (2, C, *shape)."""
    axes = list(range(2, tensors[0].ndim))
    image, mask, *labels = ((x[:1], x[1:].roll(shift.tolist(), dims=axes)) for x in tensors)
    channel = image[0][0, 0].numpy()
    inside = channel > OBJECT_LEVEL * np.quantile(channel, 0.99)
    if labels:
        inside = labels[0][0][0, 0].numpy() > 0
    return Pair(*image, *mask, grid, shift, inside, labels[0] if labels else None)


def by_optimizer(config: Config, name: str, settings: Mapping[str, int]) -> Method:
    """Register by the run's objective and number of steps, from the identity."""
    objective, budget = config.register_objective, config.register_.instance_optimization

    def register(pair: Pair) -> Tensor:
        bound = instance_objective(
            pair.fixed, pair.moving, pair.mask, pair.grid, fixed_mask=pair.fixed_mask, **objective
        )
        half = half_shape(pair.fixed.shape[2:])
        with torch.no_grad():
            start = bound.deformation.initial(pair.fixed, half)
        found = optimize(bound, start, budget.steps, budget.learning_rate, name, settings)
        with torch.no_grad():
            maps = bound.deformation.maps(found, bound.spacing(half), [FORWARD])
            return resize_displacement(maps[FORWARD], pair.fixed.shape[2:])

    return register


def by_tool(register: Peer) -> Method:
    """Register by another tool."""
    return lambda pair: register(pair.fixed[0, 0], pair.moving[0, 0], pair.grid)[None]


def dice(pair: Pair, displacement: Tensor, count: int) -> float:
    """Compute the mean Dice of `count` labels, the moving ones warped; NaN without labels."""
    if pair.labels is None:
        return np.nan
    fixed, moving = pair.labels
    predicted = warp(moving, displacement, mode="nearest")
    truth, found = (x[0, 0].numpy().astype(np.int32) for x in (fixed, predicted))
    return float(np.nanmean(metrics.dice(metrics.count_overlap(truth, found, count))))


def measure(method: Method, pairs: Iterable[Pair], labels: int) -> Array:
    """Compute for each pair whether its shift was found, by itself and beyond the subjects' difference of
    anatomy, Dice, and seconds, (N, 4)."""
    rows = []
    for pair in pairs:
        start = time.perf_counter()
        displacement = method(pair)
        seconds = time.perf_counter() - start
        anatomy = method(pair.without_shift())
        found, without = (np.median(x[0].numpy()[:, pair.inside], axis=1) for x in (displacement, anatomy))
        errors = [float(np.linalg.norm(shift - pair.shift)) for shift in (found, found - without)]
        rows.append((*(error <= FOUND for error in errors), dice(pair, displacement, labels), seconds))
    return np.array(rows, dtype=float)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, help="a finished output folder")
    parser.add_argument("--pairs", type=int, default=60, help="number of pairs")
    parser.add_argument("--shift", type=int, default=15, help="length of the shifts, voxels")
    parser.add_argument("--methods", nargs="*", help="some of the methods; all by default")
    parser.add_argument("--dataset", default="hippocampus", help="name of the cohort in the record")
    options = parser.parse_args()
    config = load_config(options.run / "config.yaml").model_copy(update={"output": options.run})
    labels = len(read_label_values(config.layout.labels)) if config.layout.labels.exists() else 0
    methods: dict[str, Method] = {name: by_optimizer(config, name, {}) for name in OPTIMIZERS}
    methods |= {
        "adam, 3 levels": by_optimizer(config, "adam", {"levels": 3}),
        **{name: by_tool(tool) for name, tool in ALIGNED.items()},
    }
    record = Record(
        options.record,
        dataset=options.dataset,
        n=options.pairs,
        note=f"{options.pairs} pairs of atlases, shifts of {options.shift} voxels",
    )
    print_header("method", "shifts found (%)", "beyond anatomy (%)", "Dice", "s per pair")
    for name in options.methods or methods:
        pairs = make_pairs(config, options.pairs, options.shift)
        try:
            found, beyond, overlap, seconds = measure(methods[name], pairs, labels).T
        except ImportError as error:
            print(f"{name} is skipped: {error}", file=sys.stderr)
            continue
        share, relative, median = 100 * found.mean(), 100 * beyond.mean(), float(np.median(seconds))
        print_row(name, f"{share:.0f}", f"{relative:.0f}", f"{overlap.mean():.3f}", f"{median:.2f}")
        figures: dict[str, Figure] = {
            "shifts_found_percent": share,
            "shifts_found_beyond_anatomy_percent": relative,
        }
        if not np.isnan(overlap).any():
            interval = summary(overlap, config.seed, config.score.bootstrap)
            figures["dice"] = (interval["mean"], interval["ci95_low"], interval["ci95_high"])
        record.add("registration", name, figures, seconds=median)


if __name__ == "__main__":
    main()
