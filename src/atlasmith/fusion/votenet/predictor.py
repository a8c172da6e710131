"""A trained VoteNet, applied to one target."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array
from atlasmith.fusion.propagated import PropagatedAtlases
from atlasmith.fusion.votenet.network import VoteNet, agreement, input_channels
from atlasmith.io.weights import read_network
from atlasmith.training.device import select_device

BATCH_VOXELS = 2_000_000  # of one forward pass


class ReliabilityPredictor:
    """A trained VoteNet, read from its weights.

    Args:
        path: The weights.
        device: `auto`, `cpu` or `cuda`.
    """

    def __init__(self, path: Path, device: str) -> None:
        self.device, self.path = select_device(device), path
        self.network = read_network(path, VoteNet).to(self.device)

    def __call__(self, atlases: PropagatedAtlases, subject: str) -> VoteNetPrediction:
        """Return the prediction on one target, which is computed when it is read."""
        return VoteNetPrediction(self, atlases)

    @torch.inference_mode()
    def reliability(self, atlases: PropagatedAtlases) -> Array:
        """Compute the probability (N, *shape) that each atlas's label is right, some atlases at a time."""
        labels, images = torch.from_numpy(atlases.labels), torch.from_numpy(atlases.images)
        target = torch.from_numpy(atlases.target)
        agreeing = agreement(labels)
        size = max(1, BATCH_VOXELS // target.numel())
        parts = []
        for start in range(0, len(labels), size):
            some = slice(start, start + size)
            inputs = input_channels(
                target, images[some], labels[some], agreeing[some], **self.network.input_options
            )
            parts.append(self.network.reliability(inputs.to(self.device), labels[some].to(self.device)).cpu())
        return torch.cat(parts).numpy()

    def correlation(self, atlases: PropagatedAtlases) -> Array:
        """Look up the correlation (N, N) of the errors of a target's atlases.

        Raises:
            AtlasmithError: Where one of the atlases wasn't there in training.
        """
        rows = {name: row for row, name in enumerate(self.network.settings["atlases"])}
        if unknown := [name for name in atlases.ids if name not in rows]:
            raise AtlasmithError(
                f"{self.path}: it was trained without the atlas {unknown[0]}. Run `atlasmith fuse-train` "
                "again."
            )
        known = [rows[name] for name in atlases.ids]
        correlation: Array = self.network.correlation.cpu().numpy()[np.ix_(known, known)]
        return correlation


@dataclass(frozen=True)
class VoteNetPrediction:
    """What VoteNet predicts for one target; computed when it is first read."""

    predictor: ReliabilityPredictor
    atlases: PropagatedAtlases

    @cached_property
    def reliability(self) -> Array:
        """The probability (N, *shape) that each atlas's label is right."""
        return self.predictor.reliability(self.atlases)

    @cached_property
    def correlation(self) -> Array:
        """The correlation (N, N) of the atlases' errors."""
        return self.predictor.correlation(self.atlases)
