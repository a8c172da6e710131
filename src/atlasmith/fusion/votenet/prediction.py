"""What a trained VoteNet predicts for one target."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from atlasmith.core.errors import AtlasmithError
from atlasmith.fusion.fuser import Predictor
from atlasmith.fusion.propagated import PropagatedAtlases
from atlasmith.fusion.votenet.network import VoteNet, agreement, input_channels
from atlasmith.io.weights import read_network
from atlasmith.training.device import select_device

BATCH_VOXELS = 2_000_000  # of one forward pass


class Prediction:
    """Reliability and error correlation of the atlases of one target; computed when they are first read.

    Args:
        path: The network's weights, named in errors.
        network: The trained network.
        atlases: The atlases propagated to the target.
        subject: The target's id.
    """

    def __init__(self, path: Path, network: VoteNet, atlases: PropagatedAtlases, subject: str) -> None:
        self.path, self.network, self.atlases = path, network, atlases

    @cached_property
    @torch.inference_mode()
    def reliability(self) -> Tensor:
        """The probability (N, *shape) that each atlas's label is right, computed some atlases at a time."""
        labels, images, target = self.atlases.labels, self.atlases.images, self.atlases.target
        # Of each part the agreement is replaced by the reliability, which needs no other memory.
        shares = agreement(labels, votes=self.atlases.votes)
        size = max(1, BATCH_VOXELS // labels[0].numel())
        for start in range(0, len(labels), size):
            some = slice(start, start + size)
            inputs = input_channels(
                target, images[:, some], labels[some], shares[some], **self.network.input_options
            )
            shares[some] = self.network.reliability(inputs, labels[some])
        return shares

    @cached_property
    def correlation(self) -> Tensor:
        """The correlation (N, N) of the atlases' errors; an atlas that training didn't have is an error."""
        rows = {name: row for row, name in enumerate(self.network.settings["atlases"])}
        if unknown := [name for name in self.atlases.ids if name not in rows]:
            raise AtlasmithError(
                f"{self.path}: it was trained without the atlas {unknown[0]}. Run `atlasmith fuse-train` "
                "again."
            )
        known = [rows[name] for name in self.atlases.ids]
        return self.network.correlation[known][:, known]


def read_predictor(path: Path, device: str) -> Predictor:
    """Read a trained VoteNet onto a device (`auto`, `cpu` or `cuda`); the predictor gives a `Prediction`."""
    return partial(Prediction, path, read_network(path, VoteNet).to(select_device(device)))
