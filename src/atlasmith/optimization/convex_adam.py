"""Adam that starts from a discrete search."""

from __future__ import annotations

import torch
from torch import Tensor

from atlasmith.optimization.descriptors import describe_both
from atlasmith.optimization.discrete_search import DiscreteSearch, Regularization
from atlasmith.optimization.objective import InstanceObjective
from atlasmith.optimization.optimizer import Optimizer
from atlasmith.optimization.refinement import refine


@Optimizer.declare("Discrete search in a cost volume, then Adam (ConvexAdam). For large displacements.")
def convex_adam(
    objective: InstanceObjective,
    start: Tensor,
    steps: int,
    learning_rate: float,
    grid: int = 6,
    reach: int = 4,
    radius: int = 1,
    dilation: int = 2,
    labels: float = 10.0,
    regularization: Regularization = "convex",
    planes: bool = False,
) -> list[Tensor]:
    """Search displacements on a coarse grid in both directions, then minimize the objective by Adam.

    (ConvexAdam, Siebert et al. 2021, arXiv:2112.03053; with `mean_field` the regularization of PDD-Net,
    Heinrich 2019, arXiv:1907.10931.) MIND-SSC descriptors are averaged over coarse voxels, and each one is
    compared to those within reach; Adam starts from the result or from `start`, whichever is better. Unlike
    theirs Adam minimizes the objective on the coefficients, averages at the border are over what lies within
    the image, equal costs mean no displacement, and what is masked isn't compared.

    Args:
        objective: As in `Optimizer`.
        start: Likewise.
        steps: Number of steps of Adam.
        learning_rate: Likewise of Adam.
        grid: Spacing of the coarse grid, in the smallest voxels; axes with larger ones take fewer.
        reach: Number of displacements on each side along each axis, one coarse voxel apart.
        radius: Of the descriptors, voxels: see `mind_ssc`.
        dilation: Likewise.
        labels: Factor of the squared differences of label probabilities, where there are any.
        regularization: `convex`: `coupled_convex`; `mean_field`: `mean_field`.
        planes: Whether to search in the planes of a volume alone, for less memory (Heinrich and Hansen 2020,
            MICCAI); displacements along all three axes at once are found less surely.

    Returns:
        A few iterates.
    """
    search = DiscreteSearch(grid, reach, regularization, planes)
    with torch.no_grad():
        features = describe_both(objective, radius, dilation, labels)
        found = search(*features, objective.spacing(objective.fixed.shape[2:]), start.shape[2:])
    return refine(objective, start, found, steps, learning_rate)
