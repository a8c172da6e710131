"""The output folder: what may already be there, and what marks it as a BIDS derivative."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from atlasmith import __version__
from atlasmith.cohort.problems import Problems, abbreviate, refuse
from atlasmith.config import Config, load_config
from atlasmith.core.errors import AtlasmithError, InputError
from atlasmith.io.files import read_json, write_json, write_text
from atlasmith.io.sidecars import BIDS_VERSION, RAW, read_description
from atlasmith.workflow.provenance import software_versions

# Sections that may not change within an output folder; what depends on the others is computed again.
FIXED_SECTIONS = ("seed", "cohort", "preprocess", "affine", "template", "register")
ELSEWHERE = "Choose another `output`, or remove the folder."

# Outputs that the BIDS standard doesn't have (yet).
BIDSIGNORE = """\
*_xfm.*
*_jacobian.*
*_confidence.*
*_uncertainty.*
*_volumes.*
*_metrics.*
*_desc-propagated_*
tpl-*/template_description.json
cohort.*
config.yaml
failures
grid.json
inputs.sha256
subpopulations.*
logs
model
report
report.html
scores
"""

# Entries of the cohort's dataset_description.json that are true of what is made from it.
INHERITED = ("License", "Authors", "Acknowledgements", "HowToAcknowledge", "Funding", "ReferencesAndLinks")
ORIGIN = {"DOI": "DatasetDOI"}  # entries of a source dataset, and what they are there

README = """\
# {name}

Made by atlasmith from the dataset "{source}". `dataset_description.json` says where it lies, and which
versions of which software were used; `config.yaml` holds every setting.

| file | what it is |
| --- | --- |
| `report.html` | the report: start here |
| `tpl-*` | the template, in the layout of TemplateFlow |
| `sub-*/anat/*_xfm.h5` | transforms between each image and the template |
| `sub-*/anat/*_dseg.nii.gz` | segmentations, one for each fusion method |
| `sub-*/anat/*_volumes.tsv` | their volumes |
| `dseg.tsv` | names and colors of the labels |
| `scores` | scores of every stage |

Each image and table has a JSON file beside it, which says what it is and what it was made from. In these,
`bids:raw:` stands for the source dataset, `bids::` for this one.
"""


def check_folder(output: Path) -> None:
    """Raise `InputError` if the output folder is a file."""
    if output.exists() and not output.is_dir():
        refuse(output, "this is a file", "Choose another `output`.")


def check_output(config: Config) -> None:
    """Check that the output folder holds nothing else.

    The folder is new or empty, or its dataset_description.json names atlasmith and its config.yaml has the
    same `FIXED_SECTIONS`.

    Args:
        config: The run's config.

    Raises:
        InputError: If the folder holds other files, or the results of another config.
    """
    layout, output = config.layout, config.output
    check_folder(output)
    problems = Problems()
    if layout.config.exists():
        try:
            earlier = load_config(layout.config)
        except AtlasmithError as error:
            refuse(layout.config, f"this is no config of atlasmith {__version__}: {error}", ELSEWHERE)
        old, new = _fixed_values(earlier), _fixed_values(config)
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                found = f"the results there have {old.get(key)!r}, and this config has {new.get(key)!r}"
                problems.add(f"{layout.config}: {key}", found, ELSEWHERE)
    if output.is_dir() and "atlasmith" not in read_generators(layout.description):
        # Snakemake makes logs/ before any stage runs.
        others = sorted(p.name for p in output.iterdir() if not p.name.startswith(".") and p.name != "logs")
        if others:
            found = f"the folder holds other files ({abbreviate(others)})"
            problems.add(output, found, "Choose another `output`; nothing was overwritten.")
    if problems:
        raise InputError(problems)


def mark_output(config: Config) -> None:
    """Write dataset_description.json, README.md and .bidsignore, which mark the folder as a BIDS derivative.

    Authors, license and the like are those of the cohort. A README.md that is there already is kept.

    Args:
        config: The run's config.
    """
    layout, bids = config.layout, config.cohort.bids
    source = read_description(bids)
    name = f"{config.template.name}: template, registrations and segmentations"
    origin = {key: source[found] for key, found in ORIGIN.items() if found in source}
    write_json(
        layout.description,
        {
            "Name": name,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            **{key: source[key] for key in INHERITED if key in source},
            "GeneratedBy": [
                {"Name": name, "Version": version} for name, version in software_versions().items()
            ],
            **({"SourceDatasets": [origin]} if origin else {}),
            "DatasetLinks": {RAW: os.path.relpath(bids, config.output)},
        },
    )
    if not layout.readme.exists():
        write_text(layout.readme, README.format(name=name, source=source.get("Name", bids.name)))
    write_text(layout.bidsignore, BIDSIGNORE)


def read_generators(description: Path) -> dict[str, str | None]:
    """Read which software has written a folder.

    Args:
        description: Its dataset_description.json, which need not exist.

    Returns:
        Versions by name, from `GeneratedBy`; none where there is no valid description.
    """
    try:
        generators = read_json(description)["GeneratedBy"]
        return {generator["Name"]: generator.get("Version") for generator in generators}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _fixed_values(config: Config) -> dict[str, Any]:
    """Values of `FIXED_SECTIONS` by dotted key; the cohort's folder is the same however it is written."""
    values = config.resolved()
    values["cohort"]["bids"] = os.path.abspath(config.cohort.bids)
    return {key: leaf for name in FIXED_SECTIONS for key, leaf in _flatten(values[name], name).items()}


def _flatten(value: Any, key: str) -> dict[str, Any]:
    """A nested dict as one of dotted keys."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {name: leaf for part in value for name, leaf in _flatten(value[part], f"{key}.{part}").items()}
