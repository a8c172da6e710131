"""Output folders with known contents: a ball of two labels, its image, and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Array, Grid
from atlasmith.io.files import write_json
from atlasmith.io.images import write_image
from atlasmith.io.tables import SCAN_COLUMNS, Subject, scan_columns, write_cohort, write_tsv

EVIL = "<script>alert('x')</script>$\\frac{&"
SHAPES = {"2-D": (24, 20, 1), "2-D, thin first axis": (1, 24, 20), "3-D": (18, 20, 16)}
SHIFT = 3  # voxels by which a subject is misplaced after the affine
ATLASES, TARGETS = 6, 4
SCORES = [*SCAN_COLUMNS, "stage", "method", "label", "metric", "value", "unit"]
SUMMARY = ["stage", "method", "label", "metric", "unit", "mean", "sd", "median", "n", "ci95_low", "ci95_high"]
VOLUMES = ["index", "name", "volume_mm3", "volume_lower_mm3", "volume_upper_mm3", "predicted_dice"]
QUALITY = [*SCAN_COLUMNS, "method", "index", "dice", "volume_mm3", "manual_volume_mm3"]
METHODS = ["majority", "votenet"]
LABELS = {1: EVIL, 7: "b"}


def grid_of(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1.0, 1.0, 2.0)) -> Grid:
    return Grid(shape, np.diag([*spacing, 1.0]))


def ball(grid: Grid, shift: int = 0) -> Array:
    """Labels 1 and 7, halves of a ball around the middle, moved along the second axis."""
    middle = (np.array(grid.shape) - 1) / 2 + np.array([0, shift, 0])
    at = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1) - middle
    radius = np.linalg.norm(at[..., list(grid.axes)], axis=-1)
    inside = radius < min(grid.tensor_shape) / 3
    side = at[..., grid.axes[0]] > 0
    return np.where(inside, np.where(side, 7, 1), 0).astype(np.int32)


def image_of(labels: Array, seed: int = 0) -> Array:
    noise = np.random.default_rng(seed).random(labels.shape, dtype=np.float32)
    return (np.choose(np.searchsorted([1, 7], labels, side="right"), [0.0, 0.6, 0.9]) + 0.1 * noise).astype(
        np.float32
    )


def make_config(folder: Path, **sections: Any) -> Config:
    values: dict[str, Any] = {
        "output": str(folder / "out"),
        "cohort": {"bids": str(folder / "bids"), "covariates": ["age"]},
        "template": {"name": "Toy", "condition_on": ["age"], "evaluate_at": {"age": [20, 40]}},
        "fusion": {"methods": METHODS},
    }
    for name, value in sections.items():
        values[name] = {**values.get(name, {}), **value}
    return parse_config(values)


def write_subjects(
    config: Config, grid: Grid, truth: bool = True, ids: list[str] | None = None
) -> list[Subject]:
    """Write the checked cohort, its images, and their preprocessed forms."""
    folder = config.output.parent / "bids"
    subjects = []
    for number, name in enumerate(ids or [f"{n:02d}" for n in range(ATLASES + TARGETS)]):
        role = "atlas" if number < ATLASES else "target"
        labels = folder / f"{name}_dseg.nii.gz" if role == "atlas" or truth else None
        channels = config.layout.channels
        files = {c: folder / f"{name}_{c}.nii.gz" for c in channels}
        own = files if len(channels) > 1 else {}
        subject = Subject(name, role, files[channels[0]], labels, {"age": 30.0 + number}, channels=own)
        for channel in channels:
            image = image_of(ball(grid), number)
            write_image(config.layout.preprocessed(name, channel), image, grid)
        if labels:
            write_image(labels, ball(grid), grid)
        subjects.append(subject)
    write_cohort(config.layout.cohort, subjects, ["age"])
    write_json(config.layout.grid, grid.to_dict())
    return subjects


def write_results(config: Config, grid: Grid, subjects: list[Subject]) -> None:
    """Write what the later stages would have written."""
    layout = config.layout
    rows = [{"index": i, "name": name} for i, name in {0: "background", **LABELS}.items()]
    write_tsv(layout.labels, rows, ["index", "name"])
    labels = ball(grid)
    for channel in layout.channels:
        write_image(layout.template_channel(channel), image_of(labels), grid)
        for index in (1, 2):
            write_image(layout.template_at(index, channel), image_of(labels, index), grid)
    write_image(layout.affine_reference, image_of(labels, 3), grid)
    write_image(layout.template_labels, labels, grid)
    entries = {str(k): {"covariates": {"age": 20.0 * k}} for k in (1, 2)}
    write_json(layout.template_description, {"cohort": entries})
    write_tsv(
        layout.template_training,
        [{"step": i, "loss": 1 / i, EVIL: i % 3, "rare": i if i % 5 == 0 else None} for i in range(1, 700)],
        ["step", "loss", EVIL, "rare"],
    )
    for number, subject in enumerate(subjects):
        for channel in layout.channels:
            moved = image_of(ball(grid, SHIFT), number)
            write_image(layout.affine_image(subject.id, channel), moved, grid)
            write_image(layout.warped(subject.id, channel), image_of(labels), grid)
        write_segmentations(config, grid, subject, number)
    write_tables(config, subjects)


def write_segmentations(config: Config, grid: Grid, subject: Subject, number: int) -> None:
    """Both methods' labels; those by votenet are right, those by majority one voxel off."""
    layout = config.layout
    for method, shift in zip(METHODS, (1, 0), strict=True):
        labels = ball(grid, shift)
        write_image(layout.segmentation(subject.id, method), labels, grid)
        write_image(layout.confidence(subject.id, method), (labels > 0).astype(np.float32), grid)
        volumes = [
            {
                "index": index,
                "name": name,
                "volume_mm3": 1000.0 * (number + 1),
                "volume_lower_mm3": 900.0 * (number + 1),
                "volume_upper_mm3": 1100.0 * (number + 1),
                "predicted_dice": 0.8,
            }
            for index, name in LABELS.items()
        ]
        write_tsv(layout.volumes(subject.id, method), volumes, VOLUMES)
        review = {"NeedsReview": False, "ReviewReasons": []} if subject.role == "target" else {}
        predicted = {"PredictedDice": 0.8, "ExpectedDice": 0.85} if subject.role == "target" else {}
        write_json(
            layout.segmentation_sidecar(subject.id, method), {"FusionMethod": method, **predicted, **review}
        )


def write_tables(config: Config, subjects: list[Subject]) -> None:
    """Scores of the subjects, their summary, and the atlases' quality."""
    layout = config.layout
    scores, quality = [], []
    for number, subject in enumerate(subjects):
        row = {**scan_columns(subject.id), "stage": "register", "method": "warped", "unit": "1"}
        scores.append({**row, "metric": "ncc", "value": 0.5 + number / 100})
        scores.append({**row, "metric": "nonpositive_jacobian_percent", "value": 0.0, "unit": "%"})
        for method in METHODS:
            if subject.role == "atlas":
                left_out = {**row, "stage": "leave_one_out", "method": method, "metric": "dice"}
                scores.append({**left_out, "label": "mean", "value": 0.7 + number / 100})
                own = {**scan_columns(subject.id), "method": method, "volume_mm3": 1000}
                quality += [
                    {
                        **own,
                        "index": i,
                        "dice": 0.7 + number / 100,
                        "manual_volume_mm3": 1000.0 * (number + 1),
                    }
                    for i in LABELS
                ]
            else:
                fused = {**row, "stage": "fuse", "method": method, "metric": "dice"}
                scores += [
                    {**fused, "label": label, "value": value}
                    for label, value in (("1", 0.2), ("7", 0.4), ("mean", 0.3 + number / 100))
                ]
    write_tsv(layout.scores, scores, SCORES)
    write_tsv(layout.quality_table, quality, QUALITY)
    fused = {"stage": "fuse", "method": "votenet", "unit": "1"}
    interval = {"sd": 0.1, "n": 4, "ci95_low": 0.1, "ci95_high": 0.9}
    summary = [
        {**fused, **interval, "metric": metric, "label": label, "mean": value, "median": value}
        for metric, label, value in (("dice", "1", 0.2), ("dice", "7", 0.4), ("dice", "mean", 0.8125))
    ]
    sharpness = {"stage": "template", "method": "template", "metric": "gradient_energy_ratio", "unit": "1"}
    write_tsv(layout.summary, [*summary, {**sharpness, "mean": 1.37, "n": 1}], SUMMARY)


def make_run(folder: Path, shape: tuple[int, int, int], **sections: Any) -> Config:
    """Write a complete output folder."""
    config, grid = make_config(folder, **sections), grid_of(shape)
    write_results(config, grid, write_subjects(config, grid))
    return config
