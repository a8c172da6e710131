"""Fusion of label maps that are given as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from atlasmith.core.errors import AtlasmithError, InputError, Problem, did_you_mean, look_up
from atlasmith.core.grid import Array, Grid
from atlasmith.fusion.fuser import Fuser, FusionInputs
from atlasmith.fusion.probabilities import label_probabilities, most_probable_labels
from atlasmith.fusion.table import FUSERS


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
    prior: float = 0.0,
    prior_fallback: float = 0.0,
    **settings: Any,
) -> FusedLabels:
    """Fuse the label maps of several atlases that are aligned with a target.

    Args:
        labels: (N, *shape) integers, one map an atlas; shape is (X, Y) or (X, Y, Z).
        images: (N, *shape), the atlas images, normalized to [0, 1]; not needed by methods that use labels
        only. target: (*shape), the image to segment, normalized to [0, 1]; likewise. method: A name of
        `atlasmith.fusion.table.FUSERS` that needs no trained network. prior: Power of the labels' prior
        probabilities; 0: no prior. prior_fallback: Where no label has this probability, the prior alone
        decides; 0: nowhere. **settings: The method's own settings, such as `alpha` of `jlf`.

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
    if fuser.training is not None:
        untrained = [name for name, other in FUSERS.items() if other.training is None]
        raise AtlasmithError(
            f"fusion method '{method}' needs a trained network, and so a cohort: run the workflow with it in "
            f"fusion.methods. Methods that need none: {', '.join(untrained)}."
        )
    maps = _checked_labels(labels)
    shape = maps.shape[1:]
    tensor_shape = Grid((*shape, 1)[:3], np.eye(4)).tensor_shape
    if fuser.needs_images:
        if images is None or target is None:
            raise AtlasmithError(f"fusion method '{method}' needs `images` and `target`. Give both.")
        image_maps, own = np.asarray(images, dtype=np.float32), np.asarray(target, dtype=np.float32)
    else:
        image_maps, own = np.zeros(maps.shape, np.float32), np.zeros(shape, np.float32)
    if image_maps.shape != maps.shape or own.shape != shape:
        raise AtlasmithError(
            f"labels {maps.shape}, images {image_maps.shape} and target {own.shape} don't match. Resample "
            "them to one grid: (N, *shape), (N, *shape) and (*shape)."
        )
    inputs = FusionInputs(
        maps.reshape(-1, *tensor_shape),
        image_maps.reshape(-1, *tensor_shape),
        own.reshape(tensor_shape),
        _checked_settings(fuser, method, settings),
    )
    probabilities = label_probabilities(fuser, inputs, prior, prior_fallback)
    fused, confidence = most_probable_labels(probabilities, tensor_shape)
    return FusedLabels(fused.reshape(shape), confidence.reshape(shape))


def _checked_labels(labels: Sequence[Array] | Array) -> Array:
    try:
        maps = np.asarray(labels)
    except ValueError:
        raise AtlasmithError("label maps differ in shape. Resample them to one grid.") from None
    if maps.ndim not in (3, 4) or not np.issubdtype(maps.dtype, np.integer):
        raise AtlasmithError(
            f"labels are {maps.dtype} of shape {maps.shape}. Give integers (N, X, Y) or (N, X, Y, Z)."
        )
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
