"""The cohort's affinely aligned images as tensors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from torch import Tensor

from atlasmith.core.grid import Grid, Step
from atlasmith.core.labels import label_index
from atlasmith.core.sampling import MASK_THRESHOLD, coarsen, sample
from atlasmith.core.world import displacement_to_field, resample, resampling_coordinates
from atlasmith.io.channels import known_voxels, read_channels
from atlasmith.io.images import read_grid, read_labels
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject, read_label_values
from atlasmith.io.transforms import read_affine
from atlasmith.training.device import pinned_for, to_device

CPU = torch.device("cpu")


class Cache:
    """Tensors by key, in an unnamed file that is deleted with the process: the page cache, not the heap.

    Threads may share it.

    Args:
        folder: Where the file lies.
        limit: Bytes at most; a tensor beyond that isn't kept, but made again.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._left = limit
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115
        self._entries: dict[Hashable, tuple[int, torch.Size, torch.dtype]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Read the CPU tensor of a key; `make` it when the key is first asked for."""
        if key not in self._entries:
            made = make()
            with self._lock:
                self._append(key, made)
            return made
        offset, shape, dtype = self._entries[key]
        tensor = torch.empty(shape, dtype=dtype)
        with self._lock:
            self._file.seek(offset)
            self._file.readinto(tensor.numpy().data)
        return tensor

    def _append(self, key: Hashable, tensor: Tensor) -> None:
        if tensor.nbytes <= self._left:
            self._left -= tensor.nbytes
            offset = self._file.seek(0, os.SEEK_END)
            self._file.write(tensor.contiguous().numpy().data)
            self._entries[key] = offset, tensor.shape, tensor.dtype


def field_of_view(layout: Layout, subject: Subject, grid: Grid) -> Tensor:
    """Compute the mask (*shape) of where a subject's affinely aligned image has data, on `grid`."""
    native = read_grid(subject.image)
    ones = torch.ones(1, 1, *native.tensor_shape)
    return resample(ones, native, [read_affine(layout.affine(subject.id))], grid)[0, 0] > MASK_THRESHOLD


def known_mask(layout: Layout, subject: Subject, grid: Grid) -> Tensor:
    """Compute the mask (C, *shape) of what may be learned from each channel of a subject's affinely aligned
    image, on `grid`: its field of view, without what is excluded."""
    native = read_grid(subject.image)
    known = known_voxels(layout, subject, native)
    weight = torch.from_numpy(known.reshape(1, len(known), *native.tensor_shape)).float()
    return resample(weight, native, [read_affine(layout.affine(subject.id))], grid)[0] > MASK_THRESHOLD


class AlignedImages:
    """Affinely aligned images and masks of what may be learned from them, on the template's grid.

    Args:
        layout: Names of the run's files.
        subjects: Whose images these are, in the order of their indices.
        grid: The template's grid, of d axes, or a coarser one with the same corner voxels.
        cache: Where to keep what is read several times; None reads it again.
        device: Where batches and resampled images go.
    """

    def __init__(
        self,
        layout: Layout,
        subjects: Sequence[Subject],
        grid: Grid,
        cache: Cache | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.layout, self.subjects, self.grid = layout, list(subjects), grid
        self.cache, self.device = cache, device

    def _cached(self, kind: str, index: int, make: Callable[[], Tensor]) -> Tensor:
        tensor = make() if self.cache is None else self.cache.get((kind, self.grid.shape, index), make)
        return pinned_for(tensor, self.device)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Load images and masks (B, C, *shape), float32 on `device`; images were rounded to half precision.

        In a channel that a subject doesn't have both are 0.
        """
        images, masks = self.load(indices)
        return self.stacked(images).float(), self.stacked(masks).float()

    def load(self, indices: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Load images, half precision, and masks, boolean, each (C, *shape), for `stacked`.

        They are in host memory, from which `device` copies by itself, and take less than half of the bytes of
        `batch`.
        """

        def image(subject: Subject) -> Tensor:
            aligned = read_channels(self.layout, subject, self.layout.affine_image)
            data = torch.from_numpy(aligned.data.reshape(-1, *aligned.grid.tensor_shape))
            if aligned.grid.shape != self.grid.shape:
                data = coarsen(data[None].float(), self.grid.tensor_shape)[0]
            return data.half()

        images, masks = [], []
        for index in indices:
            subject = self.subjects[index]
            images.append(self._cached("image", index, partial(image, subject)))
            masks.append(self._cached("mask", index, partial(known_mask, self.layout, subject, self.grid)))
        return images, masks

    def stacked(self, tensors: Iterable[Tensor]) -> Tensor:
        """Stack what was loaded, on `device`."""
        return torch.stack([to_device(tensor, self.device) for tensor in tensors])

    def warped(self, index: int, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """Resample a subject's native image once, through a displacement and its affine.

        Args:
            index: The subject's.
            displacement: (1, d, *shape), in voxels of the template's grid.

        Returns:
            The image, zero where the mask is, and the mask of what may be learned from; each (1, C, *shape)
            on `device`.
        """
        affine = read_affine(self.layout.affine(self.subjects[index].id))
        return self.resampled(index, [displacement_to_field(displacement[0], self.grid), affine])

    def resampled(self, index: int, steps: Sequence[Step]) -> tuple[Tensor, Tensor]:
        """Resample a subject's native image once, through `steps`; returns as `warped`."""
        subject, spacing = self.subjects[index], min(self.grid.tensor_spacing)
        native = read_channels(self.layout, subject, self.layout.preprocessed, spacing)
        known = known_voxels(self.layout, subject, native.grid)
        both = np.concatenate([native.data, known]).reshape(1, -1, *native.grid.tensor_shape)
        points = resampling_coordinates(native.grid, steps, self.grid, self.device)
        data = torch.from_numpy(both).float().to(self.device)
        image, weight = sample(data, points).chunk(2, dim=1)
        mask = (weight > MASK_THRESHOLD).float()
        return image * mask, mask

    def label_indices(self, index: int) -> Tensor:
        """Load an atlas's labels on the template's grid (*shape), nearest neighbor, as their indices.

        Returns:
            int32, in host memory as in `load`: 1 + the position of each voxel's label among the cohort's, as
            `core.labels.label_index` makes them.

        Raises:
            ValueError: For a subject that is no atlas: its labels must not be used in training.
        """
        subject = self.subjects[index]
        if subject.role != "atlas" or subject.labels is None:
            raise ValueError(f"sub-{subject.id} is no atlas: its labels aren't for training")

        def resampled(path: Path) -> Tensor:
            native, values = read_labels(path), read_label_values(self.layout.labels)
            indices = label_index(native.grid.squeeze(native.data), np.array(values))
            data = torch.from_numpy(indices)[None, None].float()
            steps = [read_affine(self.layout.affine(subject.id))]
            return resample(data, native.grid, steps, self.grid, "nearest")[0, 0].int()

        return self._cached("labels", index, partial(resampled, subject.labels))
