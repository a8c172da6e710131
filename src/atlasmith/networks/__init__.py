"""Networks, by name, and the trained model that they are part of."""

from atlasmith.networks.blocks import BATCH_NORM
from atlasmith.networks.covariate_code import CovariateCode
from atlasmith.networks.cross_fitting import CrossFitted, held_out_folds
from atlasmith.networks.decoders import DECODERS, Decoder
from atlasmith.networks.groupwise import Groupwise
from atlasmith.networks.registration import NETWORKS, Network
from atlasmith.networks.registration.lkunet import reparameterize
from atlasmith.networks.segmenter import Segmenters, label_channels, label_codes
from atlasmith.networks.subpixel import SubpixelUNet
from atlasmith.networks.unet import UNet

__all__ = [
    "BATCH_NORM",
    "DECODERS",
    "NETWORKS",
    "CovariateCode",
    "CrossFitted",
    "Decoder",
    "Groupwise",
    "Network",
    "Segmenters",
    "SubpixelUNet",
    "UNet",
    "held_out_folds",
    "label_channels",
    "label_codes",
    "reparameterize",
]
