"""The cohort's affinely aligned images as tensors, shared by training and registration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from atlasmith.geometry import Grid, Step
from atlasmith.io.images import read_grid, read_image, read_labels
from atlasmith.io.tables import Subject
from atlasmith.io.transforms import read_affine
from atlasmith.naming import Layout
from atlasmith.preparation import read_prepared
from atlasmith.warp import displacement_to_field, pull, pull_coordinates, sample

CACHE_BYTES = 4 * 2**30  # beyond this, images are read again when they are needed


def field_of_view(layout: Layout, subject: Subject, grid: Grid) -> Tensor:
    """Where (*shape) the affinely aligned image has data, on the template's grid."""
    native = read_grid(subject.image)
    ones = torch.ones(1, 1, *native.tensor_shape)
    return pull(ones, native, [read_affine(layout.affine(subject.id))], grid)[0, 0] > 0.99


class AlignedImages:
    """Images (B, 1, *shape) and masks of their field of view, on the template's grid; in half precision.

    n4: whether the affine stage corrected the images' bias.
    """

    def __init__(self, layout: Layout, subjects: Sequence[Subject], grid: Grid, n4: bool = False) -> None:
        self.layout, self.subjects, self.grid, self.n4 = layout, list(subjects), grid, n4
        self._capacity = CACHE_BYTES // (3 * int(np.prod(grid.shape)))
        self._images: dict[int, tuple[Tensor, Tensor]] = {}
        self._labels: dict[int, Tensor] = {}

    def _read(self, index: int) -> tuple[Tensor, Tensor]:
        subject = self.subjects[index]
        image = read_image(self.layout.affine_image(subject.id))
        data = torch.from_numpy(self.grid.squeeze(image.data)).half()
        return data, field_of_view(self.layout, subject, self.grid)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(images, masks), each (B, 1, *shape) float32."""
        pairs = []
        for index in indices:
            if index not in self._images:
                pair = self._read(index)
                if len(self._images) < self._capacity:
                    self._images[index] = pair
            else:
                pair = self._images[index]
            pairs.append(pair)
        images, masks = zip(*pairs, strict=True)
        return torch.stack(images)[:, None].float(), torch.stack(masks)[:, None].float()

    def through(self, index: int, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """As `pulled`, by a displacement (1, d, *shape) in voxels of the grid and the subject's affine."""
        affine = read_affine(self.layout.affine(self.subjects[index].id))
        return self.pulled(index, [displacement_to_field(displacement[0], self.grid), affine])

    def pulled(self, index: int, steps: Sequence[Step]) -> tuple[Tensor, Tensor]:
        """The subject's native image, prepared and pulled through `steps`: interpolated once. And where it
        has data. Each (1, 1, *shape)."""
        native = read_prepared(self.subjects[index].image, min(self.grid.tensor_spacing), self.n4)
        data = torch.from_numpy(native.grid.squeeze(native.data))[None, None]
        points = pull_coordinates(native.grid, steps, self.grid)
        both = sample(torch.cat([data, torch.ones_like(data)], dim=1).float(), points)
        seen = (both[:, 1:] > 0.99).float()
        return both[:, :1] * seen, seen

    def labels(self, index: int) -> Tensor:
        """The subject's labels (*shape) on the template's grid, nearest neighbour. For atlases alone."""
        if index not in self._labels:
            subject = self.subjects[index]
            if subject.role != "atlas" or subject.labels is None:
                raise ValueError(f"sub-{subject.id} is no atlas: its labels aren't for training")
            native = read_labels(subject.labels)
            data = torch.from_numpy(native.grid.squeeze(native.data))[None, None].float()
            steps = [read_affine(self.layout.affine(subject.id))]
            self._labels[index] = pull(data, native.grid, steps, self.grid, "nearest")[0, 0].int()
        return self._labels[index]
