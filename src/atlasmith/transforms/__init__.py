"""Parametrizations of a deformation, by name: from coefficients to a map and its inverse.

Each entry is a function declared with `Parametrization.declare` in a module of this package, and a line in
PARAMETRIZATIONS.
"""

from atlasmith.transforms.parametrization import DIRECTIONS, FORWARD, INVERSE, Parametrization
from atlasmith.transforms.stationary import Velocity, stationary_velocity

PARAMETRIZATIONS: dict[str, Parametrization] = {
    "stationary_velocity": stationary_velocity,
}

__all__ = ["DIRECTIONS", "FORWARD", "INVERSE", "PARAMETRIZATIONS", "Parametrization", "Velocity"]
