"""Affine engines, by name: what optimizes a transform from given starts.

Each entry is a function declared with `AffineEngine.declare` in a module of this package, and a line in
ENGINES. An entry that needs torch imports it when it is called: the affine stage runs in many short jobs.
"""

from atlasmith.affine.engines.base import AffineEngine
from atlasmith.affine.engines.correlation import correlation
from atlasmith.affine.engines.mutual_information import mutual_information

ENGINES: dict[str, AffineEngine] = {
    "simpleitk": mutual_information,
    "torch": correlation,
}

__all__ = ["ENGINES", "AffineEngine"]
