"""Joint label fusion: weights that account for errors which atlases have in common, and votes of patches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_dilation
from torch import Tensor

from atlasmith.core.grid import Array
from atlasmith.fusion.fuser import LabelProbabilities
from atlasmith.fusion.joint_weights import solve_joint_weights

MIN_VARIANCE = 1e-6  # of the intensities of a patch
CHUNK_VALUES = 2**22  # of patches at a time, which bounds memory


def joint_label_fusion(
    labels: Array,
    images: Array,
    target: Array,
    patch: int = 2,
    search: int = 3,
    alpha: float = 0.1,
    beta: float = 2.0,
) -> LabelProbabilities:
    """Compute each label's share of the votes by joint label fusion.

    Wang et al. 2013 (doi:10.1109/TPAMI.2012.143), as in the programs of PICSL and ANTs. At each voxel, each
    atlas's patch that correlates best with the target's is searched for; `joint_weights` of the differences
    of these patches weight the atlases; and the whole patch of labels votes, each label at its own position.
    Only voxels near those where the atlases disagree are computed.

    Args:
        labels: (N, *shape) integers, one map an atlas.
        images: (N, *shape), the propagated atlas images.
        target: (*shape), the image to segment.
        patch: Radius of the patches, voxels.
        search: Radius of the search for the best patch, voxels.
        alpha: Added to the diagonal of the joint errors.
        beta: Power of the errors.

    Yields:
        Each label, in rising order, the whole grid, and its share of the votes (*shape).
    """
    values, index = np.unique(labels, return_inverse=True)
    index = index.reshape(labels.shape)
    ambiguous = (index != index[0]).any(axis=0)
    whole_grid = tuple(slice(0, n) for n in target.shape)
    votes = None
    if ambiguous.any():
        active = binary_dilation(ambiguous, np.ones((2 * patch + 1,) * target.ndim))
        box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(active))
        margin = patch + search
        wide = tuple(slice(s.start, s.stop + 2 * margin) for s in box)
        wide_images, positions, own = (
            _padded(torch.from_numpy(x), margin)[:, *wide]
            for x in (images, index.astype(np.float32), target[None])
        )
        voxels = np.argwhere(active[box])
        moves = _best_moves(wide_images, own[0], voxels, patch, search)
        weights = partial(joint_weights, alpha=alpha, beta=beta)
        votes = _votes(wide_images, positions, own[0], voxels + margin, moves, len(values), patch, weights)
        votes = votes[:, *(slice(margin, n - margin) for n in own[0].shape)]
        votes /= np.maximum(votes.sum(axis=0), np.finfo(np.float32).tiny)
    for position, value in enumerate(values):
        probability = (index[0] == position).astype(np.float32)
        if votes is not None:
            probability[box] = np.where(ambiguous[box], votes[position], probability[box])
        yield int(value), whole_grid, probability


def joint_weights(errors: Tensor, alpha: float, beta: float) -> Tensor:
    """Compute the weights that minimize the expected error of the weighted vote.

    Atlases i and j are taken to be wrong together with a probability proportional to
    (<e_i, e_j> / (P - 1)) ** beta.

    Args:
        errors: e (V, N, P), absolute differences of each atlas's patch to the target's.
        alpha: Added to the diagonal.
        beta: Power of the errors.

    Returns:
        (V, N), not negative, of sum 1.
    """
    size = errors.shape[2]
    joint = (torch.einsum("vip,vjp->vij", errors, errors) / (size - 1)) ** beta
    return solve_joint_weights(joint, alpha)


def _votes(
    images: Tensor,
    index: Tensor,
    target: Tensor,
    voxels: Array,
    moves: Tensor,
    count: int,
    patch: int,
    weights: Callable[[Tensor], Tensor],
) -> Array:
    """Votes (L, *shape) of the patches at some voxels (V, d).

    images, labels as positions (N, *shape), target (*shape). moves: (N, V), from `_best_moves`. weights: from
    the errors (v, N, P) of patches to the weights (v, N) of their votes.
    """
    strides = _strides(target.shape)
    places = torch.from_numpy(voxels) @ strides
    around = _offsets(patch, target.ndim) @ strides
    image, label, own = images.flatten(1), index.long().flatten(1), target.flatten()
    result = torch.zeros(count, own.numel())
    for chosen in torch.arange(len(places)).split(max(1, CHUNK_VALUES // (len(images) * len(around)))):
        here = places[chosen, None] + around  # (v, P)
        found = (here + moves[:, chosen, None]).flatten(1)  # (N, v P)
        patches = torch.gather(image, 1, found).view(len(images), *here.shape)
        errors = (_standardized(patches) - _standardized(own[here])).abs().movedim(0, 1)
        patch_labels = torch.gather(label, 1, found).view(patches.shape)
        entry = (patch_labels * own.numel() + here).flatten()
        result.view(-1).index_add_(0, entry, weights(errors).T[..., None].expand(patches.shape).flatten())
    return result.view(count, *target.shape).numpy()


def _strides(shape: Sequence[int]) -> Tensor:
    """How far apart neighbors along each axis (d,) lie in memory."""
    return torch.tensor([int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))])


def _padded(maps: Tensor, margin: int) -> Tensor:
    """Maps (N, *shape) with their edges repeated."""
    return F.pad(maps[None], [margin] * 2 * (maps.ndim - 1), mode="replicate")[0]


def _offsets(radius: int, ndim: int) -> Tensor:
    """Offsets (K, d) in order of length, so that ties go to the shortest displacement."""
    steps = itertools.product(range(-radius, radius + 1), repeat=ndim)
    return torch.tensor(sorted(steps, key=lambda step: sum(s * s for s in step)))


def _standardized(patches: Tensor) -> Tensor:
    """Patches (..., P) of zero mean and unit variance."""
    centered = patches - patches.mean(dim=-1, keepdim=True)
    variance = (centered**2).sum(dim=-1, keepdim=True) / (patches.shape[-1] - 1)
    return centered / variance.clamp(min=MIN_VARIANCE).sqrt()


def _best_moves(images: Tensor, target: Tensor, voxels: Array, patch: int, search: int) -> Tensor:
    """How far off in memory (N, V) each atlas's patch lies that correlates best with the target's at a voxel.

    Sums over patches are box filters, so that an offset costs a few passes over the images.
    """
    offsets, size = _offsets(search, target.ndim), (2 * patch + 1) ** target.ndim
    wide = images.movedim(0, -1).contiguous()  # atlases side by side in memory
    mean, squares = _box_sums(wide, patch) / size, _box_sums(wide**2, patch)
    precision = (squares - size * mean**2).clamp(min=MIN_VARIANCE * (size - 1)).rsqrt()
    own = target[tuple(slice(search, n - search) for n in target.shape)][..., None]
    own_sum = _box_sums(own, patch)
    spots = tuple(torch.from_numpy(voxels).T)
    best = torch.full((len(voxels), len(images)), -torch.inf)
    choice = torch.zeros(best.shape, dtype=torch.long)
    for number, offset in enumerate((offsets + search).tolist()):
        window = tuple(slice(o, o + n) for o, n in zip(offset, own.shape, strict=False))
        small = tuple(slice(o, o + n) for o, n in zip(offset, own_sum.shape, strict=False))
        product = _box_sums(wide[window] * own, patch)
        score = (product.addcmul_(mean[small], own_sum, value=-1) * precision[small])[spots]
        better = score > best
        best = torch.where(better, score, best)
        choice[better] = number
    return (offsets @ _strides(target.shape))[choice.T]


def _box_sums(maps: Tensor, radius: int) -> Tensor:
    """Sums of maps (*shape, N) over boxes that lie within, one axis at a time: (*shape less 2 radius, N)."""
    for axis in range(maps.ndim - 1):
        length = maps.shape[axis] - 2 * radius
        total = maps.narrow(axis, 0, length).clone()
        for start in range(1, 2 * radius + 1):
            total += maps.narrow(axis, start, length)
        maps = total
    return maps
