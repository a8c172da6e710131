"""Stage `propagate`: atlas labels and intensities in a subject's space, interpolated once."""

from atlasmith.propagation.stage import label_template, propagate, propagate_from_template, select_atlases

__all__ = ["label_template", "propagate", "propagate_from_template", "select_atlases"]
