"""Whether training fits into memory, told before it starts by a step on a corner of the grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.distributed import is_main_process, world_size
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Grid
from atlasmith.networks import Groupwise
from atlasmith.template.objective import template_objective
from atlasmith.training.device import autocast

CORNER = 32  # voxels a side
OVERHEAD = 1.2  # what a step takes over what it keeps for the gradient, as measured
STATES = 4  # of a weight: itself, its gradient, and Adam's two moments
GIB = 2**30
MEMINFO, OWN_GROUP, CGROUP = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def check_memory(config: Config, model: Groupwise) -> None:
    """Print what a step will take; raises `AtlasmithError` where what it keeps for the gradient alone is more
    than there is."""
    device, batch = model.base.device, config.template.batch_size // world_size()
    free = free_bytes(device)
    kept, states = kept_bytes(config, model), STATES * sum(4 * p.numel() for p in model.parameters())
    needed = OVERHEAD * kept * batch + states
    shape = " x ".join(map(str, model.grid.tensor_shape))
    what = f"{batch} images on a grid of {shape}: about {needed / GIB:.1f} GiB"
    if free is None:
        return
    if kept * batch + states > free:
        fits = int((free - states) / (OVERHEAD * kept)) * world_size()
        remedy = f"template.batch_size: {fits}, " if fits > 1 else ""
        raise AtlasmithError(
            f"template: a training step on {what}, and {free / GIB:.1f} GiB are free on {device}. "
            f"Try {remedy}a larger template.spacing, `save_memory`, or more `processes` on other GPUs."
        )
    if is_main_process():
        print(f"template: a step on {what} of the {free / GIB:.1f} GiB that are free", flush=True)


def kept_bytes(config: Config, model: Groupwise) -> float:
    """What one image's step keeps for the gradient, but for weights; proportional to the grid, so that a
    small one tells."""
    whole, device = model.grid, model.base.device
    x, y, z = (min(n, CORNER) for n in whole.shape)
    grid = Grid((x, y, z), whole.affine)
    with torch.random.fork_rng(devices=[]):
        small = Groupwise(grid, model.code, **model.settings).to(device)
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with autocast(device, config.template.precision):
            template = small.template_features(torch.zeros(1, model.code.size, device=device))
            image = small.features(torch.zeros_like(small.base))
            velocity = small.velocity(template, image)
        template_objective(config.template, grid, template, image, torch.ones_like(small.base), velocity)
    weights = {parameter.data_ptr() for parameter in small.parameters()}
    kept = sum(world_size for place, world_size in sizes.items() if place not in weights)
    return float(kept * np.prod(whole.shape) / np.prod(grid.shape))


def free_bytes(device: torch.device) -> int | None:
    """Of the GPU, or of the machine's memory within what a job may take; None where nobody tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = []
    if MEMINFO.exists():
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        known.append(1024 * int(lines["MemAvailable"].split()[0]))
    for group in _groups():
        limit = group / "memory.max"
        if limit.exists() and limit.read_text().strip().isdigit():
            counted = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            copies = int(counted["active_file"]) + int(counted["inactive_file"])  # of files: they give way
            known.append(int(limit.read_text()) - int((group / "memory.current").read_text()) + copies)
    return min(known, default=None)


def _groups() -> list[Path]:
    """The control groups (version 2) that this process is in: a scheduler limits its jobs by them."""
    lines = OWN_GROUP.read_text().splitlines() if OWN_GROUP.exists() else []
    own = [CGROUP / line[3:].strip("/") for line in lines if line.startswith("0::")]
    return [folder for path in own for folder in (path, *path.parents) if folder.is_relative_to(CGROUP)]
