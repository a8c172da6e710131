"""Read a config file, and check its keys, types and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from atlasmith.config.renamed import renamed_problems
from atlasmith.config.schema import Config
from atlasmith.config.validation import cross_key_problems
from atlasmith.core.errors import AtlasmithError, InputError, Problem, did_you_mean


def load_config(path: str | Path) -> Config:
    """Read and check a YAML config.

    Args:
        path: The file.

    Returns:
        The config, with defaults for the keys that the file leaves out.

    Raises:
        AtlasmithError: If there is no such file.
        InputError: With every problem of the file.
    """
    path = Path(path)
    if not path.exists():
        raise AtlasmithError(f"{path}: no such config file. Copy config.yaml from the project and edit it.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError([Problem(path, f"not YAML: {error}", "Correct the syntax.")]) from None
    return parse_config(values, path)


def parse_config(values: dict[str, Any], where: str | Path = "config") -> Config:
    """Check a config's keys, types and values.

    Args:
        values: Keys and values, as read from YAML.
        where: The file, for the messages.

    Returns:
        The config, with defaults for the keys that are left out.

    Raises:
        InputError: With every problem found.

    Example:
        >>> parse_config({"cohort": {"bids": "data"}}).template.name
        'Template'
    """
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
    problems += cross_key_problems(config, where)
    if problems:
        raise InputError(problems)
    return config


def _message(error: dict[str, Any]) -> tuple[str, str]:
    """Describe one pydantic error: (found, remedy)."""
    name = str(error["loc"][-1]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        model: Any = Config
        for key in error["loc"][:-1]:
            field = next((f for n, f in model.model_fields.items() if (f.alias or n) == key), None)
            if field is None:
                break
            model = field.annotation.complete()  # type: ignore[union-attr]
        known = [f.alias or n for n, f in getattr(model, "model_fields", {}).items()]
        return f"unknown key '{name}'", did_you_mean(name, known)
    return f"{error['msg']} (found {error['input']!r})", "Correct the value; the docs list every key."
