"""How fusion's networks are trained: each by its own settings, into its own files."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from atlasmith import __version__
from atlasmith.config import Config
from atlasmith.io.tables import read_cohort
from atlasmith.training.loop import fit
from atlasmith.workflow.provenance import fingerprint


def learn(
    config: Config,
    name: str,
    training: str,
    network: nn.Module,
    step: Callable[[int], dict[str, Tensor]],
    decay: float = 0.01,
    keep_best: bool = False,
) -> None:
    """Fit a network on the atlases, by `step` as `fit` has it, with AdamW of that decay of weights, in
    the settings of the fuser `name`, to the table and checkpoint of `training`; `keep_best` as in `fit`."""
    settings, layout = getattr(config.fusion, name), config.layout
    everyone = [s for s in read_cohort(layout.cohort) if s.in_template or s.role == "atlas"]
    stages = ("cohort", "affine", "template", "register", "fusion")
    fit(
        module=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=decay),
        step=step,
        steps=settings.steps,
        checkpoint=layout.fuser_checkpoint(training),
        table=layout.fuser_training(training),
        every=settings.checkpoint_every,
        digest=f"{config.digest(*stages)}-{fingerprint(layout.inputs, everyone)}-{__version__}",
        description=training.replace("_", " "),
        keep_best=keep_best,
    )
