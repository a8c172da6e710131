"""The demo's scanners: from tissue to the intensities of an image, with noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from atlasmith.core.grid import Array

NOISE_SD = 0.02  # of both parts of an MR signal, in units of the brightest tissue
BIAS_SD = 0.12  # of the logarithm of the bias field
CT_NOISE_SD = 15.0  # Hounsfield units
AIR = -1000.0  # Hounsfield units


@dataclass(frozen=True)
class Scanner:
    """A kind of scan.

    Args:
        suffix: Of its images.
        stripped: Whether what lies outside the brain is zero.
        scan: From random numbers and tissue (X, Y, Z) to intensities, int16.
    """

    suffix: str
    stripped: bool
    scan: Callable[[np.random.Generator, Array], Array]


def _scan_mr(rng: np.random.Generator, tissue: Array, stripped: bool) -> Array:
    """MR of tissue between 0 and 1: a bias field, Rician noise, and a scale of its own."""
    noisy = np.abs(
        tissue * _bias_field(rng, tissue.shape)
        + NOISE_SD * rng.standard_normal(tissue.shape)
        + 1j * NOISE_SD * rng.standard_normal(tissue.shape)
    )
    shown = tissue > 0 if stripped else True
    return np.rint(noisy * rng.uniform(300, 1500) * shown).astype(np.int16)


def _scan_ct(rng: np.random.Generator, tissue: Array) -> Array:
    """CT of tissue in Hounsfield units, no darker than 24 below air, as scanners clip it."""
    noisy = tissue + CT_NOISE_SD * rng.standard_normal(tissue.shape)
    return np.rint(np.maximum(noisy, AIR - 24)).astype(np.int16)


def _bias_field(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """(X, Y, Z): a smooth gain around one."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    powers = [(i, j, k) for i in range(3) for j in range(3) for k in range(3) if 0 < i + j + k <= 2]
    field = sum(rng.normal() * axes[0] ** i * axes[1] ** j * axes[2] ** k for i, j, k in powers)
    field = np.asarray(field) - np.mean(field)
    return np.exp(field * BIAS_SD / field.std())


MR_STRIPPED = Scanner("T1w", True, partial(_scan_mr, stripped=True))
MR = Scanner("T1w", False, partial(_scan_mr, stripped=False))
CT = Scanner("CT", False, _scan_ct)
