"""Quality control of the atlases by each other: labels that differ from all others', and duplicate images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from atlasmith.config import Config
from atlasmith.core.grid import Array
from atlasmith.core.labels import Counts, count_overlap, dice, label_index
from atlasmith.fusion.propagated import manual_labels, read_atlases
from atlasmith.io.channels import EXCLUDES_REGIONS
from atlasmith.io.exclusion import valid_voxels
from atlasmith.io.files import read_json
from atlasmith.io.images import read_image, read_labels, read_mask
from atlasmith.io.tables import SCAN_COLUMNS, Subject, read_label_values, scan_columns, write_tsv

MIN_ATLASES = 5  # from which on one of them can be found to differ
MAX_DEVIATIONS = 5.0  # robust standard deviations from the median
MIN_DEVIATION = 0.01  # of Dice and of the logarithm of volumes, at least
DUPLICATE_DICE = 0.9  # of duplicates at least

COLUMNS = [
    *SCAN_COLUMNS,
    "dice_as_atlas",
    "dice_as_target",
    "volume_ratio",
    "robust_z",
    "duplicate",
    "duplicate_dice",
    "finding",
]


def check_atlases(config: Config) -> None:
    """Write a row of `COLUMNS` for each atlas, from the atlases propagated to each other.

    These are the mean Dice of its labels on the other atlases, and of theirs on it; its volumes over those
    that the others give it; and whether it seems mislabelled, misaligned or a duplicate. Excluded regions
    take no part.

    Args:
        config: The run's config.
    """
    layout = config.layout
    values = np.array(read_label_values(layout.labels))
    atlases = read_atlases(layout)
    position = {atlas.id: index for index, atlas in enumerate(atlases)}
    overlaps = np.full((len(atlases), len(atlases)), np.nan)
    ratios = []
    for atlas in atlases:
        propagated = read_labels(layout.propagated_labels(atlas.id))
        grid, sidecar = propagated.grid, read_json(layout.propagated_sidecar(atlas.id))
        own_valid = grid.squeeze(valid_voxels(layout, atlas, [], grid))
        own = np.where(own_valid, label_index(manual_labels(atlas, grid).numpy(), values), 0)
        maps = grid.squeeze(propagated.data.reshape(*grid.shape, -1))
        valid = np.broadcast_to(own_valid[..., None], maps.shape)
        if sidecar.get(EXCLUDES_REGIONS):
            others = read_mask(layout.propagated_valid(atlas.id)).data
            valid = valid & grid.squeeze(others.reshape(*grid.shape, -1))
        sizes = []
        for index, name in enumerate(sidecar["atlases"]):
            both = valid[..., index]
            labels = np.where(both, label_index(maps[..., index], values), 0)
            counts = count_overlap(np.where(both, own, 0), labels, len(values))
            overlaps[position[name], position[atlas.id]] = mean_dice(counts)
            sizes.append(counts.predicted)
        ratios.append(volume_ratio(np.bincount(own.ravel(), minlength=len(values) + 1)[1:], np.array(sizes)))
    prints = [_fingerprint(config, atlas) for atlas in atlases]
    copies = [
        next((k for k, other in enumerate(prints) if other == own and k != index), None)
        for index, own in enumerate(prints)
    ]
    rows = find_outliers(overlaps, np.array(ratios), copies)
    for atlas, row in zip(atlases, rows, strict=True):
        row.update(scan_columns(atlas.id))
        if row["duplicate"] is not None:
            row["duplicate"] = f"sub-{atlases[row['duplicate']].id}"
        if row["finding"]:
            print(f"quality: atlas sub-{atlas.id}: {row['finding']}", flush=True)
    write_tsv(layout.atlas_qc, rows, COLUMNS)


def _fingerprint(config: Config, atlas: Subject) -> str:
    """Hash an atlas's preprocessed images and labels, whatever their headers say."""
    layout, digest = config.layout, hashlib.sha256()
    for channel in layout.channels:
        path = layout.preprocessed(atlas.id, channel)
        digest.update(read_image(path).data.tobytes() if path.exists() else b"")
    if atlas.labels is not None:
        digest.update(read_labels(atlas.labels).data.tobytes())
    return digest.hexdigest()


def mean_dice(counts: Counts) -> float:
    """Return the mean Dice over the labels that at least one map has; NaN where there are none."""
    scores = dice(counts)
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else np.nan


def volume_ratio(own: Array, others: Array) -> float:
    """Compute the geometric mean, over labels, of an atlas's volume over the median of those given to it.

    Args:
        own: Volumes (L,) of its own labels.
        others: Volumes (N, L) of the labels that other atlases give it.

    Returns:
        The ratio; NaN where no label has both.
    """
    usual = np.median(others, axis=0)
    known = (own > 0) & (usual > 0)
    return float(np.exp(np.log(own[known] / usual[known]).mean())) if known.any() else np.nan


def find_outliers(
    overlaps: Array, ratios: Array, copies: Sequence[int | None] | None = None
) -> list[dict[str, Any]]:
    """Find atlases that differ from all others, and duplicates.

    The overlap of two atlases is modelled as the sum of an effect of the one as atlas and of the other as
    target, so that an atlas isn't rated by those it was compared with; its own effect is the mean of both. An
    atlas differs whose effect lies `MAX_DEVIATIONS` robust deviations below the median, or whose volume ratio
    is so far from the median. Duplicates overlap by so many deviations more than both effects predict.

    Args:
        overlaps: Dice (N, N) of the labels of the first atlas on the second; NaN on the diagonal and where
            the first wasn't propagated to the second.
        ratios: Volume ratios (N,).
        copies: For each atlas the position of another with the same voxels; None: no atlas is known to have
            one.

    Returns:
        A row of `COLUMNS` for each atlas, but its id; `duplicate` is a position, or None.
    """
    enough = len(overlaps) >= MIN_ATLASES
    as_atlas, as_target = _known_mean(overlaps, axis=1), _known_mean(overlaps, axis=0)
    effects = _effects(overlaps)
    effect_z = (effects - np.median(effects)) / _scale(effects)
    sizes = np.log(ratios)
    size_z = (sizes - np.nanmedian(sizes)) / _scale(sizes)
    mutual = _known_mean(np.stack([overlaps, overlaps.T]), axis=0)
    surplus = mutual - (effects[:, None] + effects) / 2
    above = np.triu_indices(len(overlaps), 1)
    surplus_z = (surplus - np.nanmedian(surplus[above])) / _scale(surplus[above])
    surplus_z[np.isnan(surplus_z)] = -np.inf  # an atlas with itself, and pairs that weren't compared
    rows = []
    for k in range(len(overlaps)):
        other = int(surplus_z[k].argmax())
        is_duplicate = surplus_z[k, other] > MAX_DEVIATIONS and mutual[k, other] > DUPLICATE_DICE
        finding = ""
        if enough and effect_z[k] < -MAX_DEVIATIONS:
            finding = "its labels or its alignment differ from all other atlases'"
        elif enough and abs(size_z[k]) > MAX_DEVIATIONS:
            finding = "its volumes differ from those of all other atlases"
        elif enough and is_duplicate:
            finding = "it seems to be a duplicate of another atlas"
        if copies and (copy := copies[k]) is not None:
            other, is_duplicate, finding = copy, True, "its image and labels are those of another atlas"
        rows.append(
            {
                "dice_as_atlas": float(as_atlas[k]),
                "dice_as_target": float(as_target[k]),
                "volume_ratio": float(ratios[k]),
                "robust_z": float(effect_z[k]),
                "duplicate": other if finding and is_duplicate else None,
                "duplicate_dice": float(mutual[k, other]),
                "finding": finding,
            }
        )
    return rows


def robust_deviation(values: Array) -> float:
    """Compute 1.4826 times the median absolute deviation from the median; NaN is skipped.

    For a normal distribution it is the standard deviation.
    """
    return 1.4826 * float(np.nanmedian(np.abs(values - np.nanmedian(values))))


def _known_mean(values: Array, axis: int) -> Array:
    """The mean of what isn't NaN; NaN where all is."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(axis=axis), known.sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _effects(overlaps: Array) -> Array:
    """The mean of each atlas's effects (N,) as atlas and as target, by least squares over known overlaps."""
    known = ~np.isnan(overlaps)
    centered = np.where(known, overlaps - np.nanmean(overlaps), 0)
    as_atlas, as_target = np.diag(known.sum(axis=1)), np.diag(known.sum(axis=0))
    sums = np.concatenate([centered.sum(axis=1), centered.sum(axis=0)])
    system = np.block([[as_atlas, known], [known.T, as_target]]).astype(float)
    return np.linalg.lstsq(system, sums)[0].reshape(2, -1).mean(axis=0)


def _scale(values: Array) -> float:
    return max(robust_deviation(values), MIN_DEVIATION)
