"""Networks, by name, and the trained object that they are part of.

What a registration network takes and gives, `atlasmith.networks.registration` tells.
"""

from atlasmith.networks.cross_fitting import CrossFitted, held_out_folds
from atlasmith.networks.decoder import DECODERS
from atlasmith.networks.groupwise import CovariateCode, Groupwise
from atlasmith.networks.registration import NETWORKS, reparameterize
from atlasmith.networks.segmenter import Segmenters, label_channels, label_codes
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
    "held_out_folds",
    "label_channels",
    "label_codes",
    "reparameterize",
]
