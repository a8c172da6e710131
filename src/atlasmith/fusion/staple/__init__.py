"""STAPLE."""

from __future__ import annotations

from atlasmith.fusion.fuser import Fuser, lazy

staple = lazy("atlasmith.fusion.staple.expectation_maximization:staple")

STAPLE = Fuser(
    function=lambda inputs: staple(inputs.labels, inputs.votes),
    text="STAPLE (Warfield et al. 2004, doi:10.1109/TMI.2004.828354): the true segmentation and each atlas's "
    "confusion matrix are estimated from each other by expectation maximization.",
    needs_images=False,
)
