"""Registration networks, by name: two images to the velocity between them.

Each entry is a class with its `Network` in a module of this package, and a line in NETWORKS.
"""

from atlasmith.networks.registration.base import Network
from atlasmith.networks.registration.dual_stream import dual_stream
from atlasmith.networks.registration.lkunet import lkunet
from atlasmith.networks.registration.pyramid import pyramid
from atlasmith.networks.registration.transmorph import transmorph
from atlasmith.networks.registration.unets import strided_unet, voxelmorph

NETWORKS: dict[str, Network] = {
    "unet": voxelmorph,
    "unet_half": strided_unet,
    "lkunet": lkunet,
    "pyramid": pyramid,
    "dualstream": dual_stream,
    "transmorph": transmorph,
}

__all__ = ["NETWORKS", "Network"]
