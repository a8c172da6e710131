"""Evidence for each label at each disputed voxel, weighed by a small network that learned from the atlases.

Votes alone don't ask what the target looks like. Here each label that has votes at a voxel makes its case:
how many vote for it there and around, how well its voters fit the target's intensities, and whether the
target looks there as it does nearby where that label is likely. That joins label fusion with corrective
learning (Wang and Yushkevich 2013, doi:10.3389/fninf.2013.00027) and local label learning (Hao et al. 2014,
doi:10.1002/hbm.22359). As the evidence means the same whatever the label, one network serves 2 labels or 134.

The case is heard twice: what the first verdict says around a voxel, and how the target looks where it puts a
label, is evidence in the second (auto-context, Tu and Bai 2010, doi:10.1109/TPAMI.2009.186).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter
from torch import Tensor, nn
from tqdm import tqdm

from atlasmith.config import Config
from atlasmith.config.schema import TRAININGS
from atlasmith.core.grid import Array
from atlasmith.core.labels import bounding_boxes, label_index
from atlasmith.fusion.methods import Box, Share, closeness, patch_distances
from atlasmith.fusion.propagated import Stack, disputed, library_of, own_labels, read_stack
from atlasmith.fusion.training import learn
from atlasmith.io.tables import Subject, read_label_values, write_tsv
from atlasmith.io.weights import read_network, write_weights
from atlasmith.networks import CrossFitted, held_out_folds
from atlasmith.training.device import seeded_generator, select_device

FEATURES = 18  # that make up the evidence
CONTEXT_FEATURES = 9  # that the first verdict adds
CANDIDATES = 6  # labels at most that are considered at a voxel: those with the most votes
VOTE_RADII = (0, 1, 2, 4)  # voxels, of votes and of the first verdict
LOOK_RADII = (2, 4)  # of the neighborhoods that say what a label looks like
REACH = 5  # voxels that evidence looks beyond a label's box
SURE, FEW = 0.9, 20  # a label is sure of voxels with that share of votes, if there are so many
NOISE = 0.02  # SD of intensities within a label at least; images are in [0, 1]
LIMIT = 5.0  # of a deviation, in SDs
# SD of evidence at least: what is constant where two atlases vote on a third varies where three vote.
ALIKE = 0.1
DECAY = 60.0  # of weights, over atlases and labels: the fewer borders seen, the less is to be made of each
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


def find_candidates(stack: Stack, where: Array) -> Case:
    """The candidates and their evidence at voxels `where`, label by label, so that memory is that of the
    disputed voxels and of one label's box."""
    found = [(value, box[1:]) for value, box in bounding_boxes(stack.labels)]
    labels = np.full((len(where), CANDIDATES), -1, dtype=np.int64)
    evidence = np.zeros((*labels.shape, FEATURES), dtype=np.float32)
    if not len(where):
        return Case(where, labels, evidence, found)
    shape = stack.target.shape
    row = _rows(where, shape)
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
        wide, inside, seats = _seats(row, labels, value, box)
        if inside.any():
            evidence[seats] = scene.evidence(value, wide)[:, inside].T
    return Case(where, labels, evidence, found)


def _seats(row: Array, labels: Array, value: int, box: Box) -> tuple[Box, Array, tuple[Array, Array]]:
    """A label's box with room around it, the voxels in there (*wide) where it is a candidate, and their rows
    and columns in `labels` (M, K); row: (*shape), each voxel's, -1 for none."""
    wide = tuple(
        slice(max(s.start - REACH, 0), min(s.stop + REACH, n)) for s, n in zip(box, row.shape, strict=True)
    )
    rows = row[wide]
    slots = (labels[rows] == value) & (rows >= 0)[..., None]
    inside = slots.any(axis=-1)
    return wide, inside, (rows[inside], slots[inside].argmax(axis=-1))


def _rows(where: Array, shape: Sequence[int]) -> Array:
    """(*shape): the row of each of the voxels at flat indices `where`, -1 of others."""
    row = np.full(shape, -1, dtype=np.int64)
    row.ravel()[where] = np.arange(len(where))
    return row


def context_features(stack: Stack, case: Case, shares: Array) -> Array:
    """What a verdict `shares` (M, K) on all that is disputed adds to the evidence: (M, K, CONTEXT_FEATURES), of which
    the first two are the label's share there, and around."""
    thoughts = np.zeros((*case.labels.shape, CONTEXT_FEATURES), dtype=np.float32)
    row, edges = _rows(case.where, stack.target.shape), _gradient(stack.target)
    for value, box, share in said(stack, case, shares):
        wide, inside, seats = _seats(row, case.labels, value, box)
        if not inside.any():
            continue
        given = np.zeros(inside.shape, dtype=np.float32)
        inner = (slice(b.start - w.start, b.stop - w.start) for b, w in zip(box, wide, strict=True))
        given[tuple(inner)] = share
        target = stack.target[wide]
        found = [given, *(_mean(given, radius) for radius in VOTE_RADII[1:])]
        mean, deviation = _moments(target, given)
        found += [*_looks(target, mean, deviation)]
        found += [deviant for deviant, _ in _looks_nearby(target, given, mean, deviation)]
        found += [_along_edges(_mean(given, 1), edges[:, *wide])]
        thoughts[seats] = np.stack(found)[:, inside].T
    return thoughts


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
        found += [*_looks(target, mean, deviation)]
        for deviant, spread in _looks_nearby(target, weighted, mean, deviation):
            found += [deviant, np.log(spread)]

        # How well its voters fit here.
        difference = np.where(mine, self.stack.images[:, *box] - target, 0)
        count = np.maximum(voters, 1)
        found += [np.abs(difference).sum(axis=0) / count / self.contrast]
        found += [difference.sum(axis=0) / count / self.contrast]
        closest = np.where(mine, self.distances[:, *box], np.inf).min(axis=0)
        found += [np.minimum((closest - self.best[box]) / (self.best[box] + 1e-4), LIMIT)]

        # Whether its border lies along an edge of the target.
        found += [_along_edges(_mean(votes, 1), self.edges[:, *box])]
        found += [np.full_like(target, value == 0), np.full_like(target, np.log(sure.sum()) / 10)]
        return np.stack(found).astype(np.float32)


def _moments(target: Array, weights: Array) -> tuple[float, float]:
    """The weighted mean and SD of intensities, the latter with noise."""
    total = weights.sum() + 1e-3
    mean = float((weights * target).sum() / total)
    return mean, float(np.sqrt((weights * np.square(target - mean)).sum() / total) + NOISE)


def _looks(target: Array, mean: float, deviation: float) -> list[Array]:
    """How far the target, as it is and smoothed, is from what a label looks like, in SDs."""
    return [_clipped((_mean(target, radius) - mean) / deviation) for radius in (0, 1)]


def _looks_nearby(
    target: Array, weights: Array, mean: float, deviation: float
) -> Iterator[tuple[Array, Array]]:
    """How far the target is from what a label, with weights (*box), looks like around, and the SD there, for
    each of `LOOK_RADII`."""
    few = 1e-3  # where nothing has weight nearby, what is so everywhere counts
    for radius in LOOK_RADII:
        total = _mean(weights, radius) + few
        near = (_mean(weights * target, radius) + few * mean) / total
        squares = _mean(weights * np.square(target), radius) + few * (mean**2 + deviation**2)
        spread = np.sqrt(np.maximum(squares / total - np.square(near), 0) + NOISE**2)
        yield _clipped((target - near) / spread), spread


def _along_edges(votes: Array, edges: Array) -> Array:
    """The cosine between the gradients of votes (*box) and of the target (d, *box)."""
    border = _gradient(votes)
    lengths = np.sqrt(np.square(border).sum(axis=0) * np.square(edges).sum(axis=0))
    along: Array = (border * edges).sum(axis=0) / (lengths + 1e-3)
    return along


def _clipped(deviation: Array) -> Array:
    return np.clip(deviation, -LIMIT, LIMIT)


class CandidateClassifier(nn.Module):
    """Weighs candidates against each other: their evidence (B, K, features) and which labels they are (B, K),
    as positions among all `labels`, -1 for none, to logits (B, K). It starts from the mean of the first two
    features: shares of votes, or of a verdict."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, labels: int, width: int, features: int = FEATURES) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.codes = nn.Embedding(labels, CODE)
        nn.init.normal_(self.codes.weight, std=0.1)
        self.hear = nn.Linear(features + CODE, width)
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


def heard(jury: CandidateClassifier, evidence: Tensor, labels: Tensor) -> Array:
    """Its probabilities (M, K), of evidence (M, K, features) and positions (M, K)."""
    device = jury.sharpness.device
    shares = torch.zeros(labels.shape)
    # Most voxels have two or three candidates of `CANDIDATES`: those with as many are heard together.
    last = (torch.arange(1, labels.shape[1] + 1) * (labels >= 0)).amax(dim=1)
    for count in last.unique().tolist():
        for rows in torch.nonzero(last == count)[:, 0].split(CHUNK):
            told = evidence[rows, :count].to(device), labels[rows, :count].to(device)
            shares[rows, :count] = jury(*told).softmax(-1).cpu()
    return shares.numpy()


class AutoContext(nn.Module):
    """The juries of both hearings, on labels `values`. Each jury of the second knows the first verdict of the
    one alone that leaves out the same atlases."""

    def __init__(self, values: Sequence[int], width: int, without: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.values = np.array(values)
        self.settings = {
            "values": self.values.tolist(),
            "width": width,
            "without": [list(ids) for ids in without],
        }
        self.first, self.second = (
            CrossFitted([CandidateClassifier(len(values), width, features) for _ in without], without)
            for features in (FEATURES, CONTEXT_FEATURES + FEATURES)
        )

    @torch.inference_mode()
    def verdict(self, stack: Stack, name: str) -> Iterator[Share]:
        """Every label's probability on the image of `name`: the juries' where voters disagree, 1 where they
        agree."""
        case = find_candidates(stack, disputed(stack))
        evidence, labels = map(torch.from_numpy, (case.evidence, positions(case.labels, self.values)))
        shares = []
        for first, second in zip(self.first.for_subject(name), self.second.for_subject(name), strict=True):
            thoughts = torch.from_numpy(context_features(stack, case, heard(first, evidence, labels)))
            shares.append(heard(second, _joined(thoughts, evidence), labels))
        return said(stack, case, np.mean(shares, axis=0))


def _joined(thoughts: Tensor, evidence: Tensor) -> Tensor:
    """What the second hearing is told, of (..., CONTEXT_FEATURES) and (..., FEATURES)."""
    return torch.cat([thoughts, evidence], dim=-1)


def train_autocontext(config: Config) -> None:
    """Train on voxels of the atlases that the other atlases, propagated there, dispute; write weights and
    training tables, whose validation is on the atlases that a jury learns without. A killed run goes on from
    its checkpoints to the same weights.
    """
    layout, settings = config.layout, config.fusion.autocontext
    atlases = library_of(layout)
    device = select_device(config.device)
    torch.manual_seed(config.seed)
    court = AutoContext(
        [0, *read_label_values(layout.labels)],
        settings.width,
        held_out_folds([atlas.id for atlas in atlases], settings.count),
    ).to(device)
    parts = []
    for index, atlas in enumerate(tqdm(atlases, desc="evidence: voxels", disable=None)):
        stack = read_stack(layout, atlas)
        where = disputed(stack)
        case = find_candidates(stack, where[_drawn(config, index, len(where), len(atlases))])
        right = case.labels == own_labels(atlas, stack.grid).ravel()[case.where, None]
        truth = np.where(right.any(axis=1), right.argmax(axis=1), NO_VOTES)
        labels = positions(case.labels, court.values)
        owner = np.full(len(truth), index)
        parts.append([torch.from_numpy(x) for x in (case.evidence, labels, truth, owner)])
    evidence, *about = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    if len(evidence):
        _fit(config, "autocontext", court.first, atlases, lambda k, voxels: evidence[voxels], about)
        thoughts = _thoughts(config, court, atlases)
        _fit(
            config,
            "autocontext_second",
            court.second,
            atlases,
            lambda k, voxels: _joined(thoughts[k, voxels], evidence[voxels]),
            about,
        )
    else:
        print("evidence: nowhere do two atlases disagree on a third: there is nothing to learn", flush=True)
        for training in TRAININGS["autocontext"]:
            write_tsv(layout.fuser_training(training), [], ["step", "loss"])
    write_weights(layout.fuser_weights("autocontext"), court, court.settings)
    for training in reversed(TRAININGS["autocontext"]):  # a second hearing never outlives its first
        layout.fuser_checkpoint(training).unlink(missing_ok=True)


def _drawn(config: Config, index: int, count: int, atlases: int) -> Array:
    """Which of so many disputed voxels of an atlas are learned from."""
    order = torch.randperm(count, generator=seeded_generator(config.seed, 30, index))
    return np.sort(order[: -(-config.fusion.autocontext.voxels // atlases)].numpy())


@torch.inference_mode()
def _thoughts(config: Config, court: AutoContext, atlases: Sequence[Subject]) -> Tensor:
    """What each jury's own first verdict adds at the voxels that are learned from: (juries, M, K, CONTEXT_FEATURES).

    Its own, for the others' have learned from those that it leaves out.
    """
    parts = []
    for index, atlas in enumerate(tqdm(atlases, desc="evidence: first verdicts", disable=None)):
        stack = read_stack(config.layout, atlas)
        case = find_candidates(stack, disputed(stack))
        drawn = _drawn(config, index, len(case.where), len(atlases))
        told = torch.from_numpy(case.evidence), torch.from_numpy(positions(case.labels, court.values))
        verdicts = (heard(jury, *told) for jury in court.first.each)
        parts.append(
            torch.stack([torch.from_numpy(context_features(stack, case, said)[drawn]) for said in verdicts])
        )
    return torch.cat(parts, dim=1)


def _fit(
    config: Config,
    training: str,
    juries: CrossFitted[CandidateClassifier],
    atlases: Sequence[Subject],
    evidence: Callable[[int, Tensor], Tensor],
    about: Sequence[Tensor],
) -> None:
    """Train on voxels. evidence: what the k-th jury is told of some (V,), (V, K, features). about: the labels
    of all, the truth's position among these, and whose they are."""
    labels, truth, owner = about
    device = next(juries.parameters()).device
    taught = torch.tensor([[atlas.id not in ids for ids in juries.without] for atlas in atlases])
    for k, jury in enumerate(juries.each):
        known = torch.nonzero(taught[owner, k])[:, 0]
        present = evidence(k, known)[labels[known] >= 0]
        jury.mean.copy_(present.mean(0))
        jury.deviation.copy_(present.std(0).clamp(min=ALIKE))

    def loss(k: int, voxels: Tensor) -> Tensor:
        logits = juries.each[k](evidence(k, voxels).to(device), labels[voxels].to(device))
        right = truth[voxels].to(device)
        return F.cross_entropy(logits, right, ignore_index=NO_VOTES, reduction="sum")

    def step(index: int) -> dict[str, Tensor]:
        some = torch.randint(len(truth), (BATCH,), generator=seeded_generator(config.seed, 31, index))
        known = taught[owner[some]]
        learned = [loss(k, some[known[:, k]]) for k in range(len(juries.each))]
        terms = {"loss": torch.stack(learned).sum() / max(int(known.sum()), 1)}
        if (index + 1) % VALIDATE_EVERY == 0 and not known.all():
            with torch.no_grad():
                judged = [loss(k, some[~known[:, k]]) for k in range(len(juries.each))]
            terms["validation"] = torch.stack(judged).sum() / (~known).sum()
        return terms

    decay = DECAY / (len(atlases) * (juries.each[0].codes.num_embeddings - 1))
    learn(config, "autocontext", training, juries, step, decay)


def positions(labels: Array, values: Array) -> Array:
    """Where labels are among the sorted `values`; -1 for those that aren't."""
    return label_index(labels, values).astype(np.int64) - 1


def read_autocontext(config: Config) -> AutoContext:
    """The trained juries, ready to decide."""
    return read_network(config.layout.fuser_weights("autocontext"), AutoContext).to(
        select_device(config.device)
    )


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
