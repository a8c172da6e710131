"""Networks, by name, and the trained object that they are part of.

What a registration network takes and gives, `atlasmith.networks.registration` tells.
"""

from atlasmith.networks.cross_fitting import CrossFitted, left_out
from atlasmith.networks.decoder import DECODERS
from atlasmith.networks.groupwise import CovariateCode, Groupwise
from atlasmith.networks.registration import NETWORKS, fold
from atlasmith.networks.segmenter import Segmenters, label_channels, unions
from atlasmith.networks.unet import BATCH_NORM, UNet

__all__ = [
    "BATCH_NORM",
    "DECODERS",
    "NETWORKS",
    "CovariateCode",
    "CrossFitted",
    "Groupwise",
    "Segmenters",
    "UNet",
    "fold",
    "label_channels",
    "left_out",
    "unions",
]
