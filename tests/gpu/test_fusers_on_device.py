"""Every fusion method that needs no training gives on a pretended GPU what it gives on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from second_device import DEVICE, DeviceTensor, SecondDevice
from torch import Tensor

from atlasmith.core.grid import Grid
from atlasmith.core.sampling import local_mean
from atlasmith.fusion import fuse
from atlasmith.fusion.aligned import AlignedAtlases
from atlasmith.fusion.fuser import FusionInputs
from atlasmith.fusion.native import native_labels
from atlasmith.fusion.probabilities import label_probabilities, most_probable_labels
from atlasmith.fusion.quality import record_sizes
from atlasmith.fusion.table import FUSERS
from atlasmith.fusion.uncertainty import Uncertainty, registration_residual

UNTRAINED = [name for name, fuser in FUSERS.items() if not fuser.is_trained]
SHAPES = {"2d": (15, 14), "3d": (10, 9, 11)}
ATLASES = 4
ONE = (slice(None), *[-1] * 2)  # a voxel at the image's corner, or a row at its edge


def atlases_of(shape: tuple[int, ...], labels: int = 5, masked: bool = True) -> AlignedAtlases:
    """Smooth atlases of two channels, the last without the second, with masks; a label of a few voxels."""
    random = torch.Generator().manual_seed(0)
    noise = torch.rand(2, ATLASES + 1, *shape, generator=random)
    smooth = torch.stack([local_mean(maps, 2) for maps in noise])
    maps = ((smooth[0, 1:] - 0.4).clamp(0, 0.2) * 5 * (labels - 2)).round().int() * 7
    maps[0][ONE[1:]] = 1000
    present = np.ones((2, ATLASES), bool)
    present[1, -1] = False
    smooth[1, -1] = 0
    valid, target_valid = torch.ones(maps.shape, dtype=torch.bool), torch.ones(shape, dtype=torch.bool)
    valid[1, 3:6], target_valid[8:9] = False, False
    masks = {"valid": valid, "target_valid": target_valid, "present": present} if masked else {}
    return AlignedAtlases(maps, smooth[:, 1:], smooth[:, 0], **masks)


def on_device(atlases: AlignedAtlases) -> AlignedAtlases:
    names = ("labels", "images", "target", "valid", "target_valid")
    moved = {name: getattr(atlases, name) for name in names}
    return replace(atlases, **{k: v if v is None else v.to(DEVICE) for k, v in moved.items()})


def results(method: str, atlases: AlignedAtlases) -> list[Tensor]:
    """Labels, their confidence, sizes and uncertainty, and labels on a finer grid; with a prior."""
    settings = {"patch": 1, "search": 1} if method == "jlf" else {}
    inputs = FusionInputs.of(atlases, FUSERS[method].settings_type(**settings))
    sizes: dict[int, Tensor] = {}
    uncertainty = Uncertainty(atlases)
    shape, device = atlases.target.shape[1:], atlases.target.device
    fused = uncertainty.accumulate(label_probabilities(FUSERS[method], inputs, 0.5, 0.3))
    found = most_probable_labels(record_sizes(fused, sizes), shape, device)
    grid = Grid((*shape, 1)[:3], np.eye(4))  # type: ignore[arg-type]
    native = Grid(tuple(2 * n for n in grid.shape), np.diag([0.5, 0.5, 0.5, 1]))  # type: ignore[arg-type]
    finer = native_labels(FUSERS[method](inputs), grid, native, device) if len(shape) == 3 else ()
    residual = registration_residual(atlases)
    return [*found, *finer, torch.stack(list(sizes.values())), uncertainty.maps(residual)]


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("method", UNTRAINED)
def test_fusers(method: str, shape: tuple[int, ...], masked: bool, second_device: SecondDevice) -> None:
    atlases = atlases_of(shape, masked=masked)
    expected, found = results(method, atlases), results(method, on_device(atlases))
    assert all(isinstance(x, DeviceTensor) for x in found)
    for own, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other.cpu(), own)


@pytest.mark.parametrize("method", UNTRAINED)
def test_waits_dont_grow_with_the_number_of_labels(method: str, second_device: SecondDevice) -> None:
    counts = []
    for labels in (18, 40):  # more than STAPLE takes as candidates everywhere
        atlases = on_device(atlases_of((20, 18), labels))
        second_device.clear()
        results(method, atlases)
        counts.append(second_device.waits.total())
    assert counts[1] <= counts[0] + 3 * (method == "staple"), second_device.waits


def test_arrays_are_fused_on_the_gpu(second_device: SecondDevice) -> None:
    atlases = atlases_of((15, 14), masked=False)
    arrays: list[Any] = [x.numpy() for x in (atlases.labels, atlases.images, atlases.target)]
    found, expected = (fuse(*arrays, "local_weighted", device=name) for name in ("cuda", "cpu"))
    assert second_device.kernels.total() > 0
    np.testing.assert_array_equal(found.labels, expected.labels)
