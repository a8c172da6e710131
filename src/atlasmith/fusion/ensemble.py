"""The ensemble of trained fusion methods, whose errors differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atlasmith.fusion.fuser import Fuser, FusionInputs, LabelProbabilities

if TYPE_CHECKING:
    from atlasmith.fusion.aligned import Box

# Of the members. Chosen on hippocampi, each atlas by networks that were trained without it.
WEIGHTS = {"autocontext": 0.7, "student": 0.3}
LEAST = 1e-3  # added to probabilities for the mean, so that no member alone excludes a label


def _pool(inputs: FusionInputs) -> LabelProbabilities:
    """Compute the normalized geometric mean of the members' probabilities, by `WEIGHTS`."""
    import torch  # a config is checked against this table without it

    members = [{value: (box, found) for value, box, found in member} for member in inputs.prediction()]
    total = inputs.target.new_zeros(inputs.target.shape[1:])
    means = []
    for value in sorted(set().union(*members)):
        box = _union([member[value][0] for member in members if value in member])
        product = torch.ones_like(total[box])
        for member, weight in zip(members, WEIGHTS.values(), strict=True):
            full = torch.full_like(product, LEAST)
            if value in member:
                own, found = member[value]
                inside = zip(own, box, strict=True)
                full[tuple(slice(a.start - b.start, a.stop - b.start) for a, b in inside)] += found
            product *= full**weight
        mean = (product - LEAST).clamp(min=0)  # 0 where no member has the label
        total[box] += mean
        means.append((value, box, mean))
    for value, box, mean in means:
        yield value, box, mean / total[box]


def _union(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds some boxes."""
    return tuple(
        slice(min(s.start for s in along), max(s.stop for s in along)) for along in zip(*boxes, strict=True)
    )


ENSEMBLE = Fuser(
    function=_pool,
    text="Ensemble of auto-context fusion and the student: weighted geometric mean of their probabilities "
    "(logarithmic opinion pool, Genest and Zidek 1986, doi:10.1214/ss/1177013825).",
    members=tuple(WEIGHTS),
)
