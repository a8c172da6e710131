"""The kind of entry that PARAMETRIZATIONS holds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from atlasmith.core.choices import Choice

# The directions of a map: from the fixed grid to the moving image, and back.
FORWARD, INVERSE = 1, -1
DIRECTIONS = (FORWARD, INVERSE)


@dataclass(frozen=True)
class Parametrization(Choice[dict[int, Tensor]]):
    """Declare a parametrization: coefficients of a deformation and their displacements.

    The function takes coefficients (B, d, *shape) and `directions`, and returns for each direction the
    displacement (B, d, *shape), in voxels of the coefficients' grid.

    Args:
        function: As in `Choice`.
        text: As in `Choice`.
        diffeomorphic: Whether the maps are diffeomorphisms, each other's inverse.
    """

    diffeomorphic: bool
