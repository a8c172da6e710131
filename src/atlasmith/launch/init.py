"""Write a commented config for a BIDS folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from atlasmith.config.schema import FusionSection
from atlasmith.core.errors import AtlasmithError
from atlasmith.io.files import write_text
from atlasmith.launch.discovery import DEFAULT_LABELS, Discovery, discover

MANY_ATLASES = 40  # from which on a selection of them is suggested
SELECTED_ATLASES = 20


def write_config(bids: Path, out: Path) -> None:
    """Write a commented config from what lies in a BIDS folder.

    Args:
        bids: The folder.
        out: The file; it must not exist.

    Raises:
        InputError: Where there are no images.
        AtlasmithError: Where there is such a file.
    """
    if out.exists():
        raise AtlasmithError(f"{out} exists already. Choose another file by --out, or remove it.")
    found = discover(bids)
    write_text(out, config_text(found))
    print(f"{out}: read it, change what you like, then start: atlasmith run {bids} RESULTS --config {out}")
    if found.labels is None:
        print(f"{bids}: no labels were found; see cohort.labels in {out}", file=sys.stderr)


def config_text(found: Discovery) -> str:
    """Return the text of a config for a BIDS folder, with a comment for each key.

    Args:
        found: What lies there.
    """
    values = found.config()
    return "\n".join(
        [
            "# What atlasmith found, and what it would do with it. Keys left out have defaults:",
            "# docs/configuration.md lists all of them.",
            "",
            *_cohort(found, values["cohort"]),
            "",
            *_preprocess(found),
            "",
            *_template(found),
            "",
            "register:",
            "  instance_optimization:",
            "    steps: 40          # on each image after the network; more is slower, and more accurate",
            "",
            *_fusion(found, values.get("fusion", {})),
            "",
        ]
    )


def _cohort(found: Discovery, values: Mapping[str, Any]) -> list[str]:
    suffix, *others = found.suffixes
    more = (
        f"; there are {_counts(found.suffixes)}, and [{suffix}, {others[0]}] would use two" if others else ""
    )
    labels = (
        f"label files (dseg), relative to bids: {found.labeled} of {found.scans} images have one"
        if found.labels
        else "NOT FOUND: label files, as sub-X/anat/sub-X_dseg.nii.gz in this folder of bids"
    )
    role = (
        "no column of participants.tsv: images with labels are atlases, the others are segmented"
        if found.roles is None
        else f"column of participants.tsv; there are {_counts(found.roles)}"
    )
    covariates = [f"  #   {name}: {kind}" for name, kind in found.covariates.items()]
    return [
        "cohort:",
        _line("bids", values["bids"], "BIDS folder; `atlasmith run` replaces it by its own argument"),
        _line("suffix", values["suffix"], f"of the images{more}"),
        _line("labels", values["labels"] or DEFAULT_LABELS, labels),
        _line("role", values["role"], role),
        *(["  # Columns that can be used as covariates:", *covariates] if covariates else []),
        _line("covariates", list(found.covariates), "columns of participants.tsv to read"),
        _line("hold_out", [], "atlases, such as [sub-01], to be segmented and scored as targets"),
    ]


def _preprocess(found: Discovery) -> list[str]:
    window = [-160, 240] if found.hounsfield else None
    text = "intensities that become 0 and 1; null: percentiles of each image"
    if found.hounsfield:
        text = "these look like CT; Hounsfield units that become 0 and 1; for a brain [0, 80]"
    return [
        "preprocess:",
        _line("n4", False, "true: correct the bias field of MRI first; slower"),
        _line("window", window, text),
    ]


def _template(found: Discovery) -> list[str]:
    size = "mm; that of the images"
    extent = " x ".join(f"{length:.0f}" for length in found.extent if length)
    if found.spacing is not None:
        size += f", which are {'2-D' if found.flat else '3-D'}, {extent} mm at most"
    numbers = [name for name, kind in found.covariates.items() if kind == "continuous"]
    hint = f"covariates, such as [{numbers[0]}]" if numbers else "covariates"
    return [
        "template:",
        _line("name", "Template", "letters and digits, in the names of files"),
        _line("spacing", found.spacing or 1.0, f"{size}; time and memory grow with its inverse cube"),
        _line("condition_on", [], f"{hint} that the template is a function of; none: one template"),
        _line("evaluate_at", {}, "values at which templates are written, such as {age: [30, 60]}"),
        _line("steps", 500, "of training; three rounds of refinement follow"),
    ]


def _fusion(found: Discovery, values: Mapping[str, Sequence[str]]) -> list[str]:
    methods = values.get("methods", FusionSection.model_fields["methods"].default)
    text = "each gives a segmentation; docs/fusion.md has more"
    if len(methods) == 1:
        text = "methods that are trained, such as autocontext, need two atlases"
    selection = SELECTED_ATLASES if found.atlases > MANY_ATLASES else None
    return [
        "fusion:",
        _line("methods", list(methods), text),
        _line("atlas_selection", selection, "atlases per image, the most similar ones; null: all"),
        _line(
            "quality", True, "predict each segmentation's Dice, from the atlases; doubles the time of fusion"
        ),
    ]


def _line(key: str, value: Any, comment: str) -> str:
    """A key of a section with its value and comment."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
    return f"  {f'{key}: {text}':<32} # {comment}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
