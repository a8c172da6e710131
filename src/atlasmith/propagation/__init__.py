"""Stage `propagate`: atlas labels and intensities in a subject's space, interpolated once."""

from atlasmith.propagation.resampling import PropagatedLabels, propagate
from atlasmith.propagation.selection import select_atlases
from atlasmith.propagation.stage import propagate_subject
from atlasmith.propagation.template_labels import label_template, propagate_from_template

__all__ = [
    "PropagatedLabels",
    "label_template",
    "propagate",
    "propagate_from_template",
    "propagate_subject",
    "select_atlases",
]
