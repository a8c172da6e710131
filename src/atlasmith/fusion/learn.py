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
    training: str,
    network: nn.Module,
    step: Callable[[int], dict[str, Tensor]],
    atlases: int,
    decay: float = 0.01,
    keep_best: bool = False,
) -> None:
    """Fit a network on so many atlases, by `step` as `fit` has it, with AdamW of that decay of weights, in
    the settings of the fuser `name`, to the table and checkpoint of `training`; `keep_best` as in `fit`."""
    settings, layout = getattr(config.fusion, name), config.layout
    stages = ("cohort", "affine", "template", "register", "fusion")
    fit(
        module=network,
        optimiser=torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=decay),
        step=step,
        steps=settings.steps,
        checkpoint=layout.fuser_checkpoint(training),
        table=layout.fuser_training(training),
        every=settings.checkpoint_every,
        digest=f"{config.digest(*stages)}-{atlases}-{__version__}",
        description=training.replace("_", " "),
        keep_best=keep_best,
    )
