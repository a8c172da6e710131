"""VoteNet: a network that predicts where an atlas's label is right (Ding et al. 2019,
doi:10.1007/978-3-030-32248-9_23).

Its inputs are the target's and the propagated atlas's intensities, and, beyond the paper, features that don't
depend on which label it is, so that one network serves 2 labels or 134: the share of the other atlases that
agree, the share of the neighborhood with the same label (near 1 inside a structure, lower at its boundary),
and whether the label is background; and a learned embedding of the label. The distance to the label's
boundary and smoothed images are optional inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.errors import look_up
from atlasmith.core.sampling import local_mean
from atlasmith.fusion.votenet.calibration import CALIBRATIONS
from atlasmith.networks import BATCH_NORM, UNet

CHANNELS = 5  # of the inputs for images of one channel, without optional ones
EMBEDDING = 4  # size of a label's embedding
RADIUS = 2  # of the neighborhood of a voxel, voxels
MAX_DISTANCE = 4  # to a label's boundary, voxels; larger ones are clipped


def agreement(labels: Tensor, count: int | None = None, votes: Tensor | None = None) -> Tensor:
    """Compute the share of the other atlases that agree with each atlas.

    Args:
        labels: (N, *shape), one map an atlas.
        count: Only for so many atlases, the first; all by default.
        votes: (N, *shape) booleans, which labels count; None: all.

    Returns:
        (count, *shape), in [0, 1].
    """
    shares = torch.empty_like(labels[:count], dtype=torch.float32)
    for k, share in enumerate(shares):  # one atlas at a time, which bounds memory
        same = labels == labels[k]
        if votes is None:
            share.copy_(same.sum(0, dtype=torch.int16)).sub_(1).div_(max(len(labels) - 1, 1))
        else:
            agree, others = (x.sum(0, dtype=torch.int16) - votes[k].short() for x in (same & votes, votes))
            torch.div(agree, others.clamp(min=1), out=share)
    return shares


def input_channels(
    target: Tensor, images: Tensor, labels: Tensor, agreeing: Tensor, boundary: bool = False, scales: int = 1
) -> Tensor:
    """Compute the network's inputs for N atlases on one target.

    Args:
        target: (C, *shape), in [0, 1]; 0 in a channel that it doesn't have.
        images: Of the atlases (C, N, *shape), likewise.
        labels: Of the atlases (N, *shape).
        agreeing: (N, *shape), from `agreement`.
        boundary: Whether to add the distance to the label's boundary.
        scales: 2 to add smoothed images.

    Returns:
        (N, channels, *shape).
    """
    ndim = labels.ndim - 1
    # Pairs of neighbors along each axis: cheap, and the same for any number of labels. Labels are taken to
    # continue beyond the image, so that a patch and the whole image have the same inputs.
    edges = torch.zeros_like(images[0])
    for axis in range(1, labels.ndim):
        pairs = labels.shape[axis] - 1
        differ = (labels.narrow(axis, 0, pairs) != labels.narrow(axis, 1, pairs)).float()
        edges.narrow(axis, 0, pairs).add_(differ)
        edges.narrow(axis, 1, pairs).add_(differ)
    near = local_mean(edges / (2 * ndim), RADIUS)
    pairs_of_images = list(zip(target, images, strict=True))
    channels = [image for own, others in pairs_of_images for image in (own.expand_as(others), others)]
    channels += [agreeing, 1 - near, (labels == 0).float()]
    if boundary:
        channels.append(_boundary_distance(edges > 0))
    if scales == 2:
        for own, others in pairs_of_images:
            channels += [local_mean(own[None], RADIUS).expand_as(others), local_mean(others, RADIUS)]
    return torch.stack(channels, dim=1)


def _boundary_distance(edges: Tensor) -> Tensor:
    """Chessboard distance (N, *shape) to the nearest voxel of `edges`, over `MAX_DISTANCE`, at most 1."""
    dilate = {2: F.max_pool2d, 3: F.max_pool3d}[edges.ndim - 1]
    reached, distance = edges[:, None].float(), torch.zeros_like(edges[:, None], dtype=torch.float32)
    for _ in range(MAX_DISTANCE):
        distance = distance + (1 - reached) / MAX_DISTANCE
        reached = dilate(reached, 3, 1, 1)
    return distance[:, 0]


class VoteNet(nn.Module):
    """The network, the calibration of its logits, and the correlation of the atlases' errors.

    `correlation` (A, A) is that of errors beyond what the probabilities explain; 1 on the diagonal.

    Args:
        ndim: 2 or 3.
        channels: Widths of the levels, finest first.
        boundary: Whether the distance to the label's boundary is an input.
        scales: 2 if smoothed images are inputs.
        calibration: A name of `CALIBRATIONS`.
        values: The labels, sorted, with background.
        atlases: Ids of the atlases.
        image_channels: Channels of the images.
    """

    correlation: Tensor
    values: Tensor

    def __init__(
        self,
        ndim: int,
        channels: Sequence[int],
        boundary: bool,
        scales: int,
        calibration: str,
        values: Sequence[int],
        atlases: Sequence[str],
        image_channels: int = 1,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "ndim": ndim,
            "channels": list(channels),
            "boundary": boundary,
            "scales": scales,
            "calibration": calibration,
            "values": list(values),
            "atlases": list(atlases),
            "image_channels": image_channels,
        }
        self.input_options: dict[str, Any] = {"boundary": boundary, "scales": scales}
        size = CHANNELS + boundary + 2 * (image_channels * scales - 1)
        self.embedding = nn.Embedding(len(values), EMBEDDING)
        # Batch normalization: unlike that of each image, its averages hold for patches, as in training, and
        # for whole images.
        self.body = UNet(ndim, size + EMBEDDING, 1, channels, norm=BATCH_NORM, single=False)
        self.calibration = look_up(CALIBRATIONS, calibration, "calibration")(size)
        self.calibration.requires_grad_(False)  # it is fitted afterwards
        self.register_buffer("correlation", torch.eye(len(atlases)))
        self.register_buffer("values", torch.tensor(values, dtype=torch.int32), persistent=False)

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Compute the logits that the atlases' labels are right.

        Args:
            inputs: (N, channels, *shape), from `input_channels`.
            labels: (N, *shape).

        Returns:
            (N, *shape), before calibration.
        """
        codes = torch.searchsorted(self.values, labels.int().contiguous()).clamp(max=len(self.values) - 1)
        logits: Tensor = self.body(torch.cat([inputs, self.embedding(codes).movedim(-1, 1)], dim=1))[
            :, 0
        ].float()
        return logits

    def reliability(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Compute the calibrated probability (N, *shape) that the labels are right; see `forward`."""
        calibrated: Tensor = self.calibration(self(inputs, labels), inputs.movedim(1, -1))
        return calibrated.sigmoid()
