"""Checks the names in a config against the tables of losses, networks, fusion methods and metrics."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args, get_type_hints

from atlasmith.config import Config
from atlasmith.core.errors import InputError, Problem, did_you_mean


def parameters_of(loss: Callable[..., Any]) -> dict[str, Any]:
    """The parameters of `loss` that a config may set, with their defaults: numbers, and names from a list."""
    parameters = inspect.signature(loss).parameters.values()
    return {p.name: p.default for p in parameters if isinstance(p.default, int | float | str)}


def _value_problem(loss: Callable[..., Any], key: str, value: Any, default: Any) -> tuple[str, str] | None:
    """(found, remedy) of a parameter's value."""
    if isinstance(default, str):
        names = get_args(get_type_hints(loss)[key])
        return None if value in names else (f"unknown value {value!r}", did_you_mean(str(value), names))
    return None if _is_number(value) else (f"{value!r} is no number", f"The default is {default}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unknown(where: str, names: Iterable[str], table: Iterable[str], what: str) -> list[Problem]:
    known = set(table)
    return [
        Problem(where, f"unknown {what} '{name}'", did_you_mean(name, known))
        for name in names
        if name not in known
    ]


def _term_problems(
    where: str, terms: Mapping[str, Mapping[str, Any]], table: Mapping[str, Callable[..., Any]]
) -> list[Problem]:
    problems = _unknown(where, terms, table, "loss")
    for name, settings in terms.items():
        if name not in table:
            continue
        weight: Any = settings.get("weight")
        if not _is_number(weight) or weight < 0:
            found = f"the weight is {weight!r}" if "weight" in settings else "there is no weight"
            problems.append(Problem(f"{where}.{name}", found, "Give `weight`, a number of at least 0."))
        known = parameters_of(table[name])
        for key, value in settings.items():
            if key == "weight":
                continue
            if key not in known:
                problems += _unknown(f"{where}.{name}", [key], ["weight", *known], "parameter")
            elif fault := _value_problem(table[name], key, value, known[key]):
                problems.append(Problem(f"{where}.{name}.{key}", *fault))
    return problems


def check_choices(config: Config) -> None:
    """Raise `InputError` with every name that no table knows, and every unusable parameter of a loss."""
    # Imported here because torch and SimpleITK take seconds to load, and most callers never need them.
    from atlasmith.affine.engines import ENGINES
    from atlasmith.evaluation.metrics import SEGMENTATION
    from atlasmith.fusion.calibration import CALIBRATIONS
    from atlasmith.fusion.methods import FUSERS
    from atlasmith.losses import REGULARISERS, SIMILARITY
    from atlasmith.networks import DECODERS, NETWORKS

    template = config.template
    problems = [
        *_term_problems("config: template.similarity", template.similarity, SIMILARITY),
        *_term_problems("config: template.label_similarity", template.label_similarity, SIMILARITY),
        *_term_problems("config: template.pairwise", template.pairwise, SIMILARITY),
        *_term_problems("config: template.regularization", template.regularization, REGULARISERS),
        *_unknown("config: template.network.name", [template.network.name], NETWORKS, "network"),
        *_unknown("config: template.decoder", [template.decoder], DECODERS, "decoder"),
        *_unknown("config: affine.engine", [config.affine.engine], ENGINES, "engine"),
        *_unknown("config: fusion.methods", config.fusion.methods, FUSERS, "method"),
        *_unknown(
            "config: fusion.votenet.calibration",
            [config.fusion.votenet.calibration],
            CALIBRATIONS,
            "calibration",
        ),
        *_unknown("config: score.metrics", config.score.metrics, SEGMENTATION, "metric"),
    ]
    if problems:
        raise InputError(problems)
