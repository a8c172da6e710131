"""Read a config file, and check its keys, types and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

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
    return parse_config(read_values(path), path)


def read_values(path: str | Path) -> Any:
    """Read a YAML config without checking its keys and values.

    Args:
        path: The file.

    Raises:
        AtlasmithError: If there is no such file.
        InputError: If it isn't YAML.
    """
    path = Path(path)
    if not path.exists() or path.is_dir():
        raise AtlasmithError(
            f"{path}: no such config file. `atlasmith init BIDS --out {path}` writes one to edit."
        )
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        remedy = "Correct the syntax, and save it in UTF-8."
        raise InputError([Problem(path, f"not YAML: {error}", remedy)]) from None


class _Loader(yaml.SafeLoader):
    """A loader that refuses a key which occurs twice, of which YAML's own takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Make a dict of a node."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' occurs {keys.count(key)} times", node.start_mark
                )
        return super().construct_mapping(node, deep)


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
            kinds = () if field is None else (field.annotation, *get_args(field.annotation))
            sections = [kind for kind in kinds if hasattr(kind, "complete")]  # one may be optional
            if not sections:
                break
            model = sections[0].complete()
        known = [f.alias or n for n, f in getattr(model, "model_fields", {}).items()]
        return f"unknown key '{name}'", did_you_mean(name, known)
    return f"{error['msg']} (found {error['input']!r})", "Correct the value; the docs list every key."
