"""Segmentation networks whose label probabilities registration compares beside intensities.

After Atlas-ISTN (Sinclair et al. 2022, doi:10.1016/j.media.2022.102383). Here the networks are trained first,
on the atlases alone, and then frozen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.sampling import warp
from atlasmith.io.tables import read_label_values
from atlasmith.losses import SIMILARITY
from atlasmith.networks import Segmenters, label_channels, label_codes
from atlasmith.training.augmentation import augment
from atlasmith.training.checkpoints import Checkpoint
from atlasmith.training.dataset import AlignedImages
from atlasmith.training.device import autocast, seeded_generator
from atlasmith.training.loop import fit
from atlasmith.training.prefetch import Prefetch
from atlasmith.workflow.provenance import training_digest


def train_segmenters(config: Config, segmenters: Segmenters, images: AlignedImages) -> None:
    """Fit cross-fitted segmenters to the atlases' labels, by cross-entropy and soft Dice, and freeze them.

    Images are augmented; each segmenter is trained on the atlases of a step that it doesn't leave out. A
    killed run resumes from its checkpoint, which stays, and ends at the same weights.

    Args:
        config: The run's config; `template.segmenter` decides.
        segmenters: The networks, on the device of the images.
        images: The cohort's images, of which the atlases' are used.
    """
    settings, layout = config.template.segmenter, config.layout
    training = SegmenterTraining(config, segmenters, images)
    digest = training_digest(config, ("cohort", "preprocess", "affine"), images.subjects)
    with training.batches:
        fit(
            module=segmenters,
            optimizer=torch.optim.AdamW(segmenters.parameters(), lr=settings.learning_rate),
            step=training.step,
            steps=settings.steps,
            checkpoint=Checkpoint(
                layout.segmenter_checkpoint, f"{digest}-{images.grid.shape}-{settings.model_dump_json()}"
            ),
            table=layout.segmenter_training,
            every=config.template.checkpoint_every,
            description="segmenters",
        )
    segmenters.requires_grad_(False)


class SegmenterTraining:
    """The steps of `train_segmenters`, whose arguments it takes."""

    def __init__(self, config: Config, segmenters: Segmenters, images: AlignedImages) -> None:
        self.config, self.segmenters, self.images = config, segmenters, images
        self.settings = config.template.segmenter
        self.atlases = [i for i, subject in enumerate(images.subjects) if subject.role == "atlas"]
        self.codes = label_codes(len(read_label_values(config.layout.labels))).to(images.device)
        self.batches = Prefetch(self._load, self.settings.steps)

    def step(self, index: int) -> dict[str, Tensor]:
        """Evaluate the loss of one training step.

        Args:
            index: The step's.

        Returns:
            `loss`, with a gradient, and its terms, detached.
        """
        participants, *batch = self.batch(index)
        terms: dict[str, list[Tensor]] = {"entropy": [], "dice": []}
        for segmenter, without in zip(self.segmenters.each, self.segmenters.without, strict=True):
            own = [k for k, participant in enumerate(participants) if participant not in without]
            if not own:
                continue
            everyone = len(own) == len(participants)
            image, truth, inside = (x if everyone else torch.stack([x[k] for k in own]) for x in batch)
            with autocast(image.device, self.config.template.precision):
                logits = segmenter.logits(image).float()
            entropy = F.binary_cross_entropy_with_logits(logits, truth, inside.expand_as(logits))
            terms["entropy"].append(entropy)
            terms["dice"].append(SIMILARITY["dice"](truth, logits.sigmoid(), inside))
        means = {name: torch.stack(parts).sum() / len(self.segmenters.each) for name, parts in terms.items()}
        return {"loss": means["entropy"] + means["dice"], **{n: t.detach() for n, t in means.items()}}

    def batch(self, index: int) -> tuple[list[str], Tensor, Tensor, Tensor]:
        """Prepare the atlases of a step: their participants, images (B, C, *shape), channels of labels
        (B, L, *shape), and masks (B, 1, *shape) of where any channel of the image has data."""
        loaded = self.batches(index)
        image, mask, labels = (self.images.stacked(part) for part in (*loaded.images, loaded.labels))
        image, mask, moved = augment(image.float(), mask.float(), loaded.random)
        labels = warp(labels[:, None].float(), moved, "nearest")[:, 0].int()
        inside = mask.amax(dim=1, keepdim=True)
        return loaded.participants, image, label_channels(labels, self.codes), inside

    def _load(self, index: int) -> _Loaded:
        random = seeded_generator(self.config.seed, 20, index)
        drawn = torch.randint(len(self.atlases), (self.settings.batch_size,), generator=random)
        chosen = [self.atlases[i] for i in drawn.tolist()]
        labels = [self.images.label_indices(i) for i in chosen]
        participants = [self.images.subjects[i].participant for i in chosen]
        return _Loaded(self.images.load(chosen), labels, participants, random)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """What a step reads of its atlases, with images and masks as `AlignedImages.load` gives them, and the
    generator of its random numbers."""

    images: tuple[list[Tensor], list[Tensor]]
    labels: list[Tensor]
    participants: list[str]
    random: torch.Generator
