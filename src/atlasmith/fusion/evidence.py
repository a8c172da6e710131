"""Evidence for each label at each disputed voxel, weighed by a small network that learned from the atlases.

Votes alone don't ask what the target looks like. Here each label that has votes at a voxel makes its case:
how many vote for it there and around, how well its voters fit the target's intensities, and whether the
target looks there as it does nearby where that label is likely. That joins label fusion with corrective
learning (Wang and Yushkevich 2013, doi:10.3389/fninf.2013.00027) and local label learning (Hao et al. 2014,
doi:10.1002/hbm.22359). As the evidence means the same whatever the label, one network serves 2 labels or 134.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter
from torch import Tensor, nn
from tqdm import tqdm

from atlasmith.config import Config
from atlasmith.fusion.learn import learn
from atlasmith.fusion.methods import Share, closeness, patch_distances
from atlasmith.fusion.stack import Stack, disputed, library_of, own_labels, read_stack
from atlasmith.geometry import Array
from atlasmith.io.tables import Subject, read_label_values, write_tsv
from atlasmith.io.weights import read_weights, write_weights
from atlasmith.networks import CrossFitted, left_out
from atlasmith.overlap import boxes, label_index
from atlasmith.training import generator, pick_device

FEATURES = 18  # that make up the evidence
CANDIDATES = 6  # labels at most that are considered at a voxel: those with the most votes
VOTE_RADII = (0, 1, 2, 4)  # voxels
LOOK_RADII = (2, 4)  # of the neighbourhoods that say what a label looks like
REACH = 5  # voxels that evidence looks beyond a label's box
SURE, FEW = 0.9, 20  # a label is sure of voxels with that share of votes, if there are so many
NOISE = 0.02  # SD of intensities within a label at least; images are in [0, 1]
LIMIT = 5.0  # of a deviation, in SDs
CODE = 6  # what the network remembers of a label: so many numbers
BATCH = 4096  # voxels a step
CHUNK = 65536  # voxels of one forward pass
VALIDATE_EVERY = 20
NO_VOTES = -1  # in place of the truth's position, where it is none of the candidates


@dataclass(frozen=True, eq=False)
class Case:
    """What is disputed of one target: M voxels, at flat indices `where`.

    labels: (M, K) the candidates, most votes first, -1 where there are fewer. evidence: (M, K, FEATURES).
    boxes: each label that has votes, disputed or not, in rising order, and its bounding box.
    """

    where: Array
    labels: Array
    evidence: Array
    boxes: list[tuple[int, tuple[slice, ...]]]


def make_case(stack: Stack, where: Array) -> Case:
    """The candidates and their evidence at voxels `where`, label by label, so that memory is that of the
    disputed voxels and of one label's box."""
    found = [(value, box[1:]) for value, box in boxes(stack.labels)]
    labels = np.full((len(where), CANDIDATES), -1, dtype=np.int64)
    evidence = np.zeros((*labels.shape, FEATURES), dtype=np.float32)
    if not len(where):
        return Case(where, labels, evidence, found)
    shape = stack.target.shape
    row = np.full(shape, -1, dtype=np.int64)
    row.ravel()[where] = np.arange(len(where))

    most = np.full((len(where), CANDIDATES), -1, dtype=np.float32)
    for value, box in found:
        votes = (stack.labels[:, *box] == value).mean(axis=0)
        rows, votes = row[box][votes > 0], votes[votes > 0]
        rows, votes = rows[rows >= 0], votes[rows >= 0]
        least = most[rows].argmin(axis=1)
        better = votes > most[rows, least]
        most[rows[better], least[better]] = votes[better]
        labels[rows[better], least[better]] = value
    order = np.argsort(-most, axis=1, kind="stable")
    labels = np.take_along_axis(labels, order, axis=1)

    scene = _Scene(stack)
    for value, box in found:
        wide = tuple(
            slice(max(s.start - REACH, 0), min(s.stop + REACH, n)) for s, n in zip(box, shape, strict=True)
        )
        rows = row[wide]
        slots = (labels[rows] == value) & (rows >= 0)[..., None]
        inside = slots.any(axis=-1)
        if not inside.any():
            continue
        evidence[rows[inside], slots[inside].argmax(axis=-1)] = scene.evidence(value, wide)[:, inside].T
    return Case(where, labels, evidence, found)


def _mean(data: Array, radius: int) -> Array:
    return uniform_filter(data, 2 * radius + 1, mode="nearest") if radius else data


def _gradient(data: Array) -> Array:
    return np.stack(
        [np.gradient(data, axis=a) if n > 1 else np.zeros_like(data) for a, n in enumerate(data.shape)]
    )


class _Scene:
    """One target and its voters, from which the evidence for any label is taken."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.distances = patch_distances(stack.images, stack.target)
        self.weights = closeness(self.distances)
        self.weights /= self.weights.sum(axis=0)
        self.best = self.distances.min(axis=0)
        usual = np.median(self.distances.mean(axis=0).ravel()[disputed(stack)])
        self.contrast = float(np.sqrt(usual)) + 1e-3
        self.edges = _gradient(stack.target)

    def evidence(self, value: int, box: tuple[slice, ...]) -> Array:
        """(FEATURES, *box); the first two are the label's share of the votes, and of the weighted votes."""
        mine = self.stack.labels[:, *box] == value
        voters = mine.sum(axis=0)
        target = self.stack.target[box]
        votes = mine.mean(axis=0, dtype=np.float32)
        weighted = np.where(mine, self.weights[:, *box], 0).sum(axis=0)
        found = [votes, weighted, *(_mean(votes, r) for r in VOTE_RADII[1:]), _mean(weighted, 1)]

        # What the label looks like in this target: wherever it is sure, and nearby.
        sure = votes > SURE
        if sure.sum() < FEW:
            sure = votes >= min(0.5, 0.8 * votes.max())
        mean, deviation = target[sure].mean(), target[sure].std() + NOISE
        found += [_clipped((_mean(target, r) - mean) / deviation) for r in (0, 1)]
        for radius in LOOK_RADII:
            few = 1e-3  # where no votes are near, what is so everywhere counts
            total = _mean(weighted, radius) + few
            near = (_mean(weighted * target, radius) + few * mean) / total
            squares = _mean(weighted * np.square(target), radius) + few * (mean**2 + deviation**2)
            spread = np.sqrt(np.maximum(squares / total - np.square(near), 0) + NOISE**2)
            found += [_clipped((target - near) / spread), np.log(spread)]

        # How well its voters fit here.
        difference = np.where(mine, self.stack.images[:, *box] - target, 0)
        count = np.maximum(voters, 1)
        found += [np.abs(difference).sum(axis=0) / count / self.contrast]
        found += [difference.sum(axis=0) / count / self.contrast]
        closest = np.where(mine, self.distances[:, *box], np.inf).min(axis=0)
        found += [np.minimum((closest - self.best[box]) / (self.best[box] + 1e-4), LIMIT)]

        # Whether its border lies along an edge of the target.
        border, edge = _gradient(_mean(votes, 1)), self.edges[:, *box]
        lengths = np.sqrt(np.square(border).sum(axis=0) * np.square(edge).sum(axis=0))
        found += [(border * edge).sum(axis=0) / (lengths + 1e-3)]
        found += [np.full_like(target, value == 0), np.full_like(target, np.log(sure.sum()) / 10)]
        return np.stack(found).astype(np.float32)


def _clipped(deviation: Array) -> Array:
    return np.clip(deviation, -LIMIT, LIMIT)


class Jury(nn.Module):
    """Weighs candidates against each other: their evidence (B, K, FEATURES) and which labels they are (B, K),
    as positions among all `labels`, -1 for none, to logits (B, K). It starts from the shares of the votes."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, labels: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))
        self.codes = nn.Embedding(labels, CODE)
        nn.init.normal_(self.codes.weight, std=0.1)
        self.hear = nn.Linear(FEATURES + CODE, width)
        self.compare = nn.Linear(2 * width, width)
        self.decide = nn.Linear(width, 1)
        nn.init.zeros_(self.decide.weight)
        nn.init.zeros_(self.decide.bias)
        self.sharpness = nn.Parameter(torch.ones(()))

    def forward(self, evidence: Tensor, labels: Tensor) -> Tensor:
        present = (labels >= 0)[..., None]
        known = (evidence - self.mean) / self.deviation
        case = torch.cat([known, self.codes(labels.clamp(min=0))], dim=-1)
        heard = F.leaky_relu(self.hear(case), 0.1) * present
        others = (heard.sum(-2, keepdim=True) - heard) / (present.sum(-2, keepdim=True) - 1).clamp(min=1)
        verdict = self.decide(F.leaky_relu(self.compare(torch.cat([heard, others], dim=-1)), 0.1))
        shares = (evidence[..., :2].mean(-1) + NOISE).log()
        return torch.where(present, verdict + self.sharpness * shares[..., None], -torch.inf)[..., 0]


class Juries(CrossFitted[Jury]):
    """Juries, cross-fitted."""

    def __init__(self, labels: int, width: int, without: Sequence[Sequence[str]]) -> None:
        super().__init__((Jury(labels, width) for _ in without), without)
        self.settings = {"labels": labels, "width": width, "without": [list(ids) for ids in without]}

    def shares(self, evidence: Tensor, labels: Tensor, name: str) -> Tensor:
        """Probabilities (B, K) on the image of `name`."""
        return torch.stack([jury(evidence, labels).softmax(-1) for jury in self.judges(name)]).mean(0)


def train_evidence(config: Config) -> None:
    """Train on voxels of the atlases that the other atlases, propagated there, dispute; write weights and
    training table, whose validation is on the atlases that a jury learns without. A killed run goes on from
    its checkpoint to the same weights.
    """
    layout, settings = config.layout, config.fusion.evidence
    atlases = library_of(layout)
    values = np.array([0, *read_label_values(layout.labels)])
    device = pick_device(config.device)
    parts = []
    for index, atlas in enumerate(tqdm(atlases, desc="evidence: voxels", disable=None)):
        stack = read_stack(layout, atlas)
        where = disputed(stack)
        order = torch.randperm(len(where), generator=generator(config.seed, 30, index))
        where = where[np.sort(order[: -(-settings.voxels // len(atlases))].numpy())]
        case = make_case(stack, where)
        right = case.labels == own_labels(atlas, stack.grid).ravel()[where, None]
        truth = np.where(right.any(axis=1), right.argmax(axis=1), NO_VOTES)
        labels = positions(case.labels, values)
        parts.append(
            [*map(torch.from_numpy, (case.evidence, labels, truth)), torch.full((len(where),), index)]
        )
    voxels = [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
    torch.manual_seed(config.seed)
    without = left_out([atlas.id for atlas in atlases], settings.count)
    juries = Juries(len(values), settings.width, without).to(device)
    if len(voxels[0]):
        _fit(config, juries, atlases, voxels, device)
    else:
        print("evidence: nowhere do two atlases disagree on a third, so the votes decide", flush=True)
        write_tsv(layout.fuser_training("evidence"), [], ["step", "loss"])
    about = {**juries.settings, "values": values.tolist()}
    write_weights(layout.fuser_weights("evidence"), juries, about)
    layout.fuser_checkpoint("evidence").unlink(missing_ok=True)


def _fit(
    config: Config,
    juries: Juries,
    atlases: Sequence[Subject],
    voxels: Sequence[Tensor],
    device: torch.device,
) -> None:
    """Train on voxels: their evidence, their labels, the truth's position among these, and whose they are."""
    evidence, labels, truth, owner = voxels
    taught = torch.tensor([[atlas.id not in ids for ids in juries.without] for atlas in atlases])
    for k, jury in enumerate(juries.each):
        present = evidence[(labels >= 0) & taught[owner, k, None]]
        jury.mean.copy_(present.mean(0))
        jury.deviation.copy_(present.std(0) + 1e-3)

    def loss(jury: Jury, voxels: Tensor) -> Tensor:
        logits = jury(evidence[voxels].to(device), labels[voxels].to(device))
        right = truth[voxels].to(device)
        return F.cross_entropy(logits, right, ignore_index=NO_VOTES, reduction="sum")

    def step(index: int) -> dict[str, Tensor]:
        some = torch.randint(len(truth), (BATCH,), generator=generator(config.seed, 31, index))
        known = taught[owner[some]]
        learned = [loss(jury, some[known[:, k]]) for k, jury in enumerate(juries.each)]
        terms = {"loss": torch.stack(learned).sum() / max(int(known.sum()), 1)}
        if (index + 1) % VALIDATE_EVERY == 0 and not known.all():
            with torch.no_grad():
                judged = [loss(jury, some[~known[:, k]]) for k, jury in enumerate(juries.each)]
            terms["validation"] = torch.stack(judged).sum() / (~known).sum()
        return terms

    learn(config, "evidence", juries, step, len(atlases))


def positions(labels: Array, values: Array) -> Array:
    """Where labels are among the sorted `values`; -1 for those that aren't."""
    return label_index(labels, values).astype(np.int64) - 1


class Verdict:
    """Trained juries, ready to decide one target."""

    def __init__(self, config: Config) -> None:
        self.device = pick_device(config.device)
        about, tensors = read_weights(config.layout.fuser_weights("evidence"))
        self.values = np.array(about.pop("values"))
        self.juries = Juries(**about)
        self.juries.load_state_dict(tensors)
        self.juries.to(self.device).eval()

    @torch.inference_mode()
    def __call__(self, stack: Stack, name: str) -> Iterator[Share]:
        """Every label's probability on the image of `name`: the juries' where voters disagree, 1 where they
        agree."""
        case = make_case(stack, disputed(stack))
        labels = torch.from_numpy(positions(case.labels, self.values))
        parts = [
            self.juries.shares(x.to(self.device), y.to(self.device), name).cpu()
            for x, y in zip(torch.from_numpy(case.evidence).split(CHUNK), labels.split(CHUNK), strict=True)
            if len(y)
        ]
        shares = torch.cat(parts).numpy() if parts else np.zeros(case.labels.shape, np.float32)
        return said(stack, case, shares)


def said(stack: Stack, case: Case, shares: Array) -> Iterator[Share]:
    """Each label, in rising order, with its box and its share (M, K) of what is disputed, or the whole."""
    agreed = np.ones(stack.target.shape, dtype=bool)
    agreed.ravel()[case.where] = False
    order = np.argsort(case.labels, axis=None, kind="stable")
    ranked = case.labels.ravel()[order]
    for value, box in case.boxes:
        share = ((stack.labels[0][box] == value) & agreed[box]).astype(np.float32)
        mine = order[np.searchsorted(ranked, value) : np.searchsorted(ranked, value, "right")]
        places = np.unravel_index(case.where[mine // case.labels.shape[1]], stack.target.shape)
        share[tuple(p - s.start for p, s in zip(places, box, strict=True))] = shares.ravel()[mine]
        yield value, box, share
