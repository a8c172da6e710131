"""What BIDS asks of the demo cohort and its derivatives besides the images."""

from __future__ import annotations

from pathlib import Path

from atlasmith.demo.anatomy import LABELS
from atlasmith.io.columns import describe_columns
from atlasmith.io.files import write_json, write_text
from atlasmith.io.sidecars import BIDS_VERSION
from atlasmith.io.tables import write_tsv

BASE_DOI = "doi:10.1016/j.neuroimage.2010.07.033"
CREDIT = f"MNI152 nonlinear symmetric 2009a, Fonov et al. 2011, {BASE_DOI}"
LICENSE = (
    "That of MNI152: Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal "
    "Neurological Institute, McGill University. Permission to use, copy, modify, and distribute this "
    "software and its documentation for any purpose and without fee is hereby granted, provided that the "
    "above copyright notice appear in all copies."
)
README = f"""\
# The demo cohort of atlasmith

Subjects simulated from one real brain, with a known truth: each is warped by its age and at random, placed
and oriented in its own way, and has noise and a bias field. `derivatives/manual` holds the labels,
`derivatives/truth` the base brain and the exact transforms. Ages above 89 years are given as 89, as BIDS asks
for; `derivatives/truth/truth.json` has the true ones.

The base is {CREDIT}. {LICENSE}
"""


def write_descriptions(folder: Path, seed: int) -> None:
    """Write the descriptions of a demo cohort and its derivatives, and the table of labels.

    Args:
        folder: The cohort's.
        seed: That the cohort was made with.
    """
    manual, truth = folder / "derivatives" / "manual", folder / "derivatives" / "truth"
    for part, name in ((folder, ""), (manual, ": labels"), (truth, ": truth")):
        value = {
            "Name": f"The demo cohort of atlasmith{name}",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative" if name else "raw",
            "License": LICENSE,
            "Authors": ["The atlasmith developers"],
            "HowToAcknowledge": CREDIT,
            "ReferencesAndLinks": [f"https://doi.org/{BASE_DOI.removeprefix('doi:')}"],
            "GeneratedBy": [{"Name": "atlasmith demo", "Description": f"seed {seed}"}],
            "SourceDatasets": [{"DOI": BASE_DOI}],
        }
        write_json(part / "dataset_description.json", value)
    write_text(folder / "README.md", README)
    columns = {
        **describe_columns(["participant_id", "role"]),
        "age": {"Description": "Age; 89 stands for 89 and above", "Units": "year"},
        "sex": {"Description": "Sex", "Levels": {"F": "female", "M": "male"}},
    }
    write_json(folder / "participants.json", columns)
    write_json(
        folder / "T1w.json",
        {"Description": "A simulated image of a brain", "SkullStripped": True},
    )
    table = [{"index": index, "name": name} for index, name in LABELS.items()]
    write_tsv(manual / "dseg.tsv", table, ["index", "name"])
    write_json(
        manual / "dseg.json",
        {"Description": "The exact labels of the image", "SpatialReference": "orig", "Manual": False},
    )
    write_text(truth / ".bidsignore", "*_xfm.*\n*_velocity.*\ntruth.json\n")
