"""Memory, time and GPUs of jobs: one model for the cohort's check, for schedulers, and for training.

The coefficients are lines through measurements (docs/scaling.md).
"""

from __future__ import annotations

from atlasmith.config import Config
from atlasmith.core.errors import InputError, Problem

# Stages that compute on a GPU, if there is one.
GPU_STAGES = ("template", "register", "template_labels", "propagate", "fuse_train", "fuse")

GIB = 2**30
# GiB of a job, and for each million voxels of the template's grid: images are taken to be about as large.
BASE_GIB, IMAGE_GIB = 1.0, 0.35
FUSION_SAMPLES_GIB = 4.0  # training samples of the fusion networks
PROPAGATED_GIB = 0.02  # labels and intensities of one propagated atlas, for each million voxels
TEMPLATE_LABELS_GIB = 0.4  # probabilities of some 130 labels, for each million voxels

# Bytes per voxel that autograd saves for one image's training step of the default network; a training
# measures those of its own network.
SAVED_BYTES = 181.0
CHANNEL_BYTES = 44.0  # more for each further channel of the images
CHANNEL_SECONDS = 0.15  # share of a step's time, likewise
STEP_OVERHEAD = 1.25  # peak memory of a step over what autograd saves
WEIGHT_COPIES = 4  # a weight, its gradient, and Adam's two moments

TRAINING_SECONDS = 600.0  # of a fusion network, at the default number of steps
STUDENT_SECONDS = 4200.0  # of the student, likewise
SPARE = 1.5  # of memory and time, over what was measured
SLOWDOWN = 4.0  # of an old cluster's core against those that were measured
STARTUP_MINUTES = 10.0


def training_bytes(
    voxels: float,
    batch_size: int,
    saved_per_voxel: float = SAVED_BYTES,
    weights: int = 0,
    overhead: float = STEP_OVERHEAD,
) -> float:
    """Estimate the peak memory of a training step.

    Args:
        voxels: Of the grid of training.
        batch_size: Images of a step, in one process.
        saved_per_voxel: Bytes that one image's step keeps for its gradient, for each voxel.
        weights: Number of weights; they count with their gradients and moments.
        overhead: Peak over what is kept for the gradient.

    Returns:
        Bytes, without the process itself.

    Example:
        >>> training_bytes(10**6, 4) > training_bytes(10**6, 2)
        True
    """
    return overhead * saved_per_voxel * batch_size * voxels + 4 * WEIGHT_COPIES * weights


def template_bytes(
    training: float, finest: float, batch_size: int, saved_per_voxel: float = SAVED_BYTES
) -> float:
    """Estimate the peak memory of stage template: of a training step, or of refinement, an image at a time.

    Args:
        training: Voxels of the grid of training.
        finest: Voxels of the template's grid.
        batch_size: As of `training_bytes`.
        saved_per_voxel: As of `training_bytes`.

    Returns:
        Bytes, without the process itself.
    """
    step = training_bytes(training, batch_size, saved_per_voxel)
    return max(step, training_bytes(finest, 1, saved_per_voxel))


def training_voxels(config: Config, voxels: float) -> float:
    """Estimate the voxels of the grid of training from those of the template's grid: too many in 3-D, where
    they could be the cube's share."""
    return voxels * (config.template.spacing / config.template.coarse_spacing) ** 2


def memory_mb(stage: str, config: Config, voxels: int, atlases: int) -> int:
    """Estimate the memory of one job on a CPU, with a reserve.

    Args:
        stage: Name of the rule.
        config: The run's config.
        voxels: Of the template's grid.
        atlases: Number of atlases of the cohort.

    Returns:
        MB, as a scheduler takes them.
    """
    millions = voxels / 1e6
    channels = len(config.cohort.channels)
    saved = SAVED_BYTES + CHANNEL_BYTES * (channels - 1)
    propagated = PROPAGATED_GIB * _propagated_maps(config) / 2 * _selected(config, atlases) * millions
    more = {
        "template": template_bytes(training_voxels(config, voxels), voxels, config.template.batch_size, saved)
        / GIB,
        "template_labels": TEMPLATE_LABELS_GIB * millions,
        "propagate": propagated,
        "fuse": propagated,
        "fuse_train": propagated + FUSION_SAMPLES_GIB,
    }
    return round(1024 * SPARE * (BASE_GIB + IMAGE_GIB * channels * millions + more.get(stage, 0)))


def runtime_minutes(stage: str, config: Config, voxels: int, subjects: int, atlases: int) -> int:
    """Estimate the time limit of one job on one core, with a reserve.

    Args:
        stage: Name of the rule.
        config: The run's config.
        voxels: Of the template's grid.
        subjects: Number of subjects of the job.
        atlases: Number of atlases of the cohort.

    Returns:
        Minutes.
    """
    seconds = expected_seconds(stage, config, voxels, subjects, atlases)
    return round(STARTUP_MINUTES + SPARE * SLOWDOWN * seconds / 60)


def expected_seconds(stage: str, config: Config, voxels: int, subjects: int, atlases: int) -> float:
    """Estimate the time of one job on one core of those that were measured.

    Args:
        stage: Name of the rule.
        config: The run's config.
        voxels: Of the template's grid.
        subjects: Number of subjects of the job.
        atlases: Number of atlases of the cohort.

    Returns:
        Seconds, without the start of the program.
    """
    millions, selected, maps = voxels / 1e6, _selected(config, atlases), _propagated_maps(config)
    template, rounds = config.template, config.template.refinement
    instance = config.register_.instance_optimization
    channels = len(config.cohort.channels)
    step = millions * (1 + CHANNEL_SECONDS * (channels - 1))
    optimization_step = 0.6 * step  # seconds
    optimized = max(rounds.rounds - 1, 0) * min(rounds.subjects, subjects) + min(rounds.rounds, 1) * subjects
    averaged = config.affine.iterations * min(config.affine.reference_subjects, subjects)
    seconds = {
        "affine_reference": averaged * (0.5 + millions),
        "preprocess": subjects * channels * (0.5 + (23 if config.preprocess.n4 else 3) * millions),
        "affine": subjects * (0.5 + 3 * millions),
        "template": template.steps * template.batch_size * 1.7 * step * training_voxels(config, 1)
        + optimized * rounds.steps * optimization_step,
        "register": subjects * (0.5 + instance.steps * optimization_step + 5 * millions),
        "propagate": subjects
        * selected
        * (0.05 + 1.5 * millions + instance.pairwise_steps * optimization_step),
        "fuse": subjects * (1 + maps * selected * millions),
        "fuse_train": _training_seconds(config)
        + maps * atlases * selected * millions
        + max(subjects - atlases, 0)
        * config.fusion.section("student").count
        * (1 + maps * selected * millions),
        "score": subjects * (1 + 10 * millions),
    }
    return seconds.get(stage, subjects * (0.1 + 0.5 * millions))


def gpus(stage: str, config: Config, here: int | None) -> int:
    """Count the GPUs that one job asks for.

    Args:
        stage: Name of the rule.
        config: The run's config.
        here: GPUs of this machine; None where jobs run elsewhere, so that `device: auto` asks for none.

    Returns:
        Their number: with `device: cuda`, or `auto` and GPUs here, one; for the template one a process.

    Example:
        >>> from atlasmith.config import parse_config
        >>> config = parse_config({"cohort": {"bids": "d"}, "template": {"batch_size": 4}, "processes": 2})
        >>> gpus("template", config, here=2), gpus("register", config, here=2), gpus("register", config, None)
        (2, 1, 0)
    """
    used = config.device == "cuda" or (config.device == "auto" and bool(here))
    if stage not in GPU_STAGES or not used:
        return 0
    return config.processes if stage == "template" else 1


def check_gpus(config: Config, here: int) -> None:
    """Refuse a config that asks for more GPUs than this machine has, before hours of other stages.

    Args:
        config: The run's config.
        here: GPUs of this machine.

    Raises:
        InputError: With `device: cuda` and no GPU, or with more `processes` than GPUs where there are some.
    """
    if config.device == "cuda" and not here:
        import torch  # which knows more kinds of GPUs

        here = torch.cuda.device_count()
    if config.device == "cuda" and not here:
        remedy = "Set `device: auto`, which uses the CPU here and a GPU where there is one."
        raise InputError([Problem("device", "'cuda', and this machine shows no GPU", remedy)])
    if gpus("template", config, here) > here:
        found = f"{config.processes}, and this machine has {here} GPU{'s' if here > 1 else ''}"
        raise InputError([Problem("processes", found, f"Set `processes: {here}`, or `device: cpu`.")])


def _propagated_maps(config: Config) -> int:
    """Count the maps of a propagated atlas: labels, each channel, and what is excluded."""
    return 1 + len(config.cohort.channels) + (config.cohort.exclude is not None)


def _selected(config: Config, atlases: int) -> int:
    """Count the atlases that are propagated to a subject."""
    return min(config.fusion.atlas_selection or atlases, atlases)


def _training_seconds(config: Config) -> float:
    """Time of the fusion network whose training takes the longest."""
    settings = {name: config.fusion.section(name) for name in config.fusion.networks}
    return max(
        (
            (STUDENT_SECONDS if name == "student" else TRAINING_SECONDS) * own.steps / type(own)().steps
            for name, own in settings.items()
        ),
        default=0.0,
    )
