"""The default engine: correlation, by Gauss-Newton steps in torch."""

from __future__ import annotations

from collections.abc import Sequence

from atlasmith.affine.engines.base import AffineEngine
from atlasmith.affine.working_image import WorkingImage
from atlasmith.core.grid import Array


@AffineEngine.declare(
    "Gauss-Newton steps on the normalized cross-correlation, all starts at once, in torch. For images of one "
    "contrast. The default."
)
def correlation(
    fixed: WorkingImage, moving: WorkingImage, starts: Sequence[Array], kind: str, iterations: int = 20
) -> list[Array]:
    """Maximize the normalized cross-correlation, coarse to fine: see `atlasmith.affine.gauss_newton`.

    Args:
        fixed: The fixed image.
        moving: The moving image.
        starts: Pull-backs (4, 4) in physical coordinates.
        kind: `rigid` or `affine`.
        iterations: Steps per level, at most.

    Returns:
        A pull-back (4, 4) for each start.
    """
    from atlasmith.affine import gauss_newton

    return gauss_newton.optimize(fixed, moving, starts, kind, iterations)
