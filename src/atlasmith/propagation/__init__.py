"""Stage `propagate`: atlas labels and intensities in a subject's space, interpolated once."""

from atlasmith.propagation.stage import closest_atlases, label_from_template, label_template, propagate

__all__ = ["closest_atlases", "label_from_template", "label_template", "propagate"]
