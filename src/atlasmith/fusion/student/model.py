"""The student's networks, and how they segment a target by its image and the atlases' votes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from atlasmith.fusion.aligned import Box
from atlasmith.fusion.fuser import LabelProbabilities, Predictor
from atlasmith.fusion.probabilities import weighted_probabilities
from atlasmith.fusion.propagated import PropagatedAtlases
from atlasmith.io.weights import read_network
from atlasmith.networks import CrossFitted, SubpixelUNet, label_channels, label_codes
from atlasmith.training.device import autocast, select_device

MOST_PROBABLE = 6  # labels of a voxel whose probabilities are kept
LEAST = 0.01  # smaller probabilities are set to 0


class Student(nn.Module):
    """Hold cross-fitted U-Nets from an image and votes to logits of its labels.

    Args:
        values: The labels, sorted, with background.
        channels: Widths of the U-Nets' levels, finest first.
        without: Ids of the atlases that each U-Net is trained without.
        ndim: 2 or 3.
        inputs: Channels of an image.
        patch: Side of a training patch, voxels, on which targets are segmented, too.
        precision: See `atlasmith.training.device.autocast`.
    """

    values: Tensor
    codes: Tensor

    def __init__(
        self,
        values: Sequence[int],
        channels: Sequence[int],
        without: Sequence[Sequence[str]],
        ndim: int,
        inputs: int,
        patch: int,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        self.register_buffer("values", torch.tensor(values, dtype=torch.int32), persistent=False)
        self.register_buffer("codes", label_codes(len(values) - 1), persistent=False)
        self.patch, self.precision = patch, precision
        self.settings = {
            "values": list(values),
            "channels": list(channels),
            "without": [list(ids) for ids in without],
            "ndim": ndim,
            "inputs": inputs,
            "patch": patch,
            "precision": precision,
        }
        sizes = ndim, inputs + len(self.codes), len(values), channels
        self.networks: CrossFitted[SubpixelUNet] = CrossFitted(
            (SubpixelUNet(*sizes) for _ in without), without
        )

    def votes(self, labels: Tensor, voting: Tensor | None = None) -> Tensor:
        """Encode the atlases' votes as channels, see `atlasmith.networks.label_codes`.

        Args:
            labels: (N, *shape), of the atlases; none: without votes, all is 0.
            voting: (N, *shape), which of them have a vote; None: all.

        Returns:
            (K, *shape), from 0 to 1.
        """
        total = torch.zeros(len(self.codes), *labels.shape[1:], device=labels.device)
        for index, own in enumerate(labels):
            found = label_channels(self.positions(own)[None], self.codes)[0]
            total += found if voting is None else found * voting[index]
        return total / (max(len(labels), 1) if voting is None else voting.sum(dim=0).clamp(min=1))

    def positions(self, labels: Tensor) -> Tensor:
        """Return the positions of labels (*shape) among all of them; 0 is background."""
        return torch.searchsorted(self.values, labels.contiguous(), out_int32=True)

    @torch.inference_mode()
    def probabilities(self, atlases: PropagatedAtlases, subject: str) -> LabelProbabilities:
        """Compute each label's probability on one target, from its image and the atlases' votes.

        Args:
            atlases: The propagated atlases; with none of them the image alone counts.
            subject: The target's id; of an atlas, only networks that were trained without it are applied.

        Returns:
            Each label, in rising order, its box, and its probability there. Where the target is excluded, it
            is the share of the votes.
        """
        networks, target = self.networks.for_subject(subject), atlases.target
        shape = target.shape[1:]
        count = min(MOST_PROBABLE, len(self.values))
        labels = torch.zeros(count, *shape, dtype=torch.int32, device=target.device)
        shares = torch.zeros(count, *shape, device=target.device)
        for tile, around, inner in tiles(shape, self.patch):
            voting = None if atlases.votes is None else atlases.votes[:, *around]
            parts = [target[:, *around], self.votes(atlases.labels[:, *around], voting)]
            inputs = torch.cat(parts)[None]
            with autocast(target.device, self.precision, segments=True):
                logits = [net(inputs) for net in networks]
            mean = torch.stack(logits).float().softmax(dim=2).mean(dim=0)
            found, order = mean[0][:, *inner].topk(count, dim=0)
            values = self.values[order]
            small = found < LEAST
            shares[:, *tile] = found.masked_fill(small, 0)
            labels[:, *tile] = values.where(~small, values[:1])
        if atlases.comparable is None:
            return weighted_probabilities(labels, shares)
        votes = torch.ones_like(atlases.labels) if atlases.votes is None else atlases.votes
        weights = [shares * atlases.comparable, votes * ~atlases.comparable]
        return weighted_probabilities(torch.cat([labels, atlases.labels]), torch.cat(weights))


def tiles(shape: Sequence[int], side: int) -> Iterator[tuple[Box, Box, Box]]:
    """Divide a grid into tiles, each with surroundings of at most `side` voxels along each axis.

    An axis of at most `side` voxels is one tile; along a longer one the surroundings reach a quarter of
    `side` further on either side.

    Args:
        shape: Of the grid.
        side: Size of the surroundings, voxels.

    Yields:
        A tile of the grid, its surroundings, and where it lies in these.

    Example:
        >>> [(tile[0].start, around[0].start, inner[0].start) for tile, around, inner in tiles([40], 32)]
        [(0, 0, 0), (24, 8, 16)]
    """
    halo, axes = side // 4, []
    for size in shape:
        start, parts = 0, []
        while start < size:
            first = max(0, min(start - halo, size - side))
            last = min(size, first + side)
            stop = size if last == size else last - halo
            parts.append((slice(start, stop), slice(first, last), slice(start - first, stop - first)))
            start = stop
        axes.append(parts)
    for chosen in itertools.product(*axes):
        yield (
            tuple(part[0] for part in chosen),
            tuple(part[1] for part in chosen),
            tuple(part[2] for part in chosen),
        )


def read_predictor(path: Path, device: str) -> Predictor:
    """Read a trained student onto a device (`auto`, `cpu` or `cuda`), and return its `probabilities`."""
    return read_network(path, Student).to(select_device(device)).probabilities
