"""What BIDS asks of a demo cohort and its derivatives besides the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atlasmith.demo.base import Base
from atlasmith.io.columns import describe_columns
from atlasmith.io.files import write_json, write_text
from atlasmith.io.sidecars import BIDS_VERSION
from atlasmith.io.tables import write_tsv

README = """\
# A demo cohort of atlasmith

Subjects simulated from {text}, with a known truth: each is warped{ageing} at random, placed
and oriented in its own way, and scanned with noise. `derivatives/manual` holds the labels,
`derivatives/truth` the base and the exact transforms. Ages above 89 years are given as 89, as BIDS asks
for; `derivatives/truth/truth.json` has the true ones.

{credit}
"""
NOT_IN_BIDS = ("CT",)  # suffixes of images that the standard doesn't have


def write_descriptions(folder: Path, base: Base, seed: int) -> None:
    """Write the descriptions of a demo cohort and its derivatives, and the table of labels.

    Args:
        folder: The cohort's.
        base: The body that it was made from.
        seed: That it was made with.
    """
    manual, truth = folder / "derivatives" / "manual", folder / "derivatives" / "truth"
    for part, name in ((folder, ""), (manual, ": labels"), (truth, ": truth")):
        _describe_dataset(part, name, base, seed)
    source, suffix = base.source, base.scanner.suffix
    ageing = "" if base.age_velocity is None else " by its age and"
    credit = (f"The base is {source.credit}. " if source.credit else "License: ") + source.license
    write_text(folder / "README.md", README.format(text=source.text, ageing=ageing, credit=credit))
    columns = {
        **describe_columns(["participant_id", "role"]),
        "age": {"Description": "Age; 89 stands for 89 and above", "Units": "year"},
        "sex": {"Description": "Sex", "Levels": {"F": "female", "M": "male"}},
    }
    write_json(folder / "participants.json", columns)
    write_json(
        folder / f"{suffix}.json",
        {"Description": f"An image simulated from {source.text}", "SkullStripped": base.scanner.stripped},
    )
    table = [{"index": index, "name": name} for index, name in base.names.items()]
    write_tsv(manual / "dseg.tsv", table, ["index", "name"])
    write_json(
        manual / "dseg.json",
        {"Description": "The exact labels of the image", "SpatialReference": "orig", "Manual": False},
    )
    ignored = f"*_{suffix}.*\n{suffix}.json\n" if suffix in NOT_IN_BIDS else ""
    write_text(truth / ".bidsignore", f"{ignored}*_xfm.*\n*_velocity.*\ntruth.json\n")
    if ignored:
        write_text(folder / ".bidsignore", ignored)


def _describe_dataset(part: Path, name: str, base: Base, seed: int) -> None:
    """Write the dataset_description.json of the cohort, or of a derivative with a name."""
    source = base.source
    value: dict[str, Any] = {
        "Name": f"The demo cohort of atlasmith{name}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative" if name else "raw",
        "License": source.license,
        "Authors": ["The atlasmith developers"],
        "GeneratedBy": [{"Name": "atlasmith demo", "Description": f"seed {seed}"}],
    }
    if source.credit and source.doi:
        value |= {
            "HowToAcknowledge": source.credit,
            "ReferencesAndLinks": [f"https://doi.org/{source.doi.removeprefix('doi:')}"],
            "SourceDatasets": [{"DOI": source.doi}],
        }
    write_json(part / "dataset_description.json", value)
