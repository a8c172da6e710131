"""VoteNet: a network that tells where an atlas's label is right (Ding et al. 2019,
doi:10.1007/978-3-030-32248-9_23).

It sees the target's and the warped atlas's intensities, and, beyond the paper, three hints that mean the same
whatever the label, so that one network serves 2 labels or 134: the share of the other atlases that agree, the
share of the neighborhood that has the same label (near 1 inside a structure, lower at its boundary), and
whether the label is background; and a code that it learns for each label. If asked it also sees how far the
label's boundary is, and smoothed images.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError, look_up
from atlasmith.core.grid import Array
from atlasmith.fusion.calibration import CALIBRATIONS, calibrate
from atlasmith.fusion.propagated import Stack, disputed, library_of, own_labels, read_stack
from atlasmith.fusion.training import learn
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject, read_label_values
from atlasmith.io.weights import read_network, write_weights
from atlasmith.networks import BATCH_NORM, UNet
from atlasmith.training.augmentation import intensities
from atlasmith.training.device import seeded_generator, select_device

CHANNELS = 5
CODE = 4  # what the network remembers of a label: so many numbers
NEIGHBOURHOOD = 5  # voxels a side
FAR = 4  # voxels: boundaries are no further
DISPUTED = 5  # voxels a side: how far around a disagreement training looks
ELSEWHERE = 0.05  # weight of the voxels where all agree
TARGETS_A_STEP = 2
VALIDATE_EVERY = 25
VALIDATED = 4  # patches of each atlas of validation
HELD_OUT = 0.1  # of the atlases
PATCHES = 64  # on which probabilities are calibrated, and atlases' errors are compared
LEARNED = 3_000  # voxels and voters of a patch, at most, that a calibration learns from
PRIOR = 3  # atlases' worth of all pairs' correlation in that of each
CACHE_BYTES = 3 * 2**30
BATCH_VOXELS = 2_000_000  # of one forward pass when applied


def consensus(labels: Tensor, voters: int | None = None) -> Tensor:
    """For each of the first `voters` (all by default) labels (N, *shape), the share of the N - 1 others that
    agree with it."""
    agree = torch.stack([(labels == own).sum(0) for own in labels[:voters]]) - 1
    return agree.float() / max(len(labels) - 1, 1)


def inputs(
    target: Tensor,
    images: Tensor,
    labels: Tensor,
    agreement: Tensor,
    boundary: bool = False,
    scales: int = 1,
) -> Tensor:
    """The network's input (N, channels, *shape) for N voters on one target (*shape)."""
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[target.ndim]

    def smoothed(maps: Tensor) -> Tensor:
        return pool(maps[:, None], NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2, count_include_pad=False)[:, 0]

    # Pairs of neighbors along each axis: cheap, and the same for any number of labels. Beyond the border
    # the label goes on, so a patch and the whole image look alike.
    edges = torch.zeros_like(images)
    for axis in range(1, labels.ndim):
        pairs = labels.shape[axis] - 1
        differ = (labels.narrow(axis, 0, pairs) != labels.narrow(axis, 1, pairs)).float()
        edges.narrow(axis, 0, pairs).add_(differ)
        edges.narrow(axis, 1, pairs).add_(differ)
    near = smoothed(edges / (2 * target.ndim))
    channels = [target.expand_as(images), images, agreement, 1 - near, (labels == 0).float()]
    if boundary:
        channels.append(_depth(edges > 0))
    if scales == 2:
        channels += [smoothed(target[None]).expand_as(images), smoothed(images)]
    return torch.stack(channels, dim=1)


def _depth(edges: Tensor) -> Tensor:
    """How far (N, *shape) the next of the voxels `edges` is: chessboard steps over `FAR`, 1 at most."""
    widen = {2: F.max_pool2d, 3: F.max_pool3d}[edges.ndim - 1]
    reached, depth = edges[:, None].float(), torch.zeros_like(edges[:, None], dtype=torch.float32)
    for _ in range(FAR):
        depth = depth + (1 - reached) / FAR
        reached = widen(reached, 3, 1, 1)
    return depth[:, 0]


class VoteNet(nn.Module):
    """The network for labels `values`, how its logits become probabilities, and how `atlases` err together.

    correlation: (A, A), of two atlases' errors beyond what their probabilities say; 1 on the diagonal.
    """

    correlation: Tensor

    def __init__(
        self,
        ndim: int,
        channels: Sequence[int],
        boundary: bool,
        scales: int,
        calibration: str,
        values: Sequence[int],
        atlases: Sequence[str],
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
        }
        self.sees: dict[str, Any] = {"boundary": boundary, "scales": scales}
        size = CHANNELS + boundary + 2 * (scales - 1)
        self.codes = nn.Embedding(len(values), CODE)
        # Its averages hold for patches, of which it learns, and for whole images, unlike those of each image.
        self.body = UNet(ndim, size + CODE, 1, channels, norm=BATCH_NORM)
        self.calibration = look_up(CALIBRATIONS, calibration, "calibration")(size)
        self.calibration.requires_grad_(False)  # it is fitted afterwards
        self.register_buffer("correlation", torch.eye(len(atlases)))

    def forward(self, seen: Tensor, labels: Tensor) -> Tensor:
        """Logits (N, *shape), that the atlas's label is right, of `inputs` (N, channels, *shape) and of the
        labels (N, *shape)."""
        values = torch.tensor(self.settings["values"]).to(labels)
        codes = self.codes(torch.searchsorted(values, labels.contiguous()).clamp(max=len(values) - 1))
        logits: Tensor = self.body(torch.cat([seen, codes.movedim(-1, 1)], dim=1))[:, 0].float()
        return logits

    def probability(self, seen: Tensor, labels: Tensor) -> Tensor:
        """(N, *shape), calibrated."""
        calibrated: Tensor = self.calibration(self(seen, labels), seen.movedim(1, -1))
        return calibrated.sigmoid()


class _Library:
    """Stacks of the atlases with their own labels, kept within a bound of memory."""

    def __init__(self, layout: Layout, atlases: Sequence[Subject]) -> None:
        self.layout, self.atlases = layout, list(atlases)
        self._kept: OrderedDict[int, tuple[Stack, Array, Array]] = OrderedDict()
        self._bytes = 0

    def __getitem__(self, index: int) -> tuple[Stack, Array, Array]:
        """(stack, own labels (*shape), flat indices of the voxels where the voters disagree)."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        stack = read_stack(self.layout, self.atlases[index])
        entry = (stack, own_labels(self.atlases[index], stack.grid), disputed(stack))
        self._kept[index] = entry
        self._bytes += stack.labels.nbytes + stack.images.nbytes
        while self._bytes > CACHE_BYTES and len(self._kept) > 1:
            _, (old, _, _) = self._kept.popitem(last=False)
            self._bytes -= old.labels.nbytes + old.images.nbytes
        return entry


def _augment(image: Tensor, random: torch.Generator) -> Tensor:
    """One image (*shape) with other intensities, but no bias field."""
    return intensities(image[None, None], random, bias=0.0)[0, 0]


def _split(seed: int, count: int) -> tuple[list[int], list[int]]:
    """The atlases that only validate, a tenth where there are six or more, and those that teach."""
    held = max(1, round(HELD_OUT * count)) if count >= 6 else 0
    order = torch.randperm(count, generator=seeded_generator(seed, 10)).tolist()
    return order[:held], order[held:]


def train_votenet(config: Config) -> None:
    """Train on the atlases propagated to each other; write weights and training table.

    Each step takes patches where voters disagree on a few atlases, each with a random part of the library, so
    that the network serves libraries of any size. A tenth of the atlases, where there are six or more, are
    targets of validation alone: the weights that do best there are kept, and the probabilities calibrated
    where voters disagree. A killed run goes on from its checkpoint to the same weights.
    """
    layout, settings = config.layout, config.fusion.votenet
    atlases = library_of(layout)
    library = _Library(layout, atlases)
    validation, training = _split(config.seed, len(atlases))
    device = select_device(config.device)
    torch.manual_seed(config.seed)
    net = VoteNet(
        library[0][0].grid.ndim,
        settings.channels,
        settings.boundary,
        settings.scales,
        settings.calibration,
        [0, *read_label_values(layout.labels)],
        [atlas.id for atlas in atlases],
    ).to(device)

    def loss(target: int, voters: int, random: torch.Generator, augment: bool) -> Tensor:
        stack, truth, where = library[target]
        patch = _patch(stack, where, settings.patch, random)
        count = len(stack.labels)
        size = int(torch.randint(min(count, 3), count + 1, (1,), generator=random))
        members = torch.randperm(count, generator=random)[:size]
        labels = torch.from_numpy(stack.labels[:, *patch])[members]
        images = torch.from_numpy(stack.images[:, *patch])[members[:voters]]
        image = torch.from_numpy(stack.target[patch])
        if augment:
            image, images = _augment(image, random), torch.stack([_augment(i, random) for i in images])
        agreement = consensus(labels, voters)
        dispute = (labels != labels[0]).any(0).float()[None, None]
        widen = {2: F.max_pool2d, 3: F.max_pool3d}[image.ndim]
        weight = ELSEWHERE + (1 - ELSEWHERE) * widen(dispute, DISPUTED, 1, DISPUTED // 2)
        labels = labels[:voters]
        right = (labels == torch.from_numpy(truth[patch])).float()
        seen = inputs(image, images, labels, agreement, **net.sees)
        logits = net(seen.to(device), labels.to(device))
        weight = weight[0].expand_as(logits).to(device)
        entropy = F.binary_cross_entropy_with_logits(logits, right.to(device), weight, reduction="sum")
        return entropy / weight.sum()

    voters = max(1, settings.batch_size // TARGETS_A_STEP)

    def step(index: int) -> dict[str, Tensor]:
        random = seeded_generator(config.seed, 11, index)
        chosen = [training[int(i)] for i in torch.randint(len(training), (TARGETS_A_STEP,), generator=random)]
        total = torch.stack([loss(target, voters, random, True) for target in chosen]).mean()
        terms = {"loss": total}
        if validation and (index + 1) % VALIDATE_EVERY == 0:
            net.eval()
            with torch.no_grad():
                random = seeded_generator(config.seed, 12)
                judged = [loss(t, 4, random, False) for t in validation for _ in range(VALIDATED)]
                terms["validation"] = torch.stack(judged).mean()
            net.train()
        return terms

    learn(config, "votenet", "votenet", net, step, keep_best=True)
    random = seeded_generator(config.seed, 13)
    if validation:
        _calibrate(net, library, validation, settings.patch, random)
        print(f"votenet: calibrated on {len(validation)} atlases", flush=True)
    _correlate(net, library, settings.patch, random)
    write_weights(layout.fuser_weights("votenet"), net, net.settings)
    layout.fuser_checkpoint("votenet").unlink()


def _patch(stack: Stack, where: Array, side: int, random: torch.Generator) -> tuple[slice, ...]:
    """About one of the voxels at flat indices `where`, or the middle where there are none."""
    shape = stack.target.shape
    flat = int(np.prod(shape)) // 2
    if where.size:
        flat = int(where[int(torch.randint(where.size, (1,), generator=random))])
    return tuple(
        slice(start := min(max(0, int(c) - side // 2), max(0, n - side)), start + side)
        for c, n in zip(np.unravel_index(flat, shape), shape, strict=True)
    )


def _judged(
    net: VoteNet, library: _Library, targets: Sequence[int], side: int, random: torch.Generator
) -> Iterator[tuple[Sequence[str], Tensor, Tensor, Tensor]]:
    """`PATCHES` patches of the targets in turn, one of each at least, where voters disagree: the voters, the
    network's logits (N, M), what it saw (N, M, channels), and whose label is right (N, M)."""
    device = net.correlation.device
    for index in sorted(range(max(PATCHES, len(targets))), key=lambda index: index % len(targets)):
        stack, truth, where = library[targets[index % len(targets)]]
        patch = _patch(stack, where, side, random)
        labels, images = (torch.from_numpy(maps[:, *patch]) for maps in (stack.labels, stack.images))
        seen = inputs(torch.from_numpy(stack.target[patch]), images, labels, consensus(labels), **net.sees)
        right = (labels == torch.from_numpy(truth[patch])).float().to(device)
        seen, labels = seen.to(device), labels.to(device)
        there = (labels != labels[0]).any(0)
        with torch.no_grad():
            logits = net(seen, labels)
        yield stack.atlases, logits[:, there], seen.movedim(1, -1)[:, there], right[:, there]


def _calibrate(
    net: VoteNet, library: _Library, targets: Sequence[int], side: int, random: torch.Generator
) -> None:
    """Fit the network's calibration, in place, to targets that it didn't learn from."""
    parts = []
    for _, *judged in _judged(net, library, targets, side, random):
        logits, seen, right = (part.flatten(0, 1) for part in judged)
        some = torch.randperm(len(logits), generator=random)[:LEARNED]
        parts.append((logits[some], seen[some], right[some]))
    calibrate(net.calibration, *(torch.cat(part) for part in zip(*parts, strict=True)))


def _correlate(net: VoteNet, library: _Library, side: int, random: torch.Generator) -> None:
    """Find, in place, how atlases' errors go together beyond what their probabilities say, on each other."""
    place = {atlas: index for index, atlas in enumerate(net.settings["atlases"])}
    together, count = (torch.zeros_like(net.correlation) for _ in range(2))
    for voters, logits, seen, right in _judged(net, library, range(len(place)), side, random):
        trust = net.calibration(logits, seen).sigmoid().clamp(0.01, 0.99)
        residual = (right - trust) / (trust * (1 - trust)).sqrt()
        rows = torch.tensor([place[name] for name in voters])
        together[rows[:, None], rows] += residual @ residual.T
        count[rows[:, None], rows] += residual.shape[1]
    net.correlation.copy_(shrunk(together, count))


def shrunk(together: Tensor, count: Tensor) -> Tensor:
    """Correlations (A, A), 1 on the diagonal, from sums of products (A, A) of errors, each atlas's own on the
    diagonal, and how many: near that of all pairs where there are few."""
    usual_size = (together.diagonal() / count.diagonal().clamp(min=1)).clamp(min=1e-6).sqrt()
    together = together / torch.outer(usual_size, usual_size)
    apart = ~torch.eye(len(count), dtype=torch.bool, device=count.device)
    usual = together[apart].sum() / count[apart].sum().clamp(min=1)
    prior = PRIOR * count[apart].sum() / apart.sum().clamp(min=1) / max(len(count), 1)
    found = ((together + prior * usual) / (count + prior).clamp(min=1)).clamp(-1, 1)
    return torch.where(apart, found, torch.ones_like(found))


class Trust:
    """A trained VoteNet, ready to judge the atlases of one target."""

    def __init__(self, config: Config) -> None:
        self.device = select_device(config.device)
        self.path = config.layout.fuser_weights("votenet")
        self.net = read_network(self.path, VoteNet).to(self.device)

    @torch.inference_mode()
    def __call__(self, stack: Stack) -> Array:
        """The probability (N, *shape) that each atlas's label is right; some atlases at a time."""
        labels, images = torch.from_numpy(stack.labels), torch.from_numpy(stack.images)
        target = torch.from_numpy(stack.target)
        agreement = consensus(labels)
        size = max(1, BATCH_VOXELS // target.numel())
        parts = []
        for start in range(0, len(labels), size):
            some = slice(start, start + size)
            seen = inputs(target, images[some], labels[some], agreement[some], **self.net.sees)
            parts.append(self.net.probability(seen.to(self.device), labels[some].to(self.device)).cpu())
        return torch.cat(parts).numpy()

    def correlation(self, stack: Stack) -> Array:
        """How the errors of a target's voters go together (N, N)."""
        known = {name: row for row, name in enumerate(self.net.settings["atlases"])}
        if strangers := [name for name in stack.atlases if name not in known]:
            raise AtlasmithError(
                f"{self.path}: it doesn't know the atlas {strangers[0]}. Run `atlasmith fuse-train` again."
            )
        rows = [known[name] for name in stack.atlases]
        found: Array = self.net.correlation.cpu().numpy()[np.ix_(rows, rows)]
        return found
