"""Stage `fuse`: one segmentation from the labels of many atlases."""

from atlasmith.fusion.apply import fuse_subject
from atlasmith.fusion.votenet import train_votenet

__all__ = ["fuse_subject", "train_votenet"]
