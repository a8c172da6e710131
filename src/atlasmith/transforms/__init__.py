"""Parametrizations of a deformation, by name: from coefficients to a map and its inverse.

Each entry is a `DeformationModel` with its `Parametrization` in a module of this package, and a line in
PARAMETRIZATIONS.
"""

from collections.abc import Mapping
from typing import Any

from atlasmith.core.errors import look_up
from atlasmith.transforms.bspline import bspline_displacement, bspline_velocity
from atlasmith.transforms.coefficients import Coefficients
from atlasmith.transforms.cpab import cpab
from atlasmith.transforms.displacement import displacement
from atlasmith.transforms.fourier import fourier_velocity
from atlasmith.transforms.integrated_gradients import integrated_gradients
from atlasmith.transforms.low_rank import LowRankVelocity
from atlasmith.transforms.modes import Modes, mean_square_mm, principal_modes
from atlasmith.transforms.momentum import Momentum, momentum
from atlasmith.transforms.parametrization import (
    DIRECTIONS,
    FORWARD,
    INVERSE,
    DeformationModel,
    Parametrization,
    with_inverse,
)
from atlasmith.transforms.regions import RegionVelocity, region_velocity
from atlasmith.transforms.residual import residual_flow
from atlasmith.transforms.stationary import integrate_velocity, stationary_velocity
from atlasmith.transforms.time_dependent import time_dependent_velocity

PARAMETRIZATIONS: dict[str, Parametrization] = {
    "stationary_velocity": stationary_velocity,
    "displacement": displacement,
    "bspline_velocity": bspline_velocity,
    "bspline_displacement": bspline_displacement,
    "fourier_velocity": fourier_velocity,
    "time_dependent_velocity": time_dependent_velocity,
    "residual_flow": residual_flow,
    "integrated_gradients": integrated_gradients,
    "cpab": cpab,
    "momentum": momentum,
    "region_velocity": region_velocity,
}


def deformation_model(
    name: str = "stationary_velocity",
    settings: Mapping[str, Any] | None = None,
    integration_steps: int = 6,
) -> DeformationModel:
    """Build the model of a parametrization.

    Args:
        name: A name in PARAMETRIZATIONS.
        settings: Its settings; None: the defaults.
        integration_steps: As in `DeformationModel`.

    Returns:
        The model.

    Raises:
        AtlasmithError: If there is no parametrization of that name, or for a setting that can't be used.
    """
    found, settings = look_up(PARAMETRIZATIONS, name, "parametrization"), settings or {}
    found.check_settings(settings)
    return found(integration_steps, **settings)


__all__ = [
    "DIRECTIONS",
    "FORWARD",
    "INVERSE",
    "PARAMETRIZATIONS",
    "Coefficients",
    "DeformationModel",
    "LowRankVelocity",
    "Modes",
    "Momentum",
    "Parametrization",
    "RegionVelocity",
    "deformation_model",
    "integrate_velocity",
    "mean_square_mm",
    "principal_modes",
    "with_inverse",
]
