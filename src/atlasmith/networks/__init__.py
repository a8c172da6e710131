"""Networks, by name, and the trained object that they are part of.

A registration network takes (ndim, in_channels, out_channels, channels, first_stride=2).
"""

from atlasmith.networks.groupwise import NETWORKS, CovariateCode, Groupwise
from atlasmith.networks.unet import UNet

__all__ = ["NETWORKS", "CovariateCode", "Groupwise", "UNet"]
