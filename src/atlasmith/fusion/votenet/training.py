"""Training of VoteNet on the atlases, propagated to each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.config import Config
from atlasmith.fusion.propagated import read_atlases
from atlasmith.fusion.training import train_network
from atlasmith.fusion.votenet.error_model import calibrate_network, estimate_correlation
from atlasmith.fusion.votenet.network import VoteNet, agreement, input_channels
from atlasmith.fusion.votenet.samples import Library, draw_patch
from atlasmith.fusion.votenet.settings import SECTION, VoteNetSettings
from atlasmith.io.tables import read_label_values
from atlasmith.io.weights import write_weights
from atlasmith.training.augmentation import augment_intensities
from atlasmith.training.device import seeded_generator, select_device

DILATION = 5  # side of the neighborhood of ambiguous voxels that has full weight in the loss, voxels
WEIGHT_ELSEWHERE = 0.05  # in the loss, of voxels where all atlases agree
TARGETS_PER_STEP = 2
VALIDATE_EVERY = 25
VALIDATION_PATCHES = 4  # of each held-out atlas
VALIDATION_ATLASES = 4  # propagated ones that a validation patch is computed for
HELD_OUT = 0.1  # share of the atlases


def train_votenet(config: Config) -> None:
    """Train on the atlases propagated to each other; write weights and training table.

    Each step draws patches around ambiguous voxels of a few atlases, each with a random part of the other
    atlases, so that the network serves libraries of any size. A tenth of the atlases, where there are six or
    more, are held out for validation: the weights with the least validation loss are kept, and calibrated on
    them. A killed run resumes from its checkpoint to the same weights.

    Args:
        config: The run's config; its `fusion.votenet` section decides.
    """
    layout = config.layout
    settings: VoteNetSettings = config.fusion.section(SECTION)
    subjects = read_atlases(layout)
    library = Library(layout, subjects)
    validation, training = _split(config.seed, len(subjects))
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


def _split(seed: int, count: int) -> tuple[list[int], list[int]]:
    """Positions of the atlases held out for validation, and of the others."""
    held_out = max(1, round(HELD_OUT * count)) if count >= 6 else 0
    order = torch.randperm(count, generator=seeded_generator(seed, 10)).tolist()
    return order[:held_out], order[held_out:]


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
    patch = draw_patch(atlases.target.shape, ambiguous, side, random)
    available = len(atlases.labels)
    size = int(torch.randint(min(available, 3), available + 1, (1,), generator=random))
    members = torch.randperm(available, generator=random)[:size]
    labels = torch.from_numpy(atlases.labels[:, *patch])[members]
    images = torch.from_numpy(atlases.images[:, *patch])[members[:count]]
    image = torch.from_numpy(atlases.target[patch])
    if augment:
        image, images = _augment(image, random), torch.stack([_augment(i, random) for i in images])
    agreeing = agreement(labels, count)
    differ = (labels != labels[0]).any(0).float()[None, None]
    dilate = {2: F.max_pool2d, 3: F.max_pool3d}[image.ndim]
    weight = WEIGHT_ELSEWHERE + (1 - WEIGHT_ELSEWHERE) * dilate(differ, DILATION, 1, DILATION // 2)
    labels = labels[:count]
    right = (labels == torch.from_numpy(truth[patch])).float()
    inputs = input_channels(image, images, labels, agreeing, **network.input_options)
    logits = network(inputs.to(device), labels.to(device))
    weight = weight[0].expand_as(logits).to(device)
    entropy = F.binary_cross_entropy_with_logits(logits, right.to(device), weight, reduction="sum")
    return entropy / weight.sum()


def _augment(image: Tensor, random: torch.Generator) -> Tensor:
    """Augment the intensities of an image (*shape), without a bias field."""
    return augment_intensities(image[None, None], random, bias=0.0)[0, 0]
