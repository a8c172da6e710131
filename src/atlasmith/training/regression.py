"""Voxelwise regression of maps on covariates."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from atlasmith.core.distributed import all_reduce_sum


def regression(values: Iterable[tuple[Tensor, Tensor]], codes: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a linear model of maps on encoded covariates at each voxel.

    The ridge penalty is worth one subject, so that rare levels and collinear covariates stay bounded. A
    subject of weight 0 at a voxel has no part in the model there, and in that of no other voxel.

    Args:
        values: Each subject's map (1, C, *shape) and its weights of 0 and 1, (1, C, *shape) or
            (1, 1, *shape), in the order of the codes. Under torchrun each process gives its own subjects, and
            all get the regression on every subject.
        codes: Encoded covariates (N, K).

    Returns:
        The map at code 0 (1, C, *shape), and slopes (K, C, *shape).
    """
    mean_code = all_reduce_sum(codes.sum(0)) / all_reduce_sum(codes.new_full((), len(codes)))
    summed, count, moments, first, second = (codes.new_zeros(()) for _ in range(5))
    for (value, weight), code in zip(values, codes - mean_code, strict=True):
        summed = summed + value * weight
        count = count + weight
        moments = moments + torch.einsum("k,c...->kc...", code, (value * weight)[0])
        missing = 1 - weight[0]
        if codes.shape[1] and bool(missing.any()):  # else K^2 maps of zeros for each subject
            first = first + torch.einsum("k,c...->kc...", code, missing)
            second = second + torch.einsum("k,l,c...->klc...", code, code, missing)
    count = all_reduce_sum(count).clamp(min=1)
    mean = all_reduce_sum(summed) / count
    if codes.shape[1] == 0:
        return mean, moments
    centered = codes - mean_code
    normal = all_reduce_sum(centered.T @ centered) + torch.eye(codes.shape[1]).to(codes)
    moments = all_reduce_sum(moments)
    slopes = torch.linalg.solve(normal, moments.flatten(1)).view_as(moments)
    base = mean - torch.einsum("k,kc...->c...", mean_code, slopes)
    if bool(all_reduce_sum(second.abs().max())):
        first = all_reduce_sum(first.expand_as(slopes).contiguous())
        second = all_reduce_sum(second.expand(len(normal), *slopes.shape).contiguous())
        # The sums over the subjects that a voxel has are those over all, less those over the missing ones.
        where = second.diagonal().sum(dim=-1) > 0
        shift, number, center = first[:, where], count.expand_as(mean)[0, where], mean[0, where]
        matrix = normal[..., None] - second[:, :, where] - shift[:, None] * shift / number
        right = moments[:, where] + shift * center
        slopes[:, where] = torch.linalg.solve(matrix.movedim(-1, 0), right.T[..., None])[..., 0].T
        base[0, where] = center - ((mean_code[:, None] - shift / number) * slopes[:, where]).sum(dim=0)
    return base, slopes
