"""What the columns of all tables mean: the same name means the same in every table."""

from __future__ import annotations

from collections.abc import Iterable

# Description and unit.
COLUMNS: dict[str, tuple[str, str]] = {
    "participant_id": ("The participant", ""),
    "session_id": ("The session of the participant", ""),
    # The cohort
    "role": (
        "atlas: has trusted labels; target: is segmented; train: helps to build the template, and is "
        "segmented if the config says so",
        "",
    ),
    "image": ("The image, in a cohort of several channels that of the first that there is", ""),
    "labels": ("The label file", ""),
    "mask": ("Mask of where the image may be looked at", ""),
    "exclude": ("Mask of what nothing may be learned from", ""),
    "in_template": ("Whether the image helps to build the template", ""),
    "subpopulation": ("Subpopulation, found from the images", ""),
    # Labels
    "index": ("The label: an integer of the label images", ""),
    "name": ("Name of the label", ""),
    "color": ("Color of the label, as #RRGGBB", ""),
    # Scores
    "stage": ("Stage of the workflow", ""),
    "method": ("What was scored: a kind of image, or a fusion method", ""),
    "label": ("The label; mean: the mean over labels; all: all labels together", ""),
    "metric": ("Name of the metric; the documentation defines it", ""),
    "value": ("Value of the metric, in the row's unit; of a query, value of the covariate", ""),
    "unit": ("Unit of the metric", ""),
    "mean": ("Mean over subjects", ""),
    "sd": ("Standard deviation over subjects", ""),
    "median": ("Median over subjects", ""),
    "n": ("Number of subjects", ""),
    "ci95_low": ("Lower bound of the 95 % bootstrap interval of the mean", ""),
    "ci95_high": ("Upper bound of the 95 % bootstrap interval of the mean", ""),
    "method_a": ("Fusion method A", ""),
    "method_b": ("Fusion method B", ""),
    "mean_difference": ("Mean over subjects of the metric of A minus that of B", ""),
    "wilcoxon_p": ("Two-sided p of Wilcoxon's signed-rank test", ""),
    "wilcoxon_p_bh": ("The same, adjusted for the number of rows after Benjamini and Hochberg", ""),
    # Quality
    "volume_mm3": ("Volume of the label in the segmentation", "mm^3"),
    "volume_lower_mm3": ("Lower bound of the interval of the manual volume", "mm^3"),
    "volume_upper_mm3": ("Upper bound of the interval of the manual volume", "mm^3"),
    "manual_volume_mm3": ("Volume of the label in the manual segmentation", "mm^3"),
    "expected_dice": ("Dice expected from the label probabilities", ""),
    "predicted_dice": ("Dice predicted by the model that was calibrated on the atlases", ""),
    "dice": ("Dice with the manual labels", ""),
    "dice_as_atlas": ("Mean Dice of the atlas's labels on the other atlases", ""),
    "dice_as_target": ("Mean Dice of the other atlases' labels on this one", ""),
    "needs_review": ("Whether the scan or its segmentation is unlike the atlases", ""),
    "review_reasons": ("Why it needs review", ""),
    "volume_ratio": ("Volume of the atlas's labels over that which the others give it", ""),
    "robust_z": ("Deviation from the median of all atlases, in robust standard deviations", ""),
    "duplicate": ("The atlas that is most alike", ""),
    "duplicate_dice": ("Mean Dice with it", ""),
    "finding": ("What seems wrong with the atlas; empty: nothing", ""),
    # Training
    "step": ("Step of the training", ""),
    "loss": ("The loss: the sum of the other terms", ""),
    "validation": ("The loss on what the training doesn't learn from", ""),
    "round": ("Round of the refinement", ""),
    "subjects": ("Number of subjects of the round", ""),
    "moved_mm": ("How far the template moved", "mm"),
    "changed": ("Root mean square change of the template's intensities", ""),
    # Modes of variation
    "mode": ("Mode of variation of the subjects' velocities", ""),
    "sd_mm": ("Root mean square over voxels of the velocity at one standard deviation", "mm"),
    "explained_variance": ("Share of the velocities' variance", ""),
    # Queries
    "covariate": ("Name of the covariate", ""),
    "template_mm3": ("Volume of the label in the template at the covariate's value", "mm^3"),
    "cohort_mm3": ("Volume of the label in the subjects, regressed on the covariate", "mm^3"),
    "cohort_ci95_low": ("Lower bound of its 95 % bootstrap interval", "mm^3"),
    "cohort_ci95_high": ("Upper bound of its 95 % bootstrap interval", "mm^3"),
}


def describe_columns(columns: Iterable[str]) -> dict[str, dict[str, str]]:
    """Describe columns as the sidecar of a BIDS table does.

    Args:
        columns: Names of columns; those that aren't in `COLUMNS`, such as a cohort's covariates, are left
            out.

    Example:
        >>> describe_columns(["volume_mm3"])
        {'volume_mm3': {'Description': 'Volume of the label in the segmentation', 'Units': 'mm^3'}}
    """
    known = {name: COLUMNS[name] for name in columns if name in COLUMNS}
    return {
        name: {"Description": text, **({"Units": unit} if unit else {})}
        for name, (text, unit) in known.items()
    }
