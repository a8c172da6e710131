"""What docs/results.md says around the figures: topics, main figures, headings."""

from __future__ import annotations

from typing import NamedTuple

INTRODUCTION = """\
<!-- Written by benchmarks/results_page.py from benchmarks/results/*.csv: edit those. -->
# Results
Dice is the mean over labels, then over targets. Intervals are 95 % bootstrap intervals over subjects. Below a
table stand the number of subjects, targets or pairs (*n*), the version of atlasmith with its commit and date,
the hardware, and the command that gives the figures; a number in brackets marks a figure from another source.
Where the commit that was measured is not known, the commit that recorded the figure is given. Commands name
methods and options as the current version does.

The cohorts lie outside the repository; `--bids` names their folder where it is not the example's.
`hippocampus` is 200 cropped T1 volumes of the Medical Segmentation Decathlon (Task04), 30 of them atlases and
50 targets; `oasis2d` is 120 axial slices of OASIS-1, 30 atlases and 30 targets; `brain` is the 35 T1 volumes
of the MICCAI 2012 multi-atlas labeling challenge, 15 of them atlases with 134 labels; `demo` is 20 brains
that `make demo` makes with known deformations.

What was tried and not kept is in the [research log](research-log.md). The data of this page are
`benchmarks/results/*.csv`, in long format; `benchmarks/results.py` describes the columns.
"""
SUPERSEDED_TEXT = (
    "Figures of earlier versions that newer ones replace, kept where the comparison is of interest."
)


class Topic(NamedTuple):
    """One file of figures, and its section of the page."""

    name: str
    title: str
    text: str


TOPICS = (
    Topic(
        "segmentation",
        "Multi-atlas segmentation",
        """\
`single_atlas` is the mean over single atlases, each brought to the target through the template. ECE is the
expected calibration error (15 bins) at the voxels where the atlases' labels disagree. Time is per target,
from warped atlases in memory to labels.""",
    ),
    Topic(
        "quality",
        "Estimated quality of segmentations",
        """\
Predicted against true Dice (Pearson's r and mean absolute error), over targets and over single labels, and
how often the 90 % interval of a volume contains the manual volume. Images that the run was not made for
should be warned of, and proper ones should not.""",
    ),
    Topic(
        "peers",
        "Comparison with other tools",
        """\
All tools of a table see the same images. atlasmith registers each subject once, to the template; its time per
pair is that of warping the labels.""",
    ),
    Topic(
        "registration",
        "Registration",
        """\
The export difference compares images that SimpleITK resamples by the exported composite transforms with those
of atlasmith, in percent of the intensity range.""",
    ),
    Topic(
        "exam",
        "Exam of registration methods",
        """\
One task for all, at equal budgets: a network is trained from the affine alignment to the template of a
finished run, then atlases and targets are registered to it, and single atlases are propagated through it.
Tables come in pairs: without and with instance optimization. A parametrization is that of the default network
and of the optimization after it. An optimizer follows the default network, or starts from the affine
alignment. Other tools (peer) register the same aligned images to the same template; without optimization, all
that starts from the affine alignment is that. Differences are to the default network, `unet_half`, over the
same targets; each network was trained once, with one seed. Rows of 0.12.0 are from before Adam smoothed its
updates, and differ from the default of that time. HD95 is that of 5 atlases; memory is that of the
process, with the images of the cohort; time is that of one registration, on one core. Folding and inverse
consistency are those of the maps to and from the template.""",
    ),
    Topic(
        "ablation",
        "Ablation of registration",
        """\
Each table compares settings on the same subjects; figures of different tables do not compare. Time is per
subject, and per pair for pairwise steps.""",
    ),
    Topic(
        "template",
        "Template",
        """\
Ratios of sharpness (mean gradient), gradient energy and entropy focus criterion are to the mean of the
affinely aligned images. The mean displacement of the cohort at the template measures its centrality. The
slope ratio is the effect of the covariate in the template over that in the subjects.""",
    ),
    Topic(
        "gpu",
        "GPU",
        """\
Images are noise. A training step is forward and backward pass and the optimizer; host-fed, with the
transfer of the batch in half precision as training does it.""",
    ),
    Topic(
        "affine",
        "Affine registration",
        """\
A registration has failed where the correlation after it is 0.1 below the best that any tool found for the
image in either pose. The engine `torch` maximizes the correlation that is reported here, the others mutual
information.""",
    ),
    Topic(
        "demo",
        "Demo cohort with known deformations",
        """\
The target registration error (TRE) is against the planted deformations. The age effect is that of the
template's ventricles over the planted one. Dice is that of the 6 targets.""",
    ),
    Topic(
        "losses",
        "Losses and metrics against plain implementations",
        """\
Speedup and memory ratio are those of the plain form over ours; differences are relative. The plain form of
LNCC is a convolution with ones, whose window sums lose digits where the image hardly varies; there the
gradients differ. That of MIND-SSC at 160 x 192 x 160 treats borders differently. That of the surface metrics
calls the package surface-distance for each label, and that of the non-diffeomorphic volume was timed on 8
labels.""",
    ),
    Topic(
        "scaling",
        "Time and memory",
        """\
[Large cohorts and clusters](scaling.md) extrapolates these figures. The time of a stage is the sum over its
jobs, the memory that of the largest job.""",
    ),
    Topic("robustness", "Reproducibility and robustness", "Small synthetic cohorts of the tests."),
)
WHOLE = "all 200 subjects, whole workflow"
TARGETS = "50 targets, 30 atlases, native grid"
LEFT_OUT = "15 atlases left out in turn, evaluated at 2 mm"
LEFT_OUT_1_MM = "15 atlases left out in turn, native 1 mm grid"
PAIRS = "60 pairs of an atlas and a target"
# Text, topic, and the key of the figure: dataset, method, metric, note.
HEADLINES = (
    (
        "Hippocampus, 50 targets: Dice of `autocontext`",
        *("segmentation", "hippocampus", "autocontext", "dice", TARGETS),
    ),
    (
        "Hippocampus, 50 targets: Dice of the majority vote",
        "segmentation",
        "hippocampus",
        "majority",
        "dice",
        TARGETS,
    ),
    (
        "Hippocampus, 50 targets: Dice of single atlases",
        "segmentation",
        "hippocampus",
        "single_atlas",
        "dice",
        TARGETS,
    ),
    (
        "Brains, left out in turn, 2 mm: Dice of `autocontext`",
        *("segmentation", "brain", "autocontext", "dice", LEFT_OUT),
    ),
    (
        "Brains, left out in turn, 2 mm: Dice of joint label fusion",
        "segmentation",
        "brain",
        "jlf",
        "dice",
        LEFT_OUT,
    ),
    (
        "Brains, left out in turn, 1 mm: Dice of `autocontext`, all 142 labels",
        "segmentation",
        "brain",
        "autocontext",
        "dice",
        LEFT_OUT_1_MM,
    ),
    (
        "Brains, left out in turn, 1 mm: Dice of `autocontext`, the 134 labels that MICCAI 2012 scored",
        *(
            "segmentation",
            "brain",
            "autocontext",
            "dice",
            f"{LEFT_OUT_1_MM}, the 134 labels of the challenge",
        ),
    ),
    ("Hippocampus, 60 pairs: Dice of atlasmith", "peers", "hippocampus", "atlasmith", "dice", PAIRS),
    ("Hippocampus, 60 pairs: Dice of greedy", "peers", "hippocampus", "greedy", "dice", PAIRS),
    ("Hippocampus, 60 pairs: Dice of ANTs SyN", "peers", "hippocampus", "ANTs SyN", "dice", PAIRS),
    (
        "Hippocampus: mean displacement at the template",
        *("template", "hippocampus", "atlasmith", "mean_displacement_mm", WHOLE),
    ),
    (
        "Hippocampus: voxels with a non-positive Jacobian determinant",
        *("registration", "hippocampus", "atlasmith", "nonpositive_jacobian_percent", WHOLE),
    ),
    (
        "Hippocampus: inverse consistency",
        "registration",
        "hippocampus",
        "atlasmith",
        "inverse_consistency_mm",
        WHOLE,
    ),
    (
        "Hippocampus: whole workflow of 200 subjects on one core",
        *("scaling", "hippocampus", "without atlas labels", "time_min", "whole workflow"),
    ),
    (
        "Hippocampus: one new subject, `atlasmith predict`",
        *("scaling", "hippocampus", "whole command, start of Python included", "time_s"),
        "one new subject, 30 atlases",
    ),
    ("Demo: TRE, median", "demo", "demo", "atlasmith", "tre_median_mm", "20 subjects, 6 targets"),
)
NAMES = {
    "age_effect_ratio": "age effect ratio",
    "bridge_dice": "bridge Dice",
    "dice": "Dice",
    "dice_autocontext": "Dice, autocontext",
    "dice_difference": "difference of Dice",
    "dice_local_weighted": "Dice, local weighting",
    "dice_majority": "Dice, majority vote",
    "dice_minus_jlf": "Dice minus JLF's",
    "dice_minus_majority": "Dice minus majority's",
    "dice_single_atlas": "Dice, single atlases",
    "ece_percent": "ECE (%)",
    "error_correlation": "correlation of errors",
    "failed_percent": "failed (%)",
    "failed_rotated_percent": "failed, rotated (%)",
    "export_difference_worst_percent": "export difference, worst subject (%)",
    "hd95_mm": "HD95 (mm)",
    "loss_difference_max": "largest difference of the loss",
    "mean_displacement_border_mm": "mean displacement near the border (mm)",
    "mse_difference": "MSE difference",
    "mse_wilcoxon_p": "p of the MSE difference",
    "ncc": "NCC",
    "ncc_difference": "NCC difference",
    "ncc_rotated": "NCC, rotated",
    "ncc_wilcoxon_p": "p of the NCC difference",
    "nondiffeomorphic_volume_percent": "non-diffeomorphic volume (%)",
    "nonpositive_jacobian_percent": "non-positive Jacobian (%)",
    "nonpositive_jacobian_worst_percent": "non-positive Jacobian, worst subject (%)",
    "predicted_dice_mae_labels": "error, labels",
    "predicted_dice_mae_targets": "error, targets",
    "predicted_dice_r_labels": "r, labels",
    "predicted_dice_r_targets": "r, targets",
    "seconds": "time (s)",
    "shifts_found_beyond_anatomy_percent": "shifts found, beyond anatomy (%)",
    "shifts_found_percent": "shifts found (%)",
    "slope_ratio_seed_1": "slope ratio, seed 1",
    "slope_ratio_seed_2": "slope ratio, seed 2",
    "slope_per_year": "slope (1/year)",
    "time_exponent_subjects": "exponent, subjects",
    "time_exponent_voxels": "exponent, voxels",
    "tre_median_mm": "TRE, median (mm)",
    "tre_median_mm_difference": "difference of the TRE (mm)",
    "tre_quantile_95_mm": "TRE, 95th percentile (mm)",
    "volume_interval_coverage_percent": "coverage of volume intervals (%)",
    "wilcoxon_p_against_majority": "p against majority",
}
