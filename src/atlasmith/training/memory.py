"""Check that a training step fits into memory before training starts, by measuring a step on a small grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atlasmith.core import distributed
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Grid
from atlasmith.core.machine import free_memory
from atlasmith.networks import Groupwise
from atlasmith.training.device import autocast
from atlasmith.training.objective import training_objective
from atlasmith.workflow.resources import GIB, training_bytes

SIDE = 32  # voxels per axis of the grid that is measured


def check_memory(
    model: Groupwise, batch_size: int, precision: str, save_memory: bool, objective: Mapping[str, Any]
) -> None:
    """Print what a training step needs, and refuse one that can't fit.

    Args:
        model: The model, on its device.
        batch_size: Subjects of a step, over all processes.
        precision: See `autocast`.
        save_memory: Of `training_objective`.
        objective: The other terms of `training_objective`.

    Raises:
        AtlasmithError: Where the tensors that a step keeps for its gradient exceed the free memory.
    """
    device, batch = model.base.device, batch_size // distributed.world_size()
    voxels, weights = int(np.prod(model.grid.shape)), sum(p.numel() for p in model.parameters())
    per_voxel = saved_bytes_per_voxel(model, precision, save_memory, objective)
    free = free_bytes(device)
    if free is None:
        return
    needed = training_bytes(voxels, batch, per_voxel, weights)
    shape = " x ".join(map(str, model.grid.tensor_shape))
    step = f"{batch} images on a grid of {shape}: about {needed / GIB:.1f} GiB"
    if training_bytes(voxels, batch, per_voxel, weights, overhead=1) > free:
        per_image = training_bytes(voxels, 1, per_voxel) - training_bytes(voxels, 0, per_voxel)
        fits = int((free - training_bytes(voxels, 0, per_voxel, weights)) / per_image)
        fits *= distributed.world_size()
        remedy = f"template.batch_size: {fits}, " if fits > 1 else ""
        raise AtlasmithError(
            f"template: a training step on {step}, and {free / GIB:.1f} GiB are free on {device}. "
            f"Try {remedy}a larger template.training_spacing, `save_memory`, or more `processes` on other "
            "GPUs."
        )
    distributed.log(f"template: a step on {step} of the {free / GIB:.1f} GiB that are free on {device}")


def saved_bytes_per_voxel(
    model: Groupwise, precision: str, save_memory: bool, objective: Mapping[str, Any]
) -> float:
    """Measure the bytes that autograd saves for one image's training step, without weights.

    Args:
        model: The model; its like on a grid of `SIDE` voxels per axis is measured.
        precision: See `autocast`.
        save_memory: Of `training_objective`.
        objective: The other terms of `training_objective`.

    Returns:
        Bytes per voxel of the grid of training, with what the network's padding adds.
    """
    device = model.base.device
    x, y, z = (min(n, SIDE) for n in model.grid.shape)
    grid = Grid((x, y, z), model.grid.affine)
    with torch.random.fork_rng(devices=[]):
        small = Groupwise(grid, model.code, **model.settings, image_channels=model.image_channels).to(device)
    sizes: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        with autocast(device, precision):
            template = small.template_features(torch.zeros(1, model.code.size, device=device))
            image = small.features(torch.zeros_like(small.base))
            coefficients = small.coefficients(template, image)
        of_network = set(sizes)
        mask = torch.ones_like(small.base)
        terms = dict(objective) | {"deformation": small.deformation, "save_memory": save_memory}
        training_objective(grid, template, image, mask, coefficients, **terms)
    weights = {parameter.data_ptr() for parameter in small.parameters()}
    padding = _padding(model.network, model.grid.shape) / _padding(small.network, grid.shape)
    saved = sum(
        size * (padding if place in of_network else 1)
        for place, size in sizes.items()
        if place not in weights
    )
    return float(saved / np.prod(grid.shape))


def _padding(network: nn.Module, shape: Sequence[int]) -> float:
    """By how many times a network's padding enlarges a grid."""
    multiple = max(getattr(module, "multiple", 1) for module in network.modules())
    return math.prod(-(-n // multiple) * multiple / n for n in shape if n > 1)


def free_bytes(device: torch.device) -> int | None:
    """Find the free memory of a GPU, or of the machine within the limits of the job's control groups.

    Returns:
        Bytes, with the memory that torch keeps for its next tensors; None where the system doesn't tell.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return free_memory()
