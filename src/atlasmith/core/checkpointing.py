"""Gradient checkpointing: less memory for the gradient, at twice the computation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def checkpoint(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Call a function, and call it again for the gradient, instead of keeping its intermediate results.

    As `torch.utils.checkpoint`, which takes seconds to import a compiler.

    Args:
        function: Free of random numbers.
        *tensors: Its arguments, which are kept for the gradient.

    Returns:
        function(*tensors).

    Example:
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> checkpoint(torch.square, x).backward()
        >>> x.grad
        tensor(4.)
    """
    result: Tensor = _Recomputed.apply(function, *tensors)
    return result


class _Recomputed(torch.autograd.Function):
    """A function of which only the arguments are kept for the gradient."""

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
        differentiable = [tensor for tensor in inputs if tensor.requires_grad]
        found = iter(torch.autograd.grad(result, differentiable, gradients))
        return (None, *(next(found) if tensor.requires_grad else None for tensor in inputs))
