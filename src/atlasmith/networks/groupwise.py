"""The trained model: a (conditional) template and the network that registers images to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atlasmith.core.errors import AtlasmithError, look_up
from atlasmith.core.fields import per_channel, resize_displacement
from atlasmith.core.grid import Grid
from atlasmith.core.sampling import MASK_THRESHOLD, coarsen, coordinates, half_shape, resize, sample, warp
from atlasmith.io.weights import read_weights, write_weights
from atlasmith.networks.blocks import bounded_weights, single_precision
from atlasmith.networks.covariate_code import CovariateCode
from atlasmith.networks.decoders import DECODERS
from atlasmith.networks.registration import NETWORKS
from atlasmith.networks.registration.base import VELOCITY_SCALE, RegistrationNetwork
from atlasmith.networks.segmenter import Segmenters
from atlasmith.transforms import FORWARD, INVERSE, Coefficients, deformation_model, integrate_velocity

LOG_VARIANCE = -6.0  # of probabilistic coefficients at the start: a standard deviation of 0.05 voxels


class Groupwise(nn.Module):
    """Build a template at any covariates, and a network that registers images to it.

    At encoded covariates c the template is the image `base + slopes . c + fov_mask * decoder(c)`, warped by
    the exponential of the velocity `covariate_velocity . c`. The network gives the coefficients of a
    deformation, `coefficients(features(t), features(image)).mean`, whose forward displacement u makes
    image(x + u(x)) resemble t(x) on the template's grid, and whose inverse makes the template resemble the
    image. Coefficients are (B, channels, *half), in half-resolution voxels.

    Attributes:
        base: The C channels of the template at the mean covariates (1, C, *shape).
        slopes: Their derivatives with respect to K encoded covariates (K * C, *shape), all channels of the
            first covariate first; None without covariates.
        decoder: What isn't linear in the covariates; None without covariates.
        fov_mask: (1, C, *shape), 1 where training changes the template.
        covariate_velocity: Velocity for each encoded covariate (K, d, *half), zero until groupwise
            refinement; changed by `set_covariate_velocity`.
        has_covariate_velocity: Whether it isn't zero: whether the template's shape depends on the covariates.
        mean_coefficients: Mean of the network's coefficients (1, channels, *half), which is subtracted; zero
            until groupwise refinement.
        deformation: Makes displacements of the coefficients.
        segmenters: Cross-fitted segmenters, or None.
        network: The registration network.

    Args:
        grid: The template's grid.
        code: Encodes covariates.
        network: A name in NETWORKS.
        channels: Widths of its levels, finest first; None: its default.
        integration_steps: Squarings of the exponential.
        probabilistic: The network gives a log-variance too.
        cascades: Times that the network is applied, each time to the image as warped so far.
        segmenter: Arguments of `Segmenters` but `ndim`, or None.
        decoder: A name in DECODERS.
        image_channels: C, the channels of an image.
        parametrization: A name in PARAMETRIZATIONS.
        network_settings: Settings of the network; None: its defaults.
        parametrization_settings: Settings of the parametrization; None: its defaults.
        network_shape: Size of the coarser grid, with the same corner voxels, on which the network and the
            segmenters are trained and applied; None: that of `grid`.

    Raises:
        AtlasmithError: If there is no network, decoder or parametrization of that name, or for a setting that
            can't be used.
    """

    fov_mask: Tensor
    covariate_velocity: Tensor
    mean_coefficients: Tensor

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
        image_channels: int = 1,
        parametrization: str = "stationary_velocity",
        network_settings: Mapping[str, Any] | None = None,
        parametrization_settings: Mapping[str, Any] | None = None,
        network_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.network_shape = None if network_shape is None else tuple(network_shape)
        self.grid, self.code, self.integration_steps, self.cascades = grid, code, integration_steps, cascades
        self.settings: dict[str, Any] = {
            "network": network,
            "channels": None if channels is None else list(channels),
            "integration_steps": integration_steps,
            "probabilistic": probabilistic,
            "cascades": cascades,
            "segmenter": None if segmenter is None else dict(segmenter),
            "decoder": decoder,
            "parametrization": parametrization,
            "network_settings": dict(network_settings or {}),
            "parametrization_settings": dict(parametrization_settings or {}),
            "network_shape": None if network_shape is None else list(network_shape),
        }
        self.deformation = deformation_model(parametrization, parametrization_settings, integration_steps)
        shape, self.image_channels = grid.tensor_shape, image_channels
        self.base = nn.Parameter(torch.zeros(1, image_channels, *shape))
        self.register_buffer("fov_mask", torch.ones(1, image_channels, *shape))
        self.slopes = nn.Parameter(torch.zeros(code.size * image_channels, *shape)) if code.size else None
        decode = look_up(DECODERS, decoder, "decoder")
        self.decoder = decode(code.size, shape, image_channels) if code.size else None
        self.register_buffer("covariate_velocity", torch.zeros(code.size, grid.ndim, *half_shape(shape)))
        self.has_covariate_velocity = False
        self.register_load_state_dict_post_hook(_note_covariate_velocity)
        channels_out = self.deformation.channels(grid.ndim)
        self.register_buffer("mean_coefficients", torch.zeros(1, channels_out, *half_shape(shape)))
        build = look_up(NETWORKS, network, "network")
        build.check_settings(self.settings["network_settings"])
        widths = [] if channels is None else [channels]
        self.segmenters = (
            None if segmenter is None else Segmenters(grid.ndim, **segmenter, inputs=image_channels)
        )
        inputs = image_channels + (0 if segmenter is None else segmenter["outputs"])
        outputs = channels_out * (1 + probabilistic)
        self.network = build(grid.ndim, inputs, outputs, *widths, **self.settings["network_settings"])

    def template(self, code: Tensor) -> Tensor:
        """Return the template (B, C, *shape) at encoded covariates (B, size)."""
        return self.at_covariates(self.intensities(code), code)

    def intensities(self, code: Tensor) -> Tensor:
        """Return the template (B, C, *shape) at encoded covariates (B, size), but for the warp."""
        base = self.base.expand(len(code), *self.base.shape[1:])
        if self.slopes is None or self.decoder is None:
            return base
        slopes = self.slopes.unflatten(0, (code.shape[1], self.image_channels))
        with single_precision(code):
            linear = torch.einsum("bk,k...->b...", code, slopes)
        return base + linear + self.fov_mask * self.decoder(code)

    def at_covariates(self, maps: Tensor, code: Tensor) -> Tensor:
        """Warp maps (B, C, *shape) from the template at the mean covariates to that at others (B, size)."""
        if not self.has_covariate_velocity:
            return maps
        there, _ = self.covariate_transform(code)
        maps = maps.float()
        return warp(maps, resize_displacement(there, maps.shape[2:]), padding="border")

    def set_covariate_velocity(self, velocity: Tensor) -> None:
        """Set the covariate velocity (K, d, *half)."""
        self.covariate_velocity.copy_(velocity)
        _note_covariate_velocity(self)

    def covariate_transform(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Integrate the covariate velocity.

        Args:
            code: Encoded covariates (B, size).

        Returns:
            Displacements (B, d, *half) from the template's grid at these covariates to the template at the
            mean ones, and back, in half-resolution voxels.
        """
        with single_precision(code):
            velocity = torch.einsum("bk,k...->b...", code, self.covariate_velocity)
        maps = integrate_velocity(velocity, self.integration_steps)
        return maps[FORWARD], maps[INVERSE]

    def features(self, image: Tensor, ids: Sequence[str] = ()) -> Tensor:
        """Compute the channels that registration compares.

        Args:
            image: Images (B, C, *shape), 0 in a channel that a subject doesn't have.
            ids: The subject of each image; none for templates.

        Returns:
            (B, C + L, *shape): the intensities, then the segmenters' label probabilities, if there are
            segmenters.
        """
        if self.segmenters is None:
            return image
        with torch.no_grad():
            labels = self.segmenters(self._at_network(image), ids)
            if self.network_shape is not None:
                labels = resize(labels.float(), image.shape[2:])
        return torch.cat([image, labels.to(image)], dim=1)

    def template_features(self, code: Tensor) -> Tensor:
        """Return the features (B, C + L, *shape) of the template at encoded covariates (B, size)."""
        if self.code.size:
            return self.features(self.template(code))
        one = self.features(self.base)  # the same for all subjects
        return one.expand(len(code), *one.shape[1:])

    def coefficients(self, template: Tensor, image: Tensor) -> Coefficients:
        """Apply the network, in each cascade to the image as warped by the deformation so far.

        Args:
            template: Features (B, C + L, *shape) of the template.
            image: Features (B, C + L, *shape) of the images.

        Returns:
            The coefficients (B, channels, *half), composed of those of the cascades; a probabilistic model's
            log-variance, on the grid of training alone, is that of the last one.
        """
        half = self.mean_coefficients.shape[2:]
        identity = self.deformation.initial(template, half)
        if self.network_shape is None:
            found = self._predicted(template, image, identity)
        else:
            coarse = self._at_network(template)
            start = self.deformation.initial(coarse, half_shape(self.network_shape))
            mean = self._predicted(coarse, self._at_network(image), start).mean
            found = Coefficients(self.deformation.resize(mean, half, self._spacing(mean)))
        return replace(found, mean=found.mean + identity - self.mean_coefficients)

    def _at_network(self, features: Tensor) -> Tensor:
        """Features (B, C + L, *shape) on the grid of the network, from which label probabilities came."""
        if self.network_shape is None:
            return features
        images, labels = features.float().tensor_split([self.image_channels], dim=1)
        with single_precision(features):
            coarse = coarsen(images, self.network_shape)
        if labels.shape[1]:
            coarse = torch.cat([coarse, resize(labels, self.network_shape)], dim=1)
        return coarse

    def _predicted(self, template: Tensor, image: Tensor, identity: Tensor) -> Coefficients:
        """The coefficients of features on the grid of the network, to be added to the identity's."""
        if isinstance(self.network, RegistrationNetwork):
            self.network.displace = partial(self._forward_displacement, identity)
            self.network.compose = self._composed
        total: Tensor | None = None
        for _ in range(self.cascades):
            moved = image if total is None else self._warped(image, total + identity)
            output = self.network(template, moved).float()
            mean, *log_variance = output.split(self.mean_coefficients.shape[1], 1)
            mean = VELOCITY_SCALE * mean
            total = mean if total is None else self.deformation.compose(total, mean, self._spacing(mean))
        assert total is not None  # there is at least one cascade
        return Coefficients(total, *(LOG_VARIANCE + x for x in log_variance))

    @property
    def network_terms(self) -> dict[str, Tensor]:
        """The weighted terms that the network's last pass in training mode adds to the objective, by name."""
        return self.network.terms if isinstance(self.network, RegistrationNetwork) else {}

    def schedule(self, progress: float) -> None:
        """Tell the network which share of the training's steps is done: see `RegistrationNetwork`."""
        if isinstance(self.network, RegistrationNetwork):
            self.network.schedule(progress)

    def draw_factor(self, random: torch.Generator) -> float:
        """Draw the factor of the regularizers' weights of a training step, and predict for it.

        It is 1 unless the network is trained for several: see `RegistrationNetwork.factors`.
        """
        network = self.network
        if not isinstance(network, RegistrationNetwork) or network.factors is None:
            return 1.0
        network.factor = network.factors.draw(random)
        return network.factor

    def set_factor(self, factor: float) -> None:
        """Predict for a factor of the regularizers' weights, if the network is trained for several.

        Raises:
            AtlasmithError: If it isn't trained for that one.
        """
        network = self.network
        if isinstance(network, RegistrationNetwork) and network.factors is not None:
            network.factors.check(factor)
            network.factor = factor

    def _spacing(self, coefficients: Tensor) -> tuple[float, ...]:
        return self.grid.coarser_spacing(coefficients.shape[2:])

    def _level_spacing(self, sizes: Sequence[float]) -> list[float]:
        """Spacing (d), mm, of a grid in whose voxels those of half the resolution have these sizes."""
        half = self.grid.coarser_spacing(half_shape(self.network_shape or self.grid.tensor_shape))
        return [mm / size for mm, size in zip(half, sizes, strict=True)]

    def _forward_displacement(self, identity: Tensor, coefficients: Tensor, sizes: Sequence[float]) -> Tensor:
        """Compute the forward displacement of a network's coefficients: see `Displace`.

        Args:
            identity: Coefficients (B, channels, *half) of the identity, to which the network's are added.
            coefficients: (B, channels or more, *size), in half-resolution voxels.
            sizes: Size (d) of these in voxels of their own grid.

        Returns:
            (B, d, *size), voxels.
        """
        points = coordinates(coefficients.shape[2:], identity) / per_channel(sizes, identity)
        points = points.expand(len(identity), *points.shape[1:])
        # A network may have padded the grid, to which the identity isn't stretched.
        total = coefficients[:, : identity.shape[1]] + sample(identity, points, padding="border")
        scaled = self.deformation.rescale(total, sizes)
        return self.deformation.maps(scaled, self._level_spacing(sizes), [FORWARD])[FORWARD]

    def _composed(self, outer: Tensor, inner: Tensor, sizes: Sequence[float]) -> Tensor:
        """Compose a network's coefficients (B, channels or more, *size): see `Compose`."""
        deformation, count = self.deformation, self.mean_coefficients.shape[1]
        first, last = (deformation.rescale(x[:, :count], sizes) for x in (inner, outer))
        total = deformation.compose(last, first, self._level_spacing(sizes))
        return torch.cat([deformation.rescale(total, [1 / size for size in sizes]), inner[:, count:]], dim=1)

    def _warped(self, image: Tensor, coefficients: Tensor) -> Tensor:
        """Features (B, C + L, *shape) warped by coefficients (B, channels, *half)."""
        maps = self.deformation.maps(coefficients, self._spacing(coefficients), [FORWARD])
        return warp(image.float(), resize_displacement(maps[FORWARD], image.shape[2:]))

    @property
    def levels(self) -> int:
        """Levels of resolution from the network's grid to the template's, each half of the next."""
        sizes = zip(self.grid.tensor_shape, self.network_shape or self.grid.tensor_shape, strict=True)
        return 1 + round(math.log2(max(n / m for n, m in sizes)))

    def at(self, grid: Grid) -> Groupwise:
        """Return the model on a finer grid with the same corner voxels, for inference: the network stays on
        its own.

        The template is interpolated, for refinement to sharpen; slopes, mean coefficients and covariate
        velocity, which refinement finds, are zero, and the decoder is untrained.
        """
        settings = self.settings | {"network_shape": list(self.grid.tensor_shape)}
        finer = Groupwise(grid, self.code, **settings, image_channels=self.image_channels)
        finer.network.load_state_dict(self.network.state_dict())
        if finer.segmenters is not None and self.segmenters is not None:
            finer.segmenters.load_state_dict(self.segmenters.state_dict())
        finer.base.data.copy_(resize(self.base.data, grid.tensor_shape))
        finer.fov_mask.copy_((resize(self.fov_mask, grid.tensor_shape) > MASK_THRESHOLD).float())
        return finer.to(self.base.device).eval().requires_grad_(False)

    def save(self, path: str | Path) -> None:
        """Write the model to a safetensors file, from which `load` builds it again."""
        metadata = {"grid": self.grid.to_dict(), "code": asdict(self.code), "settings": self.settings}
        write_weights(path, self, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Groupwise:
        """Build the model that `save` wrote, in evaluation mode.

        Args:
            path: A safetensors file.

        Returns:
            The model, on the CPU.

        Raises:
            AtlasmithError: When the network had other layers in the version that wrote the file.

        Example:
            >>> grid = Grid((16, 16, 1), torch.eye(4).numpy())
            >>> model = Groupwise(grid, CovariateCode({}, {}), "unet_half", [4], 6)
            >>> model.save(folder / "model.safetensors")
            >>> Groupwise.load(folder / "model.safetensors").template(torch.zeros(1, 0)).shape
            torch.Size([1, 1, 16, 16])
        """
        metadata, tensors = read_weights(path)
        continuous = {name: (mean, sd) for name, (mean, sd) in metadata["code"]["continuous"].items()}
        code = CovariateCode(continuous, metadata["code"]["categorical"])
        count = tensors["base"].shape[1]
        model = cls(Grid.from_dict(metadata["grid"]), code, **metadata["settings"], image_channels=count)
        if "mean_velocity" in tensors:  # of a run by 0.11 or before
            tensors["mean_coefficients"] = tensors.pop("mean_velocity")
            tensors = bounded_weights(model, tensors)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            network = metadata["settings"]["network"]
            raise AtlasmithError(
                f"{path}: these weights are of another version, whose network '{network}' had other layers. "
                "Build the template again."
            ) from error
        return model.eval()


def _note_covariate_velocity(model: Groupwise, *_: Any) -> None:
    """Ask the device once whether there is a covariate velocity, instead of in each step."""
    model.has_covariate_velocity = bool(model.covariate_velocity.any())
