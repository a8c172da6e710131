"""What `atlasmith run` is asked for, and the config that follows from it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from atlasmith.config import Config, parse_config
from atlasmith.config.loading import read_values
from atlasmith.core.errors import InputError, Problem
from atlasmith.launch.discovery import DEFAULT_LABELS, Discovery, discover
from atlasmith.launch.profiles import is_remote


@dataclass(frozen=True)
class Request:
    """What `atlasmith run` was asked for.

    Attributes:
        bids: BIDS folder.
        out: Folder of the results.
        config: The config; None makes one from what lies in `bids`.
        settings: Dotted keys of the config and their values in YAML, which replace those of the config.
        cores: Number of cores, or `all`; None leaves it to the profile.
        profile: Snakemake profile: a folder, or the name of one of this package.
        dry_run: Only show what would run.
        retry_failed: Try subjects again that failed in an earlier run.
        arguments: Further arguments of Snakemake.
    """

    bids: Path
    out: Path
    config: Path | None = None
    settings: Sequence[tuple[str, str]] = ()
    cores: str | None = None
    profile: str | None = None
    dry_run: bool = False
    retry_failed: bool = False
    arguments: Sequence[str] = field(default_factory=tuple)

    @property
    def is_cluster(self) -> bool:
        """Whether jobs run elsewhere."""
        return is_remote(self.profile, self.arguments)


def resolve_config(request: Request) -> tuple[Config, Discovery | None]:
    """Make the config of a run, with absolute paths.

    Args:
        request: What was asked for.

    Returns:
        The config, and what it was made from where the user gave none.

    Raises:
        InputError: With every problem of the config, or where neither roles nor labels are found.
    """
    found, where = None, "config"
    if request.config is not None:
        values, where = read_values(request.config), str(request.config)
    else:
        found = discover(request.bids)
        if found.roles is None and found.labels is None:
            raise _no_labels(request.bids)
        values = found.config()
    if not isinstance(values, dict):
        return parse_config(values, where), None  # which refuses it
    settings = [("cohort.bids", os.path.abspath(request.bids)), ("output", os.path.abspath(request.out))]
    for key, text in request.settings:
        try:
            settings.append((key, yaml.safe_load(text)))
        except yaml.YAMLError:
            raise InputError([Problem(f"--set {key}", f"{text!r} is not YAML", "Quote the value.")]) from None
    for key, value in settings:
        values = _with_value(values, key.split("."), value)
    return parse_config(values, where if not request.settings else f"{where} with --set"), found


def _with_value(values: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """Return nested sections with another value of one key."""
    first, *rest = keys
    section = values.get(first)
    new = _with_value(section if isinstance(section, dict) else {}, rest, value) if rest else value
    return {**values, first: new}


def _no_labels(bids: Path) -> InputError:
    found = "no image has labels, so that there is no atlas"
    remedy = (
        "Add the labels of two or more subjects as sub-X/anat/sub-X_dseg.nii.gz in this folder, on the grids "
        "of their images; or name their folder by --set cohort.labels=FOLDER."
    )
    return InputError([Problem(bids / DEFAULT_LABELS, found, remedy)])
