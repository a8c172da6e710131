"""The training of fusion methods' networks: each with its own settings, to its own files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from atlasmith.config import Config
from atlasmith.fusion.propagated import read_atlases
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.training.checkpoints import Checkpoint
from atlasmith.training.loop import fit
from atlasmith.workflow.provenance import training_digest


def train_network(
    config: Config,
    section: str,
    table: str,
    network: nn.Module,
    step: Callable[[int], dict[str, Tensor]],
    weight_decay: float = 0.01,
    keep_best: bool = False,
    digest: str | None = None,
) -> None:
    """Train a network on the atlases, and perhaps on other scans, with AdamW.

    Args:
        config: The run's config.
        section: The fuser's config section, with `learning_rate`, `steps` and `checkpoint_every`.
        table: Name of the training table and of the checkpoint.
        network: The network, trained in place.
        step: The losses of a step, see `atlasmith.training.loop.fit`.
        weight_decay: Of AdamW.
        keep_best: Whether to keep the weights with the least validation loss, see `fit`.
        digest: Of what it is trained on, where that is more than the atlases, see `fuser_digest`.
    """
    settings, layout = config.fusion.section(section), config.layout
    fit(
        module=network,
        optimizer=torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=weight_decay
        ),
        step=step,
        steps=settings.steps,
        checkpoint=Checkpoint(layout.fuser_checkpoint(table), digest or fuser_digest(config)),
        table=layout.fuser_training(table),
        every=settings.checkpoint_every,
        description=table.replace("_", " "),
        keep_best=keep_best,
    )


def fuser_digest(config: Config, unlabelled: Sequence[Subject] = ()) -> str:
    """Identify what a network of fusion depends on.

    Args:
        config: The run's config.
        unlabelled: The scans that it is trained on besides the atlases.
    """
    layout = config.layout
    template_subjects = [s for s in read_cohort(layout.cohort, passed="affine") if s.in_template]
    sources = [*template_subjects, *read_atlases(layout), *unlabelled]
    stages = ("cohort", "preprocess", "affine", "template", "register", "fusion")
    return training_digest(config, stages, sources)
