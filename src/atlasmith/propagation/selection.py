"""Atlas selection: the atlases that look most like a subject."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atlasmith.config import Config
from atlasmith.core.grid import Array
from atlasmith.io.channels import present_channels, read_channels
from atlasmith.io.exclusion import valid_voxels
from atlasmith.io.images import read_labels
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject
from atlasmith.io.transforms import read_composite
from atlasmith.propagation.resampling import bounding_box


def select_atlases(config: Config, subject: Subject, atlases: Sequence[Subject]) -> Sequence[Subject]:
    """Select the atlases whose warped images correlate most with the subject's around the template's labels.

    Registration has written the warped images in template space (Aljabar et al. 2009,
    doi:10.1016/j.neuroimage.2009.02.018). Correlations are averaged over channels, and excluded voxels take
    no part.

    Args:
        config: The run's config; `fusion.atlas_selection` is their number, None for all.
        subject: To be segmented.
        atlases: To select from.

    Returns:
        The selected atlases, in their order.
    """
    layout, count = config.layout, config.fusion.atlas_selection
    if count is None or count >= len(atlases):
        return atlases
    labels = read_labels(layout.template_labels)
    box = tuple(bounding_box(labels.data != 0, labels.grid, config.fusion.margin) or [slice(None)] * 3)

    def valid(scan: Subject) -> Array:
        if scan.exclude is None:
            return np.ones(labels.grid.shape, dtype=bool)[box]
        return valid_voxels(layout, scan, read_composite(layout.forward(scan.id)), labels.grid)[box]

    own, own_valid = _warped(layout, subject, box), valid(subject)
    in_subject = present_channels(layout, subject)
    correlations = np.full((len(atlases), len(own)), np.nan)
    for index, atlas in enumerate(atlases):
        theirs, in_atlas = _warped(layout, atlas, box), present_channels(layout, atlas)
        both_valid = own_valid & valid(atlas)
        for channel in np.flatnonzero(np.logical_and(in_subject, in_atlas)):
            pair = (_standardized(data[channel][both_valid]) for data in (theirs, own))
            correlations[index, channel] = float(np.dot(*pair))
    selected = sorted(np.argsort(_mean_of_channels(correlations))[-count:].tolist())
    return [atlases[index] for index in selected]


def _mean_of_channels(correlations: Array) -> Array:
    """The mean (A,) over channels of correlations (A, C).

    A channel that an atlas doesn't have (NaN) counts as the mean of the others, since channels differ in how
    well they correlate; one that no atlas has doesn't count.
    """
    known = ~np.isnan(correlations)
    shared = known.any(axis=0)
    if not shared.any():
        return np.zeros(len(correlations))
    usual = np.nanmean(correlations[:, shared], axis=0)
    return np.where(known[:, shared], correlations[:, shared], usual).mean(axis=1)


def _warped(layout: Layout, subject: Subject, box: tuple[slice, ...]) -> Array:
    """The channels (C, *box) of a subject in template space."""
    return read_channels(layout, subject, layout.warped).data[:, *box]


def _standardized(values: Array) -> Array:
    """Intensities (N,) less their mean, of length 1."""
    centered: Array = values - values.mean()
    return centered / max(float(np.linalg.norm(centered)), np.finfo(np.float32).tiny)
