"""Less memory for the gradient, at the price of computing twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def checkpoint(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`function(*tensors)`, of which only the tensors are kept for the gradient, not what lies between.

    `function` must be free of random numbers. As `torch.utils.checkpoint`, without the seconds that this one
    takes to import a compiler.
    """
    result: Tensor = _Recomputed.apply(function, *tensors)
    return result


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        inputs = [
            tensor.detach().requires_grad_(needed)
            for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        ]
        with torch.enable_grad():
            result = ctx.function(*inputs)
        asked = [tensor for tensor in inputs if tensor.requires_grad]
        found = iter(torch.autograd.grad(result, asked, gradients))
        return (None, *(next(found) if tensor.requires_grad else None for tensor in inputs))
