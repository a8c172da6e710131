"""The affine stage: a groupwise reference, then every subject aligned to it."""

from atlasmith.affine.align import align_subject
from atlasmith.affine.reference import build_reference

__all__ = ["align_subject", "build_reference"]
