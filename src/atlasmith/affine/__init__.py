"""Stage `affine`: build a groupwise reference, then align every subject to it."""

from atlasmith.affine.search import align
from atlasmith.affine.stage import align_subject, build_reference

__all__ = ["align", "align_subject", "build_reference"]
