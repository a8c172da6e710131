"""Joint label fusion: weights that know which atlases make the same mistakes, and votes of whole patches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_dilation
from torch import Tensor

from atlasmith.config import JLFSection
from atlasmith.fusion.methods import Share
from atlasmith.geometry import Array

FLAT = 1e-6  # variance below which a patch has no pattern
CHUNK = 2**22  # values of patches at a time, which bounds memory


def joint_label_fusion(labels: Array, images: Array, target: Array, settings: JLFSection) -> Iterator[Share]:
    """Every label's share of the votes, of labels and images (N, *shape) and a target (*shape).

    Wang et al. 2013 (doi:10.1109/TPAMI.2012.143), as PICSL's and ANTs' programs have it. At a voxel, each
    atlas's patch that correlates best with the target's is looked for; `joint_weights` of what these patches
    leave unexplained say how much each atlas counts; and the whole patch of its labels votes, each at its own
    place. Only voxels whose surroundings the atlases dispute are worked on.
    """
    values, index = np.unique(labels, return_inverse=True)
    index = index.reshape(labels.shape)
    disputed = (index != index[0]).any(axis=0)
    votes = np.zeros((len(values), *target.shape), dtype=np.float32)
    np.put_along_axis(votes, index[:1].astype(np.int64), 1, axis=0)
    if disputed.any():
        active = binary_dilation(disputed, np.ones((2 * settings.patch + 1,) * target.ndim))
        margin = settings.patch + settings.search
        near = tuple(
            slice(max(0, int(i.min()) - margin), int(i.max()) + 1 + margin) for i in np.nonzero(active)
        )
        gained = _votes(index[:, *near], images[:, *near], target[near], active[near], len(values), settings)
        votes[:, disputed] = gained[:, disputed[near]]
    total = np.maximum(votes.sum(axis=0), np.finfo(np.float32).tiny)
    everywhere = tuple(slice(0, n) for n in target.shape)
    for position, value in enumerate(values):
        yield int(value), everywhere, votes[position] / total


def joint_weights(errors: Tensor, alpha: float, beta: float) -> Tensor:
    """Weights (V, N) of atlases whose patches differ from the target's by `errors` (V, N, P).

    Those that minimise the expected error of the vote where atlases i and j are wrong together with a
    probability that goes as `(<e_i, e_j> / (P - 1)) ** beta`, with `alpha` on the diagonal; none is negative,
    and they sum to 1.
    """
    size = errors.shape[2]
    together = (torch.einsum("vip,vjp->vij", errors, errors) / (size - 1)) ** beta
    return solved(together, alpha)


def solved(together: Tensor, alpha: float) -> Tensor:
    """(M + alpha I)^-1 1 of M (V, N, N), negative weights set to 0, scaled to sum 1."""
    count = together.shape[1]
    system = together + alpha * torch.eye(count).to(together)
    weights = torch.linalg.solve(system, torch.ones(len(system), count).to(system)).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)


def _votes(
    index: Array, images: Array, target: Array, active: Array, count: int, settings: JLFSection
) -> Array:
    """Votes (L, *shape) of the patches about `active` voxels, of labels as positions (N, *shape)."""
    shape, atlases, margin = target.shape, len(images), settings.patch + settings.search
    whole = tuple(n + 2 * margin for n in shape)
    # How far apart neighbours along each axis lie in memory.
    strides = torch.tensor([int(np.prod(whole[axis + 1 :])) for axis in range(len(whole))])
    image = _padded(torch.from_numpy(images), margin).flatten(1)
    label = _padded(torch.from_numpy(index).float(), margin).long().flatten(1)
    own = _padded(torch.from_numpy(target)[None], margin).flatten()
    places = (torch.from_numpy(np.argwhere(active)) + margin) @ strides
    around = _offsets(settings.patch, len(shape)) @ strides
    moves = _moved(images, target, active, settings) @ strides  # (N, V)
    result = torch.zeros(count, own.numel())
    for chosen in torch.arange(len(places)).split(max(1, CHUNK // (atlases * len(around)))):
        here = places[chosen, None] + around  # (v, P)
        found = here + moves[:, chosen, None]  # (N, v, P)
        patches = _standardised(torch.gather(image, 1, found.flatten(1)).view(found.shape))
        errors = (patches - _standardised(own[here])).abs().movedim(0, 1)
        weights = joint_weights(errors, settings.alpha, settings.beta)  # (v, N)
        said = torch.gather(label, 1, found.flatten(1)).view(found.shape)
        spot = (said * own.numel() + here).flatten()
        result.view(-1).index_add_(0, spot, weights.T[..., None].expand(found.shape).flatten())
    inner = tuple(slice(margin, margin + n) for n in shape)
    return result.view(count, *whole)[:, *inner].numpy()


def _padded(maps: Tensor, margin: int) -> Tensor:
    """Maps (N, *shape) with their edges repeated."""
    return F.pad(maps[None], [margin] * 2 * (maps.ndim - 1), mode="replicate")[0]


def _offsets(radius: int, ndim: int) -> Tensor:
    """(K, d), the middle first, so that ties go to no displacement."""
    steps = sorted(
        itertools.product(range(-radius, radius + 1), repeat=ndim), key=lambda step: sum(s * s for s in step)
    )
    return torch.tensor(steps)


def _standardised(patches: Tensor) -> Tensor:
    """Patches (..., P) of zero mean and unit variance."""
    centred = patches - patches.mean(dim=-1, keepdim=True)
    variance = (centred**2).sum(dim=-1, keepdim=True) / (patches.shape[-1] - 1)
    return centred / variance.clamp(min=FLAT).sqrt()


def _moved(images: Array, target: Array, active: Array, settings: JLFSection) -> Tensor:
    """For each atlas and active voxel the offset (N, V, d) within `search` at which the correlation of the
    patches is largest. Sums over patches are box filters, so an offset costs a few passes over the images."""
    patch, search, ndim = settings.patch, settings.search, target.ndim
    size = (2 * patch + 1) ** ndim
    own = torch.from_numpy(target)[None]
    wide = _padded(torch.from_numpy(images), search)
    mean, squares = _box(wide, patch) / size, _box(wide**2, patch)
    deviation = (squares - size * mean**2).clamp(min=FLAT * (size - 1)).sqrt()
    own_mean = _box(own, patch) / size
    spots = tuple(torch.from_numpy(i) for i in np.nonzero(active))
    best = torch.full((len(images), len(spots[0])), -torch.inf)
    moves = torch.zeros(len(images), len(spots[0]), ndim, dtype=torch.long)
    for offset in _offsets(search, ndim):
        window = tuple(
            slice(search + int(o), search + int(o) + n) for o, n in zip(offset, target.shape, strict=True)
        )
        product = _box(wide[:, *window] * own, patch)
        covariance = product - size * mean[:, *window] * own_mean
        score = (covariance / deviation[:, *window])[:, *spots]
        better = score > best
        best = torch.where(better, score, best)
        moves[better] = offset
    return moves


def _box(maps: Tensor, radius: int) -> Tensor:
    """Sums of maps (N, *shape) over boxes, one axis at a time; edges are repeated."""
    for axis in range(1, maps.ndim):
        moved = maps.movedim(axis, -1)
        wide = F.pad(moved.reshape(1, -1, moved.shape[-1]), [radius, radius], mode="replicate")
        sums = F.avg_pool1d(wide, 2 * radius + 1, stride=1) * (2 * radius + 1)
        maps = sums.reshape(moved.shape).movedim(-1, axis)
    return maps
