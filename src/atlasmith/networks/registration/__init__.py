"""Registration networks, by name: two images to the velocity between them.

Each entry is a class with its `Network` in a module of this package, and a line in NETWORKS.
"""

from atlasmith.networks.registration.base import Network
from atlasmith.networks.registration.cascades import cascades
from atlasmith.networks.registration.coordconv import coordconv
from atlasmith.networks.registration.cross_attention import dtn, transmatch, xmorpher
from atlasmith.networks.registration.cvae import cvae
from atlasmith.networks.registration.cyclemorph import cyclemorph
from atlasmith.networks.registration.deepflash import deepflash
from atlasmith.networks.registration.deformable import deformable
from atlasmith.networks.registration.diffusemorph import diffusemorph
from atlasmith.networks.registration.dirnet import dirnet
from atlasmith.networks.registration.dual_stream import dual_stream
from atlasmith.networks.registration.flownet import flownet
from atlasmith.networks.registration.hypermorph import hypermorph
from atlasmith.networks.registration.lkunet import lkunet
from atlasmith.networks.registration.matching import deformer, im2grid, modet
from atlasmith.networks.registration.ms_odenet import ms_odenet
from atlasmith.networks.registration.nicetrans import nicetrans
from atlasmith.networks.registration.pdd import pdd
from atlasmith.networks.registration.pivit import pivit
from atlasmith.networks.registration.progressive import progressive
from atlasmith.networks.registration.pyramid import conditional_lapirn, lapirn, pyramid
from atlasmith.networks.registration.quicksilver import quicksilver
from atlasmith.networks.registration.regnet import regnet
from atlasmith.networks.registration.sdhnet import sdhnet
from atlasmith.networks.registration.transmorph import transmorph
from atlasmith.networks.registration.unets import strided_unet, voxelmorph
from atlasmith.networks.registration.vitvnet import vitvnet
from atlasmith.networks.registration.vrnet import vrnet

NETWORKS: dict[str, Network] = {
    "unet": voxelmorph,
    "unet_half": strided_unet,
    "lkunet": lkunet,
    "pyramid": pyramid,
    "lapirn": lapirn,
    "progressive": progressive,
    "cascades": cascades,
    "sdhnet": sdhnet,
    "cyclemorph": cyclemorph,
    "dualstream": dual_stream,
    "transmorph": transmorph,
    "flownet": flownet,
    "dirnet": dirnet,
    "regnet": regnet,
    "quicksilver": quicksilver,
    "deepflash": deepflash,
    "coordconv": coordconv,
    "deformable": deformable,
    "cvae": cvae,
    "pdd": pdd,
    "im2grid": im2grid,
    "modet": modet,
    "deformer": deformer,
    "xmorpher": xmorpher,
    "transmatch": transmatch,
    "dtn": dtn,
    "vitvnet": vitvnet,
    "pivit": pivit,
    "nicetrans": nicetrans,
    "ms_odenet": ms_odenet,
    "vrnet": vrnet,
    "diffusemorph": diffusemorph,
    "hypermorph": hypermorph,
    "clapirn": conditional_lapirn,
}

__all__ = ["NETWORKS", "Network"]
