"""The objective of one image's registration, or of several independent ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from atlasmith.core.grid import Grid
from atlasmith.core.sampling import MASK_THRESHOLD, coarsen, resize
from atlasmith.losses import Objective, find_regularizers, registration_objective, required_inputs
from atlasmith.optimization.points import PointSets
from atlasmith.transforms import DIRECTIONS, Coefficients, DeformationModel

Terms = Mapping[str, Mapping[str, Any]]


class ObjectiveFunction(Protocol):
    """The objective of coefficients (B, channels, *half), the mean over B images.

    It is evaluated in both directions, or in one where its terms allow that; of all images, or of those that
    are `chosen`.
    """

    def __call__(
        self, coefficients: Tensor, directions: Sequence[int] = DIRECTIONS, chosen: slice = slice(None)
    ) -> Objective: ...


@dataclass(frozen=True, eq=False)
class InstanceObjective:
    """Bind the training objective to pairs of images: an `ObjectiveFunction`, with what it compares.

    Attributes:
        fixed: Features (B, C + L, *shape) of the fixed images: C channels of intensities, then label
            probabilities.
        moving: Features (B, C + L, *shape) of the moving images, affinely aligned to them.
        mask: (B, C, *shape), 1 where a channel of a moving image has data; a channel without any is absent.
        grid: The grid of both, or a finer one with the same corner voxels.
        deformation: Makes displacements of coefficients.
        terms: `similarity`, `regularization` and the like, for `registration_objective`.
        fixed_mask: (B, C, *shape), 1 where a fixed image may be compared; None: everywhere.
        points: Points of the images that the deformation should map onto each other, further terms.
    """

    fixed: Tensor
    moving: Tensor
    mask: Tensor
    grid: Grid
    deformation: DeformationModel
    terms: Mapping[str, Any]
    fixed_mask: Tensor | None = None
    points: Sequence[PointSets] = ()

    def __call__(
        self, coefficients: Tensor, directions: Sequence[int] = DIRECTIONS, chosen: slice = slice(None)
    ) -> Objective:
        """Evaluate coefficients (B, channels, *half): see `ObjectiveFunction`."""
        needed = required_inputs(self.terms["regularization"])
        spacing = self.spacing(coefficients.shape[2:])
        found = registration_objective(
            self.fixed[chosen],
            self.moving[chosen],
            self.mask[chosen],
            Coefficients(coefficients),
            deformation=self.deformation,
            template_mask=None if self.fixed_mask is None else self.fixed_mask[chosen],
            spacing=spacing,
            directions=directions if needed.isdisjoint({"forward", "inverse"}) else DIRECTIONS,
            **self.terms,
        )
        shape = self.grid.tensor_shape
        points = {sets.name: sets.term(found.maps, spacing, shape, chosen) for sets in self.points}
        return replace(found, terms=found.terms | points)

    def spacing(self, shape: Sequence[int]) -> tuple[float, ...]:
        """Return the voxel size (d), mm, of coefficients of `shape` (d)."""
        return self.grid.coarser_spacing(shape)

    def fit(self, displacement: Tensor) -> Tensor:
        """Find coefficients (B, channels, *half) of a displacement (B, d, *half), voxels."""
        shape = displacement.shape[2:]
        identity = self.deformation.initial(self.fixed, shape)
        return identity + self.deformation.fit(displacement, self.spacing(shape))

    def at(self, shape: Sequence[int]) -> InstanceObjective:
        """Return the objective of the images at a lower resolution.

        Args:
            shape: Size of the coarser grid, with the same corner voxels.

        Returns:
            The objective of antialiased images; masks are 1 where most of a coarse voxel is known.
        """
        fixed, moving = (coarsen(x, shape) for x in (self.fixed, self.moving))
        mask, fixed_mask = (
            None if x is None else (resize(x, shape) > MASK_THRESHOLD).to(x)
            for x in (self.mask, self.fixed_mask)
        )
        assert mask is not None
        return replace(self, fixed=fixed, moving=moving, mask=mask, fixed_mask=fixed_mask)


def instance_objective(
    fixed: Tensor,
    moving: Tensor,
    mask: Tensor,
    grid: Grid,
    *,
    deformation: DeformationModel,
    similarity: Terms,
    regularization: Terms,
    channel_similarity: Mapping[int, Terms] | None = None,
    label_similarity: Terms | None = None,
    fixed_mask: Tensor | None = None,
    points: Sequence[PointSets] = (),
) -> InstanceObjective:
    """Bind the training objective to pairs of images.

    Regularizers that need a batch or a network's output are left out, and so are terms on labels where the
    images have intensities alone.

    Args:
        fixed: As in `InstanceObjective`.
        moving: As in `InstanceObjective`.
        mask: As in `InstanceObjective`.
        grid: As in `InstanceObjective`.
        deformation: As in `InstanceObjective`.
        similarity: Similarity terms of the intensities, by name: weight and settings.
        regularization: Regularization terms, likewise.
        channel_similarity: Similarity terms of single channels, by index, in the place of `similarity`.
        label_similarity: Similarity terms of the label probabilities.
        fixed_mask: As in `InstanceObjective`.
        points: As in `InstanceObjective`.

    Returns:
        A function of coefficients (B, channels, *half), in voxels of their own grid.
    """
    regularizers = find_regularizers(regularization)
    terms = {
        "similarity": similarity,
        "regularization": {
            name: settings
            for name, settings in regularization.items()
            if not regularizers[name].training_only
        },
        "channel_similarity": channel_similarity,
        "label_similarity": label_similarity if moving.shape[1] > mask.shape[1] else None,
    }
    return InstanceObjective(fixed, moving, mask, grid, deformation, terms, fixed_mask, points)
