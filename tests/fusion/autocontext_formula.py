"""The features of auto-context label by label over the whole image, by SciPy and in double precision."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

from atlasmith.core.grid import Array
from atlasmith.fusion.aligned import AlignedAtlases

DEVIATION, WEIGHT = 0.02, 1e-3  # least SD, and the weight of the whole label in local statistics


def mean(data: Array, radius: int) -> Array:
    """The mean over (2 radius + 1)^d voxels; values of the border continue beyond it."""
    return uniform_filter(data, 2 * radius + 1, mode="nearest")


def clipped(data: Array) -> Array:
    return np.clip(data, -5, 5)


class Formula:
    """Features of labels (features, *shape).

    Args:
        atlases: Of any channels and masks; atlases have all channels that the target has.
    """

    def __init__(self, atlases: AlignedAtlases) -> None:
        self.labels = atlases.labels.numpy()
        self.images, self.target = (x.double().numpy() for x in (atlases.images, atlases.target))
        shape = self.target.shape[1:]
        self.votes = np.ones(self.labels.shape, bool) if atlases.votes is None else atlases.votes.numpy()
        self.known = np.ones(shape, bool) if atlases.comparable is None else atlases.comparable.numpy()
        both = (
            np.ones(self.labels.shape) if atlases.both_valid is None else atlases.both_valid.double().numpy()
        )
        present = np.ones(self.images.shape[:2], bool) if atlases.present is None else atlases.present
        self.present = present.reshape(*present.shape, *[1] * len(shape))
        distances = []
        for images, target, having in zip(self.images, self.target, self.present, strict=True):
            if having.any():
                share = np.stack([uniform_filter(x, 5) for x in both])
                squares = np.stack([uniform_filter(x, 5) for x in both * np.square(images - target)])
                own = np.where(share > 1e-4, squares / np.maximum(share, 1e-4), 0)
                where = self.votes & having
                others = np.where(where, own, 0).sum(axis=0) / np.maximum(where.sum(axis=0), 1)
                distances.append(np.where(having, own, others))
        self.distances = np.where(self.votes, np.mean(distances, axis=0), np.inf)
        self.best = self.distances.min(axis=0)
        weights = np.exp(-(self.distances - self.best) / (self.best + 1e-4))
        self.weights = weights / weights.sum(axis=0)
        usual = np.where(self.votes, self.distances, 0).sum(axis=0) / self.votes.sum(axis=0)
        ambiguous = (self.labels != self.labels[0]).any(axis=0)
        self.contrast = np.sqrt(np.median(usual[ambiguous])) + 1e-3

    def features(self, value: int) -> Array:
        """The features of a label."""
        has = (self.labels == value) & self.votes
        share = has.sum(axis=0) / self.votes.sum(axis=0)
        weighted = np.where(has, self.weights, 0).sum(axis=0)
        certain = (share > np.float32(0.9)) & self.known
        if certain.sum() < 20:
            low = min(0.5, 0.8 * share.max(where=self.known, initial=0))
            certain = (share >= low - 1e-7) & self.known
        found = [share, weighted, *(mean(share, r) for r in (1, 2, 4)), mean(weighted, 1)]
        for target in self.target:
            own = target[certain].mean(), target[certain].std() + DEVIATION
            plain, local = self._intensities(target, weighted * self.known, *own)
            found += [*plain, *(x for near, deviation in local for x in (near, np.log(deviation)))]
        for images, target, present in zip(self.images, self.target, self.present, strict=True):
            having = has & present
            for part in (np.abs(images - target), images - target):
                total = np.where(having, part, 0).sum(axis=0)
                found.append(total / np.maximum(having.sum(axis=0), 1) / self.contrast)
        closest = np.where(has, self.distances, np.inf).min(axis=0)
        found += [np.minimum((closest - self.best) / (self.best + 1e-4), 5)]
        found += [self._alignment(share, target) for target in self.target]
        return np.stack(
            [*found, np.full_like(share, value == 0), np.full_like(share, np.log(certain.sum()) / 10)]
        )

    def context(self, probability: Array) -> Array:
        """The context features of a label's probability (*shape)."""
        weights = probability * self.known
        total = weights.sum() + WEIGHT
        found = [probability, *(mean(probability, r) for r in (1, 2, 4))]
        for target in self.target:
            center = (weights * target).sum() / total
            deviation = np.sqrt((weights * np.square(target - center)).sum() / total) + DEVIATION
            plain, local = self._intensities(target, weights, center, deviation)
            found += [*plain, *(near for near, _ in local), self._alignment(probability, target)]
        return np.stack(found)

    def _intensities(
        self, target: Array, weights: Array, center: float, deviation: float
    ) -> tuple[list[Array], list[tuple[Array, Array]]]:
        plain = [clipped((x - center) / deviation) for x in (target, mean(target, 1))]
        local = []
        for radius in (2, 4):
            total = mean(weights, radius) + WEIGHT
            near = (mean(weights * target, radius) + WEIGHT * center) / total
            squares = mean(weights * target**2, radius) + WEIGHT * (center**2 + deviation**2)
            around = np.sqrt(np.maximum(squares / total - near**2, 0) + DEVIATION**2)
            local.append((clipped((target - near) / around), around))
        return plain, local

    def _alignment(self, probability: Array, target: Array) -> Array:
        own, other = (np.stack(np.gradient(x)) for x in (mean(probability, 1), target))
        lengths = np.sqrt(np.square(own).sum(axis=0) * np.square(other).sum(axis=0))
        return np.asarray((own * other).sum(axis=0) / (lengths + 1e-3))
