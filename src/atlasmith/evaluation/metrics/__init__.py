"""Metrics as pure functions of NumPy arrays, and `METRICS`, the table of what is known about each.

A name ends in its unit: `_mm`, `_per_mm`, `_percent`, `_db`, or none. A score that is undefined is NaN, and
means skip it. A label that neither map has is NaN; one that only one map has is 0 for overlaps, also of
surfaces, and NaN for distances, since no distance says how wrong a missing label is. Displacements are
(d, *shape) in voxels, channel d along axis d, d 2 or 3.
"""

from atlasmith.core.intensity import foreground
from atlasmith.core.labels import Counts, count_overlap, dice, label_index
from atlasmith.evaluation.metrics.atlases import agreement, oracle, plurality
from atlasmith.evaluation.metrics.calibration import ause, brier, ece, mce, nll, spearman
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
from atlasmith.evaluation.metrics.image import mae, mse, ncc, nmi, nmse, psnr_db, ssim
from atlasmith.evaluation.metrics.overlap import (
    generalized_dice,
    jaccard,
    precision,
    recall,
    volume_similarity,
    volume_weighted_dice,
)
from atlasmith.evaluation.metrics.segmentation import score_labels
from atlasmith.evaluation.metrics.surface import (
    Distances,
    assd_mm,
    hd95_mm,
    hd_mm,
    mad_mm,
    surface_dice,
    surface_dice_1mm,
    surface_distances,
)
from atlasmith.evaluation.metrics.table import (
    IMAGE_METRICS,
    METRICS,
    SEGMENTATION_METRICS,
    SHARPNESS_METRICS,
    Metric,
    metrics_of,
)
from atlasmith.evaluation.metrics.template import (
    bridge_dice,
    centrality_mm,
    entropy_focus_criterion,
    gradient_energy_per_mm2,
    gradient_energy_ratio,
    max_displacement_mm,
    mean_displacement_mm,
    sharpness_per_mm,
)

__all__ = [
    "IMAGE_METRICS",
    "METRICS",
    "SEGMENTATION_METRICS",
    "SHARPNESS_METRICS",
    "Counts",
    "Distances",
    "Metric",
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
    "gradient_energy_ratio",
    "hd95_mm",
    "hd_mm",
    "inverse_consistency_mm",
    "jaccard",
    "jacobian_determinant",
    "label_index",
    "mad_mm",
    "mae",
    "max_displacement_mm",
    "mce",
    "mean_displacement_mm",
    "metrics_of",
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
    "score_labels",
    "sd_log_jacobian",
    "sd_log_jacobian_learn2reg",
    "sharpness_per_mm",
    "spearman",
    "ssim",
    "surface_dice",
    "surface_dice_1mm",
    "surface_distances",
    "tre_mm",
    "tre_quantile_mm",
    "volume_similarity",
    "volume_weighted_dice",
]
