"""Voxelwise regression of maps on covariates."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from atlasmith.core.distributed import all_reduce_sum


def regression(values: Iterable[tuple[Tensor, Tensor]], codes: Tensor) -> tuple[Tensor, Tensor]:
    """The voxelwise regression of maps on codes (N, K): the map at 0 (1, C, *shape), slopes (K, C, *shape).

    values: each person's map (1, C, *shape) and its weights (1, 1, *shape), in the order of the codes. Where
    several processes work together, each gives its own people, and all have the regression on everybody.
    """
    middle = all_reduce_sum(codes.sum(0)) / all_reduce_sum(codes.new_tensor(len(codes)))
    summed, count, moments = (codes.new_zeros(()) for _ in range(3))
    for (value, weight), code in zip(values, codes - middle, strict=True):
        summed = summed + value * weight
        count = count + weight
        moments = moments + torch.einsum("k,c...->kc...", code, (value * weight)[0])
    mean = all_reduce_sum(summed) / all_reduce_sum(count).clamp(min=1)
    if codes.shape[1] == 0:
        return mean, moments
    # Ridge of one subject's worth, so that rare levels and collinear covariates stay bounded.
    normal = all_reduce_sum((codes - middle).T @ (codes - middle)) + torch.eye(codes.shape[1]).to(codes)
    moments = all_reduce_sum(moments)
    slopes = torch.linalg.solve(normal, moments.flatten(1)).view_as(moments)
    return mean - torch.einsum("k,kc...->c...", middle, slopes), slopes
