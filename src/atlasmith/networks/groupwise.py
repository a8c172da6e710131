"""The trained object: a (conditional) template and the network that registers images to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atlasmith.core.errors import AtlasmithError, look_up
from atlasmith.core.fields import compose_velocities, exponentiate, resize_displacement
from atlasmith.core.grid import Grid
from atlasmith.core.sampling import half_shape, warp
from atlasmith.io.weights import read_weights, write_weights
from atlasmith.networks.decoder import DECODERS
from atlasmith.networks.registration import NETWORKS, VELOCITY_SCALE
from atlasmith.networks.segmenter import Segmenters
from atlasmith.transforms import Velocity

LOG_VARIANCE = -6.0  # where that of an uncertain velocity starts: an SD of 0.05 voxels

Covariates = Mapping[str, float | str | None]


@dataclass(frozen=True)
class CovariateCode:
    """Covariates as numbers of mean zero: continuous ones standardized, categorical ones one-hot less their
    frequencies. A missing value is the mean, 0.

    continuous: name to (mean, standard deviation). categorical: name to {level: frequency}.
    """

    continuous: dict[str, tuple[float, float]]
    categorical: dict[str, dict[str, float]]

    @classmethod
    def of(cls, names: Sequence[str], cohort: Sequence[Covariates]) -> CovariateCode:
        continuous: dict[str, tuple[float, float]] = {}
        categorical: dict[str, dict[str, float]] = {}
        for name in names:
            values = [subject[name] for subject in cohort if subject[name] is not None]
            if all(isinstance(value, float) for value in values):
                numbers = np.array(values, dtype=float)
                continuous[name] = (float(numbers.mean()), float(numbers.std()) or 1.0)
            else:
                levels, counts = np.unique([str(value) for value in values], return_counts=True)
                categorical[name] = {
                    str(level): float(n / len(values)) for level, n in zip(levels, counts, strict=True)
                }
        return cls(continuous, categorical)

    @property
    def size(self) -> int:
        return len(self.continuous) + sum(len(levels) for levels in self.categorical.values())

    def encode(self, covariates: Covariates) -> Tensor:
        """(size,). Names that the code doesn't know are ignored; a level that it doesn't know is an error."""
        code: list[float] = []
        for name, (mean, deviation) in self.continuous.items():
            value = covariates.get(name)
            code.append(0.0 if value is None else (float(value) - mean) / deviation)
        for name, levels in self.categorical.items():
            value = covariates.get(name)
            if value is not None:
                level = str(value)
                if level not in levels:
                    raise AtlasmithError(
                        f"{name}: '{level}' wasn't in the cohort. Levels: {', '.join(levels)}"
                    )
                code += [(level == other) - frequency for other, frequency in levels.items()]
            else:
                code += [0.0] * len(levels)
        return torch.tensor(code, dtype=torch.float32)


class Groupwise(nn.Module):
    """A template t(a), and a network that takes t(a) and an image to a stationary velocity.

    At encoded covariates c the template is what `base + slopes . c + decoder(c)` shows when the flow of the
    velocity `covariate_velocity . c` has moved it; growth (K, d, *half) is zero until the template is refined.
    Contract: with v = velocity(features(t), features(image)).mean, image(x + exp(v)(x)) looks like t(x) on
    the template's grid, and t(x + exp(-v)(x)) like the image. Velocities are (B, d, *half), in
    half-resolution voxels.
    support (1, 1, *shape): 1 where training moves the template. mean_velocity (1, d, *half): what the network's
    velocities to a central template have in common, which is taken off; zero until the template is refined.
    """

    fov_mask: Tensor
    covariate_velocity: Tensor
    mean_velocity: Tensor

    def __init__(
        self,
        grid: Grid,
        code: CovariateCode,
        network: str,
        channels: Sequence[int] | None,
        integration_steps: int,
        probabilistic: bool = False,
        cascades: int = 1,
        segmenter: Mapping[str, Any] | None = None,
        decoder: str = "dense",
    ) -> None:
        super().__init__()
        self.grid, self.code, self.integration_steps, self.cascades = grid, code, integration_steps, cascades
        self.settings: dict[str, Any] = {
            "network": network,
            "channels": None if channels is None else list(channels),
            "integration_steps": integration_steps,
            "probabilistic": probabilistic,
            "cascades": cascades,
            "segmenter": None if segmenter is None else dict(segmenter),
            "decoder": decoder,
        }
        shape = grid.tensor_shape
        self.base = nn.Parameter(torch.zeros(1, 1, *shape))
        self.register_buffer("fov_mask", torch.ones(1, 1, *shape))
        self.slopes = nn.Parameter(torch.zeros(code.size, *shape)) if code.size else None
        decode = look_up(DECODERS, decoder, "decoder")
        self.decoder = decode(code.size, shape) if code.size else None
        self.register_buffer("covariate_velocity", torch.zeros(code.size, grid.ndim, *half_shape(shape)))
        self.register_buffer("mean_velocity", torch.zeros(1, grid.ndim, *half_shape(shape)))
        build = look_up(NETWORKS, network, "network")
        widths = [] if channels is None else [channels]
        self.segmenters = None if segmenter is None else Segmenters(grid.ndim, **segmenter)
        inputs = 1 + (0 if segmenter is None else segmenter["outputs"])
        self.network = build(grid.ndim, inputs, grid.ndim * (1 + probabilistic), *widths)

    def template(self, code: Tensor) -> Tensor:
        """Template images (B, 1, *shape) at encoded covariates (B, size)."""
        return self.at_covariates(self.intensities(code), code)

    def intensities(self, code: Tensor) -> Tensor:
        """What the template at the mean covariates would show at encoded ones (B, size) but for growth."""
        base = self.base.expand(len(code), *self.base.shape[1:])
        if self.slopes is None or self.decoder is None:
            return base
        line = torch.einsum("bk,k...->b...", code, self.slopes)[:, None]
        return base + line + self.fov_mask * self.decoder(code)

    def at_covariates(self, maps: Tensor, code: Tensor) -> Tensor:
        """Maps (B, C, *shape) on the template at the mean covariates, as they lie at others (B, size)."""
        if not self.has_covariate_velocity:
            return maps
        there, _ = self.covariate_transform(code)
        maps = maps.float()
        return warp(maps, resize_displacement(there, maps.shape[2:]), padding="border")

    @property
    def has_covariate_velocity(self) -> bool:
        return bool(self.covariate_velocity.any())

    def covariate_transform(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Displacements (B, d, *half) from the template at encoded covariates (B, size) to the template at
        the mean ones, and back."""
        with torch.autocast(code.device.type, enabled=False):  # half a voxel is lost in half precision
            velocity = torch.einsum("bk,k...->b...", code, self.covariate_velocity)
        there, back = exponentiate(torch.cat([velocity, -velocity]), self.integration_steps).chunk(2)
        return there, back

    def features(self, image: Tensor, ids: Sequence[str] = ()) -> Tensor:
        """What is compared of images (B, 1, *shape) of people `ids`, or of templates, which have none:
        (B, C, *shape), first the intensities, then the probabilities of labels that the segmenters, if there
        are any, see in them."""
        if self.segmenters is None:
            return image
        with torch.no_grad():
            labels = self.segmenters(image, ids)
        return torch.cat([image, labels.to(image)], dim=1)

    def template_features(self, code: Tensor) -> Tensor:
        """The features (B, C, *shape) of the template at encoded covariates (B, size)."""
        if self.code.size:
            return self.features(self.template(code))
        one = self.features(self.base)  # the same for everyone
        return one.expand(len(code), *one.shape[1:])

    def velocity(self, template: Tensor, image: Tensor) -> Velocity:
        """Of features (B, C, *shape); a probabilistic model's has a log-variance, that of the last pass.

        Each pass after the first sees the image as the velocity so far warps it, once, and adds to it.
        """
        total: Tensor | None = None
        for _ in range(self.cascades):
            moved = image if total is None else self._moved(image, total)
            mean, *log_variance = self.network(template, moved).float().split(self.grid.ndim, 1)
            mean = VELOCITY_SCALE * mean
            total = mean if total is None else compose_velocities(total, mean)
        assert total is not None  # there is at least one pass
        return Velocity(total - self.mean_velocity, *(LOG_VARIANCE + x for x in log_variance))

    def _moved(self, image: Tensor, velocity: Tensor) -> Tensor:
        displacement = exponentiate(velocity, self.integration_steps)
        return warp(image.float(), resize_displacement(displacement, image.shape[2:]))

    def save(self, path: str | Path) -> None:
        metadata = {"grid": self.grid.to_dict(), "code": asdict(self.code), "settings": self.settings}
        write_weights(path, self, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Groupwise:
        metadata, tensors = read_weights(path)
        continuous = {name: (mean, sd) for name, (mean, sd) in metadata["code"]["continuous"].items()}
        code = CovariateCode(continuous, metadata["code"]["categorical"])
        model = cls(Grid.from_dict(metadata["grid"]), code, **metadata["settings"])
        model.load_state_dict(tensors)
        return model.eval()
