"""Read the atlases propagated to a subject."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Grid
from atlasmith.core.world import CPU, resample, resample_labels
from atlasmith.fusion.aligned import AlignedAtlases, disagreement
from atlasmith.io.channels import ATLASES_OF_CHANNELS, EXCLUDES_REGIONS, read_channels
from atlasmith.io.exclusion import valid_voxels
from atlasmith.io.files import read_json
from atlasmith.io.images import Image, read_grid, read_image, read_labels, read_mask
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject, participant_of, read_cohort


@dataclass(frozen=True, eq=False)
class PropagatedAtlases(AlignedAtlases):
    """Atlases propagated to one subject, on its fusion grid, whose `tensor_shape` is the arrays' shape.

    Args:
        grid: The fusion grid.
        ids: Of the N atlases.
    """

    grid: Grid
    ids: Sequence[str] = ()

    def without(self, participants: Container[str]) -> PropagatedAtlases:
        """Leave out the atlases of some participants."""
        kept = [index for index, name in enumerate(self.ids) if participant_of(name) not in participants]
        part = self.part((slice(None),) * self.grid.ndim, torch.tensor(kept, dtype=torch.long))
        own = {one.name: getattr(part, one.name) for one in fields(part)}
        return PropagatedAtlases(**own, grid=self.grid, ids=[self.ids[index] for index in kept])


def read_propagated(
    layout: Layout,
    subject: Subject,
    device: torch.device = CPU,
    stacks: Mapping[Path, Tensor] | None = None,
) -> PropagatedAtlases:
    """Read what the propagate stage wrote for a subject, and its own image on the same grid.

    Args:
        layout: Names of the run's files.
        subject: The subject.
        device: Of the result.
        stacks: What is in memory already, (N, *shape) by file.
    """
    path, known = layout.propagated_labels(subject.id), stacks or {}
    sidecar, grid = read_json(layout.propagated_sidecar(subject.id)), read_grid(path)

    def atlas_first(path: Path, read: Callable[[Path], Image]) -> Tensor:
        if path in known:
            return known[path].to(device)
        return torch.from_numpy(grid.squeeze(read(path).data)).to(device).movedim(-1, 0).contiguous()

    label_maps, ids = atlas_first(path, read_labels), sidecar["atlases"]
    target, having = _target(layout, subject, grid, device)
    images = [
        atlas_first(layout.propagated_images(subject.id, channel), read_image)
        if there
        else torch.zeros(label_maps.shape, device=device)
        for channel, there in zip(layout.channels, having, strict=True)
    ]
    present = np.array(
        [
            [there and name in sidecar.get(ATLASES_OF_CHANNELS, {}).get(channel, ids) for name in ids]
            for channel, there in zip(layout.channels, having, strict=True)
        ]
    )
    valid, target_valid = None, _target_valid(layout, subject, grid, device)
    if sidecar.get(EXCLUDES_REGIONS):
        valid = atlas_first(layout.propagated_valid(subject.id), read_mask)
    return PropagatedAtlases(
        label_maps,
        images[0][None] if len(images) == 1 else torch.stack(images),
        target,
        grid,
        ids,
        present=None if present.all() else present,
        valid=None if valid is None or valid.all() else valid,
        target_valid=target_valid,
    )


def without_atlases(
    layout: Layout, subject: Subject, grid: Grid, device: torch.device = CPU
) -> PropagatedAtlases:
    """Read a subject's own image, for methods that do without atlases.

    Args:
        layout: Names of the run's files.
        subject: The subject.
        grid: Of the result.
        device: Of the result.
    """
    target, _ = _target(layout, subject, grid, device)
    labels = torch.zeros(0, *grid.tensor_shape, dtype=torch.int32, device=device)
    images = torch.zeros(len(target), *labels.shape, device=device)
    valid = _target_valid(layout, subject, grid, device)
    return PropagatedAtlases(labels, images, target, grid, target_valid=valid)


def _target(
    layout: Layout, subject: Subject, grid: Grid, device: torch.device
) -> tuple[Tensor, Sequence[bool]]:
    """The preprocessed channels (C, *shape) of a subject on a grid, and which of them it has."""
    own = read_channels(layout, subject, layout.preprocessed, min(grid.tensor_spacing))
    maps = torch.from_numpy(own.data.reshape(1, -1, *own.grid.tensor_shape)).to(device)
    return resample(maps, own.grid, [], grid)[0], own.present


def _target_valid(layout: Layout, subject: Subject, grid: Grid, device: torch.device) -> Tensor | None:
    """Where a subject isn't excluded (*shape); None: nowhere."""
    if subject.exclude is None:
        return None
    valid = torch.from_numpy(grid.squeeze(valid_voxels(layout, subject, [], grid))).to(device)
    return None if valid.all() else valid


def ambiguous_voxels(atlases: AlignedAtlases) -> Tensor:
    """Return flat indices (M,) of the voxels where the atlases disagree."""
    return disagreement(atlases.labels).flatten().nonzero()[:, 0]


def read_atlases(layout: Layout, passed: str = "propagate") -> list[Subject]:
    """Read which subjects are atlases, each of which is segmented by those of other participants.

    Args:
        layout: Names of the run's files.
        passed: The stage whose results are needed of each; atlases that failed there, or before, are left
            out.

    Raises:
        AtlasmithError: Where they are of fewer than two participants.
    """
    atlases = [s for s in read_cohort(layout.cohort, passed) if s.role == "atlas"]
    if len({atlas.participant for atlas in atlases}) < 2:
        raise AtlasmithError(
            "Trained fusion methods and fusion.quality need atlases of two or more participants. Remove "
            "trained methods from fusion.methods, and set fusion.quality: false."
        )
    return atlases


def manual_labels(subject: Subject, grid: Grid, device: torch.device = CPU) -> Tensor:
    """Read an atlas's manual labels (*shape), resampled to its fusion grid, onto a device.

    Raises:
        ValueError: Where the subject is no atlas, since the labels of others are for scoring alone.
    """
    if subject.role != "atlas" or subject.labels is None:
        raise ValueError(f"sub-{subject.id} is no atlas: its labels may not be used in training")
    own = read_labels(subject.labels)
    return resample_labels(own.data, own.grid, [], grid, device)
