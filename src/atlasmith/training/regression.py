"""Voxelwise regression of maps on covariates."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from atlasmith.core.distributed import all_reduce_sum


def regression(values: Iterable[tuple[Tensor, Tensor]], codes: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a linear model of maps on encoded covariates at each voxel.

    The ridge penalty is worth one subject, so that rare levels and collinear covariates stay bounded.

    Args:
        values: Each subject's map (1, C, *shape) and its weights (1, 1, *shape), in the order of the codes.
            Under torchrun each process gives its own subjects, and all get the regression on every subject.
        codes: Encoded covariates (N, K).

    Returns:
        The map at code 0 (1, C, *shape), and slopes (K, C, *shape).
    """
    mean_code = all_reduce_sum(codes.sum(0)) / all_reduce_sum(codes.new_tensor(len(codes)))
    summed, count, moments = (codes.new_zeros(()) for _ in range(3))
    for (value, weight), code in zip(values, codes - mean_code, strict=True):
        summed = summed + value * weight
        count = count + weight
        moments = moments + torch.einsum("k,c...->kc...", code, (value * weight)[0])
    mean = all_reduce_sum(summed) / all_reduce_sum(count).clamp(min=1)
    if codes.shape[1] == 0:
        return mean, moments
    centered = codes - mean_code
    normal = all_reduce_sum(centered.T @ centered) + torch.eye(codes.shape[1]).to(codes)
    moments = all_reduce_sum(moments)
    slopes = torch.linalg.solve(normal, moments.flatten(1)).view_as(moments)
    return mean - torch.einsum("k,kc...->c...", mean_code, slopes), slopes
