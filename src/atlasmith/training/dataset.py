"""The cohort's affinely aligned images as tensors, shared by training and registration."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

import torch
from torch import Tensor

from atlasmith.core.grid import Grid, Step
from atlasmith.core.sampling import sample
from atlasmith.core.world import displacement_to_field, resample, resampling_coordinates
from atlasmith.io.images import read_grid, read_image, read_labels
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject
from atlasmith.io.transforms import read_affine
from atlasmith.preprocess.n4 import read_preprocessed


class Cache:
    """Tensors by key, in a file without a name in `folder`, which goes with the process: what is read again
    and again needs no memory. What is over `limit` bytes isn't kept, but made again."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._left = limit
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115
        self._places: dict[Hashable, tuple[int, torch.Size, torch.dtype]] = {}

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What `make` made, on the CPU, when `key` was first asked for."""
        if key not in self._places:
            made = make()
            if made.nbytes > self._left:
                return made
            self._left -= made.nbytes
            place = self._file.seek(0, os.SEEK_END)
            self._file.write(made.contiguous().numpy().data)
            self._places[key] = place, made.shape, made.dtype
            return made
        place, shape, dtype = self._places[key]
        kept = torch.empty(shape, dtype=dtype)
        self._file.seek(place)
        self._file.readinto(kept.numpy().data)
        return kept


def field_of_view(layout: Layout, subject: Subject, grid: Grid) -> Tensor:
    """Where (*shape) the affinely aligned image has data, on the template's grid."""
    native = read_grid(subject.image)
    ones = torch.ones(1, 1, *native.tensor_shape)
    return resample(ones, native, [read_affine(layout.affine(subject.id))], grid)[0, 0] > 0.99


class AlignedImages:
    """Images (B, 1, *shape) and masks of their field of view, on the template's grid; in half precision.

    n4: whether the affine stage corrected the images' bias. cache: where to keep them, if they are
    looked at more than once.
    """

    def __init__(
        self,
        layout: Layout,
        subjects: Sequence[Subject],
        grid: Grid,
        n4: bool = False,
        cache: Cache | None = None,
    ) -> None:
        self.layout, self.subjects, self.grid, self.n4, self.cache = layout, list(subjects), grid, n4, cache

    def _kept(self, what: str, index: int, make: Callable[[], Tensor]) -> Tensor:
        return make() if self.cache is None else self.cache.get((what, index), make)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(images, masks), each (B, 1, *shape) float32."""

        def image(subject: Subject) -> Tensor:
            data = read_image(self.layout.affine_image(subject.id)).data
            return torch.from_numpy(self.grid.squeeze(data)).half()

        images, masks = [], []
        for index in indices:
            subject = self.subjects[index]
            images.append(self._kept("image", index, partial(image, subject)))
            masks.append(self._kept("mask", index, partial(field_of_view, self.layout, subject, self.grid)))
        return torch.stack(images)[:, None].float(), torch.stack(masks)[:, None].float()

    def through(self, index: int, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """As `pulled`, by a displacement (1, d, *shape) in voxels of the grid and the subject's affine."""
        affine = read_affine(self.layout.affine(self.subjects[index].id))
        return self.pulled(index, [displacement_to_field(displacement[0], self.grid), affine])

    def pulled(self, index: int, steps: Sequence[Step]) -> tuple[Tensor, Tensor]:
        """The subject's native image, prepared and pulled through `steps`: interpolated once. And where it
        has data. Each (1, 1, *shape)."""
        native = read_preprocessed(self.subjects[index].image, min(self.grid.tensor_spacing), self.n4)
        data = torch.from_numpy(native.grid.squeeze(native.data))[None, None]
        points = resampling_coordinates(native.grid, steps, self.grid)
        both = sample(torch.cat([data, torch.ones_like(data)], dim=1).float(), points)
        seen = (both[:, 1:] > 0.99).float()
        return both[:, :1] * seen, seen

    def labels(self, index: int) -> Tensor:
        """The subject's labels (*shape) on the template's grid, nearest neighbor. For atlases alone."""
        subject = self.subjects[index]
        if subject.role != "atlas" or subject.labels is None:
            raise ValueError(f"sub-{subject.id} is no atlas: its labels aren't for training")

        def pulled(path: Path) -> Tensor:
            native = read_labels(path)
            data = torch.from_numpy(native.grid.squeeze(native.data))[None, None].float()
            steps = [read_affine(self.layout.affine(subject.id))]
            return resample(data, native.grid, steps, self.grid, "nearest")[0, 0].int()

        return self._kept("labels", index, partial(pulled, subject.labels))
