"""What an image shows, as probabilities of labels: channels that registration compares beside intensities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.networks.unet import UNet, cut

CHANNELS = 16  # at most; more labels than that share them


def label_channels(labels: Tensor, values: Sequence[int]) -> Tensor:
    """Label maps (B, *shape) as the channels (B, C, *shape) of 0 and 1 that a segmenter of `values` shows."""
    maps = []
    for members in unions(len(values)):
        shown = torch.tensor([v for v, member in zip(values, members, strict=True) if member])
        maps.append(torch.isin(labels, shown.to(labels)))
    return torch.stack(maps, dim=1).float()


def unions(labels: int) -> Tensor:
    """Which of `labels` labels each channel shows: (channels, labels) of 0 and 1.

    A channel a label where there are few. Otherwise each channel shows half of the labels, drawn at random
    once and for all: two labels differ in about half of the channels, and any number costs the same.
    """
    if labels <= CHANNELS:
        return torch.eye(labels)
    random = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(labels, generator=random) for _ in range(CHANNELS)])
    return (order < labels // 2).float()


class Segmenter(nn.Module):
    """A U-Net from an image to `outputs` probabilities. Its first convolution is strided, and its logits are
    interpolated: smooth borders, and little but the image at full resolution."""

    def __init__(self, ndim: int, outputs: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.body = UNet(ndim, 1, outputs, channels, first_stride=2)

    def logits(self, image: Tensor) -> Tensor:
        """(B, 1, *shape) to (B, outputs, *shape)."""
        mode = "bilinear" if image.ndim == 4 else "trilinear"
        # With corners aligned a voxel's place would depend on where in the image it is, which no convolution
        # knows.
        finer = F.interpolate(self.body(image), scale_factor=2, mode=mode, align_corners=False)
        return cut(finer, image.shape[2:])

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, *shape) to probabilities (B, outputs, *shape)."""
        return self.logits(image).float().sigmoid()


def left_out(atlases: Sequence[str], count: int) -> list[list[str]]:
    """The atlases that each of at most `count` segmenters learns without: every atlas once, where there are
    two or more to share."""
    count = min(count, len(atlases))
    return [list(atlases[first::count]) for first in range(count)] if count > 1 else [[]]


class Segmenters(nn.Module):
    """Segmenters that learn from a part of the atlases each, so that there is one to see any of them as it
    sees the image of someone new (cross-fitting). `without` says what each learns without, by id."""

    def __init__(
        self, ndim: int, outputs: int, channels: Sequence[int], without: Sequence[Sequence[str]]
    ) -> None:
        super().__init__()
        self.without = [frozenset(ids) for ids in without]
        self.each: Sequence[Segmenter] = nn.ModuleList(  # type: ignore[assignment]
            Segmenter(ndim, outputs, channels) for _ in without
        )

    def forward(self, image: Tensor, ids: Sequence[str] = ()) -> Tensor:
        """(B, 1, *shape) to probabilities (B, outputs, *shape).

        ids: whose images these are; none for a template's. The segmenter that learned without an atlas sees
        its image, and all of them see others', whose probabilities are the mean.
        """
        if not ids:
            return torch.stack([segmenter(image) for segmenter in self.each]).mean(0)
        return torch.cat([self._one(image[i : i + 1], name) for i, name in enumerate(ids)])

    def _one(self, image: Tensor, name: str) -> Tensor:
        for segmenter, unseen in zip(self.each, self.without, strict=True):
            if name in unseen:
                return cast(Tensor, segmenter(image))
        return cast(Tensor, self(image))
