"""Scores as pure functions, NumPy in. A name ends in its unit: `_mm`, `_per_mm`, `_percent`, `_db`, or none.

A score that isn't defined is NaN, and means skip it. Labels: absent from both maps is NaN; absent from one
is 0 for overlaps, of surfaces too, and NaN for distances, since none says how wrong a missing label is.
Displacements are those of `atlasmith.warp` without the batch: (d, *shape) in voxels, channel d along axis d,
d 2 or 3.
"""

from atlasmith.core.labels import Counts, count_overlap, dice, label_index
from atlasmith.evaluation.metrics.calibration import UNCERTAINTY, ause, brier, ece, mce, nll, spearman
from atlasmith.evaluation.metrics.deformation import (
    displacements_mm,
    inverse_consistency_mm,
    jacobian_determinant,
    nondiffeomorphic_area_percent,
    nondiffeomorphic_volume,
    nondiffeomorphic_volume_percent,
    nonpositive_jacobian_percent,
    sd_log_jacobian,
    sd_log_jacobian_learn2reg,
    tre_mm,
    tre_quantile_mm,
)
from atlasmith.evaluation.metrics.image import SIMILARITY, foreground, mae, mse, ncc, nmi, nmse, psnr_db, ssim
from atlasmith.evaluation.metrics.overlap import (
    MULTILABEL,
    OVERLAP,
    generalized_dice,
    jaccard,
    precision,
    recall,
    volume_similarity,
    volume_weighted_dice,
)
from atlasmith.evaluation.metrics.surface import (
    SURFACE,
    Distances,
    assd_mm,
    hd95_mm,
    hd_mm,
    mad_mm,
    surface_dice,
    surface_dice_1mm,
    surface_distances,
    surface_scores,
)
from atlasmith.evaluation.metrics.template import (
    bridge_dice,
    centrality_mm,
    entropy_focus_criterion,
    gradient_energy_per_mm2,
    mean_displacement_mm,
    sharpness_per_mm,
)
from atlasmith.evaluation.metrics.votes import agreement, oracle, plurality

SEGMENTATION = {**OVERLAP, **SURFACE, **MULTILABEL}  # what a config chooses from

__all__ = [
    "MULTILABEL",
    "OVERLAP",
    "SEGMENTATION",
    "SIMILARITY",
    "SURFACE",
    "UNCERTAINTY",
    "Counts",
    "Distances",
    "agreement",
    "assd_mm",
    "ause",
    "bridge_dice",
    "brier",
    "centrality_mm",
    "count_overlap",
    "dice",
    "displacements_mm",
    "ece",
    "entropy_focus_criterion",
    "foreground",
    "generalized_dice",
    "gradient_energy_per_mm2",
    "hd95_mm",
    "hd_mm",
    "inverse_consistency_mm",
    "jaccard",
    "jacobian_determinant",
    "label_index",
    "mad_mm",
    "mae",
    "mce",
    "mean_displacement_mm",
    "mse",
    "ncc",
    "nll",
    "nmi",
    "nmse",
    "nondiffeomorphic_area_percent",
    "nondiffeomorphic_volume",
    "nondiffeomorphic_volume_percent",
    "nonpositive_jacobian_percent",
    "oracle",
    "plurality",
    "precision",
    "psnr_db",
    "recall",
    "sd_log_jacobian",
    "sd_log_jacobian_learn2reg",
    "sharpness_per_mm",
    "spearman",
    "ssim",
    "surface_dice",
    "surface_dice_1mm",
    "surface_distances",
    "surface_scores",
    "tre_mm",
    "tre_quantile_mm",
    "unit_of",
    "volume_similarity",
    "volume_weighted_dice",
]


def unit_of(metric: str) -> str:
    """The unit that a metric's name ends in."""
    for ending, unit in (
        ("_per_mm", "1/mm"),
        ("_per_mm2", "1/mm2"),
        ("_mm", "mm"),
        ("_percent", "%"),
        ("_db", "dB"),
    ):
        if metric.endswith(ending):
            return unit
    return "1"
