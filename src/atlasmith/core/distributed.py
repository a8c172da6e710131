"""Processes that train one model together, as torchrun starts them; alone, each function here is an identity.

Every process works on its share of a batch, or of the people. Gradients, sums and means are those of all, so
that the result doesn't depend on how many there are, but for rounding.
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
def process_group(batch: int, people: int) -> Iterator[None]:
    """With the other processes of torchrun, if this is one of them. Raises `AtlasmithError` where a batch
    can't be shared equally, or people are too few."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        if batch % world_size() or people < world_size():
            raise AtlasmithError(
                f"{world_size()} processes can't share template.batch_size {batch} equally, or are more than the "
                f"{people} people of a round. Set `processes` to a divisor of the batch."
            )
        yield
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is the process that prints and writes files."""
    return rank() == 0


def shard(items: Sequence[Item]) -> list[Item]:
    """This process's items."""
    return list(items[rank() :: world_size()])


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over all processes; differentiable."""
    if world_size() == 1:
        return tensor
    summed: Tensor = _Total.apply(tensor)
    return summed


class _Total(torch.autograd.Function):
    """Each process's loss depends on each one's tensor through the sum, hence the sum of the gradients."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tensor: Tensor) -> Tensor:
        summed = tensor.detach().clone().contiguous()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _Total.forward(ctx, gradient)


def average_gradients(module: nn.Module) -> None:
    """In place: of the mean of all processes' losses."""
    if world_size() == 1:
        return
    known = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in known]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for parameter, mean in zip(
        known, (flat / world_size()).split([g.numel() for g in gradients]), strict=True
    ):
        if parameter.grad is not None:
            parameter.grad.copy_(mean.view_as(parameter.grad))


def barrier() -> None:
    """Until all are here."""
    if world_size() > 1:
        dist.barrier()
