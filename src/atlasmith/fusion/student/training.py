"""Training of the student on atlases, on atlases as propagated to each other, and on unlabelled scans."""

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
from atlasmith.fusion.student.pseudo_labels import STEPS, PseudoLabels, read_unlabelled
from atlasmith.fusion.student.settings import SECTION, StudentSettings
from atlasmith.fusion.training import fuser_digest, train_network
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
        labels: (V, *shape), positions among all labels: V is 1, or each network has its own.
        weight: (V, *shape), 0 where nothing is learned.
        participants: Whose scans it is made of.
        is_manual: Whether its labels are manual ones.
    """

    inputs: Tensor
    labels: Tensor
    weight: Tensor
    participants: frozenset[str]
    is_manual: bool

    def version(self, network: int) -> tuple[Tensor, Tensor]:
        """Return labels and weights (1, *shape) for a network, by its position."""
        index = min(network, len(self.labels) - 1)
        return self.labels[index : index + 1], self.weight[index : index + 1]


def train_student(config: Config) -> None:
    """Train on the atlases and on their warped images; write weights and training table.

    An atlas as warped to another one is an image of a further anatomy, whose labels are those of the atlas,
    warped alike. Unlabelled scans have the labels that another method finds by the atlases. Each network is
    trained on what is made of none of the atlases that it holds out, but for their votes on other atlases,
    and validated on these. A killed run resumes from its checkpoint to the same weights.

    Args:
        config: The run's config; its `fusion.student` section decides.
    """
    layout = config.layout
    settings: StudentSettings = config.fusion.section(SECTION)
    atlases = read_atlases(layout)
    library = Library(layout, atlases)
    unlabelled = read_unlabelled(config)
    digest = fuser_digest(config, unlabelled)
    device = select_device(config.device)
    torch.manual_seed(config.seed)
    student = Student(
        [0, *read_label_values(layout.labels)],
        settings.channels,
        held_out_folds([atlas.id for atlas in atlases], settings.count),
        library[0][0].grid.ndim,
        len(layout.channels),
        settings.patch,
        config.template.precision,
    ).to(device)
    pseudo_labels = PseudoLabels(config, unlabelled, student.networks.without, digest)
    folds = list(zip(student.networks.each, student.networks.without, strict=True))

    def step(index: int) -> dict[str, Tensor]:
        random = seeded_generator(config.seed, STREAM, index)
        validate = (index + 1) % VALIDATE_EVERY == 0
        losses: dict[str, list[Tensor]] = {"loss": [], "validation": []}
        for _ in range(settings.batch_size):
            sample = draw_sample(library, pseudo_labels, student, settings, random)
            for position, (network, without) in enumerate(folds):
                learns = not sample.participants & without
                if learns or (validate and sample.is_manual):
                    with torch.set_grad_enabled(learns), autocast(device, student.precision, segments=True):
                        logits = network(sample.inputs)
                    loss = segmentation_loss(logits.float(), *sample.version(position))
                    losses["loss" if learns else "validation"].append(loss)
        if not losses["loss"]:  # all networks hold out what was drawn
            losses["loss"].append(0 * torch.stack([p.sum() for p in student.parameters()]).sum())
        return {name: torch.stack(found).mean() for name, found in losses.items() if found}

    train_network(config, SECTION, SECTION, student, step, digest=digest)
    write_weights(layout.fuser_weights(SECTION), student, student.settings)
    layout.fuser_checkpoint(SECTION).unlink()
    pseudo_labels.remove()


def draw_sample(
    library: Library,
    pseudo_labels: PseudoLabels,
    student: Student,
    settings: StudentSettings,
    random: torch.Generator,
) -> Sample:
    """Draw a patch of an atlas, of one that is warped to another, or of an unlabelled scan; augment it.

    The votes of the other atlases are given with some of the patches, and with none of unlabelled scans,
    whose labels were made from them.

    Args:
        library: The atlases, each with the others propagated to it.
        pseudo_labels: Of unlabelled scans, if there are any.
        student: The networks, on the device of the result.
        settings: Of the student.
        random: The random generator.
    """
    if pseudo_labels and float(torch.rand((), generator=random)) < settings.pseudo_labels:
        drawn = _draw_unlabelled(pseudo_labels, settings, random)
    else:
        drawn = _draw_atlas(library, settings, random)
    device = student.values.device
    image, known, weight, own, others = (
        to_device(x.contiguous(), device)
        for x in (
            drawn.image[None],
            drawn.known[None, None].float(),
            drawn.weight[None].float(),
            drawn.labels,
            drawn.others,
        )
    )
    voting = None if drawn.votes is None else to_device(drawn.votes, device)
    votes = student.votes(others, voting)
    image, _, moved = augment(image, torch.ones_like(image), random)
    maps = warp(torch.cat([votes[None], weight, known], dim=1), moved)
    # Outside the patch nothing is known: a displacement that leads there weighs nothing.
    votes, weight, known = maps.split([len(votes), len(own), 1], dim=1)
    labels = warp(student.positions(own)[None].float(), moved, "nearest")[0].long()
    inputs = torch.cat([image, votes], dim=1)
    return Sample(inputs, labels, (weight * (known > 0.5))[0], drawn.participants, drawn.is_manual)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A patch as it was drawn, on the CPU.

    image: (C, *shape). labels: (V, *shape), see `Sample`. known: (*shape), where labels are. weight:
    (V, *shape), of what is known. others: Labels of the atlases that vote, (N, *shape). votes: Which of them
    do where; None: all.
    """

    participants: frozenset[str]
    image: Tensor
    labels: Tensor
    known: Tensor
    weight: Tensor
    others: Tensor
    votes: Tensor | None = None
    is_manual: bool = True


def _draw_atlas(library: Library, settings: StudentSettings, random: torch.Generator) -> _Drawn:
    """Draw a patch of an atlas, or of one that is warped to another, perhaps with the others' votes."""
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
    if float(torch.rand((), generator=random)) < settings.without_votes:
        members = []
    own, kept = labels[patch], torch.tensor(members, dtype=torch.long)
    known = torch.ones(own.shape) if valid is None else valid[patch]
    votes = None if atlases.votes is None else atlases.votes[:, *patch][kept]
    others = atlases.labels[:, *patch][kept]
    weight = torch.ones(1, *own.shape)
    return _Drawn(frozenset(participants), image[:, *patch], own[None], known, weight, others, votes)


def _draw_unlabelled(
    pseudo_labels: PseudoLabels, settings: StudentSettings, random: torch.Generator
) -> _Drawn:
    """Draw a patch of an unlabelled scan; its voxels weigh as much as their labels are probable."""
    index = int(torch.randint(len(pseudo_labels), (1,), generator=random))
    scan = pseudo_labels[index]
    shape = scan.labels.shape[1:]
    patch = draw_patch(shape, scan.labels.amax(dim=0).flatten().nonzero()[:, 0], settings.patch, random)
    own, weight = scan.labels[:, *patch], scan.confidence[:, *patch] / STEPS
    participants = frozenset([pseudo_labels.subjects[index].participant])
    image, known = scan.image[:, *patch].float(), torch.ones(own.shape[1:])
    return _Drawn(participants, image, own, known, weight, own[:0], is_manual=False)


def segmentation_loss(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Compute cross-entropy plus one minus the mean soft Dice of the labels that the patch has.

    Args:
        logits: (1, L, *shape).
        labels: (1, *shape), positions among all labels.
        weight: (1, *shape), of voxels.
    """
    entropy = F.cross_entropy(logits, labels, reduction="none")
    total = weight.sum().clamp(min=1)
    truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1) * weight[:, None]
    predicted = logits.softmax(dim=1) * weight[:, None]
    axes = [0, *range(2, logits.ndim)]
    sizes = truth.sum(axes)
    dice = 2 * (truth * predicted).sum(axes) / (sizes + predicted.sum(axes)).clamp(min=1e-6)
    present = (sizes > 0).float()
    present[0] = 0  # background
    mean = (dice * present).sum() / present.sum().clamp(min=1)
    return (entropy * weight).sum() / total + 1 - mean
