"""Training of the student on the atlases, and on the atlases as propagated to each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.sampling import warp
from atlasmith.fusion.library import Library, draw_patch
from atlasmith.fusion.propagated import read_atlases
from atlasmith.fusion.student.model import Student
from atlasmith.fusion.student.settings import SECTION, StudentSettings
from atlasmith.fusion.training import train_network
from atlasmith.io.tables import participant_of, read_label_values
from atlasmith.io.weights import write_weights
from atlasmith.networks import held_out_folds
from atlasmith.training.augmentation import augment
from atlasmith.training.device import autocast, seeded_generator, select_device, to_device

VALIDATE_EVERY = 25
STREAM = 40  # of random numbers


@dataclass(frozen=True, eq=False)
class Sample:
    """A training patch.

    Args:
        inputs: (1, C + K, *shape): image and votes, which are 0 where the network is to do without.
        labels: (1, *shape), positions among all labels.
        weight: (1, *shape), 0 where nothing is learned.
        participants: Whose scans it is made of.
    """

    inputs: Tensor
    labels: Tensor
    weight: Tensor
    participants: frozenset[str]


def train_student(config: Config) -> None:
    """Train on the atlases and on their warped images; write weights and training table.

    An atlas as warped to another one is an image of a further anatomy, whose labels are those of the atlas,
    warped alike. Each network is trained on what is made of none of the atlases that it holds out, but for
    their votes, and validated on the others. A killed run resumes from its checkpoint to the same weights.

    Args:
        config: The run's config; its `fusion.student` section decides.
    """
    layout = config.layout
    settings: StudentSettings = config.fusion.section(SECTION)
    atlases = read_atlases(layout)
    library = Library(layout, atlases)
    device = select_device(config.device)
    torch.manual_seed(config.seed)
    student = Student(
        [0, *read_label_values(layout.labels)],
        settings.channels,
        held_out_folds([atlas.id for atlas in atlases], settings.count),
        library[0][0].grid.ndim,
        len(layout.channels),
        settings.patch,
    ).to(device)

    def step(index: int) -> dict[str, Tensor]:
        random = seeded_generator(config.seed, STREAM, index)
        validate = (index + 1) % VALIDATE_EVERY == 0
        losses: dict[str, list[Tensor]] = {"loss": [], "validation": []}
        for _ in range(settings.batch_size):
            sample = draw_sample(library, student, settings, random)
            for network, without in zip(student.networks.each, student.networks.without, strict=True):
                if not sample.participants & without:
                    with autocast(device, config.template.precision):
                        logits = network(sample.inputs)
                    losses["loss"].append(segmentation_loss(logits.float(), sample))
                elif validate:
                    with torch.no_grad():
                        losses["validation"].append(segmentation_loss(network(sample.inputs), sample))
        if not losses["loss"]:  # all networks hold out what was drawn
            losses["loss"].append(0 * torch.stack([p.sum() for p in student.parameters()]).sum())
        return {name: torch.stack(found).mean() for name, found in losses.items() if found}

    train_network(config, SECTION, SECTION, student, step)
    write_weights(layout.fuser_weights(SECTION), student, student.settings)
    layout.fuser_checkpoint(SECTION).unlink()


def draw_sample(
    library: Library, student: Student, settings: StudentSettings, random: torch.Generator
) -> Sample:
    """Draw a patch of an atlas, or of one that is warped to another, with the others' votes; augment it.

    Args:
        library: The atlases, each with the others propagated to it.
        student: The networks, on the device of the result.
        settings: Of the student.
        random: The random generator.
    """
    target = int(torch.randint(len(library.subjects), (1,), generator=random))
    atlases, labels, _ = library[target]
    participants, image, valid = {library.subjects[target].participant}, atlases.target, atlases.target_valid
    members = list(range(len(atlases.labels)))
    if len(members) > 1 and float(torch.rand((), generator=random)) < settings.warped:
        other = int(torch.randint(len(members), (1,), generator=random))
        participants.add(participant_of(atlases.ids[other]))
        image, labels = atlases.images[:, other], atlases.labels[other]
        valid = None if atlases.valid is None else atlases.valid[other]
        members = [i for i in members if participant_of(atlases.ids[i]) != participant_of(atlases.ids[other])]
    patch = draw_patch(labels.shape, labels.flatten().nonzero()[:, 0], settings.patch, random)
    device = student.values.device
    known = torch.ones(labels[patch].shape) if valid is None else valid[patch].float()
    image, known, own, others = (
        to_device(x.contiguous(), device)
        for x in (
            image[None, :, *patch],
            known[None, None],
            labels[patch],
            atlases.labels[:, *patch][members],
        )
    )
    voting = None if atlases.votes is None else to_device(atlases.votes[:, *patch][members], device)
    with_votes = float(torch.rand((), generator=random)) >= settings.without_votes
    votes = student.votes(others, voting) if with_votes else student.votes(others[:0])
    image, _, moved = augment(image, torch.ones_like(image), random)
    maps = warp(torch.cat([votes[None], known], dim=1), moved)
    # Outside the patch nothing is known: a displacement that leads there weighs nothing.
    weight = (maps[:, -1] > 0.5).float()
    positions = student.positions(own)[None, None].float()
    moved_labels = warp(positions, moved, "nearest")[:, 0].long()
    return Sample(torch.cat([image, maps[:, :-1]], dim=1), moved_labels, weight, frozenset(participants))


def segmentation_loss(logits: Tensor, sample: Sample) -> Tensor:
    """Compute cross-entropy plus one minus the mean soft Dice of the labels that the patch has.

    Args:
        logits: (1, L, *shape).
        sample: The patch.
    """
    entropy = F.cross_entropy(logits, sample.labels, reduction="none")
    total = sample.weight.sum().clamp(min=1)
    truth = F.one_hot(sample.labels, logits.shape[1]).movedim(-1, 1) * sample.weight[:, None]
    predicted = logits.softmax(dim=1) * sample.weight[:, None]
    axes = [0, *range(2, logits.ndim)]
    sizes = truth.sum(axes)
    dice = 2 * (truth * predicted).sum(axes) / (sizes + predicted.sum(axes)).clamp(min=1e-6)
    present = (sizes > 0).float()
    present[0] = 0  # background
    mean = (dice * present).sum() / present.sum().clamp(min=1)
    return (entropy * sample.weight).sum() / total + 1 - mean
