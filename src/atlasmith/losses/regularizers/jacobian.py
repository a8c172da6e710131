"""Regularizers of the Jacobian determinant of a map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from atlasmith.core.choices import CountOrZero, Positive
from atlasmith.core.fields import jacobian_determinant, per_channel
from atlasmith.losses.regularizers.base import Regularizer, average
from atlasmith.losses.regularizers.derivatives import average_over_simplices, determinant_of_map


@Regularizer.declare("Mean depth of folds. For maps without a velocity.", needs=("forward",))
def folding(
    forward: Tensor,
    spacing: Sequence[float],
    threshold: float = 0.0,
    corners: CountOrZero = 1,
    power: float = 1.0,
    voxel_weight: Tensor | None = None,
) -> Tensor:
    """Compute the mean of ReLU(threshold - J)^power over the Jacobian determinants J of phi.

    The defaults give the fraction of non-diffeomorphic volume (Liu et al. 2024,
    doi:10.1007/s11263-024-02047-1); threshold 0.5, power 2, corners 0 is the term of NODEO (Wu et al. 2022,
    arXiv:2108.03443).

    Args:
        threshold: Determinants below it have a cost.
        corners: 1: the determinants of all simplices of each cell (2-D: 4 corners; 3-D: 8, and 2 central
            tetrahedra), by volume. 0: by central differences, which miss a fold of one voxel (Mok and Chung
            2020, arXiv:2006.16148).
        power: Power of the penalty.
    """

    def penalty(determinant: Tensor) -> Tensor:
        return (threshold - determinant).relu() ** power

    if corners:
        return average_over_simplices(
            forward, spacing, lambda x: penalty(determinant_of_map(x)), voxel_weight
        )
    central = jacobian_determinant(forward / per_channel(spacing, forward))
    return average(penalty(central).unsqueeze(1), voxel_weight)


@Regularizer.declare("Mean absolute log Jacobian. For volumes that should stay.", needs=("forward",))
def log_jacobian(
    forward: Tensor, spacing: Sequence[float], floor: Positive = 0.01, voxel_weight: Tensor | None = None
) -> Tensor:
    """Compute the mean |log J| over the Jacobian determinants J of phi.

    Growth by a factor costs as much as shrinkage by it; phi(x) = s x gives d |log s| (Rohlfing et al. 2003,
    doi:10.1109/TMI.2003.814791).

    Args:
        floor: Below it the tangent replaces the logarithm, so that folds have a finite cost, which rises with
            their depth.
    """

    def density(gradient: Tensor) -> Tensor:
        determinant = determinant_of_map(gradient)
        above = determinant.clamp(min=floor)
        return (above.log() + (determinant - above) / floor).abs()

    return average_over_simplices(forward, spacing, density, voxel_weight)


@Regularizer.declare("Length and volume energy. For smooth maps that keep volumes.", needs=("forward",))
def hyperelastic(
    forward: Tensor,
    spacing: Sequence[float],
    length: float = 1.0,
    volume: float = 1.0,
    floor: Positive = 0.1,
    voxel_weight: Tensor | None = None,
) -> Tensor:
    """Compute the mean of length |Du|^2 + volume (J - 1)^4 / J^2, with J = det D phi.

    The length and volume terms of Burger et al. 2013 (doi:10.1137/110835955).

    Args:
        length: Weight of the first term.
        volume: Weight of the second term.
        floor: Below this J the tangent replaces the volume term, which is infinite at J <= 0, since a network
            may fold at first.
    """
    slope = 2 * (floor - 1) ** 3 * (floor + 1) / floor**3

    def energy(gradient: Tensor) -> Tensor:
        determinant = determinant_of_map(gradient)
        above = determinant.clamp(min=floor)
        change = (above - 1) ** 4 / above**2 + slope * (determinant - above)
        return length * gradient.square().sum(dim=(1, 2)) + volume * change

    return average_over_simplices(forward, spacing, energy, voxel_weight)
