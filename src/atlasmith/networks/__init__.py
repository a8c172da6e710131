"""Networks, by name, and the trained object that they are part of.

What a registration network takes and gives, `atlasmith.networks.registration` tells.
"""

from atlasmith.networks.groupwise import CovariateCode, Groupwise
from atlasmith.networks.registration import NETWORKS, fold
from atlasmith.networks.segmenter import Segmenter, label_channels, unions
from atlasmith.networks.unet import UNet

__all__ = ["NETWORKS", "CovariateCode", "Groupwise", "Segmenter", "UNet", "fold", "label_channels", "unions"]
