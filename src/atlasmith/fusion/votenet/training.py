"""Training of VoteNet on the atlases, propagated to each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.config import Config
from atlasmith.fusion.aligned import AlignedAtlases, disagreement
from atlasmith.fusion.library import Library, draw_patch, on_device
from atlasmith.fusion.propagated import read_atlases
from atlasmith.fusion.training import train_network
from atlasmith.fusion.votenet.error_model import calibrate_network, estimate_correlation
from atlasmith.fusion.votenet.network import VoteNet, agreement, input_channels
from atlasmith.fusion.votenet.settings import SECTION, VoteNetSettings
from atlasmith.io.tables import read_label_values
from atlasmith.io.weights import write_weights
from atlasmith.training.augmentation import augment_intensities
from atlasmith.training.device import seeded_generator, select_device, to_device

DILATION = 5  # side of the neighborhood of ambiguous voxels that has full weight in the loss, voxels
WEIGHT_ELSEWHERE = 0.05  # in the loss, of voxels where all atlases agree
TARGETS_PER_STEP = 2
VALIDATE_EVERY = 25
VALIDATION_PATCHES = 4  # of each held-out atlas
VALIDATION_ATLASES = 4  # propagated ones that a validation patch is computed for
HELD_OUT = 0.1  # share of the participants


def train_votenet(config: Config) -> None:
    """Train on the atlases propagated to each other; write weights and training table.

    Each step draws patches around ambiguous voxels of a few atlases, each with a random part of the other
    atlases, so that the network serves libraries of any size. A tenth of the participants, where there are
    six or more, are held out for validation: the weights with the least validation loss are kept, and
    calibrated on them. A killed run resumes from its checkpoint to the same weights.

    Args:
        config: The run's config; its `fusion.votenet` section decides.
    """
    layout = config.layout
    settings: VoteNetSettings = config.fusion.section(SECTION)
    subjects = read_atlases(layout)
    library = Library(layout, subjects)
    validation, training = _split(config.seed, [subject.participant for subject in subjects])
    device = select_device(config.device)
    torch.manual_seed(config.seed)
    network = VoteNet(
        library[0][0].grid.ndim,
        settings.channels,
        settings.boundary,
        settings.scales,
        settings.calibration,
        [0, *read_label_values(layout.labels)],
        [subject.id for subject in subjects],
        len(layout.channels),
    ).to(device)
    per_target = max(1, settings.batch_size // TARGETS_PER_STEP)

    def step(index: int) -> dict[str, Tensor]:
        random = seeded_generator(config.seed, 11, index)
        drawn = torch.randint(len(training), (TARGETS_PER_STEP,), generator=random)
        losses = [
            _patch_loss(network, library, training[int(i)], per_target, settings.patch, random, augment=True)
            for i in drawn
        ]
        terms = {"loss": torch.stack(losses).mean()}
        if validation and (index + 1) % VALIDATE_EVERY == 0:
            terms["validation"] = _validation_loss(network, library, validation, settings.patch, config.seed)
        return terms

    train_network(config, SECTION, SECTION, network, step, keep_best=True)
    random = seeded_generator(config.seed, 13)
    if validation:
        calibrate_network(network, library, validation, settings.patch, random)
        print(f"votenet: calibrated on {len(validation)} atlases", flush=True)
    estimate_correlation(network, library, settings.patch, random)
    write_weights(layout.fuser_weights(SECTION), network, network.settings)
    layout.fuser_checkpoint(SECTION).unlink()


def _split(seed: int, participants: Sequence[str]) -> tuple[list[int], list[int]]:
    """Positions of the atlases held out for validation, and of the others, from the participant of each."""
    names = list(dict.fromkeys(participants))
    held_out = max(1, round(HELD_OUT * len(names))) if len(names) >= 6 else 0
    order = torch.randperm(len(names), generator=seeded_generator(seed, 10)).tolist()
    positions = [[p for p, name in enumerate(participants) if name == names[index]] for index in order]
    return list(chain(*positions[:held_out])), list(chain(*positions[held_out:]))


@torch.no_grad()
def _validation_loss(
    network: VoteNet, library: Library, validation: list[int], side: int, seed: int
) -> Tensor:
    """The mean loss on patches of the held-out atlases, which are the same in each step."""
    network.eval()
    random = seeded_generator(seed, 12)
    losses = [
        _patch_loss(network, library, target, VALIDATION_ATLASES, side, random)
        for target in validation
        for _ in range(VALIDATION_PATCHES)
    ]
    network.train()
    return torch.stack(losses).mean()


def _patch_loss(
    network: VoteNet,
    library: Library,
    target: int,
    count: int,
    side: int,
    random: torch.Generator,
    augment: bool = False,
) -> Tensor:
    """The cross-entropy on a random patch of an atlas, of at most `count` of the atlases propagated to it."""
    device = network.correlation.device
    atlases, truth, ambiguous = library[target]
    patch = draw_patch(truth.shape, ambiguous, side, random)
    available = len(atlases.labels)
    size = int(torch.randint(min(available, 3), available + 1, (1,), generator=random))
    members = torch.randperm(available, generator=random)[:size]
    here = on_device(atlases.part(patch, members), device)
    image, images = _images(here, count, random if augment else None)
    agreeing = agreement(here.labels, count, here.votes)
    differ = disagreement(here.labels).float()[None, None]
    dilate = {2: F.max_pool2d, 3: F.max_pool3d}[truth.ndim]
    weight = WEIGHT_ELSEWHERE + (1 - WEIGHT_ELSEWHERE) * dilate(differ, DILATION, 1, DILATION // 2)
    labels = here.labels[:count]
    right = (labels == to_device(truth[patch], device)).float()
    logits = network(input_channels(image, images, labels, agreeing, **network.input_options), labels)
    weight = weight[0].expand_as(logits)
    if here.both_valid is not None:
        weight = weight * here.both_valid[:count]
    entropy = F.binary_cross_entropy_with_logits(logits, right, weight, reduction="sum")
    return entropy / weight.sum().clamp(min=WEIGHT_ELSEWHERE)


def _images(atlases: AlignedAtlases, count: int, random: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The target's channels (C, *shape), and those of the first atlases (C, count, *shape).

    Intensities are augmented, each image for itself, where a random generator is given.
    """
    target, images = atlases.target, atlases.images[:, :count]
    if random is None:
        return target, images
    target = torch.stack([_augment(channel, random) for channel in target])
    images = torch.stack([torch.stack([_augment(i, random) for i in channel]) for channel in images])
    if atlases.present is not None:  # channels that are absent stay 0
        present = to_device(torch.from_numpy(atlases.present).float(), target.device)
        absent_axes = [1] * (target.ndim - 1)
        target = target * present.amax(1).view(-1, *absent_axes)
        images = images * present[:, :count].reshape(*images.shape[:2], *absent_axes)
    return target, images


def _augment(image: Tensor, random: torch.Generator) -> Tensor:
    """Augment the intensities of an image (*shape), without a bias field."""
    return augment_intensities(image[None, None], random, bias=0.0)[0, 0]
