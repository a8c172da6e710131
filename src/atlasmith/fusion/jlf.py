"""Joint label fusion: weights that know which atlases make the same mistakes, and votes of whole patches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_dilation
from torch import Tensor

from atlasmith.config.schema import JLFSection
from atlasmith.core.grid import Array
from atlasmith.fusion.methods import Share

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
    everywhere = tuple(slice(0, n) for n in target.shape)
    shares = None
    if disputed.any():
        active = binary_dilation(disputed, np.ones((2 * settings.patch + 1,) * target.ndim))
        box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(active))
        margin = settings.patch + settings.search
        wide = tuple(slice(s.start, s.stop + 2 * margin) for s in box)
        pictures, positions, own = (
            _padded(torch.from_numpy(x), margin)[:, *wide]
            for x in (images, index.astype(np.float32), target[None])
        )
        shares = _votes(pictures, positions, own[0], np.argwhere(active[box]), len(values), settings)
        shares /= np.maximum(shares.sum(axis=0), np.finfo(np.float32).tiny)
    for position, value in enumerate(values):
        share = (index[0] == position).astype(np.float32)
        if shares is not None:
            share[box] = np.where(disputed[box], shares[position], share[box])
        yield int(value), everywhere, share


def joint_weights(errors: Tensor, alpha: float, beta: float) -> Tensor:
    """Weights (V, N) of atlases whose patches differ from the target's by `errors` (V, N, P).

    Those that minimize the expected error of the vote where atlases i and j are wrong together with a
    probability that goes as `(<e_i, e_j> / (P - 1)) ** beta`, with `alpha` on the diagonal; none is negative,
    and they sum to 1.
    """
    size = errors.shape[2]
    together = (torch.einsum("vip,vjp->vij", errors, errors) / (size - 1)) ** beta
    return solved(together, alpha)


def correlated_weights(wrong: Tensor, correlation: Tensor, alpha: float) -> Tensor:
    """Weights (V, N) of atlases that are wrong with probabilities `wrong` (V, N), where beyond these their
    errors have `correlation` (N, N): as `joint_weights`, i and j are wrong together with a probability of
    `p_i p_j + r_ij sqrt(p_i (1 - p_i) p_j (1 - p_j))`."""
    spread = (wrong * (1 - wrong)).clamp(min=0).sqrt()
    parts = []
    for p, s in zip(*(x.split(max(1, CHUNK // wrong.shape[1] ** 2)) for x in (wrong, spread)), strict=True):
        together = p[:, :, None] * p[:, None] + correlation * s[:, :, None] * s[:, None]
        parts.append(solved(together, alpha))
    return torch.cat(parts)


def solved(together: Tensor, alpha: float) -> Tensor:
    """(M + alpha I)^-1 1 of M (V, N, N), negative weights set to 0, scaled to sum 1."""
    count = together.shape[1]
    system = together + alpha * torch.eye(count).to(together)
    weights = torch.linalg.solve(system, torch.ones(len(system), count).to(system)).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)


def _votes(
    images: Tensor, index: Tensor, target: Tensor, active: Array, count: int, settings: JLFSection
) -> Array:
    """Votes (L, *inner) of the patches about the voxels `active` (V, d) of a box.

    images, labels as positions (N, *wide), target (*wide): the box with a margin of both radii.
    """
    margin, atlases = settings.patch + settings.search, len(images)
    # How far apart neighbors along each axis lie in memory.
    strides = torch.tensor([int(np.prod(target.shape[axis + 1 :])) for axis in range(target.ndim)])
    offsets = _offsets(settings.search, target.ndim)
    moves = (offsets @ strides)[_best(images, target, active, offsets, settings)]  # (N, V)
    places = (torch.from_numpy(active) + margin) @ strides
    around = _offsets(settings.patch, target.ndim) @ strides
    image, label, own = images.flatten(1), index.long().flatten(1), target.flatten()
    result = torch.zeros(count, own.numel())
    for chosen in torch.arange(len(places)).split(max(1, CHUNK // (atlases * len(around)))):
        here = places[chosen, None] + around  # (v, P)
        found = (here + moves[:, chosen, None]).flatten(1)  # (N, v P)
        patches = torch.gather(image, 1, found).view(atlases, *here.shape)
        errors = (_standardized(patches) - _standardized(own[here])).abs().movedim(0, 1)
        weights = joint_weights(errors, settings.alpha, settings.beta)  # (v, N)
        said = torch.gather(label, 1, found).view(patches.shape)
        spot = (said * own.numel() + here).flatten()
        result.view(-1).index_add_(0, spot, weights.T[..., None].expand(patches.shape).flatten())
    inner = tuple(slice(margin, n - margin) for n in target.shape)
    return result.view(count, *target.shape)[:, *inner].numpy()


def _padded(maps: Tensor, margin: int) -> Tensor:
    """Maps (N, *shape) with their edges repeated."""
    return F.pad(maps[None], [margin] * 2 * (maps.ndim - 1), mode="replicate")[0]


def _offsets(radius: int, ndim: int) -> Tensor:
    """(K, d), the middle first, so that ties go to no displacement."""
    steps = itertools.product(range(-radius, radius + 1), repeat=ndim)
    return torch.tensor(sorted(steps, key=lambda step: sum(s * s for s in step)))


def _standardized(patches: Tensor) -> Tensor:
    """Patches (..., P) of zero mean and unit variance."""
    centered = patches - patches.mean(dim=-1, keepdim=True)
    variance = (centered**2).sum(dim=-1, keepdim=True) / (patches.shape[-1] - 1)
    return centered / variance.clamp(min=FLAT).sqrt()


def _best(images: Tensor, target: Tensor, active: Array, offsets: Tensor, settings: JLFSection) -> Tensor:
    """For each atlas and active voxel which of `offsets` (N, V) is_main_process to the patch that correlates best.

    Sums over patches are box filters, so an offset costs a few passes over the images.
    """
    radius, size = settings.patch, (2 * settings.patch + 1) ** target.ndim
    wide = images.movedim(0, -1).contiguous()  # atlases side by side in memory
    mean, squares = _box(wide, radius) / size, _box(wide**2, radius)
    precision = (squares - size * mean**2).clamp(min=FLAT * (size - 1)).rsqrt()
    search = settings.search
    own = target[tuple(slice(search, n - search) for n in target.shape)][..., None]
    own_sum = _box(own, radius)
    spots = tuple(torch.from_numpy(active).T)
    best = torch.full((len(active), len(images)), -torch.inf)
    choice = torch.zeros(best.shape, dtype=torch.long)
    for number, offset in enumerate((offsets + search).tolist()):
        window = tuple(slice(o, o + n) for o, n in zip(offset, own.shape, strict=False))
        small = tuple(slice(o, o + n) for o, n in zip(offset, own_sum.shape, strict=False))
        product = _box(wide[window] * own, radius)
        score = (product.addcmul_(mean[small], own_sum, value=-1) * precision[small])[spots]
        better = score > best
        best = torch.where(better, score, best)
        choice[better] = number
    return choice.T


def _box(maps: Tensor, radius: int) -> Tensor:
    """Sums of maps (*shape, N) over boxes that lie within, one axis at a time: (*shape less 2 radius, N)."""
    for axis in range(maps.ndim - 1):
        length = maps.shape[axis] - 2 * radius
        total = maps.narrow(axis, 0, length).clone()
        for start in range(1, 2 * radius + 1):
            total += maps.narrow(axis, start, length)
        maps = total
    return maps
