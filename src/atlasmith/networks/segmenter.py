"""Segmenters: label probabilities of an image, which registration compares in addition to intensities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.networks.blocks import crop
from atlasmith.networks.cross_fitting import CrossFitted
from atlasmith.networks.unet import UNet

MAX_CHANNELS = 16  # more labels than that are encoded by as many random subsets


def label_channels(indices: Tensor, codes: Tensor) -> Tensor:
    """Encode label maps as channels, the targets of a segmenter.

    Args:
        indices: Label maps (B, *shape), int32, as `core.labels.label_index` makes them: 0 is no label.
        codes: From `label_codes`, (C, labels), on the same device.

    Returns:
        Channels (B, C, *shape) of 0 and 1: whether a voxel's label is in the channel's subset of the labels.

    Example:
        >>> label_channels(torch.tensor([[0, 2, 1, 2]]), label_codes(2))
        tensor([[[0., 0., 1., 0.],
                 [0., 1., 0., 1.]]])
    """
    channels = F.pad(codes, (1, 0)).index_select(1, indices.flatten())
    return channels.unflatten(1, indices.shape).transpose(0, 1)


def label_codes(labels: int) -> Tensor:
    """Assign a subset of the labels to each channel.

    One channel for each label where there are at most 16. Otherwise each channel is a random half of the
    labels, always the same: two labels differ in about half of the channels, and any number of labels costs
    the same.

    Args:
        labels: Number of labels.

    Returns:
        (channels, labels) of 0 and 1: 1 where the label is in the channel's subset.
    """
    if labels <= MAX_CHANNELS:
        return torch.eye(labels)
    random = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(labels, generator=random) for _ in range(MAX_CHANNELS)])
    return (order < labels // 2).float()


class Segmenter(nn.Module):
    """Build a U-Net from an image to label probabilities.

    Its first convolution is strided, and its logits are interpolated: little but the image is at full
    resolution, and borders are smooth.

    Args:
        ndim: 2 or 3.
        outputs: Number of channels of labels.
        channels: Widths of the levels, finest first.
        inputs: Number of channels of an image.
    """

    def __init__(self, ndim: int, outputs: int, channels: Sequence[int], inputs: int = 1) -> None:
        super().__init__()
        self.body = UNet(ndim, inputs, outputs, channels, first_stride=2, single=False)

    def logits(self, image: Tensor) -> Tensor:
        """Map images (B, inputs, *shape) to logits (B, outputs, *shape)."""
        mode = "bilinear" if image.ndim == 4 else "trilinear"
        # With aligned corners the interpolation would depend on the position in the image, which convolutions
        # can't compensate.
        finer = F.interpolate(self.body(image), scale_factor=2, mode=mode, align_corners=False)
        return crop(finer, image.shape[2:])

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, inputs, *shape) to probabilities (B, outputs, *shape)."""
        return self.logits(image).float().sigmoid()


class Segmenters(CrossFitted[Segmenter]):
    """Build cross-fitted segmenters.

    Args:
        ndim: As in `Segmenter`.
        outputs: As in `Segmenter`.
        channels: As in `Segmenter`.
        without: The ids of the atlases that each segmenter is trained without.
        inputs: As in `Segmenter`.
    """

    def __init__(
        self,
        ndim: int,
        outputs: int,
        channels: Sequence[int],
        without: Sequence[Sequence[str]],
        inputs: int = 1,
    ) -> None:
        super().__init__((Segmenter(ndim, outputs, channels, inputs) for _ in without), without)

    def forward(self, image: Tensor, ids: Sequence[str] = ()) -> Tensor:
        """Average the probabilities of the segmenters trained without each image's subject.

        Args:
            image: (B, inputs, *shape).
            ids: The subject of each image; none for templates, which all segmenters predict.

        Returns:
            Probabilities (B, outputs, *shape).
        """
        if not ids:
            return self._mean_probabilities(image, self.each)
        subjects = zip(image.split(1), ids, strict=True)
        return torch.cat([self._mean_probabilities(one, self.for_subject(name)) for one, name in subjects])

    def _mean_probabilities(self, image: Tensor, segmenters: Iterable[Segmenter]) -> Tensor:
        """Mean probabilities (B, outputs, *shape) of some segmenters."""
        return torch.stack([segmenter(image) for segmenter in segmenters]).mean(0)
