"""Parametrizations of a deformation, by name: from coefficients to a map and its inverse.

Each entry is a `DeformationModel` with its `Parametrization` in a module of this package, and a line in
PARAMETRIZATIONS.
"""

from collections.abc import Mapping
from typing import Any

from atlasmith.core.errors import look_up
from atlasmith.transforms.coefficients import Coefficients
from atlasmith.transforms.displacement import displacement
from atlasmith.transforms.parametrization import (
    DIRECTIONS,
    FORWARD,
    INVERSE,
    DeformationModel,
    Parametrization,
    with_inverse,
)
from atlasmith.transforms.stationary import integrate_velocity, stationary_velocity

PARAMETRIZATIONS: dict[str, Parametrization] = {
    "stationary_velocity": stationary_velocity,
    "displacement": displacement,
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
        AtlasmithError: If there is no parametrization of that name.
    """
    return look_up(PARAMETRIZATIONS, name, "parametrization")(integration_steps, **(settings or {}))


__all__ = [
    "DIRECTIONS",
    "FORWARD",
    "INVERSE",
    "PARAMETRIZATIONS",
    "Coefficients",
    "DeformationModel",
    "Parametrization",
    "deformation_model",
    "integrate_velocity",
    "with_inverse",
]
