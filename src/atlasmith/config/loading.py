"""Read a config file, and check its keys, types and names across sections."""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase
from typing import Any

import yaml
from pydantic import ValidationError

from atlasmith.config.renamed import renamed_problems
from atlasmith.config.schema import Config
from atlasmith.core.errors import AtlasmithError, InputError, Problem, did_you_mean
from atlasmith.io.tables import SUBPOPULATION


def _message(error: dict[str, Any]) -> tuple[str, str]:
    """(found, remedy) of one pydantic error."""
    name = str(error["loc"][-1]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        model: Any = Config
        for key in error["loc"][:-1]:
            field = next((f for n, f in model.model_fields.items() if (f.alias or n) == key), None)
            if field is None:
                break
            model = field.annotation
        known = [f.alias or n for n, f in getattr(model, "model_fields", {}).items()]
        return f"unknown key '{name}'", did_you_mean(name, known)
    return f"{error['msg']} (found {error['input']!r})", "Mend the value; the docs list every key."


def parse_config(values: dict[str, Any], where: str | Path = "config") -> Config:
    """Check a config's keys, types and names; raises `InputError` with every fault found."""
    if not isinstance(values, dict):
        raise InputError([Problem(where, "this is no table of keys and values", "See the README's example.")])
    problems = renamed_problems(values, where)
    renamed = {problem.where for problem in problems}
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            place = f"{where}: {'.'.join(map(str, item['loc']))}"
            if place not in renamed:
                problems.append(Problem(place, *_message(item)))  # type: ignore[arg-type]
        raise InputError(problems) from None
    problems += [
        Problem(
            f"{where}: template.condition_on",
            f"'{name}' isn't among cohort.covariates",
            did_you_mean(name, config.cohort.covariates) if config.cohort.covariates else "Add it there.",
        )
        for name in config.template.condition_on
        if name not in config.cohort.covariates
    ]
    problems += [
        Problem(
            f"{where}: template.evaluate_at",
            f"'{name}' isn't among template.condition_on",
            "Condition the template on it, or remove the view.",
        )
        for name in config.template.evaluate_at
        if name not in config.template.conditions
    ]
    letters = ascii_uppercase[: config.template.subpopulations]
    problems += [
        Problem(
            f"{where}: template.evaluate_at.{SUBPOPULATION}",
            f"there is no subpopulation {value!r}",
            f"Those of template.subpopulations are {', '.join(letters)}.",
        )
        for value in config.template.evaluate_at.get(SUBPOPULATION, [])
        if config.template.subpopulations > 1 and value not in list(letters)
    ]
    if config.template.subpopulations > 1 and SUBPOPULATION in config.cohort.covariates:
        problems.append(
            Problem(
                f"{where}: cohort.covariates",
                f"'{SUBPOPULATION}' is what template.subpopulations finds in the images",
                "Rename the column, or set template.subpopulations: 1.",
            )
        )
    if config.template.batch_size % config.processes:
        problems.append(
            Problem(
                f"{where}: processes",
                f"{config.processes} can't share a batch of {config.template.batch_size} equally",
                "Give a divisor of template.batch_size.",
            )
        )
    if config.template.adversary.weight and config.template.refinement.rounds:
        problems.append(
            Problem(
                f"{where}: template.adversary",
                "refinement would replace the template that learned against it by averages",
                "Set template.refinement.rounds: 0, or template.adversary.weight: 0.",
            )
        )
    if problems:
        raise InputError(problems)
    return config


def load_config(path: str | Path) -> Config:
    """Read and check a YAML config."""
    path = Path(path)
    if not path.exists():
        raise AtlasmithError(f"{path}: no such config file. Copy config.yaml from the project and edit it.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError([Problem(path, f"not YAML: {error}", "Mend the syntax.")]) from None
    return parse_config(values, path)
