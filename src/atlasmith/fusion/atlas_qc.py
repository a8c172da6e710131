"""The atlases, judged by each other: whose labels differ from all others', and who came twice."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasmith.config import Config
from atlasmith.core.grid import Array
from atlasmith.core.labels import Counts, count_overlap, dice, label_index
from atlasmith.fusion.propagated import library_of, own_labels
from atlasmith.io.files import read_json
from atlasmith.io.images import read_labels
from atlasmith.io.tables import read_label_values, write_tsv

FEWEST = 5  # atlases, of which one can be told to differ
FAR = 5.0  # robust deviations
LEAST = 0.01  # that a deviation is at least, of Dice and of the logarithm of volumes
TWIN = 0.9  # Dice of twins at least

COLUMNS = [
    "atlas",
    "given_dice",
    "received_dice",
    "volume_ratio",
    "deviations",
    "twin",
    "twin_dice",
    "finding",
]


def audit(config: Config) -> None:
    """Write what each atlas gives and takes: the mean Dice of its labels on the other atlases, and of theirs
    on it, all propagated through the template; its volumes over those that the others give it; and who seems
    mislabelled, misplaced or there twice."""
    layout = config.layout
    values = np.array(read_label_values(layout.labels))
    atlases = library_of(layout)
    place = {atlas.id: index for index, atlas in enumerate(atlases)}
    overlaps = np.full((len(atlases), len(atlases)), np.nan)
    ratios = []
    for atlas in atlases:
        propagated = read_labels(layout.propagated_labels(atlas.id))
        own = label_index(own_labels(atlas, propagated.grid), values)
        voters = read_json(layout.propagated_sidecar(atlas.id))["atlases"]
        sizes = []
        maps = np.moveaxis(propagated.data.reshape(*propagated.grid.shape, -1), -1, 0)
        for name, labels in zip(voters, maps, strict=True):
            counts = count_overlap(own, label_index(propagated.grid.squeeze(labels), values), len(values))
            overlaps[place[name], place[atlas.id]] = mean_dice(counts)
            sizes.append(counts.predicted)
        ratios.append(volume_ratio(counts.truth, np.array(sizes)))
    findings = judge(overlaps, np.array(ratios))
    for atlas, row in zip(atlases, findings, strict=True):
        row["atlas"] = atlas.id
        if row["twin"] is not None:
            row["twin"] = atlases[row["twin"]].id
        if row["finding"]:
            print(f"audit: sub-{atlas.id}: {row['finding']}", flush=True)
    write_tsv(layout.atlas_qc, findings, COLUMNS)


def mean_dice(counts: Counts) -> float:
    """Over the labels that at least one map has."""
    scores = dice(counts)
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else np.nan


def volume_ratio(own: Array, theirs: Array) -> float:
    """An atlas's volumes (L,) over the median of those that others give it (N, L): the geometric mean."""
    usual = np.median(theirs, axis=0)
    known = (own > 0) & (usual > 0)
    return float(np.exp(np.log(own[known] / usual[known]).mean())) if known.any() else np.nan


def judge(overlaps: Array, ratios: Array) -> list[dict[str, Any]]:
    """A row an atlas, from the Dice (N, N) of the labels of the first on the second, NaN on the diagonal and
    where the first had no vote, and the volume ratios (N,).

    The overlap of two is taken as the sum of what the one gives and the other receives, so that nobody is
    judged by the company: what an atlas gives and receives, on average, is its own overlap.
    An atlas differs from all others whose own overlap lies `FAR` robust deviations below the median, or
    whose volume ratio is so far from the median. Twins overlap by so many deviations more than what each has
    with others lets expect.
    """
    enough = len(overlaps) >= FEWEST
    given, received = _known_mean(overlaps, axis=1), _known_mean(overlaps, axis=0)
    effects = _effects(overlaps)
    deviations = (effects - np.median(effects)) / _spread(effects)
    sizes = np.log(ratios)
    larger = (sizes - np.nanmedian(sizes)) / _spread(sizes)
    mutual = _known_mean(np.stack([overlaps, overlaps.T]), axis=0)
    surplus = mutual - (effects[:, None] + effects) / 2
    above = np.triu_indices(len(overlaps), 1)
    closeness = (surplus - np.nanmedian(surplus[above])) / _spread(surplus[above])
    closeness[np.isnan(closeness)] = -np.inf  # never together, as with itself
    rows = []
    for k in range(len(overlaps)):
        other = int(closeness[k].argmax())
        twin = other if closeness[k, other] > FAR and mutual[k, other] > TWIN else None
        finding = ""
        if enough and deviations[k] < -FAR:
            finding = "its labels, or where it lies, differ from all others'"
        elif enough and abs(larger[k]) > FAR:
            finding = "its labels are of another size than the others'"
        elif enough and twin is not None:
            finding = "it seems to be the same image as its twin"
        rows.append(
            {
                "given_dice": float(given[k]),
                "received_dice": float(received[k]),
                "volume_ratio": float(ratios[k]),
                "deviations": float(deviations[k]),
                "twin": other if finding and twin is not None else None,
                "twin_dice": float(mutual[k, other]),
                "finding": finding,
            }
        )
    return rows


def robust_deviation(values: Array) -> float:
    """That of a normal distribution with the same median distance to the median; NaN is skipped."""
    return 1.4826 * float(np.nanmedian(np.abs(values - np.nanmedian(values))))


def _known_mean(values: Array, axis: int) -> Array:
    """The mean of what isn't NaN; NaN where all is."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(axis=axis), known.sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _effects(overlaps: Array) -> Array:
    """Half of what each gives and receives, over the mean of all: least squares over what is known."""
    known = ~np.isnan(overlaps)
    above = np.where(known, overlaps - np.nanmean(overlaps), 0)
    given, received = np.diag(known.sum(axis=1)), np.diag(known.sum(axis=0))
    sums = np.concatenate([above.sum(axis=1), above.sum(axis=0)])
    both = np.linalg.lstsq(np.block([[given, known], [known.T, received]]).astype(float), sums)[0]
    return both.reshape(2, -1).mean(axis=0)


def _spread(values: Array) -> float:
    return max(robust_deviation(values), LEAST)
