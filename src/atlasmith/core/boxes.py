"""Bounding boxes of masks and labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_SPAN = 2**20  # from the smallest to the largest label, up to which a table is faster than sorting


def bounding_box(mask: Tensor) -> list[slice] | None:
    """Find the bounding box of a mask.

    Args:
        mask: (*shape), boolean.

    Returns:
        The slices of its axes; None where it is false everywhere.

    Example:
        >>> bounding_box(torch.eye(4, dtype=torch.bool)[1:3])
        [slice(0, 2, None), slice(1, 3, None)]
    """
    axes = range(mask.ndim)
    values = mask.view(torch.uint8)  # whose reductions are faster
    occupied = [values.amax(dim=[other for other in axes if other != axis]) for axis in axes]
    found = torch.cat(occupied).cpu().split([*mask.shape])
    indices = [along.nonzero()[:, 0].tolist() for along in found]
    return [slice(index[0], index[-1] + 1) for index in indices] if indices[0] else None


def bounding_boxes(labels: Tensor) -> list[tuple[int, tuple[slice, ...]]]:
    """Find each label of some maps, in rising order, and its bounding box.

    Args:
        labels: Label maps (N, *shape).

    Returns:
        For each label its value, and the slices of *shape that contain it in all maps.

    Example:
        >>> bounding_boxes(torch.tensor([[[3, 3, 0]], [[0, 0, 0]]]))
        [(0, (slice(0, 1, None), slice(0, 3, None))), (3, (slice(0, 1, None), slice(0, 2, None)))]
    """
    # Of runs of equal labels along the last axis, which are few: where each starts and ends.
    starts = torch.ones(labels.shape, dtype=torch.bool, device=labels.device)
    torch.ne(labels[..., 1:], labels[..., :-1], out=starts[..., 1:])
    first = starts.flatten().nonzero()[:, 0]
    last = torch.cat([first[1:] - 1, torch.full_like(first[:1], labels.numel() - 1)])
    values = labels.flatten()[first].long()
    low, high = (int(end) for end in torch.stack(values.aminmax()).tolist())
    if high - low < MAX_SPAN:
        values, position = torch.arange(low, high + 1, device=labels.device), values - low
    else:
        values, position = values.unique(return_inverse=True)
    ends, stride = [], labels[0].numel()
    for size in labels.shape[1:]:
        inside, stride = stride, stride // size
        for place, reduce, start in ((first, "amin", size), (last, "amax", -1)):
            table = torch.full_like(values, start)
            ends.append(table.scatter_reduce_(0, position, place % inside // stride, reduce))
    found = torch.stack([values, *ends], dim=1)
    return [
        (value, tuple(slice(a, b + 1) for a, b in zip(box[::2], box[1::2], strict=True)))
        for value, *box in found[ends[1] >= 0].tolist()
    ]


def label_ranks(labels: Tensor, values: Sequence[int]) -> Tensor:
    """Replace labels by their positions among the sorted values, which have all of them, int32."""
    return torch.searchsorted(torch.tensor(values).to(labels), labels.contiguous(), out_int32=True)


def widened(box: Sequence[slice], margin: int, shape: Sequence[int]) -> tuple[slice, ...]:
    """Widen a box by so many voxels on each side, within a grid of `shape`."""
    return tuple(
        slice(max(s.start - margin, 0), min(s.stop + margin, n)) for s, n in zip(box, shape, strict=True)
    )
