"""Fusion of label maps that are given as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from atlasmith.core.errors import AtlasmithError, InputError, Problem, did_you_mean, look_up
from atlasmith.core.grid import Array, Grid
from atlasmith.fusion.aligned import AlignedAtlases
from atlasmith.fusion.fuser import Fuser, FusionInputs
from atlasmith.fusion.probabilities import label_probabilities, most_probable_labels
from atlasmith.fusion.table import FUSERS
from atlasmith.training.device import select_device


@dataclass(frozen=True, eq=False)
class FusedLabels:
    """The result of a fusion.

    Args:
        labels: (*shape) int32.
        confidence: (*shape) float32, the probability of the label, from 0 to 1.
    """

    labels: Array
    confidence: Array


def fuse(
    labels: Sequence[Array] | Array,
    images: Sequence[Array] | Array | None = None,
    target: Array | None = None,
    method: str = "majority",
    *,
    valid: Array | None = None,
    target_valid: Array | None = None,
    prior: float = 0.0,
    prior_fallback: float = 0.0,
    device: str = "auto",
    **settings: Any,
) -> FusedLabels:
    """Fuse the label maps of several atlases that are aligned with a target.

    Args:
        labels: (N, *shape) integers, one map an atlas; shape is (X, Y) or (X, Y, Z).
        images: (N, *shape), or (C, N, *shape) of several channels: the atlas images, normalized to [0, 1];
            not needed by methods that use labels only.
        target: (*shape), or (C, *shape): the image to segment, normalized to [0, 1]; likewise.
        method: A name of `atlasmith.fusion.table.FUSERS` that needs no trained network.
        valid: (N, *shape) booleans, false where an atlas has no vote, such as in a lesion; None: nowhere.
        target_valid: (*shape) booleans, false where the target's intensities say nothing; None: nowhere.
        prior: Power of the labels' prior probabilities; 0: no prior.
        prior_fallback: Where no label has this probability, the prior alone decides; 0: nowhere.
        device: Where to compute: `auto`, `cpu` or `cuda`.
        **settings: The method's own settings, such as `alpha` of `jlf`.

    Returns:
        Labels and their confidence, each (*shape).

    Raises:
        AtlasmithError: For an unknown method, one that needs a trained network, images that are missing,
            shapes that don't match, or unknown settings.

    Example:
        >>> import numpy as np
        >>> labels = np.array([[[0, 1], [5, 5]], [[0, 1], [1, 5]], [[0, 1], [5, 0]]])
        >>> fused = fuse(labels)
        >>> fused.labels
        array([[0, 1],
               [5, 5]], dtype=int32)
        >>> fused.confidence.round(2)
        array([[1.  , 1.  ],
               [0.67, 0.67]], dtype=float32)
    """
    fuser = look_up(FUSERS, method, "fusion method")
    if fuser.is_trained:
        untrained = [name for name, other in FUSERS.items() if not other.is_trained]
        raise AtlasmithError(
            f"fusion method '{method}' needs a trained network, and so a cohort: run the workflow with it in "
            f"fusion.methods. Methods that need none: {', '.join(untrained)}."
        )
    maps = _checked_labels(labels)
    shape = maps.shape[1:]
    if not fuser.needs_images:
        images, target = np.zeros(maps.shape, np.float32), np.zeros(shape, np.float32)
    elif images is None or target is None:
        raise AtlasmithError(f"fusion method '{method}' needs `images` and `target`. Give both.")
    place = select_device(device)
    atlases = _checked_atlases(maps, images, target, valid, target_valid, place)
    inputs = FusionInputs.of(atlases, _checked_settings(fuser, method, settings))
    probabilities = label_probabilities(fuser, inputs, prior, prior_fallback)
    fused, confidence = most_probable_labels(probabilities, inputs.labels.shape[1:], place)
    return FusedLabels(*(data.cpu().numpy().reshape(shape) for data in (fused, confidence)))


def _checked_atlases(
    labels: Array,
    images: Sequence[Array] | Array,
    target: Array,
    valid: Array | None,
    target_valid: Array | None,
    device: torch.device,
) -> AlignedAtlases:
    """Check that the arrays fit together, and make them tensors with a channel axis."""
    shape = labels.shape[1:]
    maps, own = np.asarray(images, dtype=np.float32), np.asarray(target, dtype=np.float32)
    if own.ndim == len(shape):
        maps, own = maps[None], own[None]
    masks = [None if mask is None else np.asarray(mask, dtype=bool) for mask in (valid, target_valid)]
    fits = maps.shape == (len(own), *labels.shape) and own.shape[1:] == shape
    if not fits or any(m is not None and m.shape != labels.shape[k:] for k, m in enumerate(masks)):
        raise AtlasmithError(
            f"labels {labels.shape}, images {np.shape(images)}, target {np.shape(target)} and masks "
            f"{[None if mask is None else mask.shape for mask in masks]} don't match. Resample them to one "
            "grid: (N, *shape), ([C,] N, *shape), ([C,] *shape), (N, *shape) and (*shape)."
        )
    tensor_shape = Grid((*shape, 1)[:3], np.eye(4)).tensor_shape

    def arranged(data: Array) -> Tensor:
        data = np.ascontiguousarray(data).reshape(*data.shape[: data.ndim - len(shape)], *tensor_shape)
        return torch.from_numpy(data).to(device)

    voting, known = (None if mask is None else arranged(mask) for mask in masks)
    return AlignedAtlases(*map(arranged, (labels, maps, own)), valid=voting, target_valid=known)


def _checked_labels(labels: Sequence[Array] | Array) -> Array:
    try:
        maps = np.asarray(labels)
    except ValueError:
        raise AtlasmithError("label maps differ in shape. Resample them to one grid.") from None
    if maps.ndim not in (3, 4) or not np.issubdtype(maps.dtype, np.integer):
        raise AtlasmithError(
            f"labels are {maps.dtype} of shape {maps.shape}. Give integers (N, X, Y) or (N, X, Y, Z)."
        )
    limit = np.iinfo(np.int32).max
    if not maps.size or maps.min() < 0 or maps.max() > limit:
        found = f"go from {maps.min()} to {maps.max()}" if maps.size else f"have the shape {maps.shape}"
        raise AtlasmithError(f"labels {found}. Give one map or more, of integers from 0 to {limit}.")
    return maps.astype(np.int32)


def _checked_settings(fuser: Fuser, method: str, settings: dict[str, Any]) -> Any:
    try:
        return fuser.settings_type(**settings)
    except ValidationError as error:
        raise InputError(
            Problem(f"fusion method '{method}': {name}", item["msg"], did_you_mean(name, fuser.settings))
            for item in error.errors()
            for name in [".".join(map(str, item["loc"]))]
        ) from None
