"""Smooth random fields for the tests of this folder."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter


def smooth_field(shape: tuple[int, ...], amplitude: float, seed: int = 0, sigma: float = 2.5) -> torch.Tensor:
    random = np.random.default_rng(seed)
    field = np.stack([gaussian_filter(random.normal(size=shape), sigma) for _ in shape])
    return torch.from_numpy(field / np.abs(field).max() * amplitude)[None].float()
