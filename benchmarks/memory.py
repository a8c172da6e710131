"""Peak memory of a conditional template on a large grid: the model is built and makes one training step.

    python benchmarks/memory.py --shape 160 192 224

Each decoder runs in a process of its own, in float32 on the CPU, with the default network, losses and batch,
images of noise. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch

from atlasmith.config.schema import TemplateSection
from atlasmith.core.grid import Grid
from atlasmith.networks import DECODERS, CovariateCode, Groupwise
from atlasmith.training.objective import template_objective


def step(decoder: str, shape: list[int], batch: int, save_memory: bool) -> tuple[float, float, int]:
    """Seconds, peak GiB, and the decoder's number of weights."""
    settings = TemplateSection(save_memory=save_memory)
    grid = Grid(tuple(shape), np.eye(4))
    code = CovariateCode.of(["age"], [{"age": 60.0}, {"age": 80.0}])
    torch.manual_seed(0)
    start = time.monotonic()
    model = Groupwise(grid, code, settings.network.name, None, settings.integration_steps, decoder=decoder)
    optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate)
    image, mask = torch.rand(batch, 1, *shape), torch.ones(batch, 1, *shape)
    template = model.template_features(torch.randn(batch, 1))
    velocity = model.velocity(template, image)
    template_objective(settings, grid, template, image, mask, velocity).loss.backward()
    optimizer.step()
    assert model.decoder is not None
    weights = sum(parameter.numel() for parameter in model.decoder.parameters())
    return time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, weights


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs="+", default=[160, 192, 224])
    options = parser.parse_args()
    print("| decoder | weights | batch | `save_memory` | s a step | peak, GiB |\n|---|---|---|---|---|---|")
    for batch, save_memory in ((4, False), (2, False), (2, True)):
        for decoder in DECODERS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                work = pool.submit(step, decoder, options.shape, batch, save_memory)
                seconds, peak, weights = work.result()
            print(
                f"| {decoder} | {weights:,} | {batch} | {'yes' if save_memory else 'no'} | {seconds:.0f} "
                f"| {peak:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
