"""How fusion's networks are trained: each by its own settings, into its own files."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from atlasmith import __version__
from atlasmith.config import Config
from atlasmith.training import fit


def learn(
    config: Config,
    name: str,
    network: nn.Module,
    step: Callable[[int], dict[str, Tensor]],
    atlases: int,
) -> None:
    """Fit the network of `name` on so many atlases, by `step` as `fit` has it, with AdamW."""
    settings, layout = getattr(config.fusion, name), config.layout
    stages = ("cohort", "affine", "template", "register", "fusion")
    fit(
        module=network,
        optimiser=torch.optim.AdamW(network.parameters(), lr=settings.learning_rate),
        step=step,
        steps=settings.steps,
        checkpoint=layout.fuser_checkpoint(name),
        table=layout.fuser_training(name),
        every=settings.checkpoint_every,
        digest=f"{config.digest(*stages)}-{atlases}-{__version__}",
        description=name,
    )
