"""Covariates as numbers, on which a conditional template depends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atlasmith.core.errors import AtlasmithError

Covariates = Mapping[str, float | str | None]


@dataclass(frozen=True)
class CovariateCode:
    """Encode covariates as numbers of mean zero over the cohort.

    Continuous covariates are standardized, categorical ones are one-hot less the frequencies of their levels.
    A missing value is encoded as the mean, 0.

    Args:
        continuous: For each name the mean and the standard deviation.
        categorical: For each name the frequency of each level.

    Example:
        >>> code = CovariateCode.of(["age"], [{"age": 40.0}, {"age": 60.0}])
        >>> code.encode({"age": 65.0})
        tensor([1.5000])
    """

    continuous: dict[str, tuple[float, float]]
    categorical: dict[str, dict[str, float]]

    @classmethod
    def of(cls, names: Sequence[str], cohort: Sequence[Covariates]) -> CovariateCode:
        """Fit the code to a cohort.

        Args:
            names: The covariates; those whose known values are all floats are continuous.
            cohort: The covariates of each subject.

        Returns:
            The code of these covariates.
        """
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
        """The number of encoded covariates."""
        return len(self.continuous) + sum(len(levels) for levels in self.categorical.values())

    def encode(self, covariates: Covariates) -> Tensor:
        """Encode the covariates of one subject.

        Args:
            covariates: Values by name; further names are ignored.

        Returns:
            The code (size).

        Raises:
            AtlasmithError: If a level of a categorical covariate isn't in the cohort.
        """
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
