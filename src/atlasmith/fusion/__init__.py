"""Stage `fuse`: one segmentation from the labels of many atlases."""

from atlasmith.config import Config
from atlasmith.fusion.apply import fuse_subject
from atlasmith.fusion.autocontext import train_autocontext
from atlasmith.fusion.quality import assess
from atlasmith.fusion.votenet import train_votenet

__all__ = ["assess", "fuse_subject", "train_fusers"]

TRAINERS = {"votenet": train_votenet, "autocontext": train_autocontext}


def train_fusers(config: Config) -> None:
    """Train each network that the config's fusion methods ask for."""
    for name in config.fusion.networks:
        TRAINERS[name](config)
