"""Band-limited velocities: which frequencies are kept."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch

from atlasmith.transforms import deformation_model


@pytest.mark.parametrize(
    ("shape", "spacing", "kept"),
    [((16, 20), (1.0, 1.0), (4, 5)), ((16, 10, 9), (1.0, 2.0, 5.0), (4, 5, 9))],
    ids=["2d", "3d anisotropic"],
)
def test_the_projection_cuts_the_spectrum_off(
    shape: tuple[int, ...], spacing: tuple[float, ...], kept: tuple[int, ...]
) -> None:
    """Up to a quarter of the highest frequency of the finest axis, per mm."""
    model, axes = deformation_model("fourier_velocity", {"band": 0.25}), tuple(range(2, 2 + len(shape)))
    field = torch.randn(2, len(shape), *shape)
    spectrum = scipy.fft.dctn(field.numpy(), axes=axes, norm="ortho")
    low = np.zeros_like(spectrum)
    low[(..., *map(slice, kept))] = spectrum[(..., *map(slice, kept))]
    expected = torch.from_numpy(scipy.fft.idctn(low, axes=axes, norm="ortho"))
    torch.testing.assert_close(model.tangent(field, spacing), expected, atol=1e-5, rtol=0)


def test_the_whole_band_changes_nothing() -> None:
    field = torch.randn(1, 2, 9, 12)
    model = deformation_model("fourier_velocity", {"band": 1.0})
    torch.testing.assert_close(model.tangent(field, (1.0, 1.3)), field, atol=1e-5, rtol=0)
