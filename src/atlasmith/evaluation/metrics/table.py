"""The table of metrics. To add one: a function in a module of this package, and a line here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from atlasmith.core import labels
from atlasmith.core.choices import Choice
from atlasmith.evaluation.metrics import (
    atlases,
    calibration,
    deformation,
    image,
    overlap,
    surface,
    template,
)

Kind = Literal[
    "overlap",  # (counts) -> (L,)
    "multilabel",  # (counts) -> number
    "surface",  # (distances) -> number
    "image",  # (fixed, moved) -> number, after any linear change of intensity
    "intensity",  # (fixed, moved[, data_range]) -> number, of images in the same units
    "calibration",  # (probabilities, labels) -> number
    "uncertainty",  # (uncertainty, error) -> number
    "jacobian",  # (determinant, mask) -> number
    "displacement",  # (displacement, mask) -> number
    "landmark",  # (mapped, expected) -> number
    "transform",  # (forward, inverse, points) -> number
    "sharpness",  # (image, mask, spacing_mm) -> number
    "entropy",  # (values) -> number
    "cohort",  # of the template in relation to the subjects; each with its own arguments
]
Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric(Choice[Any]):
    """Declare a metric: a function of arrays, and what the reader of its values must know.

    Args:
        function: Computes it.
        text: Its definition.
        kind: The function's arguments and result, see `Kind`.
        better: Which values are better.
        unit: mm, 1/mm, 1/mm2, %, dB, or 1.

    Example:
        >>> hd95 = METRICS["hd95_mm"]
        >>> hd95.kind, hd95.unit, hd95.better
        ('surface', 'mm', 'lower')
    """

    kind: Kind
    better: Direction
    unit: str = "1"


METRICS: dict[str, Metric] = {
    "dice": Metric(labels.dice, "2 |A and B| / (|A| + |B|)", "overlap", "higher"),
    "jaccard": Metric(overlap.jaccard, "|A and B| / |A or B|", "overlap", "higher"),
    "volume_similarity": Metric(
        overlap.volume_similarity, "1 - ||A| - |B|| / (|A| + |B|)", "overlap", "higher"
    ),
    "precision": Metric(overlap.precision, "|A and B| / |B|, of the truth A", "overlap", "higher"),
    "recall": Metric(overlap.recall, "|A and B| / |A|, of the truth A", "overlap", "higher"),
    "hd_mm": Metric(surface.hd_mm, "maximum surface distance (Hausdorff)", "surface", "lower", "mm"),
    "hd95_mm": Metric(surface.hd95_mm, "95th percentile of surface distance", "surface", "lower", "mm"),
    "assd_mm": Metric(surface.assd_mm, "average symmetric surface distance", "surface", "lower", "mm"),
    "mad_mm": Metric(surface.mad_mm, "mean of both directed mean distances", "surface", "lower", "mm"),
    "surface_dice_1mm": Metric(
        surface.surface_dice_1mm, "fraction of both surfaces within 1 mm", "surface", "higher"
    ),
    "generalized_dice": Metric(
        overlap.generalized_dice, "Dice weighted by 1 / |A|^2", "multilabel", "higher"
    ),
    "volume_weighted_dice": Metric(
        overlap.volume_weighted_dice, "Dice weighted by |A| + |B|", "multilabel", "higher"
    ),
    "ncc": Metric(image.ncc, "Pearson correlation", "image", "higher"),
    "nmse": Metric(image.nmse, "mean squared difference after scaling", "image", "lower"),
    "nmi": Metric(image.nmi, "normalized mutual information", "image", "higher"),
    "mse": Metric(image.mse, "mean squared difference", "intensity", "lower"),
    "mae": Metric(image.mae, "mean absolute difference", "intensity", "lower"),
    "psnr_db": Metric(image.psnr_db, "peak signal-to-noise ratio", "intensity", "higher", "dB"),
    "ssim": Metric(image.ssim, "structural similarity", "intensity", "higher"),
    "ece": Metric(calibration.ece, "expected calibration error", "calibration", "lower"),
    "mce": Metric(calibration.mce, "maximum calibration error", "calibration", "lower"),
    "brier": Metric(calibration.brier, "Brier score", "calibration", "lower"),
    "nll": Metric(calibration.nll, "negative log-likelihood, nats", "calibration", "lower"),
    "pearson": Metric(image.ncc, "Pearson correlation with the error", "uncertainty", "higher"),
    "spearman": Metric(calibration.spearman, "rank correlation with the error", "uncertainty", "higher"),
    "ause": Metric(calibration.ause, "area under the sparsification error", "uncertainty", "lower"),
    "nonpositive_jacobian_percent": Metric(
        deformation.nonpositive_jacobian_percent, "voxels with determinant <= 0", "jacobian", "lower", "%"
    ),
    "sd_log_jacobian": Metric(deformation.sd_log_jacobian, "SD of the log determinant", "jacobian", "lower"),
    "sd_log_jacobian_learn2reg": Metric(
        deformation.sd_log_jacobian_learn2reg, "SD of log(determinant + 3)", "jacobian", "lower"
    ),
    "nondiffeomorphic_volume_percent": Metric(
        deformation.nondiffeomorphic_volume_percent, "folded volume", "displacement", "lower", "%"
    ),
    "nondiffeomorphic_area_percent": Metric(
        deformation.nondiffeomorphic_area_percent, "folded area, in 2-D", "displacement", "lower", "%"
    ),
    "tre_mm": Metric(deformation.tre_mm, "mean target registration error", "landmark", "lower", "mm"),
    "tre_quantile_mm": Metric(
        deformation.tre_quantile_mm, "quantile of target registration error", "landmark", "lower", "mm"
    ),
    "inverse_consistency_mm": Metric(
        deformation.inverse_consistency_mm, "mean |inverse(forward(p)) - p|", "transform", "lower", "mm"
    ),
    "sharpness_per_mm": Metric(
        template.sharpness_per_mm, "mean gradient magnitude after scaling", "sharpness", "higher", "1/mm"
    ),
    "gradient_energy_per_mm2": Metric(
        template.gradient_energy_per_mm2, "mean squared gradient magnitude", "sharpness", "higher", "1/mm2"
    ),
    "entropy_focus_criterion": Metric(
        template.entropy_focus_criterion, "entropy of intensities", "entropy", "lower"
    ),
    "gradient_energy_ratio": Metric(
        template.gradient_energy_ratio, "gradient energy over the affine mean's", "cohort", "higher"
    ),
    "mean_displacement_mm": Metric(
        template.mean_displacement_mm, "mean length of the mean displacement", "cohort", "lower", "mm"
    ),
    "max_displacement_mm": Metric(
        template.max_displacement_mm, "maximum length of the mean displacement", "cohort", "lower", "mm"
    ),
    "centrality_mm": Metric(
        template.centrality_mm, "`mean_displacement_mm` with an interval", "cohort", "lower", "mm"
    ),
    "bridge_dice": Metric(template.bridge_dice, "Dice with other subjects' labels", "cohort", "higher"),
    "agreement": Metric(atlases.agreement, "fraction of atlases with the majority", "cohort", "higher"),
}


def metrics_of(*kinds: Kind) -> dict[str, Metric]:
    """Select metrics by kind.

    Args:
        kinds: One or several, see `Kind`.

    Returns:
        Their entries in `METRICS`, by name, in its order.
    """
    return {name: metric for name, metric in METRICS.items() if metric.kind in kinds}


IMAGE_METRICS = metrics_of("image")
SHARPNESS_METRICS = metrics_of("sharpness")
SEGMENTATION_METRICS = metrics_of("overlap", "multilabel", "surface")  # what `score.metrics` chooses from
