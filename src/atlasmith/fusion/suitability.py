"""Whether a scan is of the kind that a run was made for, as its registration to the template tells.

Measures of the registration are how similar the scan and the template are around the labels, how much of
these lies in the field of view, how intensities are distributed, how the scan lies and how large it is, and
how much it was deformed. The run's own scans tell what is usual. A scan's *nonconformity* is the largest
deviation of a measure from the median, in robust standard deviations; beyond a threshold, which about 1 % of
scans of the run's kind exceed, the scan is unusual, and nothing that was calibrated on the atlases holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.core.boxes import bounding_box, widened
from atlasmith.core.grid import Array, Grid
from atlasmith.core.world import CPU, apply_affine, transform_points, world_points
from atlasmith.fusion.atlas_qc import robust_deviation
from atlasmith.io.files import require
from atlasmith.io.images import read_grid, read_image, read_labels, read_mask
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject, read_cohort, read_tsv
from atlasmith.io.transforms import read_affine, read_composite
from atlasmith.losses.similarity.filters import box_mean

TAIL = 4.0  # the nonconformity that about 1 % of scans exceed, over the median one
LEAST_THRESHOLD = 4.0  # robust standard deviations
LEAST_SCANS, MOST_SCANS = 3, 100  # that a model is fitted to
MARGIN = 3  # voxels of the template's grid around its labels, in which the scan is compared with it
WINDOW = 7  # voxels, of local correlation
LEAST_VARIANCE = 1e-4  # of intensities in a window; intensities are in [0, 1]
LEAST_VOXELS = 10  # in view, from which on intensities are compared
QUANTILES = np.linspace(0.05, 0.95, 19)  # of the intensities, by which distributions are compared


@dataclass(frozen=True)
class Measure:
    """A measure of a registered scan.

    Attributes:
        text: What it is, for a sentence.
        transform: To what is about normally distributed, and larger for a worse scan.
        least_scale: Of its deviations, so transformed.
        two_sided: Whether it may be too low, too.
    """

    text: str
    transform: Callable[[float], float]
    least_scale: float
    two_sided: bool = False


MEASURES = {
    "similarity": Measure("correlation with the template", lambda x: math.log(1.01 - x), 0.2),
    "local_similarity": Measure("local correlation with the template", lambda x: math.log(1.01 - x), 0.2),
    "intensities": Measure(
        "distance of its intensities from the usual ones", lambda x: math.log(x + 0.02), 0.2
    ),
    "field_of_view": Measure("share of the labels' region in view", lambda x: math.log(1.02 - x), 0.3),
    "scale": Measure("volume relative to the template", math.log, 0.05, two_sided=True),
    "stretch": Measure("ratio of its largest to its smallest scale", math.log, 0.03),
    "rotation_deg": Measure("rotation against the template in degrees", float, 3.0),
    "deformation": Measure("deviation of the log-Jacobian", lambda x: math.log(x + 0.01), 0.15),
}


@dataclass(frozen=True)
class Measurements:
    """What was measured of one scan.

    Attributes:
        values: By name of the measure; of each channel by `measure:channel`.
        quantiles: Of the intensities in the region, by channel.
        participant: Whose scan it is; empty for one of its own.
    """

    values: dict[str, float] = field(default_factory=dict)
    quantiles: dict[str, Array] = field(default_factory=dict)
    participant: str = ""


class TemplateRegion:
    """The surroundings of the template's labels, in which scans are compared with the template.

    Args:
        layout: Of a run with a labeled template.
        device: Where scans are compared.
    """

    def __init__(self, layout: Layout, device: torch.device = CPU) -> None:
        labels = read_labels(require(layout.template_labels, "template-labels"))
        occupied = torch.from_numpy(labels.data).to(device) != 0
        box = bounding_box(occupied) or [slice(0, n) for n in occupied.shape]
        self.device, self.box = device, widened(box, MARGIN, occupied.shape)
        inside = occupied[self.box]
        self.mask = _dilated(inside | ~inside.any(), MARGIN)
        self.points = world_points(labels.grid.cropped(self.box), device)[self.mask.flatten()]
        self.templates = {
            channel: self.cropped(layout.template_channel(channel)) for channel in layout.channels
        }

    def cropped(self, path: Path) -> Tensor:
        """Read the part of an image on the template's grid that surrounds the labels."""
        return torch.from_numpy(np.ascontiguousarray(read_image(path).data[self.box])).to(self.device)


def _dilated(mask: Tensor, steps: int) -> Tensor:
    """Add the voxels that share a face with a mask (X, Y, Z), so many times."""
    for _ in range(steps):
        grown = mask.clone()
        for axis, size in enumerate(mask.shape):
            grown.narrow(axis, 1, size - 1).logical_or_(mask.narrow(axis, 0, size - 1))
            grown.narrow(axis, 0, size - 1).logical_or_(mask.narrow(axis, 1, size - 1))
        mask = grown
    return mask


def measure(layout: Layout, scan: Subject, region: TemplateRegion) -> Measurements:
    """Measure a registered scan.

    Args:
        layout: Names its files.
        scan: The scan.
        region: Of the run's template.
    """
    channels = [name for name in layout.channels if not scan.channels or name in scan.channels]
    visible = _in_view(layout, scan, read_grid(layout.preprocessed(scan.id, channels[0])), region)
    pose = _pose(read_affine(layout.affine(scan.id)))
    count = int(visible.sum())
    found = Measurements({"field_of_view": count / len(visible), **pose}, {}, scan.participant)
    for row in read_tsv(layout.registration_table(scan.id)):
        if row["metric"] == "sd_log_jacobian":
            found.values["deformation"] = float(row["value"])
    if count < LEAST_VOXELS:
        return found
    for channel in channels:
        warped = region.cropped(layout.warped(scan.id, channel))
        local = local_correlation(warped, region.templates[channel])
        own, template, local = (x[region.mask][visible] for x in (warped, region.templates[channel], local))
        found.values[f"similarity:{channel}"] = correlation(own, template)
        found.values[f"local_similarity:{channel}"] = float(local.mean())
        found.quantiles[channel] = np.quantile(own.cpu().numpy(), QUANTILES)
    return found


def _in_view(layout: Layout, scan: Subject, native: Grid, region: TemplateRegion) -> Tensor:
    """Tell which of the region's points lie in a scan's field of view, and may be learned from."""
    points = transform_points(read_composite(layout.forward(scan.id)), region.points)
    voxels = apply_affine(np.linalg.inv(native.affine), points).round().long().unbind(dim=1)
    visible = torch.ones_like(voxels[0], dtype=torch.bool)
    for place, size in zip(voxels, native.shape, strict=True):
        visible &= (place >= 0) & (place < size)
    if layout.valid_mask(scan.id).exists():
        valid = torch.from_numpy(read_mask(layout.valid_mask(scan.id)).data).to(region.device)
        visible &= valid[tuple(x.clamp(0, n - 1) for x, n in zip(voxels, native.shape, strict=True))]
    return visible


def _pose(affine: Array) -> dict[str, float]:
    """Measure scale, stretch and rotation of a pull-back (4, 4), by its singular values."""
    left, scales, right = np.linalg.svd(affine[:3, :3])
    cosine = (np.trace(left @ right) - 1) / 2
    return {
        "scale": float(np.prod(scales)),
        "stretch": float(scales.max() / scales.min()),
        "rotation_deg": float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))),
    }


def correlation(a: Tensor, b: Tensor) -> float:
    """Compute Pearson's correlation; 0 where one is constant."""
    a, b = (x.double() - x.double().mean() for x in (a, b))
    product, *squares = torch.stack([a @ b, a @ a, b @ b]).tolist()
    scale = math.sqrt(math.prod(squares))
    return product / scale if scale > 0 else 0.0


def local_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Compute the correlation of two images (X, Y, Z) in a window around each voxel, with its sign."""
    width = [WINDOW if n > 1 else 1 for n in a.shape]
    a, b = a.double(), b.double()
    maps = torch.stack([a, b, a * a, b * b, a * b])[None]
    padded = F.pad(maps, [w // 2 for w in width[::-1] for _ in range(2)], mode="replicate")
    mean_a, mean_b, *squares, product = box_mean(padded, width)[0]
    variances = [
        (square - mean.square()).clamp(min=LEAST_VARIANCE)
        for square, mean in zip(squares, (mean_a, mean_b), strict=True)
    ]
    return (product - mean_a * mean_b) / (variances[0] * variances[1]).sqrt()


def read_measurements(layout: Layout) -> list[Measurements]:
    """Measure the scans that tell what is usual: the atlases and those that built the template."""
    region = TemplateRegion(layout)
    usual = [s for s in read_cohort(layout.cohort, "register") if s.role == "atlas" or s.in_template]
    usual.sort(key=lambda scan: scan.role != "atlas")
    return [measure(layout, scan, region) for scan in usual[:MOST_SCANS]]


def fit_suitability(scans: Sequence[Measurements]) -> dict[str, Any]:
    """Fit what is usual.

    The threshold is a multiple of the median nonconformity, each scan's against those of other participants:
    it needs no hundred scans, as a quantile does, and bears unsuitable ones among them. Of 200 hippocampi,
    0.3 to 1.5 % exceed that of 4 to 100 others.

    Args:
        scans: Of the run's kind.

    Returns:
        `scans`, their number; the median `quantiles` of intensities; of each of the `measures` the `median`,
        and the `center` and `scale` of its transformed values; and the `threshold`, None for too few scans.
    """
    channels = {channel for scan in scans for channel in scan.quantiles}
    quantiles = {
        channel: np.median([s.quantiles[channel] for s in scans if channel in s.quantiles], axis=0)
        for channel in sorted(channels)
    }
    values = [_with_intensities(scan, quantiles) for scan in scans]
    model: dict[str, Any] = {
        "scans": len(scans),
        "quantiles": {channel: found.tolist() for channel, found in quantiles.items()},
        "measures": _moments(values),
        "threshold": None,
    }
    participants = [scan.participant or f"scan {k}" for k, scan in enumerate(scans)]
    if len(set(participants)) >= LEAST_SCANS:
        others = (
            _moments([v for v, name in zip(values, participants, strict=True) if name != own])
            for own in participants
        )
        found = [max(_deviations(own, m).values()) for own, m in zip(values, others, strict=True)]
        model["threshold"] = max(TAIL * float(np.median(found)), LEAST_THRESHOLD)
    return model


def review_reasons(
    layout: Layout, scan: Subject, quality: Mapping[str, Any], device: torch.device = CPU
) -> list[str]:
    """Say what is unusual about a registered scan.

    Args:
        layout: Of the run.
        scan: The scan.
        quality: Of the run, from `Layout.quality_model`; empty where none was fitted.
        device: Where the scan is compared with the template.

    Returns:
        See `find_reasons`; nothing without a model.
    """
    model = quality.get("Suitability")
    return find_reasons(measure(layout, scan, TemplateRegion(layout, device)), model) if model else []


def find_reasons(scan: Measurements, model: Mapping[str, Any]) -> list[str]:
    """Say what is unusual about a scan.

    Args:
        scan: Its measurements.
        model: From `fit_suitability`.

    Returns:
        A sentence for each measure beyond the threshold, the largest deviation first; none for a usual scan.
    """
    if model["threshold"] is None:
        return []
    quantiles = {channel: np.array(found) for channel, found in model["quantiles"].items()}
    values = _with_intensities(scan, quantiles)
    deviations = _deviations(values, model["measures"])
    beyond = [name for name, size in deviations.items() if size > model["threshold"]]
    beyond.sort(key=lambda name: -deviations[name])
    return [
        f"{_text(name)} is {values[name]:.2f}, where that of this run's scans is about "
        f"{model['measures'][name]['median']:.2f}."
        for name in beyond
    ]


def _text(name: str) -> str:
    measure_name, _, channel = name.partition(":")
    text = MEASURES[measure_name].text
    return f"The {text}{f' ({channel})' if channel else ''}"


def _with_intensities(scan: Measurements, quantiles: Mapping[str, Array]) -> dict[str, float]:
    """The values of all measures, with the distance of intensities from the usual quantiles."""
    distances = {
        f"intensities:{channel}": float(np.abs(own - quantiles[channel]).mean())
        for channel, own in scan.quantiles.items()
        if channel in quantiles
    }
    return scan.values | distances


def _transformed(name: str, value: float) -> float:
    return MEASURES[name.partition(":")[0]].transform(value)


def _moments(scans: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Median of each measure, and robust center and scale of its transformed values."""
    moments = {}
    for name in dict.fromkeys(name for scan in scans for name in scan):
        values = [scan[name] for scan in scans if name in scan]
        transformed = np.array([_transformed(name, value) for value in values])
        least = MEASURES[name.partition(":")[0]].least_scale
        moments[name] = {
            "median": float(np.median(values)),
            "center": float(np.median(transformed)),
            "scale": max(robust_deviation(transformed), least),
        }
    return moments


def _deviations(scan: Mapping[str, float], moments: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """How many scales each measure deviates from the center, in the direction that counts."""
    found = {}
    for name, value in scan.items():
        if name in moments:
            deviation = (_transformed(name, value) - moments[name]["center"]) / moments[name]["scale"]
            found[name] = abs(deviation) if MEASURES[name.partition(":")[0]].two_sided else deviation
    return found
