"""Profiles of Snakemake, and the arguments of the user that say more than they do."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from atlasmith.core.errors import AtlasmithError
from atlasmith.workflow import PROFILES

LOCAL_EXECUTORS = (None, "local", "dryrun", "touch")


def profile_folder(name: str | None) -> Path:
    """Find a Snakemake profile.

    Args:
        name: A folder, or the name of a profile of this package; None is the one for one machine.

    Raises:
        AtlasmithError: Where there is none.
    """
    known = sorted(path.name for path in PROFILES.iterdir())
    for folder in (PROFILES / "default",) if name is None else (Path(name), PROFILES / name):
        if (folder / "config.yaml").exists():
            return folder.absolute()
    raise AtlasmithError(
        f"--profile {name}: there is no {name}/config.yaml. Name a folder with one, or {' or '.join(known)}."
    )


def is_remote(profile: str | None, arguments: Sequence[str]) -> bool:
    """Tell whether jobs run elsewhere, by the executor of the arguments, or else of the profile."""
    executor = _given(arguments).executor or _settings(profile).get("executor")
    return executor not in LOCAL_EXECUTORS


def limits(profile: str | None, arguments: Sequence[str], defaults: Mapping[str, int]) -> list[str]:
    """Merge limits of resources, of which Snakemake would take those of one place alone.

    Args:
        profile: See `profile_folder`.
        arguments: Snakemake's, of the user.
        defaults: By name.

    Returns:
        Values of Snakemake's `--resources`: those of the arguments, then of the profile, then the defaults.
    """
    of_profile = _settings(profile).get("resources") or {}
    if isinstance(of_profile, Mapping):
        of_profile = [f"{name}={value}" for name, value in of_profile.items()]
    merged: dict[str, str] = {name: f"{name}={value}" for name, value in defaults.items()}
    for limit in (*_texts(of_profile), *_given(arguments).resources):
        merged[limit.partition("=")[0]] = limit
    return list(merged.values())


def _texts(values: Any) -> Iterable[str]:
    return map(str, [values] if isinstance(values, str) else values)


def _given(arguments: Sequence[str]) -> argparse.Namespace:
    """Executor and resources among Snakemake's arguments, which may be abbreviated."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--executor", "-e")
    parser.add_argument("--resources", "--res", nargs="+", action="extend", default=[])
    return parser.parse_known_args(arguments)[0]


def _settings(profile: str | None) -> dict[str, Any]:
    text = (profile_folder(profile) / "config.yaml").read_text(encoding="utf-8")
    try:
        settings = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise AtlasmithError(f"--profile {profile}: config.yaml is not YAML: {error}") from None
    return settings if isinstance(settings, dict) else {}
