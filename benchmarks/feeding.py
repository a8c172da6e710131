"""Measure the work of the host that prepares a training step, for which a GPU may have to wait.

    OMP_NUM_THREADS=1 python benchmarks/feeding.py --shape 160 192 224

Images, masks and labels of noise are read from the cache, as in training after the first pass over a cohort.
CPU seconds of the thread that trains, and of the thread that loads ahead, are means over some steps. Without
a GPU, tensors lie on torch's `meta`, a device without memory or arithmetic, so that the host's work remains;
with `--device cpu` a CPU's arithmetic comes to it. Prints a Markdown table.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from figures import Record, make_parser, print_header, print_row
from torch import Tensor

from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Grid
from atlasmith.io.tables import Subject, write_tsv
from atlasmith.networks import Segmenters, held_out_folds, label_codes
from atlasmith.template.segmenter import SegmenterTraining
from atlasmith.training import augmentation
from atlasmith.training.dataset import AlignedImages, Cache
from atlasmith.training.prefetch import Prefetch

ATLASES, LABELS, STEPS = 6, 134, 5


@contextmanager
def cohort_of_noise(shape: tuple[int, ...], device: torch.device) -> Iterator[tuple[Config, AlignedImages]]:
    """Give a config and atlases of noise whose images, masks and labels are in the cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = parse_config({"output": str(folder), "cohort": {"bids": "."}})
        rows = [{"index": value, "name": f"{value}"} for value in range(1, LABELS + 1)]
        write_tsv(config.layout.labels, rows, ["index", "name"])
        subjects = [Subject(f"{i:02d}", "atlas", Path(), Path()) for i in range(ATLASES)]
        grid, cache = Grid((shape[0], shape[1], shape[2]), np.eye(4)), Cache(folder, 2**40)
        random = torch.Generator().manual_seed(0)
        for i in range(ATLASES):
            image = torch.rand(1, *shape, generator=random).half()
            # Runs of equal labels along the last axis, as anatomy has them.
            blocks = torch.randint(LABELS + 1, (*shape[:2], -(-shape[2] // 8)), generator=random).int()
            labels = blocks.repeat_interleave(8, dim=2)[..., : shape[2]]
            for kind, tensor in (("image", image), ("mask", image > 0.1), ("labels", labels)):
                cache.get((kind, i), lambda made=tensor: made)
        yield config, AlignedImages(config.layout, subjects, grid, cache, device)


def cpu_seconds(step: Callable[[int], object]) -> tuple[float, float]:
    """Measure the CPU seconds of a step in this thread, and in others meanwhile, after a step to warm up."""
    step(0)
    own, all_threads = time.thread_time(), time.process_time()
    for index in range(1, STEPS + 1):
        step(index)
    own, all_threads = time.thread_time() - own, time.process_time() - all_threads
    return own / STEPS, (all_threads - own) / STEPS


def host_seconds_of_batch(shape: tuple[int, ...], size: int, device: torch.device) -> tuple[float, float]:
    """Measure the CPU seconds of a batch's way to the device: of the training thread, and of the other."""
    with (
        cohort_of_noise(shape, device) as (_, images),
        Prefetch(lambda i: images.load([(i + k) % ATLASES for k in range(size)]), STEPS + 1) as batches,
    ):

        def step(index: int) -> list[Tensor]:
            return [images.stacked(part).float() for part in batches(index)]

        return cpu_seconds(step)


def host_seconds_of_segmenters(shape: tuple[int, ...], device: torch.device) -> tuple[float, float]:
    """Measure the CPU seconds of a segmenter step without the networks: images, augmented, and labels."""
    with cohort_of_noise(shape, device) as (config, images), without_generators(device):
        settings = config.template.segmenter
        folds = held_out_folds([subject.id for subject in images.subjects], settings.count)
        outputs = len(label_codes(LABELS))
        segmenters = Segmenters(3, outputs, settings.channels, folds).to(device)
        training = SegmenterTraining(config, segmenters, images)
        with training.batches:
            return cpu_seconds(training.batch)


@contextmanager
def without_generators(device: torch.device) -> Iterator[None]:
    """Let noise on `meta`, which has no generators of random numbers, be empty."""

    def empty(shape: tuple[int, ...], random: torch.Generator, device: torch.device) -> Tensor:
        return torch.empty(shape, device=device)

    with mock.patch.object(
        augmentation, "draw_normal", empty if device.type == "meta" else augmentation.draw_normal
    ):
        yield


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=[160, 192, 224])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "meta")
    options = parser.parse_args()
    shape, device = tuple(options.shape), torch.device(options.device)
    record = Record(options.record, dataset="synthetic")
    protocol = f"the host's work in a step on {' x '.join(map(str, shape))} voxels, tensors on {device.type}"
    print_header("work", "CPU s of the training thread", "CPU s of the loading thread")
    for method, (own, ahead) in (
        (f"a batch of {options.batch}", host_seconds_of_batch(shape, options.batch, device)),
        (f"a segmenter step, {LABELS} labels", host_seconds_of_segmenters(shape, device)),
    ):
        print_row(method, f"{own:.4f}", f"{ahead:.4f}")
        record.add("gpu", method, {"host_cpu_time_s": own, "loading_cpu_time_s": ahead}, note=protocol)


if __name__ == "__main__":
    main()
