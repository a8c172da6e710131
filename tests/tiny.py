"""A valid cohort of four boxes, for tests to break."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from atlasmith.cohort import write_checked_cohort
from atlasmith.config import Config, parse_config
from atlasmith.core.errors import InputError
from atlasmith.core.grid import Array

AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])  # LAS, 2 mm
ROWS = [
    {"participant_id": "sub-02", "role": "atlas", "age": "61", "sex": "F"},
    {"participant_id": "sub-01", "role": "atlas", "age": "70", "sex": "M"},
    {"participant_id": "sub-03", "role": "target", "age": "n/a", "sex": "M"},
    {"participant_id": "sub-04", "role": "train", "age": "83", "sex": "F"},
]


class Tiny:
    """A valid cohort of four boxes on a black background."""

    def __init__(self, folder: Path) -> None:
        self.bids = folder / "bids"
        self.output = folder / "results"
        self.table = self.bids / "participants.tsv"
        self.config_path = folder / "config.yaml"
        self.rows: list[dict[str, str]] = [dict(row) for row in ROWS]
        for row in ROWS:
            name = row["participant_id"]
            data = np.zeros((12, 10, 9), dtype=np.float32)
            data[3:9, 2:8, 2:7] = np.random.default_rng(int(name[-1])).uniform(50, 100, (6, 6, 5))
            self.save(self.image(name), data)
            if row["role"] != "train":
                labels = np.zeros(data.shape, dtype=np.uint8)
                labels[4:6, 3:6, 3:6] = 1
                labels[6:8, 3:6, 3:6] = 7
                self.save(self.labels(name), labels)
        (self.bids / "derivatives/manual/dseg.tsv").write_text("index\tname\n1\tleft part\n9\tunseen\n")
        self.write_table()

    def image(self, name: str) -> Path:
        return self.bids / name / "anat" / f"{name}_T1w.nii.gz"

    def labels(self, name: str) -> Path:
        return self.bids / "derivatives" / "manual" / name / "anat" / f"{name}_dseg.nii.gz"

    def save(self, path: Path, data: Array, affine: Array = AFFINE) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(data, affine).to_filename(path)

    def change(self, path: Path, edit: Callable[[Array], Array | None]) -> None:
        """Rewrite a NIfTI file's voxels with `edit`, in place or to what it returns."""
        file = nib.load(path)
        data = np.array(file.dataobj)
        changed = edit(data)
        self.save(path, data if changed is None else changed, file.affine)

    def patch(self, path: Path, offset: int, values: bytes) -> None:
        """Overwrite bytes of a NIfTI file's header."""
        raw = bytearray(gzip.decompress(path.read_bytes()))
        raw[offset : offset + len(values)] = values
        path.write_bytes(gzip.compress(bytes(raw)))

    def write_table(self) -> None:
        columns = list(self.rows[0])
        lines = ["\t".join(columns), *("\t".join(row[key] for key in columns) for row in self.rows)]
        self.table.write_text("\n".join(lines) + "\n")

    def config(self, **sections: Any) -> Config:
        values: dict[str, Any] = {
            "output": str(self.output),
            "cohort": {"bids": str(self.bids), "covariates": ["age", "sex"]},
            "template": {"spacing": 2.0, "condition_on": ["age"]},
        }
        for name, value in sections.items():
            values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
        return parse_config(values)

    def problems(self, **sections: Any) -> list[str]:
        """The problems that the cohort stage reports."""
        with pytest.raises(InputError) as caught:
            write_checked_cohort(self.config(**sections))
        return [str(problem) for problem in caught.value.problems]


def only(problems: list[str], *parts: object) -> None:
    """Assert that there is one problem, and that it names all `parts`."""
    assert len(problems) == 1, problems
    for part in parts:
        assert str(part) in problems[0], (part, problems[0])


def with_nan(data: Array) -> None:
    """Make one voxel NaN and another infinite, in place."""
    data[0, 0, 0] = np.nan
    data[1, 0, 0] = np.inf


def files_below(path: Path) -> dict[Path, bytes]:
    """Read all files below a folder."""
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
