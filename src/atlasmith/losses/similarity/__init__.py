"""Similarity of two images or label maps: lower is better.

Each takes fixed and moved (B, C, *shape), 2-D or 3-D, optionally a mask (B, 1, *shape), its own parameters,
and `reduction`: "mean" over the batch, or "none" for a value a subject (B,). A subject's value depends on no
other of its batch. To add one: a function with `@measure`, and a line here.
"""

from atlasmith.losses.similarity.information import cr, lcr, lmi, mi, nmi
from atlasmith.losses.similarity.intensity import mae, mse, pcc
from atlasmith.losses.similarity.measure import Measure, measure
from atlasmith.losses.similarity.overlap import dice, dice_multiscale
from atlasmith.losses.similarity.structure import feature, mind, ngf
from atlasmith.losses.similarity.windows import lncc, lncc_gaussian, lncc_multiscale, ssim

SIMILARITY: dict[str, Measure] = {
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

__all__ = ["SIMILARITY", "Measure", "measure"]
