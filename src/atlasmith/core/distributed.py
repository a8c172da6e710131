"""Processes that train one model together, as torchrun starts them; alone, each function here is an identity.

Every process works on its shard of a batch, or of the subjects. Gradients, sums and means are those of all
processes, so that the result doesn't depend on their number, but for rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from atlasmith.core.errors import AtlasmithError

Item = TypeVar("Item")


@contextmanager
def process_group(device: torch.device, batch_size: int, subjects: int) -> Iterator[None]:
    """Join the other processes of torchrun, if this is one of several.

    Args:
        device: Where this process computes: its own GPU, or the CPU.
        batch_size: Subjects of a training step, over all processes.
        subjects: The fewest subjects that are ever divided among the processes.

    Raises:
        AtlasmithError: If a batch can't be divided equally, or there are more processes than subjects.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        if batch_size % world_size() or subjects < world_size():
            raise AtlasmithError(
                f"{world_size()} processes can't divide template.batch_size {batch_size} equally, or are "
                f"more than the {subjects} subjects of a round. Set `processes` to a divisor of the batch."
            )
        yield
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Return whether this is the process that prints and writes files."""
    return rank() == 0


def log(text: str) -> None:
    """Print a line, from the main process alone."""
    if is_main_process():
        print(text, flush=True)


def shard(items: Sequence[Item]) -> list[Item]:
    """Select this process's items."""
    return list(items[rank() :: world_size()])


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, differentiably."""
    if world_size() == 1:
        return tensor
    summed: Tensor = _AllReduceSum.apply(tensor)
    return summed


class _AllReduceSum(torch.autograd.Function):
    """Each process's loss depends on each one's tensor through the sum, hence the sum of the gradients."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tensor: Tensor) -> Tensor:
        summed = tensor.detach().clone().contiguous()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _AllReduceSum.forward(ctx, gradient)


def average_gradients(module: nn.Module) -> None:
    """Replace a module's gradients by their mean over all processes."""
    if world_size() == 1:
        return
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    means = (flat / world_size()).split([gradient.numel() for gradient in gradients])
    for parameter, mean in zip(trained, means, strict=True):
        if parameter.grad is not None:
            parameter.grad.copy_(mean.view_as(parameter.grad))


def barrier() -> None:
    """Wait until all processes are here."""
    if world_size() > 1:
        dist.barrier()
