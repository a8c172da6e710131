"""Segmentation networks whose label probabilities registration compares beside intensities.

After Atlas-ISTN (Sinclair et al. 2022, doi:10.1016/j.media.2022.102383). Here the networks are trained first,
on the atlases alone, and then frozen.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.sampling import warp
from atlasmith.io.tables import read_label_values
from atlasmith.losses import SIMILARITY
from atlasmith.networks import Segmenters, label_channels
from atlasmith.training.augmentation import augment
from atlasmith.training.checkpoints import Checkpoint
from atlasmith.training.dataset import AlignedImages
from atlasmith.training.device import autocast, seeded_generator
from atlasmith.training.loop import fit
from atlasmith.workflow.provenance import training_digest


def train_segmenters(
    config: Config, segmenters: Segmenters, images: AlignedImages, device: torch.device
) -> None:
    """Fit cross-fitted segmenters to the atlases' labels, by cross-entropy and soft Dice, and freeze them.

    Images are augmented; each segmenter is trained on the atlases of a step that it doesn't leave out. A
    killed run resumes from its checkpoint, which stays, and ends at the same weights.

    Args:
        config: The run's config; `template.segmenter` decides.
        segmenters: The networks, on `device`.
        images: The cohort's images, of which the atlases' are used.
        device: Where to compute.
    """
    settings, layout = config.template.segmenter, config.layout
    values = read_label_values(layout.labels)
    atlases = [i for i, subject in enumerate(images.subjects) if subject.role == "atlas"]

    def step(index: int) -> dict[str, Tensor]:
        random = seeded_generator(config.seed, 20, index)
        drawn = torch.randint(len(atlases), (settings.batch_size,), generator=random)
        chosen = [atlases[int(i)] for i in drawn]
        image, mask = images.batch(chosen)
        labels = torch.stack([images.labels(i) for i in chosen])
        image, mask, moved = augment(image, mask, random)
        labels = warp(labels[:, None].float(), moved, "nearest")
        image, inside = image.to(device), mask.amax(dim=1, keepdim=True).to(device)
        truth = label_channels(labels[:, 0], values).to(device)
        terms: dict[str, list[Tensor]] = {"entropy": [], "dice": []}
        for segmenter, without in zip(segmenters.each, segmenters.without, strict=True):
            own = [k for k, i in enumerate(chosen) if images.subjects[i].participant not in without]
            if not own:
                continue
            with autocast(device, config.template.precision):
                logits = segmenter.logits(image[own]).float()
            weight = inside[own].expand_as(logits)
            terms["entropy"].append(F.binary_cross_entropy_with_logits(logits, truth[own], weight))
            terms["dice"].append(SIMILARITY["dice"](truth[own], logits.sigmoid(), inside[own]))
        means = {name: torch.stack(parts).sum() / len(segmenters.each) for name, parts in terms.items()}
        return {"loss": means["entropy"] + means["dice"], **{n: t.detach() for n, t in means.items()}}

    digest = training_digest(config, ("cohort", "preprocess", "affine"), images.subjects)
    fit(
        module=segmenters,
        optimizer=torch.optim.AdamW(segmenters.parameters(), lr=settings.learning_rate),
        step=step,
        steps=settings.steps,
        checkpoint=Checkpoint(layout.segmenter_checkpoint, f"{digest}-{settings.model_dump_json()}"),
        table=layout.segmenter_training,
        every=config.template.checkpoint_every,
        description="segmenters",
    )
    segmenters.requires_grad_(False)
