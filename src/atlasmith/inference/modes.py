"""Modes of variation about the template of a finished run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.fields import resize_displacement
from atlasmith.core.sampling import warp
from atlasmith.inference.finished_run import load_finished_run
from atlasmith.io.images import write_image
from atlasmith.io.layout import Layout
from atlasmith.io.sidecars import is_skull_stripped, write_sidecar
from atlasmith.io.tables import read_tsv, write_tsv
from atlasmith.networks import Groupwise
from atlasmith.registration.stage import read_modes
from atlasmith.training.device import cpu_if_memory_is_short, select_device
from atlasmith.transforms import INVERSE, integrate_velocity

DEVIATIONS = {"minus2": -2, "minus1": -1, "plus1": 1, "plus2": 2}  # at 0 is the template


def template_modes(results: Path, out: Path, count: int = 3, device: str = "auto") -> None:
    """Write the template of a finished run at -2 to 2 standard deviations of its modes of variation.

    The modes are the principal components of the velocities of all subjects, as the last round of refinement
    found them, in terms of their mean square in mm. Covariates of the template are at the mean, and what they
    explain isn't part of the modes. The template is warped by the exponential of each velocity, as to a
    subject, and `modes.tsv` has the modes' standard deviations and explained variances.

    Args:
        results: Output folder of the run.
        out: Folder to write to.
        count: Number of modes, at most those that the run kept.
        device: Where to compute, `auto`, `cpu` or `cuda`, whatever the run was made on.

    Raises:
        AtlasmithError: When the run isn't finished, wasn't refined or has fewer modes, or `out` has such
            files already.
    """
    config = load_finished_run(results, "template_weights", device=device)
    run, output = config.layout, Layout(out, config.template.name, config.cohort.channels, config.cohort.bids)
    if output.template_image.exists():
        raise AtlasmithError(f"{output.template_image} exists already. Choose another folder, or remove it.")
    modes = read_modes(run, count)
    _write(config, Groupwise.load(run.template_weights), modes, output)
    print(f"template modes: {output.template_image.parent}", flush=True)


@cpu_if_memory_is_short
@torch.inference_mode()
def _write(config: Config, model: Groupwise, modes: Tensor, output: Layout) -> None:
    """Write all files, on the config's device, for modes (K, d, *half); the template's first channel last, so
    that its presence tells that all are there."""
    run, device = config.layout, select_device(config.device)
    model.to(device)
    template = model.template(torch.zeros(1, model.code.size, device=device))
    rows = read_tsv(run.template_mode_table)[: len(modes)]
    write_tsv(output.modes_table, rows, list(rows[0]))
    for number, mode in enumerate(modes.to(device), start=1):
        for name, sd in DEVIATIONS.items():
            inverse = integrate_velocity(sd * mode[None], model.integration_steps, [INVERSE])[INVERSE]
            moved = warp(template, resize_displacement(inverse, template.shape[2:]), padding="border")
            text = f"Template at {sd} standard deviations of mode {number} of the subjects' variation"
            _write_channels(model, moved[0], run, output, text, partial(output.modes_image, number, name))
    _write_channels(model, template[0], run, output, "Template", output.template_channel)


def _write_channels(
    model: Groupwise, data: Tensor, run: Layout, output: Layout, text: str, path_of: Callable[[str], Path]
) -> None:
    """Write each channel of an image (C, *shape), the first one last, with its sidecar."""
    for channel, values in reversed(list(zip(run.channels, data, strict=True))):
        path = path_of(channel)
        write_sidecar(
            output,
            path,
            text,
            grid=model.grid,
            sources=[run.template_weights, run.template_modes],
            reference=output.template_image,
            skull_stripped=is_skull_stripped([run.template_channel(channel)]),
        )
        write_image(path, model.grid.unsqueeze(values.cpu().numpy()), model.grid)
