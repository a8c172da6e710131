"""Atlas selection: the atlases that look most like a subject."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atlasmith.config import Config
from atlasmith.core.grid import Array
from atlasmith.io.images import read_image, read_labels
from atlasmith.io.tables import Subject
from atlasmith.propagation.resampling import bounding_box


def select_atlases(config: Config, subject: Subject, atlases: Sequence[Subject]) -> Sequence[Subject]:
    """Select the atlases whose warped images correlate most with the subject's around the template's labels.

    Nothing is resampled: registration has written the warped images in template space (Aljabar et al. 2009,
    doi:10.1016/j.neuroimage.2009.02.018).

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
    box = bounding_box(labels.data != 0, labels.grid, config.fusion.margin) or [slice(None)] * 3

    def standardized(member: Subject) -> Array:
        data = read_image(layout.warped(member.id)).data[*box].ravel()
        centered: Array = data - data.mean()
        return centered / max(float(np.linalg.norm(centered)), np.finfo(np.float32).tiny)

    own = standardized(subject)
    correlations = [float(standardized(atlas) @ own) for atlas in atlases]
    selected = sorted(np.argsort(correlations)[-count:].tolist())
    return [atlases[index] for index in selected]
