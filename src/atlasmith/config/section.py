"""The base of the config's sections, and the types of its values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from atlasmith.io.files import expand_path

Folder = Annotated[Path, AfterValidator(expand_path)]  # where ~ and environment variables are expanded
FolderName = Annotated[str, AfterValidator(lambda name: str(expand_path(name)))]  # relative to another one
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]
Positive = Annotated[float, Field(gt=0)]
VoxelSize = Annotated[float, Field(ge=1e-6)]  # mm; no scanner resolves a nanometer
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Terms = dict[str, dict[str, Any]]  # weight and parameters of each loss, by name


class Section(BaseModel):
    """Base of all sections: read-only, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def complete(cls) -> type[Section]:
        """Return the model with all its keys, where tables of choices add some."""
        return cls


class ChoiceSection(Section):
    """An entry of a table of choices, with its settings."""

    name: str = Field(description="name of the entry")
    settings: dict[str, Any] = Field(default_factory=dict, description="its settings; none: their defaults")


def scaled_weights(terms: Terms, factor: float) -> Terms:
    """Multiply the weights of terms by a factor.

    Example:
        >>> scaled_weights({"diffusion": {"weight": 0.4}}, 2.0)
        {'diffusion': {'weight': 0.8}}
    """
    return {name: settings | {"weight": factor * settings["weight"]} for name, settings in terms.items()}
