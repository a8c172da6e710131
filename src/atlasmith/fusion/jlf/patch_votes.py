"""Joint label fusion: weights that account for errors which atlases have in common, and votes of patches."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.core.boxes import bounding_box, bounding_boxes, flat_index, label_ranks, widened
from atlasmith.core.chunks import at_once
from atlasmith.fusion.aligned import AlignedAtlases, Box, disagreement
from atlasmith.fusion.fuser import LabelProbabilities
from atlasmith.fusion.joint_weights import solve_joint_weights
from atlasmith.losses.similarity.filters import BoxWindows

MIN_VARIANCE = 1e-6  # of the intensities of a patch
SEARCHED_VALUES = 2**27  # intensities of the atlases that are searched at a time


def joint_label_fusion(
    atlases: AlignedAtlases, patch: int = 2, search: int = 3, alpha: float = 0.1, beta: float = 2.0
) -> LabelProbabilities:
    """Compute each label's share of the votes by joint label fusion.

    Wang et al. 2013 (doi:10.1109/TPAMI.2012.143), as in the programs of PICSL and ANTs. At each voxel, each
    atlas's patch that correlates best with the target's is searched for; `joint_weights` of the differences
    of these patches weight the atlases; and the whole patch of labels votes, each label at its own position.
    Only voxels near those where the atlases disagree are computed. The products of differences are averaged
    over the channels of the target; in a channel that an atlas doesn't have, its differences are the mean of
    the others'. Excluded voxels take no part in the differences, their labels have no vote, and where the
    target is excluded all votes count the same.

    Args:
        atlases: The atlases and the target.
        patch: Radius of the patches, voxels.
        search: Radius of the search for the best patch, voxels.
        alpha: Added to the diagonal of the joint errors.
        beta: Power of the errors.

    Yields:
        Each label, in rising order, a box of the grid, and its share of the votes there.
    """
    labels, boxes = atlases.labels, bounding_boxes(atlases.labels)
    ambiguous, votes = disagreement(labels), None
    active = _dilated(ambiguous, patch)
    box = tuple(bounding_box(active) or ())
    if box:
        margin, voxels = patch + search, active[box].nonzero()
        maps = _cut_maps(atlases, [value for value, _ in boxes], box, margin)
        moves = _best_moves(maps.images, maps.target, voxels, patch, search)
        weights = functools.partial(joint_weights, alpha=alpha, beta=beta)
        votes = _votes(maps, voxels + margin, moves, len(boxes), patch, weights)
        votes = votes[:, *(slice(margin, n - margin) for n in votes.shape[1:])]
        total = votes.sum(dim=0)
        votes /= total.clamp(min=torch.finfo(torch.float32).tiny)
    for position, (value, of_label) in enumerate(boxes):
        probability = (labels[0] == value).float()
        if votes is not None:
            share = votes[position]
            if atlases.comparable is not None:
                share = share.where(atlases.comparable[box] & (total > 0), atlases.share(value, box))
            probability[box] = share.where(ambiguous[box], probability[box])
        near = widened(of_label, search, ambiguous.shape)  # patches vote from there at most
        yield value, near, probability[near]


def _dilated(mask: Tensor, radius: int) -> Tensor:
    """A mask (*shape), dilated by a box."""
    pool = {2: F.max_pool2d, 3: F.max_pool3d}[mask.ndim]
    return pool(mask[None, None].float(), 2 * radius + 1, 1, radius)[0, 0] > 0


def joint_weights(errors: Tensor, alpha: float, beta: float, known: Tensor | None = None) -> Tensor:
    """Compute the weights that minimize the expected error of the weighted vote.

    Atlases i and j are taken to be wrong together with a probability proportional to
    (<e_i, e_j> / (C (P - 1))) ** beta.

    Args:
        errors: e (V, N, C, P), absolute differences of each atlas's patches to the target's.
        alpha: Added to the diagonal.
        beta: Power of the errors.
        known: Of the same shape, 1 where there is an error, 0 elsewhere: the mean product of two atlases'
            errors is over what is known of both. None: all is known.

    Returns:
        (V, N), not negative, of sum 1.
    """
    channels, size = errors.shape[2:]
    joint = torch.einsum("vip,vjp->vij", errors.flatten(2), errors.flatten(2))
    if known is None:
        joint = joint / (channels * (size - 1))
    else:
        both = torch.einsum("vip,vjp->vij", known.flatten(2), known.flatten(2))
        joint = joint / (both.clamp(min=1) * (size - 1) / size)
    return solve_joint_weights(joint**beta, alpha)


@dataclass(frozen=True, eq=False)
class _Maps:
    """A part of the grid with a margin.

    images: (C, N, *wide). labels: Positions of labels (N, *wide) int32. target: (C, *wide). present:
    Of each channel the positions of the atlases that have it, and of those that don't. valid: Of the atlases
    and, last, of the target (N + 1, *wide), 1 or 0; None: 1.
    """

    images: Tensor
    labels: Tensor
    target: Tensor
    present: list[list[Tensor]]
    valid: Tensor | None


def _cut_maps(atlases: AlignedAtlases, values: Sequence[int], box: Box, margin: int) -> _Maps:
    """Cut a box with a margin, also beyond the grid's edges, from atlases with these labels, sorted."""
    labels = atlases.labels

    def cut(maps: Tensor) -> Tensor:
        for axis, (along, size) in enumerate(zip(box, labels.shape[1:], strict=True), start=1):
            index = torch.arange(along.start - margin, along.stop + margin, device=labels.device)
            maps = maps.index_select(axis, index.clamp(0, size - 1))
        return maps

    valid = None
    if atlases.comparable is not None:
        valid = torch.ones(len(labels) + 1, *labels.shape[1:], device=labels.device)
        if atlases.valid is not None:
            valid[:-1] = atlases.valid
        if atlases.target_valid is not None:
            valid[-1] = atlases.target_valid
    channels = atlases.shared_channels or [0]
    present = [
        [torch.from_numpy(rows.nonzero()[0]).to(labels.device) for rows in (having, ~having)]
        for having in map(atlases.having, channels)
    ]
    return _Maps(
        torch.stack([cut(atlases.images[channel]) for channel in channels]),
        label_ranks(cut(labels), values),
        cut(atlases.target[channels]),
        present,
        None if valid is None else cut(valid),
    )


def _votes(
    maps: _Maps, voxels: Tensor, moves: Tensor, count: int, patch: int, weights: Callable[..., Tensor]
) -> Tensor:
    """Votes (L, *wide) of the patches at some voxels (V, d).

    moves: (N, V), from `_best_moves`. weights: from the errors (v, N, C, P) of patches, and where they are
    known, to the weights (v, N) of their votes.
    """
    shape = maps.target.shape[1:]
    places = flat_index(voxels.T, shape)
    around = flat_index(_offsets(patch, len(shape)).T, shape).to(places.device)
    labels, voxel_count = maps.labels.flatten(1), maps.labels[0].numel()
    result = torch.zeros(count, voxel_count, device=places.device)
    size = max(1, at_once(places.device) // (maps.images.shape[:2].numel() * len(around)))
    for place, move in zip(places.split(size), moves.split(size, dim=1), strict=True):
        here = place[:, None] + around  # (v, P)
        found = here + move[:, :, None]  # (N, v, P)
        errors, known = _patch_errors(maps, here, found)
        votes = weights(errors, known=known).T[..., None].expand(found.shape)
        if maps.valid is not None:
            votes = votes * _gathered(maps.valid[:-1].flatten(1), found)
        entry = _gathered(labels, found).long().mul_(voxel_count).add_(here)
        result.view(-1).index_add_(0, entry.flatten(), votes.flatten())
    return result.view(count, *shape)


def _patch_errors(maps: _Maps, here: Tensor, found: Tensor) -> tuple[Tensor, Tensor | None]:
    """Absolute differences (v, N, C, P) of the atlases' patches to the target's, and where they are known.

    here, found: Positions of the target's patches (v, P) and of the atlases' (N, v, P).
    """
    patches = torch.stack([_gathered(channel.flatten(1), found) for channel in maps.images])
    known = None
    if maps.valid is not None:
        valid = _gathered(maps.valid[:-1].flatten(1), found) * maps.valid[-1].flatten()[here]
        known = valid.expand(patches.shape)
    own = maps.target.flatten(1)[:, None, here]  # (C, 1, v, P)
    errors = (_standardized(patches, known) - _standardized(own, known)).abs()
    for own_errors, (having, lacking) in zip(errors, maps.present, strict=True):
        if len(having) and len(lacking):
            own_errors[lacking] = own_errors[having].mean(dim=0)
    return errors.permute(2, 1, 0, 3), None if known is None else known.permute(2, 1, 0, 3)


def _gathered(maps: Tensor, positions: Tensor) -> Tensor:
    """Values (N, v, P) of flat maps (N, V) at positions (N, v, P)."""
    return torch.gather(maps, 1, positions.flatten(1)).view(positions.shape)


def _offsets(radius: int, ndim: int) -> Tensor:
    """Offsets (K, d) in order of length, so that ties go to the shortest displacement."""
    steps = itertools.product(range(-radius, radius + 1), repeat=ndim)
    return torch.tensor(sorted(steps, key=lambda step: sum(s * s for s in step)))


def _standardized(patches: Tensor, known: Tensor | None) -> Tensor:
    """Patches (..., P) of zero mean and unit variance where they are known, and 0 elsewhere."""
    if known is None:
        centered = patches - patches.mean(dim=-1, keepdim=True)
        variance = (centered**2).sum(dim=-1, keepdim=True) / (patches.shape[-1] - 1)
    else:
        count = known.sum(dim=-1, keepdim=True)
        mean = (patches * known).sum(dim=-1, keepdim=True) / count.clamp(min=1)
        centered = (patches - mean) * known
        variance = (centered**2).sum(dim=-1, keepdim=True) / (count - 1).clamp(min=1)
    return centered / variance.clamp(min=MIN_VARIANCE).sqrt()


def _best_moves(images: Tensor, target: Tensor, voxels: Tensor, patch: int, search: int) -> Tensor:
    """How far off in memory (N, V) each atlas's patch lies that correlates best with the target's at a voxel.

    Some atlases are searched at a time, which bounds memory; images: (C, N, *wide), target: (C, *wide).
    """
    size = max(1, SEARCHED_VALUES // target[0].numel())
    return torch.cat([_moves(some, target, voxels, patch, search) for some in images.split(size, dim=1)])


def _moves(images: Tensor, target: Tensor, voxels: Tensor, patch: int, search: int) -> Tensor:
    """`_best_moves` (N, V) int32 of some atlases.

    Correlations are summed over channels, and 0 in one that is absent. Sums over patches are box filters, so
    that an offset costs a few passes over the images.
    """
    shape = target.shape[1:]
    offsets = _offsets(search, len(shape))
    inner = tuple(slice(search, n - search) for n in shape)
    channels = [_Correlation(image, own[inner], patch) for image, own in zip(images, target, strict=True)]
    spots = flat_index(voxels.T, channels[0].own_sum.shape[:-1])
    # The deviation of the target's patch is the same for all offsets: it matters among channels alone.
    scales = [c.own_precision.flatten(0, -2)[spots] for c in channels]
    best = target.new_full((len(voxels), images.shape[1]), -torch.inf)
    move = torch.zeros_like(best, dtype=torch.int32)
    distances = flat_index(offsets.T, shape).tolist()
    for distance, offset in zip(distances, (offsets + search).tolist(), strict=True):
        scores = [c.at(offset).flatten(0, -2).index_select(0, spots) for c in channels]
        if len(scores) > 1:
            scores = [score * scale for score, scale in zip(scores, scales, strict=True)]
        score = functools.reduce(torch.add, scores)
        move.masked_fill_(score > best, distance)
        best = torch.maximum(best, score)
    return move.T


class _Correlation:
    """Correlates patches of the target (*inner) with those of the atlases (N, *wide) at an offset."""

    def __init__(self, images: Tensor, target: Tensor, patch: int) -> None:
        self.patch, self.size = patch, (2 * patch + 1) ** target.ndim
        self.wide = images.movedim(0, -1).contiguous()  # atlases side by side in memory
        self.mean, self.precision = self._moments(self.wide)
        self.own = target[..., None]
        self.own_sum = _box_sums(self.own, patch)
        self.own_precision = self._moments(self.own)[1]

    def _moments(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and inverse deviation, up to a factor, of the patches of maps (*shape, N)."""
        mean, squares = _box_sums(maps, self.patch) / self.size, _box_sums(maps**2, self.patch)
        variance = (squares - self.size * mean**2).clamp(min=MIN_VARIANCE * (self.size - 1))
        return mean, variance.rsqrt()

    def at(self, offset: Sequence[int]) -> Tensor:
        """The correlation (*inner, N) times the deviation of the target's patch."""
        window = tuple(slice(o, o + n) for o, n in zip(offset, self.own.shape, strict=False))
        small = tuple(slice(o, o + n) for o, n in zip(offset, self.own_sum.shape, strict=False))
        product = _box_sums(self.wide[window] * self.own, self.patch)
        return product.addcmul_(self.mean[small], self.own_sum, value=-1) * self.precision[small]


def _box_sums(maps: Tensor, radius: int) -> Tensor:
    """Sums of maps (*shape, N) over boxes that lie within: (*shape less 2 radius, N)."""
    return BoxWindows([2 * radius + 1] * (maps.ndim - 1)).sums(maps[None, None])[0, 0]
