"""Stage `fuse`: one segmentation from the labels of many atlases."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlasmith.fusion.arrays import FusedLabels, fuse
    from atlasmith.fusion.quality import assess_quality
    from atlasmith.fusion.stage import fuse_subject, segment_subject, train_fusers

__all__ = ["FusedLabels", "assess_quality", "fuse", "fuse_subject", "segment_subject", "train_fusers"]

_MODULES = {
    "FusedLabels": "arrays",
    "assess_quality": "quality",
    "fuse": "arrays",
    "fuse_subject": "stage",
    "segment_subject": "stage",
    "train_fusers": "stage",
}


def __getattr__(name: str) -> Any:
    """Import what this package exports when it is first used: checking a config must not import torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
