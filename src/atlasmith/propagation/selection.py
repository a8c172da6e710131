"""Atlas selection: the atlases that look most like a subject."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.grid import Array
from atlasmith.io.channels import present_channels, read_channels
from atlasmith.io.exclusion import valid_voxels
from atlasmith.io.images import read_labels
from atlasmith.io.tables import Subject
from atlasmith.io.transforms import read_composite
from atlasmith.propagation.resampling import bounding_box
from atlasmith.training.device import select_device


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
    labels, device = read_labels(layout.template_labels), select_device(config.device)
    grid = labels.grid
    box = bounding_box(torch.from_numpy(labels.data != 0).to(device), grid, config.fusion.margin)
    where = tuple(box or [slice(None)] * 3)

    def warped(scan: Subject) -> Tensor:
        return torch.from_numpy(read_channels(layout, scan, layout.warped).data[:, *where]).to(device)

    def valid(scan: Subject) -> Tensor:
        forward = read_composite(layout.forward(scan.id)) if scan.exclude is not None else []
        return torch.from_numpy(valid_voxels(layout, scan, forward, grid)[where]).to(device)

    own, own_valid, in_subject = warped(subject), valid(subject), present_channels(layout, subject)
    found = torch.stack([_correlation(own, warped(atlas), own_valid & valid(atlas)) for atlas in atlases])
    known = [np.logical_and(in_subject, present_channels(layout, atlas)) for atlas in atlases]
    correlations = np.where(known, found.cpu().numpy(), np.nan)
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


def _correlation(one: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """The correlation (C,) of images (C, X, Y, Z) in a mask (X, Y, Z); 0 where one is constant."""

    def standardized(image: Tensor) -> Tensor:
        image = image.double().flatten(1) * mask.flatten()
        mean = image.sum(1, keepdim=True) / mask.sum().clamp(min=1)
        centered = (image - mean) * mask.flatten()
        norm = centered.norm(dim=1, keepdim=True)
        return centered / norm.clamp(min=torch.finfo(norm.dtype).tiny)

    return (standardized(one) * standardized(other)).sum(1)
