"""VoteNet: a network that tells where an atlas's label is right (Ding et al. 2019,
doi:10.1007/978-3-030-32248-9_23).

It sees the target's and the warped atlas's intensities, and, beyond the paper, three hints that mean the same
whatever the label, so that one network serves 2 labels or 134: the share of the other atlases that agree, the
share of the neighbourhood that has the same label (near 1 inside a structure, lower at its boundary), and
whether the label is background.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.augmentation import intensities
from atlasmith.config import Config
from atlasmith.fusion.learn import learn
from atlasmith.fusion.stack import Stack, disputed, library_of, own_labels, read_stack
from atlasmith.geometry import Array
from atlasmith.io.tables import Subject
from atlasmith.io.weights import read_weights, write_weights
from atlasmith.naming import Layout
from atlasmith.networks import UNet
from atlasmith.training import generator, pick_device

CHANNELS = 5
NEIGHBOURHOOD = 5  # voxels a side
DISPUTED = 5  # voxels a side: how far around a disagreement training looks
ELSEWHERE = 0.05  # weight of the voxels where all agree
TARGETS_A_STEP = 2
VALIDATE_EVERY = 20
HELD_OUT = 0.1  # of the atlases
CACHE_BYTES = 3 * 2**30
BATCH_VOXELS = 2_000_000  # of one forward pass when applied


def consensus(labels: Tensor, voters: int | None = None) -> Tensor:
    """For each of the first `voters` (all by default) labels (N, *shape), the share of the N - 1 others that
    agree with it."""
    agree = torch.stack([(labels == own).sum(0) for own in labels[:voters]]) - 1
    return agree.float() / max(len(labels) - 1, 1)


def inputs(target: Tensor, images: Tensor, labels: Tensor, agreement: Tensor) -> Tensor:
    """The network's input (N, CHANNELS, *shape) for N voters on one target (*shape)."""
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[target.ndim]
    # Pairs of neighbours along each axis: cheap, and the same for any number of labels. Beyond the border
    # the label goes on, so a patch and the whole image look alike.
    edges = torch.zeros_like(images)
    for axis in range(1, labels.ndim):
        pairs = labels.shape[axis] - 1
        differ = (labels.narrow(axis, 0, pairs) != labels.narrow(axis, 1, pairs)).float()
        edges.narrow(axis, 0, pairs).add_(differ)
        edges.narrow(axis, 1, pairs).add_(differ)
    near = pool(
        edges[:, None] / (2 * target.ndim), NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2, count_include_pad=False
    )
    channels = [target.expand_as(images), images, agreement, 1 - near[:, 0], (labels == 0).float()]
    return torch.stack(channels, dim=1)


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
    order = torch.randperm(count, generator=generator(seed, 10)).tolist()
    return order[:held], order[held:]


def train_votenet(config: Config) -> None:
    """Train on the atlases propagated to each other; write weights and training table.

    Each step takes patches where voters disagree on a few atlases, each with a random part of the library, so
    that the network serves libraries of any size. A tenth of the atlases, where there are six or more, are
    targets of validation alone, and calibrate the probabilities where voters disagree on them. A killed run
    goes on from its checkpoint to the same weights.
    """
    layout, settings = config.layout, config.fusion.votenet
    atlases = library_of(layout)
    library = _Library(layout, atlases)
    validation, training = _split(config.seed, len(atlases))
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    net = UNet(library[0][0].grid.ndim, CHANNELS, 1, settings.channels).to(device)

    def loss(target: int, voters: int, random: torch.Generator, augment: bool) -> Tensor:
        stack, truth, where = library[target]
        shape = stack.target.shape
        if where.size:
            flat = int(where[int(torch.randint(where.size, (1,), generator=random))])
        else:
            flat = int(np.prod(shape)) // 2
        centre = np.unravel_index(flat, shape)
        patch = tuple(
            slice(
                start := min(max(0, int(c) - settings.patch // 2), max(0, n - settings.patch)),
                start + settings.patch,
            )
            for c, n in zip(centre, shape, strict=True)
        )
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
        x = inputs(image, images, labels, agreement).to(device)
        logits = net(x)[:, 0]
        weight = weight[0].expand_as(logits).to(device)
        entropy = F.binary_cross_entropy_with_logits(logits, right.to(device), weight, reduction="sum")
        return entropy / weight.sum()

    voters = max(1, settings.batch_size // TARGETS_A_STEP)

    def step(index: int) -> dict[str, Tensor]:
        random = generator(config.seed, 11, index)
        chosen = [training[int(i)] for i in torch.randint(len(training), (TARGETS_A_STEP,), generator=random)]
        total = torch.stack([loss(target, voters, random, True) for target in chosen]).mean()
        terms = {"loss": total}
        if validation and (index + 1) % VALIDATE_EVERY == 0:
            with torch.no_grad():
                random = generator(config.seed, 12)
                terms["validation"] = torch.stack([loss(t, 4, random, False) for t in validation]).mean()
        return terms

    learn(config, "votenet", "votenet", net, step, len(atlases))
    scale, offset = 1.0, 0.0
    if validation:
        judged = []
        for target in validation:
            stack, truth, where = library[target]
            right = torch.from_numpy(stack.labels == truth).float()
            said = torch.stack([logits(net, stack, device), right]).flatten(2)
            judged.append(said[:, :, torch.from_numpy(where)].flatten(1))
        scale, offset = platt(*torch.cat(judged, dim=1))
        print(f"votenet: calibrated on {len(validation)} atlases: {scale:.3f} z {offset:+.3f}", flush=True)
    about = {
        "ndim": library[0][0].grid.ndim,
        "channels": list(settings.channels),
        "calibration": [scale, offset],
    }
    write_weights(layout.fuser_weights("votenet"), net, about)
    layout.fuser_checkpoint("votenet").unlink()


class Trust:
    """A trained VoteNet, ready to judge the atlases of one target."""

    def __init__(self, config: Config) -> None:
        self.device = pick_device(config.device)
        about, tensors = read_weights(config.layout.fuser_weights("votenet"))
        self.net = UNet(about["ndim"], CHANNELS, 1, about["channels"])
        self.net.load_state_dict(tensors)
        self.net.to(self.device).eval()
        self.scale, self.offset = about["calibration"]

    def __call__(self, stack: Stack) -> Array:
        """The probability (N, *shape) that each atlas's label is right."""
        return (self.scale * logits(self.net, stack, self.device) + self.offset).sigmoid().numpy()


@torch.inference_mode()
def logits(net: nn.Module, stack: Stack, device: torch.device) -> Tensor:
    """What the network says of each atlas's label (N, *shape), some atlases at a time."""
    labels, images = torch.from_numpy(stack.labels), torch.from_numpy(stack.images)
    target = torch.from_numpy(stack.target)
    agreement = consensus(labels)
    size = max(1, BATCH_VOXELS // target.numel())
    parts = []
    for start in range(0, len(labels), size):
        some = slice(start, start + size)
        x = inputs(target, images[some], labels[some], agreement[some])
        parts.append(net(x.to(device))[:, 0].float().cpu())
    return torch.cat(parts)


def platt(z: Tensor, right: Tensor) -> tuple[float, float]:
    """The a and b for which sigmoid(a z + b) is the likeliest probability of what is right (N,), 0 or 1.

    Platt 1999; with its targets, which stay off 0 and 1, so that a perfect split has an answer too.
    """
    count = right.double().sum()
    high, low = (count + 1) / (count + 2), 1 / (len(right) - count + 2)
    target = torch.where(right > 0.5, high, low)
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.binary_cross_entropy_with_logits(line[0] * z.double() + line[1], target)
        loss.backward()
        return loss

    optimiser.step(closure)
    scale, offset = line.detach().tolist()
    return scale, offset
