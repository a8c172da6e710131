"""What an image shows, as probabilities of labels: channels that registration compares beside intensities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.networks.cross_fitting import CrossFitted
from atlasmith.networks.unet import UNet, crop

CHANNELS = 16  # at most; more labels than that share them


def label_channels(labels: Tensor, values: Sequence[int]) -> Tensor:
    """Label maps (B, *shape) as the channels (B, C, *shape) of 0 and 1 that a segmenter of `values` shows."""
    maps = []
    for members in label_codes(len(values)):
        shown = torch.tensor([v for v, member in zip(values, members, strict=True) if member])
        maps.append(torch.isin(labels, shown.to(labels)))
    return torch.stack(maps, dim=1).float()


def label_codes(labels: int) -> Tensor:
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
        return crop(finer, image.shape[2:])

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, *shape) to probabilities (B, outputs, *shape)."""
        return self.logits(image).float().sigmoid()


class Segmenters(CrossFitted[Segmenter]):
    """Segmenters, cross-fitted."""

    def __init__(
        self, ndim: int, outputs: int, channels: Sequence[int], without: Sequence[Sequence[str]]
    ) -> None:
        super().__init__((Segmenter(ndim, outputs, channels) for _ in without), without)

    def forward(self, image: Tensor, ids: Sequence[str] = ()) -> Tensor:
        """(B, 1, *shape) to probabilities (B, outputs, *shape).

        ids: whose images these are; none for a template's. The segmenter that learned without an atlas sees
        its image, and all of them see others', whose probabilities are the mean.
        """
        if not ids:
            return self._seen(image, self.each)
        one_by_one = zip(image.split(1), ids, strict=True)
        return torch.cat([self._seen(one, self.for_subject(name)) for one, name in one_by_one])

    def _seen(self, image: Tensor, segmenters: Iterable[Segmenter]) -> Tensor:
        return torch.stack([segmenter(image) for segmenter in segmenters]).mean(0)
