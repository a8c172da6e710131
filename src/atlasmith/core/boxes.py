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
    low, high = (int(end) for end in torch.stack(labels.aminmax()).tolist())
    if high - low < MAX_SPAN:
        values = torch.arange(low, high + 1, device=labels.device)
    else:
        values = torch.cat([label_map.unique() for label_map in labels]).unique().long()
    sizes = labels.shape[1:]
    starts = torch.tensor(sizes).to(labels.device)[:, None].repeat(1, len(values))
    ends = torch.full_like(starts, -1)
    for label_map in labels:  # one at a time: what is computed of a map may take several times its memory
        # Of runs of equal labels along the last axis, which are few: where each begins and ends.
        begins = torch.ones(sizes, dtype=torch.bool, device=labels.device)
        torch.ne(label_map[..., 1:], label_map[..., :-1], out=begins[..., 1:])
        first = begins.flatten().nonzero()[:, 0]
        last = torch.cat([first[1:] - 1, torch.full_like(first[:1], label_map.numel() - 1)])
        position, stride = torch.searchsorted(values, label_map.flatten()[first].long()), label_map.numel()
        for axis, size in enumerate(sizes):
            inside, stride = stride, stride // size
            starts[axis].scatter_reduce_(0, position, first % inside // stride, "amin")
            ends[axis].scatter_reduce_(0, position, last % inside // stride, "amax")
    found = torch.cat([values[None], starts, ends]).T[ends[0] >= 0].tolist()
    ndim = len(sizes)
    return [
        (value, tuple(slice(a, b + 1) for a, b in zip(box[:ndim], box[ndim:], strict=True)))
        for value, *box in found
    ]


def label_ranks(labels: Tensor, values: Sequence[int]) -> Tensor:
    """Replace labels by their positions among the sorted values, which have all of them, int32."""
    return torch.searchsorted(torch.tensor(values).to(labels), labels.contiguous(), out_int32=True)


def flat_index(places: Tensor, shape: Sequence[int], start: Sequence[int] | None = None) -> Tensor:
    """Return the flat indices (V,) of places (d, V), or offsets, in an array of `shape`.

    Args:
        places: Indices along each axis.
        shape: Of the array.
        start: The place of the array's first voxel; None: the origin.

    Example:
        >>> flat_index(torch.tensor([[1, 0], [2, 2]]), (4, 3))
        tensor([5, 2])
    """
    index = torch.zeros_like(places[0])
    for place, size, offset in zip(places, shape, start or [0] * len(shape), strict=True):
        index = index * size + (place - offset)
    return index


def widened(box: Sequence[slice], margin: int, shape: Sequence[int]) -> tuple[slice, ...]:
    """Widen a box by so many voxels on each side, within a grid of `shape`."""
    return tuple(
        slice(max(s.start - margin, 0), min(s.stop + margin, n)) for s, n in zip(box, shape, strict=True)
    )
