"""Regularizers, by name: the cost of a deformation, per millimeter.

Each entry is a function declared with `Regularizer.declare` in a module of this package, and a line in
REGULARIZERS.
"""

from atlasmith.losses.regularizers.base import Regularizer
from atlasmith.losses.regularizers.centrality import centrality
from atlasmith.losses.regularizers.consistency import cycle, gradicon, inverse_consistency
from atlasmith.losses.regularizers.jacobian import folding, hyperelastic, log_jacobian
from atlasmith.losses.regularizers.prior import kl
from atlasmith.losses.regularizers.smoothness import (
    bending,
    diffusion,
    elastic,
    magnitude,
    sobolev,
    tv,
    tv_isotropic,
)

REGULARIZERS: dict[str, Regularizer] = {
    "diffusion": diffusion,
    "tv": tv,
    "tv_isotropic": tv_isotropic,
    "bending": bending,
    "elastic": elastic,
    "sobolev": sobolev,
    "folding": folding,
    "log_jacobian": log_jacobian,
    "hyperelastic": hyperelastic,
    "inverse_consistency": inverse_consistency,
    "gradicon": gradicon,
    "cycle": cycle,
    "kl": kl,
    "centrality": centrality,
    "magnitude": magnitude,
}

__all__ = ["REGULARIZERS", "Regularizer"]
