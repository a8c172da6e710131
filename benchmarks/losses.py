"""Compare time and peak memory of losses and metrics with plain implementations of their formulas.

    python benchmarks/losses.py [--size 96 96 96] [--size 160 192 160]

Each implementation runs in a process of its own, forward and backward, the best of some repeats; memory is
the peak beyond the inputs. Value and gradient are compared with those of the plain implementation, written
here from the formula. Prints Markdown tables.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from figures import Record, make_parser, print_header, print_row
from scipy import ndimage
from surface_distance import metrics as surface_distance
from torch import Tensor

from atlasmith.core.fields import exponentiate, resize_displacement
from atlasmith.evaluation import metrics
from atlasmith.losses import SIMILARITY

Loss = Callable[[Tensor, Tensor], Tensor]
LABELS = 134
PROTOCOL = "forward and backward, against the plain form of the formula"


def dense_lncc(fixed: Tensor, moved: Tensor) -> Tensor:
    """Sum zero-padded windows by a convolution with ones."""
    ones = torch.ones(1, 1, 9, 9, 9)
    f, m, ff, mm, fm = (
        F.conv3d(x, ones, padding=4) for x in (fixed, moved, fixed * fixed, moved * moved, fixed * moved)
    )
    n = 9**3
    cross = fm - f * m / n
    return -(cross * cross / ((ff - f * f / n) * (mm - m * m / n) + 1e-5)).mean()


def dense_mi(fixed: Tensor, moved: Tensor, bins: int = 32) -> Tensor:
    """Compute the weights of all voxels in all bins at once."""
    weights = []
    for x in (fixed, moved):
        x = (x - x.min()) / (x.max() - x.min())
        weight = torch.exp(-((x.reshape(-1, 1) * (bins - 1) - torch.arange(bins)) ** 2) / 2)
        weights.append(weight / weight.sum(1, keepdim=True))
    joint = weights[0].T @ weights[1] / fixed.numel()
    product = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return -(joint * ((joint + 1e-10) / (product + 1e-10)).log()).sum()


def dense_mind(fixed: Tensor, moved: Tensor, radius: int = 2, dilation: int = 2) -> Tensor:
    """Compute twelve pairs of shifts as dilated convolutions, and pool each difference."""
    units = [[1 if i == axis else 0 for i in range(3)] for axis in range(3)]
    units = [[s * u for u in unit] for unit in units for s in (-1, 1)]
    pairs = [
        (p, q)
        for i, p in enumerate(units)
        for q in units[i + 1 :]
        if sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) == 2
    ]
    kernels = torch.zeros(2, 12, 1, 3, 3, 3)
    for k, ends in enumerate(pairs):
        for side, (x, y, z) in enumerate(ends):
            kernels[side, k, 0, x + 1, y + 1, z + 1] = 1

    def describe(x: Tensor) -> Tensor:
        padded = F.pad(x, [dilation + radius] * 6, mode="replicate")
        one, two = (F.conv3d(padded, kernel, dilation=dilation) for kernel in kernels)
        distance = F.avg_pool3d((one - two) ** 2, 2 * radius + 1, stride=1)
        distance = distance - distance.amin(1, keepdim=True)
        variance = distance.mean(1, keepdim=True)
        typical = variance.mean()
        return torch.exp(-distance / variance.clamp(0.001 * typical, 1000 * typical))

    return (describe(fixed) - describe(moved)).square().mean()


def velocity_of(image: Tensor) -> Tensor:
    """Make a smooth velocity (1, 3, *shape) of some voxels from an image."""
    coarse = F.adaptive_avg_pool3d(image, 6)
    field = torch.cat([coarse, coarse.flip(2), coarse.flip(3)], 1)
    return resize_displacement((field - field.mean()) * 10, image.shape[2:])


def plain_exponential(fixed: Tensor, moved: Tensor) -> Tensor:
    return exponentiate(velocity_of(fixed) + moved, 7).square().mean()


def recomputed_exponential(fixed: Tensor, moved: Tensor) -> Tensor:
    return exponentiate(velocity_of(fixed) + moved, 7, save_memory=True).square().mean()


# Our implementation and the plain one, by name.
LOSSES: dict[str, tuple[Loss, Loss]] = {
    "LNCC, window 9": (lambda f, m: SIMILARITY["lncc"](f, m, compat="voxelmorph"), dense_lncc),
    "MI, 32 bins": (lambda f, m: SIMILARITY["mi"](f, m), dense_mi),
    "MIND-SSC": (lambda f, m: SIMILARITY["mind"](f, m), dense_mind),
    "7 integration steps, save_memory": (recomputed_exponential, plain_exponential),
}


@dataclass
class Result:
    seconds: float
    mebibytes: float
    value: float
    gradient: Tensor


def images(size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Make two similar images of smooth noise, in [0, 1]."""
    random = torch.Generator().manual_seed(0)
    pair = (F.avg_pool3d(torch.rand(1, 1, *size, generator=random), 5, 1, 2) for _ in range(2))
    fixed, moved = ((x - x.min()) / (x.max() - x.min()) for x in pair)
    return fixed, (fixed + moved) / 2


def peak() -> float:
    """Peak memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, which: int, size: Sequence[int], repeats: int, queue: multiprocessing.Queue) -> None:
    """Measure one implementation: `which` is 0 for ours and 1 for the plain one."""
    # A small run first, so that the initialization of torch isn't counted.
    fixed, moved = images([24] * len(size))
    LOSSES[name][which](fixed, moved.requires_grad_()).backward()
    fixed, moved = images(size)
    moved.requires_grad_()
    before, best = peak(), float("inf")
    for _ in range(repeats):
        moved.grad = None
        start = time.perf_counter()
        value = LOSSES[name][which](fixed, moved)
        value.backward()
        best = min(best, time.perf_counter() - start)
    assert moved.grad is not None
    queue.put((best, peak() - before, value.item(), moved.grad[0, 0].numpy()))


def measure_in_process(name: str, which: int, size: Sequence[int], repeats: int) -> Result:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure, args=(name, which, size, repeats, queue))
    process.start()
    seconds, mebibytes, value, gradient = queue.get()
    process.join()
    return Result(seconds, mebibytes, value, torch.from_numpy(gradient))


def compare_losses(sizes: Sequence[Sequence[int]], repeats: int, record: Record) -> None:
    print_header(
        *("loss", "size", "ours, s", "plain, s", "speedup", "ours, MiB", "plain, MiB", "memory ratio"),
        *("value difference", "gradient difference"),
    )
    for size in sizes:
        shape = " x ".join(map(str, size))
        for name in LOSSES:
            ours, plain = (measure_in_process(name, which, size, repeats) for which in (0, 1))
            figures = {
                "speedup": plain.seconds / ours.seconds,
                "memory_ratio": plain.mebibytes / ours.mebibytes,
                "value_difference": abs(ours.value - plain.value) / abs(plain.value),
                "gradient_difference": float((ours.gradient - plain.gradient).norm() / plain.gradient.norm()),
            }
            print_row(
                *(name, shape, f"{ours.seconds:.2f}", f"{plain.seconds:.2f}", f"{figures['speedup']:.1f}"),
                *(f"{ours.mebibytes:.0f}", f"{plain.mebibytes:.0f}", f"{figures['memory_ratio']:.1f}"),
                *(f"{figures['value_difference']:.1e}", f"{figures['gradient_difference']:.1e}"),
            )
            record.add("losses", name, figures, note=f"{PROTOCOL} | {shape}")


def parcellation(size: Sequence[int], seed: int) -> np.ndarray:
    """Fill a ball with 134 labels, the cells nearest to random points in it."""
    random = np.random.default_rng(0)
    points = random.uniform(-1, 1, (8 * LABELS, 3))
    points = (points[(points**2).sum(1) < 0.8][:LABELS] + 1) / 2 * size
    points += np.random.default_rng(seed).normal(0, 1, points.shape)
    markers = np.zeros(size, int)
    markers[tuple(points.clip(0, np.array(size) - 1).astype(int).T)] = np.arange(1, LABELS + 1)
    nearest = ndimage.distance_transform_edt(markers == 0, return_distances=False, return_indices=True)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij"))
    return np.where((grid**2).sum(0) < 0.9, markers[tuple(nearest)], 0).astype(np.int32)


def timed(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def compare_label_metrics(size: Sequence[int], record: Record) -> None:
    truth, predicted = parcellation(size, 1), parcellation(size, 2)
    names = ["hd95_mm", "assd_mm", "surface_dice_1mm"]

    def all_surfaces() -> np.ndarray:
        scores = metrics.score_labels(truth, predicted, LABELS, (1.0, 1.0, 1.0), names)
        return np.stack([scores[name] for name in names])

    def surfaces_by_label() -> np.ndarray:
        rows = []
        for label in range(1, LABELS + 1):
            distances = surface_distance.compute_surface_distances(
                truth == label, predicted == label, (1.0, 1.0, 1.0)
            )
            areas = [distances[f"surfel_areas_{side}"] for side in ("gt", "pred")]
            lengths = [distances["distances_gt_to_pred"], distances["distances_pred_to_gt"]]
            rows.append(
                [
                    surface_distance.compute_robust_hausdorff(distances, 95),
                    sum(d @ a for d, a in zip(lengths, areas, strict=True)) / sum(a.sum() for a in areas),
                    surface_distance.compute_surface_dice_at_tolerance(distances, 1),
                ]
            )
        return np.array(rows).T

    random = np.random.default_rng(0)
    field = np.stack([ndimage.gaussian_filter(random.normal(0, 40, size), 4) for _ in range(3)])

    def all_volumes() -> np.ndarray:
        volume = metrics.nondiffeomorphic_volume(field)
        return np.bincount(truth.ravel(), weights=volume.ravel(), minlength=LABELS + 1)[1:]

    def volumes_by_label() -> np.ndarray:
        return np.array([metrics.nondiffeomorphic_volume(field)[truth == label].sum() for label in some])

    some = range(1, 9)  # the loop over all labels takes many minutes
    shape = " x ".join(map(str, size))
    print_header("metric", "size", "one pass, s", "loop over labels, s", "speedup", "value difference")
    for name, ours, loop, measured in (
        (f"surface metrics of {LABELS} labels", all_surfaces, surfaces_by_label, LABELS),
        (f"non-diffeomorphic volume of {LABELS} labels", all_volumes, volumes_by_label, len(some)),
    ):
        (seconds, found), (loop_seconds, expected) = timed(ours), timed(loop)
        loop_seconds *= LABELS / measured
        figures = {
            "speedup": loop_seconds / seconds,
            "value_difference": float(np.abs(found[..., :measured] - expected).max()),
        }
        print_row(
            *(name, shape, f"{seconds:.2f}", f"{loop_seconds:.2f}", f"{figures['speedup']:.1f}"),
            f"{figures['value_difference']:.1e}",
        )
        record.add("losses", name, figures, note=f"{PROTOCOL} | {shape}")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--size", type=int, nargs=3, action="append", help="voxels; may be repeated")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    sizes = options.size or [[96, 96, 96], [160, 192, 160]]
    record = Record(options.record, dataset="synthetic")
    compare_losses(sizes, options.repeats, record)
    compare_label_metrics(sizes[-1], record)


if __name__ == "__main__":
    main()
