"""What a fusion method declares, what it computes from, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlasmith.config import Config
from atlasmith.config.section import Section
from atlasmith.core.choices import Choice
from atlasmith.fusion.aligned import AlignedAtlases, Box

if TYPE_CHECKING:
    from torch import Tensor

    from atlasmith.fusion.propagated import PropagatedAtlases

# A label, a box of the grid, and the label's probability within (*box), from 0 to 1; it is zero outside.
LabelProbability = tuple[int, Box, "Tensor"]
LabelProbabilities = Iterator[LabelProbability]


# From propagated atlases and the target's id to what a trained network predicts for it.
Predictor = Callable[["PropagatedAtlases", str], Any]


@dataclass(frozen=True, eq=False)
class FusionInputs(AlignedAtlases):
    """What a fusion method computes from: atlases and the target, on one grid, and more.

    Args:
        settings: The method's own settings.
        prediction: Returns what the method's trained network predicts for this target, computed once for
            all methods that share the network; of an ensemble, the members' label probabilities.
    """

    settings: Any = field(default_factory=Section)
    prediction: Callable[[], Any] = lambda: None

    @classmethod
    def of(
        cls, atlases: AlignedAtlases, settings: Any, prediction: Callable[[], Any] = lambda: None
    ) -> FusionInputs:
        """Add a method's settings, and what its network predicts, to atlases and a target."""
        parts = {part.name: getattr(atlases, part.name) for part in fields(AlignedAtlases)}
        return cls(**parts, settings=settings, prediction=prediction)


@dataclass(frozen=True, eq=False)
class Training:
    """How the network of a fusion method is trained and applied.

    Args:
        train: Trains on the cohort's atlases; writes the weights, named by the fuser's config section, and
            the training tables.
        predictor: Reads the weights from a path onto a device (`auto`, `cpu` or `cuda`).
        tables: Name of each training table, and its title in the report.
    """

    train: Callable[[Config], None]
    predictor: Callable[[Path, str], Predictor]
    tables: Mapping[str, str]


@dataclass(frozen=True)
class Fuser(Choice[LabelProbabilities]):
    """A fusion method: from `FusionInputs` to each label's probability, labels in rising order.

    The module that declares it imports torch and the like by `lazy`, since a config is checked against it.

    Args:
        function: Computes the label probabilities.
        text: What the method does, for the report.
        section: Config section below `fusion`, which several methods may share; None where there are no
            settings.
        settings_type: The settings of that section.
        training: How its network is trained; None where nothing is trained.
        needs_images: Whether intensities are used, and not label maps alone.
        needs_atlases: Whether it needs propagated atlases, and not the image alone.
        members: The names of the methods that an ensemble is of.
    """

    section: str | None = None
    settings_type: type[Section] = Section
    training: Training | None = None
    needs_images: bool = True
    needs_atlases: bool = True
    members: tuple[str, ...] = ()

    @property
    def is_trained(self) -> bool:
        """Whether it needs a trained network."""
        return self.training is not None or bool(self.members)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, with their defaults."""
        return self.settings_type().model_dump()


def lazy(path: str) -> Callable[..., Any]:
    """Return a function that imports and calls another one, `module:name`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        module, name = path.split(":")
        return getattr(import_module(module), name)(*args, **kwargs)

    return call
