"""Training what tells registration where the atlases' labels are in an image that has none.

After Atlas-ISTN (Sinclair et al. 2022, doi:10.1016/j.media.2022.102383): template and images are compared as
one network segments them. Here the network is trained first, on the atlases alone, and stays as it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith import __version__
from atlasmith.config import Config
from atlasmith.core.sampling import warp
from atlasmith.io.tables import read_label_values
from atlasmith.losses import SIMILARITY
from atlasmith.networks import Segmenters, label_channels
from atlasmith.training.augmentation import augmented
from atlasmith.training.dataset import AlignedImages
from atlasmith.training.device import autocast, seeded_generator
from atlasmith.training.loop import fit
from atlasmith.workflow.provenance import fingerprint


def train_segmenters(
    config: Config, segmenters: Segmenters, images: AlignedImages, device: torch.device
) -> None:
    """Fit `segmenters` to the labels of the atlases among `images`, shown as `label_channels`.

    Cross-entropy and soft Dice, with random poses and intensities; a step's atlases are seen by each
    segmenter that doesn't leave them out. A killed run goes on from its checkpoint, which stays, to the same
    weights.
    """
    settings, layout = config.template.segmenter, config.layout
    values = read_label_values(layout.labels)
    atlases = [i for i, subject in enumerate(images.subjects) if subject.role == "atlas"]
    optimizer = torch.optim.AdamW(segmenters.parameters(), lr=settings.learning_rate)

    def step(index: int) -> dict[str, Tensor]:
        random = seeded_generator(config.seed, 20, index)
        drawn = torch.randint(len(atlases), (settings.batch_size,), generator=random)
        chosen = [atlases[int(i)] for i in drawn]
        image, mask = images.batch(chosen)
        labels = torch.stack([images.labels(i) for i in chosen])
        image, mask, moved = augmented(image, mask, random)
        labels = warp(labels[:, None].float(), moved, "nearest")
        image, inside = image.to(device), mask.to(device)
        truth = label_channels(labels[:, 0], values).to(device)
        total: dict[str, list[Tensor]] = {"entropy": [], "dice": []}
        for segmenter, without in zip(segmenters.each, segmenters.without, strict=True):
            known = [k for k, i in enumerate(chosen) if images.subjects[i].id not in without]
            if not known:
                continue
            with autocast(device, config.template.precision):
                logits = segmenter.logits(image[known]).float()
            weight = inside[known].expand_as(logits)
            total["entropy"].append(F.binary_cross_entropy_with_logits(logits, truth[known], weight))
            total["dice"].append(SIMILARITY["dice"](truth[known], logits.sigmoid(), inside[known]))
        terms = {name: torch.stack(parts).sum() / len(segmenters.each) for name, parts in total.items()}
        return {"loss": terms["entropy"] + terms["dice"], **{n: t.detach() for n, t in terms.items()}}

    fit(
        module=segmenters,
        optimizer=optimizer,
        step=step,
        steps=settings.steps,
        checkpoint=layout.segmenter_checkpoint,
        table=layout.segmenter_training,
        every=config.template.checkpoint_every,
        digest=f"{config.digest('cohort', 'affine')}-{settings.model_dump_json()}"
        f"-{fingerprint(layout.inputs, images.subjects)}-{__version__}",
        description="segmenters",
    )
    segmenters.requires_grad_(False)
