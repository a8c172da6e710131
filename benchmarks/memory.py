"""Measure the peak memory of a training step of a conditional template on a large grid.

    python benchmarks/memory.py --shape 160 192 224

Each decoder runs in a process of its own, in float32 on the CPU, with the default network, losses and batch,
on images of noise. Prints a Markdown table.
"""

from __future__ import annotations

import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from figures import Record, make_parser, print_header, print_row

from atlasmith.config.template import TemplateSection
from atlasmith.core.grid import Grid
from atlasmith.networks import DECODERS, CovariateCode, Groupwise
from atlasmith.training.objective import training_objective


def measure_step(
    decoder: str, shape: list[int], batch_size: int, save_memory: bool
) -> tuple[float, float, int]:
    """Build a model and take one training step; seconds, peak GiB, and the decoder's number of weights."""
    settings = TemplateSection()
    grid = Grid(tuple(shape), np.eye(4))
    code = CovariateCode.of(["age"], [{"age": 60.0}, {"age": 80.0}])
    torch.manual_seed(0)
    start = time.monotonic()
    model = Groupwise(grid, code, settings.network.name, None, settings.integration_steps, decoder=decoder)
    optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate)
    image, mask = torch.rand(batch_size, 1, *shape), torch.ones(batch_size, 1, *shape)
    template = model.template_features(torch.randn(batch_size, 1))
    velocity = model.coefficients(template, image)
    terms = settings.objective | {"deformation": model.deformation, "save_memory": save_memory}
    training_objective(grid, template, image, mask, velocity, **terms).loss.backward()
    optimizer.step()
    assert model.decoder is not None
    weights = sum(parameter.numel() for parameter in model.decoder.parameters())
    return time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, weights


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=[160, 192, 224])
    options = parser.parse_args()
    size = " x ".join(map(str, options.shape))
    protocol = f"conditional template of {size} voxels, one training step in float32"
    record = Record(options.record, dataset="synthetic")
    print_header("decoder", "weights", "batch", "`save_memory`", "s for a step", "peak, GiB")
    for batch_size, save_memory in ((4, False), (2, False), (2, True)):
        for decoder in DECODERS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                work = pool.submit(measure_step, decoder, options.shape, batch_size, save_memory)
                seconds, peak, weights = work.result()
            used = "yes" if save_memory else "no"
            print_row(decoder, f"{weights:,}", batch_size, used, f"{seconds:.0f}", f"{peak:.1f}")
            variant = f"batch of {batch_size}" + (", save_memory" if save_memory else "")
            for figures, name in (
                ({"parameters": weights}, "any batch"),
                ({"peak_memory_gib": peak, "time_s": seconds}, variant),
            ):
                record.add(
                    "scaling", f"{decoder} decoder", figures, seconds=seconds, note=f"{protocol} | {name}"
                )


if __name__ == "__main__":
    main()
