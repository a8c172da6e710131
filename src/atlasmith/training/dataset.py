"""The cohort's affinely aligned images as tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from torch import Tensor

from atlasmith.core.grid import Grid, Step
from atlasmith.core.sampling import MASK_THRESHOLD, sample
from atlasmith.core.world import displacement_to_field, resample, resampling_coordinates
from atlasmith.io.channels import known_voxels, read_channels
from atlasmith.io.images import read_grid, read_labels
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject
from atlasmith.io.transforms import read_affine


class Cache:
    """Tensors by key, in an unnamed file that is deleted with the process: the page cache, not the heap.

    Args:
        folder: Where the file lies.
        limit: Bytes at most; a tensor beyond that isn't kept, but made again.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._left = limit
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115
        self._entries: dict[Hashable, tuple[int, torch.Size, torch.dtype]] = {}

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Read the CPU tensor of a key; `make` it when the key is first asked for."""
        if key not in self._entries:
            made = make()
            if made.nbytes > self._left:
                return made
            self._left -= made.nbytes
            offset = self._file.seek(0, os.SEEK_END)
            self._file.write(made.contiguous().numpy().data)
            self._entries[key] = offset, made.shape, made.dtype
            return made
        offset, shape, dtype = self._entries[key]
        tensor = torch.empty(shape, dtype=dtype)
        self._file.seek(offset)
        self._file.readinto(tensor.numpy().data)
        return tensor


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
        grid: The template's grid, of d axes.
        cache: Where to keep what is read several times; None reads it again.
    """

    def __init__(
        self, layout: Layout, subjects: Sequence[Subject], grid: Grid, cache: Cache | None = None
    ) -> None:
        self.layout, self.subjects, self.grid, self.cache = layout, list(subjects), grid, cache

    def _cached(self, kind: str, index: int, make: Callable[[], Tensor]) -> Tensor:
        return make() if self.cache is None else self.cache.get((kind, index), make)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Load images and masks (B, C, *shape), float32; images have been rounded to half precision.

        In a channel that a subject doesn't have both are 0.
        """

        def image(subject: Subject) -> Tensor:
            data = read_channels(self.layout, subject, self.layout.affine_image).data
            return torch.from_numpy(data.reshape(len(data), *self.grid.tensor_shape)).half()

        images, masks = [], []
        for index in indices:
            subject = self.subjects[index]
            images.append(self._cached("image", index, partial(image, subject)))
            masks.append(self._cached("mask", index, partial(known_mask, self.layout, subject, self.grid)))
        return torch.stack(images).float(), torch.stack(masks).float()

    def warped(self, index: int, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """Resample a subject's native image once, through a displacement and its affine.

        Args:
            index: The subject's.
            displacement: (1, d, *shape), in voxels of the template's grid.

        Returns:
            The image, zero where the mask is, and the mask of what may be learned from; each (1, C, *shape).
        """
        affine = read_affine(self.layout.affine(self.subjects[index].id))
        return self.resampled(index, [displacement_to_field(displacement[0], self.grid), affine])

    def resampled(self, index: int, steps: Sequence[Step]) -> tuple[Tensor, Tensor]:
        """Resample a subject's native image once, through `steps`; returns as `warped`."""
        subject, spacing = self.subjects[index], min(self.grid.tensor_spacing)
        native = read_channels(self.layout, subject, self.layout.preprocessed, spacing)
        known = known_voxels(self.layout, subject, native.grid)
        both = np.concatenate([native.data, known]).reshape(1, -1, *native.grid.tensor_shape)
        points = resampling_coordinates(native.grid, steps, self.grid)
        image, weight = sample(torch.from_numpy(both).float(), points).chunk(2, dim=1)
        mask = (weight > MASK_THRESHOLD).float()
        return image * mask, mask

    def labels(self, index: int) -> Tensor:
        """Resample an atlas's labels onto the template's grid (*shape), nearest neighbor.

        Raises:
            ValueError: For a subject that is no atlas: its labels must not be used in training.
        """
        subject = self.subjects[index]
        if subject.role != "atlas" or subject.labels is None:
            raise ValueError(f"sub-{subject.id} is no atlas: its labels aren't for training")

        def resampled(path: Path) -> Tensor:
            native = read_labels(path)
            data = torch.from_numpy(native.grid.squeeze(native.data))[None, None].float()
            steps = [read_affine(self.layout.affine(subject.id))]
            return resample(data, native.grid, steps, self.grid, "nearest")[0, 0].int()

        return self._cached("labels", index, partial(resampled, subject.labels))
