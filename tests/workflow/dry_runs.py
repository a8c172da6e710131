"""Cohorts of tiny images, and Snakemake's plan for them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

ROOT = Path(__file__).parents[2]
ROLES = ["atlas", "atlas", "target", "atlas", "train", "target", "atlas"]


def write_image(path: Path, labels: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.arange(512).reshape(8, 8, 8) % (2 if labels else 100)
    nib.Nifti1Image(data.astype(np.uint8), np.eye(4)).to_filename(path)


def make_cohort(folder: Path, roles: list[str], suffix: str = "T1w") -> Path:
    folder.mkdir()
    columns = ["participant_id", "role", "in_template", "age", "sex", "cdr", "nwbv"]
    (folder / "participants.tsv").write_text("\t".join(columns) + "\n")
    for index, role in enumerate(roles):
        add_subject(folder, index, role, "yes", suffix)
    return folder


def add_subject(folder: Path, index: int, role: str, in_template: str, suffix: str = "T1w") -> None:
    """Add one more subject to the cohort in `folder`."""
    name = f"sub-{index:02d}"
    write_image(folder / name / "anat" / f"{name}_{suffix}.nii.gz", labels=False)
    if role != "train":
        write_image(folder / "derivatives/manual" / name / "anat" / f"{name}_dseg.nii.gz", labels=True)
    with (folder / "participants.tsv").open("a") as table:
        values = [name, role, in_template, 60 + index, "FM"[index % 2], 0.5, 0.7 + index / 100]
        table.write("\t".join(map(str, values)) + "\n")


def snakemake(directory: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in `directory`; its messages and output are in stdout."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", directory]
    return subprocess.run(
        [*map(str, [*command, *arguments])],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def planned(directory: Path, *arguments: object) -> dict[str, int]:
    """Count the jobs of each stage in a dry run."""
    result = snakemake(directory, "--dry-run", *arguments)
    assert result.returncode == 0, result.stdout
    jobs: dict[str, int] = {}
    table = result.stdout.partition("Job stats:")[2].partition("total")[0]
    for rule, count in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE):
        name = re.sub(r"_(?:atlases_|targets_|others_)?\d+$", "", rule)
        jobs[name] = jobs.get(name, 0) + int(count)
    return jobs


def write_config(folder: Path, bids: Path, subjects_per_job: int = 3, **sections: object) -> Path:
    path = folder / "settings.yaml"
    cohort = {"bids": str(bids), "template_subjects": "in_template", "covariates": ["age"]}
    path.write_text(yaml.safe_dump({"cohort": cohort, "subjects_per_job": subjects_per_job, **sections}))
    return path
