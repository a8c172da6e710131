"""Displacements and velocities: sample, compose, exponentiate, measure. Stateless functions.

Contract: a displacement `u` is a pull-back in voxels of the fixed grid, `moved(x) = moving(x + u(x))`;
tensors are (B, C, *shape) in NIfTI axis order, and channel d of a displacement moves along axis d.
"""

from atlasmith.warp.dense import (
    compose,
    compose_velocities,
    coordinates,
    exponentiate,
    half_shape,
    jacobian_determinant,
    resize,
    resize_displacement,
    sample,
    sample_labels,
    warp,
)
from atlasmith.warp.velocity import Velocity
from atlasmith.warp.world import (
    displacement_to_field,
    inside,
    map_points,
    pull,
    pull_coordinates,
    pull_labels,
    to_tensor,
    to_voxels,
    world_points,
)

__all__ = [
    "Velocity",
    "compose",
    "compose_velocities",
    "coordinates",
    "displacement_to_field",
    "exponentiate",
    "half_shape",
    "inside",
    "jacobian_determinant",
    "map_points",
    "pull",
    "pull_coordinates",
    "pull_labels",
    "resize",
    "resize_displacement",
    "sample",
    "sample_labels",
    "to_tensor",
    "to_voxels",
    "warp",
    "world_points",
]
