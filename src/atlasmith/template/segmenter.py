"""Training what tells registration where the atlases' labels are in an image that has none.

After Atlas-ISTN (Sinclair et al. 2022, doi:10.1016/j.media.2022.102383): template and images are compared as
one network segments them. Here the network is trained first, on the atlases alone, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith import __version__
from atlasmith.aligned import AlignedImages
from atlasmith.augmentation import augmented
from atlasmith.config import Config
from atlasmith.io.tables import read_label_values
from atlasmith.losses import SIMILARITY
from atlasmith.networks import Segmenter, label_channels
from atlasmith.training import autocast, fit, generator, one_cycle
from atlasmith.warp import warp


def train_segmenter(
    config: Config, segmenter: Segmenter, images: AlignedImages, atlases: Sequence[int], device: torch.device
) -> None:
    """Fit `segmenter` to the atlases' labels, shown as `label_channels`.

    `atlases` are indices of `images`. Cross-entropy and soft Dice, with random poses and intensities. A
    killed run goes on from its checkpoint, which stays, to the same weights.
    """
    settings, layout = config.template.segmenter, config.layout
    values = read_label_values(layout.labels)
    optimiser = torch.optim.AdamW(segmenter.parameters(), lr=settings.learning_rate)

    def step(index: int) -> dict[str, Tensor]:
        random = generator(config.seed, 20, index)
        drawn = torch.randint(len(atlases), (settings.batch_size,), generator=random)
        chosen = [atlases[int(i)] for i in drawn]
        image, mask = images.batch(chosen)
        labels = torch.stack([images.labels(i) for i in chosen])
        image, mask, moved = augmented(image, mask, random)
        labels = warp(labels[:, None].float(), moved, "nearest")
        truth, inside = label_channels(labels[:, 0], values).to(device), mask.to(device)
        with autocast(device):
            logits = segmenter.logits(image.to(device)).float()
        entropy = F.binary_cross_entropy_with_logits(logits, truth, inside.expand_as(truth))
        overlap = SIMILARITY["dice"](truth, logits.sigmoid(), inside)
        return {"loss": entropy + overlap, "entropy": entropy.detach(), "dice": overlap.detach()}

    fit(
        module=segmenter,
        optimiser=optimiser,
        step=step,
        steps=settings.steps,
        schedule=one_cycle(settings.steps),
        checkpoint=layout.segmenter_checkpoint,
        table=layout.segmenter_training,
        every=config.template.checkpoint_every,
        digest=f"{config.digest('cohort', 'affine')}-{settings.model_dump_json()}-{__version__}",
        description="segmenter",
    )
    segmenter.requires_grad_(False)
