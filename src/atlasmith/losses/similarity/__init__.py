"""Similarities of two images or label maps, by name; the lower, the more similar.

Each entry is a function declared with `Similarity.declare` in a module of this package, and a line in
SIMILARITY.
"""

from atlasmith.losses.similarity.base import Similarity
from atlasmith.losses.similarity.correlation_ratio import cr, lcr
from atlasmith.losses.similarity.dice import dice, dice_multiscale
from atlasmith.losses.similarity.information import lmi, mi, nmi
from atlasmith.losses.similarity.structure import feature, mind, ngf
from atlasmith.losses.similarity.voxelwise import mae, mse, pcc
from atlasmith.losses.similarity.windows import lncc, lncc_gaussian, lncc_multiscale, ssim

SIMILARITY: dict[str, Similarity] = {
    "mse": mse,
    "mae": mae,
    "pcc": pcc,
    "lncc": lncc,
    "lncc_gaussian": lncc_gaussian,
    "lncc_multiscale": lncc_multiscale,
    "mind": mind,
    "mi": mi,
    "nmi": nmi,
    "lmi": lmi,
    "cr": cr,
    "lcr": lcr,
    "ssim": ssim,
    "ngf": ngf,
    "dice": dice,
    "dice_multiscale": dice_multiscale,
    "feature": feature,
}

__all__ = ["SIMILARITY", "Similarity"]
