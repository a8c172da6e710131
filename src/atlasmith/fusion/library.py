"""Patches of the atlases, labelled by all other atlases, with their manual labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlasmith.core.cache import BoundedCache
from atlasmith.fusion.aligned import AlignedAtlases, Box
from atlasmith.fusion.propagated import PropagatedAtlases, ambiguous_voxels, manual_labels, read_propagated
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject
from atlasmith.training.device import to_device

CACHE_BYTES = 3 * 2**30


class Library:
    """The atlases, each with the others propagated to it, cached on the host within a bound of memory."""

    def __init__(self, layout: Layout, subjects: Sequence[Subject]) -> None:
        self.layout, self.subjects = layout, list(subjects)
        self._cache: BoundedCache[tuple[PropagatedAtlases, Tensor, Tensor]] = BoundedCache(CACHE_BYTES)

    def __getitem__(self, index: int) -> tuple[PropagatedAtlases, Tensor, Tensor]:
        """Return the propagated atlases, manual labels (*shape), and flat indices of the ambiguous voxels.

        Those are left out where the subject is excluded.
        """
        return self._cache.get(index, lambda: self._read(self.subjects[index]))

    def _read(self, subject: Subject) -> tuple[PropagatedAtlases, Tensor, Tensor]:
        atlases = read_propagated(self.layout, subject)
        ambiguous = ambiguous_voxels(atlases)
        if atlases.comparable is not None:
            ambiguous = ambiguous[atlases.comparable.flatten()[ambiguous]]
        return atlases, manual_labels(subject, atlases.grid), ambiguous


def draw_patch(shape: Sequence[int], voxels: Tensor, side: int, random: torch.Generator) -> Box:
    """Draw a patch of `side` voxels around one of some voxels.

    Args:
        shape: Of the grid.
        voxels: Flat indices; where there are none, the patch is around the middle of the grid.
        side: Of the patch, voxels; it is smaller where the grid is.
        random: The random generator.

    Returns:
        The patch, within the grid.
    """
    flat = int(np.prod(shape)) // 2
    if len(voxels):
        flat = int(voxels[int(torch.randint(len(voxels), (1,), generator=random))])
    return tuple(
        slice(start := min(max(0, int(c) - side // 2), max(0, n - side)), start + side)
        for c, n in zip(np.unravel_index(flat, shape), shape, strict=True)
    )


def on_device(patch: AlignedAtlases, device: torch.device) -> AlignedAtlases:
    """Copy a patch of the library to a device, without waiting for what the device computes."""
    parts: dict[str, Any] = {part.name: getattr(patch, part.name) for part in fields(patch)}
    for name, part in parts.items():
        if isinstance(part, Tensor):
            parts[name] = to_device(part, device)
    return AlignedAtlases(**parts)
