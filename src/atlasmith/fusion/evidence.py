"""Evidence for each label at each disputed voxel, weighed by a small network that learned from the atlases.

Votes alone don't ask what the target looks like. Here each label that has votes at a voxel makes its case:
how many vote for it there and around, how well its voters fit the target's intensities, and whether the
target looks there as it does nearby where that label is likely. That joins label fusion with corrective
learning (Wang and Yushkevich 2013, doi:10.3389/fninf.2013.00027) and local label learning (Hao et al. 2014,
doi:10.1002/hbm.22359). As the evidence means the same whatever the label, one network serves 2 labels or 134.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.ndimage import find_objects, uniform_filter
from torch import Tensor, nn
from tqdm import tqdm

from atlasmith.config import Config
from atlasmith.fusion.methods import Share, closeness, patch_distances
from atlasmith.fusion.stack import (
    Stack,
    library_of,
    own_labels,
    positions,
    read_stack,
    training_digest,
)
from atlasmith.geometry import Array
from atlasmith.io.files import whole
from atlasmith.io.tables import Subject, read_label_values, write_tsv
from atlasmith.networks import left_out
from atlasmith.training import fit, generator, one_cycle, pick_device

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
    """

    where: Array
    labels: Array
    evidence: Array


def disputed(stack: Stack) -> Array:
    """Flat indices of the voxels where the voters disagree."""
    return np.flatnonzero((stack.labels != stack.labels[0]).any(axis=0))


def make_case(stack: Stack, where: Array) -> Case:
    """The candidates and their evidence at voxels `where`, label by label, so that memory is that of the
    disputed voxels and of one label's box."""
    if not len(where):
        return Case(
            where, np.zeros((0, CANDIDATES), np.int64), np.zeros((0, CANDIDATES, FEATURES), np.float32)
        )
    shape = stack.target.shape
    row = np.full(shape, -1, dtype=np.int64)
    row.ravel()[where] = np.arange(len(where))
    values, index = np.unique(stack.labels, return_inverse=True)
    boxes = [box[1:] for box in find_objects(index.reshape(stack.labels.shape) + 1)]

    most = np.full((len(where), CANDIDATES), -1, dtype=np.float32)
    labels = np.full((len(where), CANDIDATES), -1, dtype=np.int64)
    for value, box in zip(values, boxes, strict=True):
        votes = (stack.labels[:, *box] == value).mean(axis=0)
        rows, votes = row[box][votes > 0], votes[votes > 0]
        rows, votes = rows[rows >= 0], votes[rows >= 0]
        least = most[rows].argmin(axis=1)
        better = votes > most[rows, least]
        most[rows[better], least[better]] = votes[better]
        labels[rows[better], least[better]] = value
    order = np.argsort(-most, axis=1, kind="stable")
    labels = np.take_along_axis(labels, order, axis=1)

    distances = patch_distances(stack.images, stack.target)
    weights = closeness(distances)
    weights /= weights.sum(axis=0)
    scene = _Scene(stack, distances, weights)
    evidence = np.zeros((*labels.shape, FEATURES), dtype=np.float32)
    for value, box in zip(values, boxes, strict=True):
        wide = tuple(
            slice(max(s.start - REACH, 0), min(s.stop + REACH, n)) for s, n in zip(box, shape, strict=True)
        )
        rows = row[wide]
        slots = (labels[rows] == value) & (rows >= 0)[..., None]
        inside = slots.any(axis=-1)
        if not inside.any():
            continue
        evidence[rows[inside], slots[inside].argmax(axis=-1)] = scene.evidence(int(value), wide)[:, inside].T
    return Case(where, labels, evidence)


def _mean(data: Array, radius: int) -> Array:
    return uniform_filter(data, 2 * radius + 1, mode="nearest") if radius else data


def _gradient(data: Array) -> Array:
    return np.stack(
        [np.gradient(data, axis=a) if n > 1 else np.zeros_like(data) for a, n in enumerate(data.shape)]
    )


class _Scene:
    """One target and its voters, from which the evidence for any label is taken."""

    def __init__(self, stack: Stack, distances: Array, weights: Array) -> None:
        self.stack, self.distances, self.weights = stack, distances, weights
        self.best = distances.min(axis=0)
        usual = np.median(distances.mean(axis=0).ravel()[disputed(stack)])
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


class Juries(nn.Module):
    """Juries that learn from a part of the atlases each, so that there is one to judge any of them as it
    judges someone new (cross-fitting). `without` says what each learns without, by id."""

    def __init__(self, labels: int, width: int, without: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.settings = {"labels": labels, "width": width, "without": [list(ids) for ids in without]}
        self.without = [frozenset(ids) for ids in without]
        self.each: Sequence[Jury] = nn.ModuleList(  # type: ignore[assignment]
            Jury(labels, width) for _ in without
        )

    def shares(self, evidence: Tensor, labels: Tensor, name: str) -> Tensor:
        """Probabilities (B, K) on the image of `name`: of the jury that learned without it, or their mean."""
        unseen = [jury for jury, ids in zip(self.each, self.without, strict=True) if name in ids]
        return torch.stack([jury(evidence, labels).softmax(-1) for jury in unseen or self.each]).mean(0)


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
    metadata = {**juries.settings, "values": values.tolist()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in juries.state_dict().items()}
    with whole(layout.fuser_weights("evidence")) as partial:
        save_file(tensors, partial, {"atlasmith": json.dumps(metadata)})
    layout.fuser_checkpoint("evidence").unlink(missing_ok=True)


def _fit(
    config: Config,
    juries: Juries,
    atlases: Sequence[Subject],
    voxels: Sequence[Tensor],
    device: torch.device,
) -> None:
    """Train on voxels: their evidence, their labels, the truth's position among these, and whose they are."""
    settings, layout = config.fusion.evidence, config.layout
    evidence, labels, truth, owner = voxels
    taught = torch.tensor([[atlas.id not in ids for ids in juries.without] for atlas in atlases])
    for k, jury in enumerate(juries.each):
        present = evidence[(labels >= 0) & taught[owner, k, None]]
        jury.mean.copy_(present.mean(0))
        jury.deviation.copy_(present.std(0) + 1e-3)
    optimiser = torch.optim.AdamW(juries.parameters(), lr=settings.learning_rate)

    def step(index: int) -> dict[str, Tensor]:
        some = torch.randint(len(truth), (BATCH,), generator=generator(config.seed, 31, index))
        known = taught[owner[some]]
        learned, judged = [], []
        for k, jury in enumerate(juries.each):

            def loss(voxels: Tensor, jury: Jury = jury) -> Tensor:
                logits = jury(evidence[voxels].to(device), labels[voxels].to(device))
                right = truth[voxels].to(device)
                return F.cross_entropy(logits, right, ignore_index=NO_VOTES, reduction="sum")

            learned.append(loss(some[known[:, k]]))
            if (index + 1) % VALIDATE_EVERY == 0:
                with torch.no_grad():
                    judged.append(loss(some[~known[:, k]]))
        terms = {"loss": torch.stack(learned).sum() / max(int(known.sum()), 1)}
        if judged and not known.all():
            terms["validation"] = torch.stack(judged).sum() / (~known).sum()
        return terms

    fit(
        module=juries,
        optimiser=optimiser,
        step=step,
        steps=settings.steps,
        schedule=one_cycle(settings.steps),
        checkpoint=layout.fuser_checkpoint("evidence"),
        table=layout.fuser_training("evidence"),
        every=settings.checkpoint_every,
        digest=training_digest(config, len(atlases)),
        description="evidence",
    )


class Verdict:
    """Trained juries, ready to decide one target."""

    def __init__(self, config: Config) -> None:
        self.device = pick_device(config.device)
        with safe_open(config.layout.fuser_weights("evidence"), framework="pt") as file:
            metadata = json.loads(file.metadata()["atlasmith"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.values = np.array(metadata.pop("values"))
        self.juries = Juries(**metadata)
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
    values, index = np.unique(stack.labels, return_inverse=True)
    order = np.argsort(case.labels, axis=None, kind="stable")
    ranked = case.labels.ravel()[order]
    for value, where in zip(values, find_objects(index.reshape(stack.labels.shape) + 1), strict=True):
        box = where[1:]
        share = ((stack.labels[0][box] == value) & agreed[box]).astype(np.float32)
        mine = order[np.searchsorted(ranked, value) : np.searchsorted(ranked, value, "right")]
        places = np.unravel_index(case.where[mine // case.labels.shape[1]], stack.target.shape)
        share[tuple(p - s.start for p, s in zip(places, box, strict=True))] = shares.ravel()[mine]
        yield int(value), box, share
