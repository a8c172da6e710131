"""Ways in which a script can break a cohort.

Each is refused with a message that names the file or the key; nothing is executed and nothing is written.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from tiny import Tiny, files_below

from atlasmith.cli.main import main

Edit = Callable[[Tiny], object]  # breaks a cohort; returns what the message must name


def header(kind: str, offset: int, form: str, *values: float) -> Edit:
    """Overwrite bytes of the header of an image or of labels."""

    def edit_cohort(tiny: Tiny) -> Path:
        path = getattr(tiny, kind)("sub-01")
        tiny.patch(path, offset, struct.pack(f"<{form}", *values))
        return path

    return edit_cohort


def content(kind: str, make: Callable[[bytes], bytes]) -> Edit:
    """Replace a file's bytes by those that `make` returns."""

    def edit_cohort(tiny: Tiny) -> Path:
        path = getattr(tiny, kind)("sub-01")
        path.write_bytes(make(path.read_bytes()))
        return path

    return edit_cohort


def voxels(kind: str, edit: Callable[[np.ndarray], np.ndarray]) -> Edit:
    def edit_cohort(tiny: Tiny) -> Path:
        path = getattr(tiny, kind)("sub-01")
        tiny.change(path, edit)
        return path

    return edit_cohort


def row(column: str, value: str) -> Edit:
    """Set a cell of participants.tsv."""

    def edit_cohort(tiny: Tiny) -> Path:
        tiny.rows[1][column] = value
        tiny.write_table()
        return tiny.table

    return edit_cohort


def table(make: Callable[[bytes], bytes]) -> Edit:
    def edit_cohort(tiny: Tiny) -> Path:
        tiny.table.write_bytes(make(tiny.table.read_bytes()))
        return tiny.table

    return edit_cohort


def config(text: str) -> Edit:
    """Add text to the end of the config; the message must name the file."""

    def edit_cohort(tiny: Tiny) -> str:
        with tiny.config_path.open("a", encoding="utf-8") as file:
            file.write(text)
        return str(tiny.config_path)

    return edit_cohort


def swapped_columns(tiny: Tiny) -> Path:
    path = tiny.bids / "derivatives/manual/dseg.tsv"
    path.write_bytes(b"index\tname\nleft\t1\n")
    return path


def conflicting_forms(tiny: Tiny) -> Path:
    """Write a qform that differs from the sform."""
    path = tiny.image("sub-01")
    file = nib.load(path)
    moved = file.affine.copy()
    moved[0, 3] += 30
    file.set_sform(file.affine, code=1)
    file.set_qform(moved, code=1)
    nib.Nifti1Image(np.asanyarray(file.dataobj), None, file.header).to_filename(path)
    return path


def without_orientation(tiny: Tiny) -> Path:
    """Remove qform and sform of image and labels."""
    header("labels", 252, "2h", 0, 0)(tiny)
    return header("image", 252, "2h", 0, 0)(tiny)


def folder(tiny: Tiny) -> Path:
    path = tiny.image("sub-01")
    path.unlink()
    path.mkdir()
    return path


def link(target: str) -> Edit:
    def edit_cohort(tiny: Tiny) -> Path:
        path = tiny.image("sub-01")
        path.unlink()
        path.symlink_to(target)
        return path

    return edit_cohort


def repeated_row(tiny: Tiny) -> Path:
    tiny.rows.append(dict(tiny.rows[0]))
    tiny.write_table()
    return tiny.table


def one_role(tiny: Tiny, role: str) -> Path:
    for one in tiny.rows:
        one["role"] = role
    tiny.write_table()
    return tiny.table


def output(make: Callable[[Path], object]) -> Edit:
    def edit_cohort(tiny: Tiny) -> Path:
        make(tiny.output)
        return tiny.output

    return edit_cohort


def other_files(path: Path) -> None:
    path.mkdir()
    (path / "thesis.docx").write_text("my thesis")


def noise(data: bytes) -> bytes:
    return np.random.default_rng(0).bytes(len(data))


KINDS: dict[str, Edit] = {
    # Files
    "empty image": content("image", lambda data: b""),
    "empty labels": content("labels", lambda data: b""),
    "truncated gzip": content("image", lambda data: data[:-500]),
    "truncated before compression": content(
        "image", lambda data: gzip.compress(gzip.decompress(data)[:-500])
    ),
    "header alone": content("image", lambda data: gzip.compress(gzip.decompress(data)[:352])),
    "half a header": content("image", lambda data: gzip.compress(gzip.decompress(data)[:100])),
    "compressed nothing": content("labels", lambda data: gzip.compress(b"")),
    "not compressed": content("image", gzip.decompress),
    "compressed twice": content("image", gzip.compress),
    "pointer of git-lfs": content("image", lambda data: b"version https://git-lfs.github.com/spec/v1\n"),
    "noise": content("image", noise),
    "web page": content("labels", lambda data: b"<html>404 Not Found</html>"),
    "damaged gzip": content("image", lambda data: data[:600] + bytes(50) + data[650:]),
    "folder for a file": folder,
    "link to nothing": link("nowhere.nii.gz"),
    "link to itself": link("sub-01_T1w.nii.gz"),
    # Headers
    "wrong magic": header("image", 344, "4s", b"abc\0"),  # type: ignore[arg-type]
    "wrong header size": header("image", 0, "i", 349),
    "no dimensions": header("image", 40, "h", 0),
    "nine dimensions": header("image", 40, "h", 9),
    "minus one dimension": header("image", 40, "h", -1),
    "an axis of zero": header("image", 42, "h", 0),
    "an axis of minus five": header("image", 44, "h", -5),
    "a huge image": header("image", 42, "3h", 32767, 32767, 32767),
    "unknown type": header("image", 70, "h", 9999),
    "type of colors": header("image", 70, "2h", 128, 24),
    "complex": header("image", 70, "2h", 32, 64),
    "voxel size of zero": header("image", 80, "f", 0.0),
    "voxel size that is no number": header("image", 84, "f", np.nan),
    "infinite voxel size": header("image", 88, "f", np.inf),
    "negative voxel size": header("image", 80, "f", -2.0),
    "voxels beyond the file": header("image", 108, "f", 1e6),
    "voxels before the file": header("image", 108, "f", -400.0),
    "slope that is infinite": header("image", 112, "2f", np.inf, 0.0),
    "intercept that is no number": header("image", 112, "2f", 1.0, np.nan),
    "metres": header("image", 123, "B", 1),
    "micrometres": header("image", 123, "B", 3),
    "no orientation of anything": without_orientation,
    "no orientation": header("image", 252, "2h", 0, 0),
    "no orientation of labels": header("labels", 252, "2h", 0, 0),
    "sform of zeros": header("image", 280, "4f", 0, 0, 0, 0),
    "sform that is no number": header("image", 280, "4f", np.nan, 0, 0, 0),
    "infinite sform": header("image", 280, "4f", 1, 0, 0, np.inf),
    "flat sform": header("image", 280, "4f", 0, 2, 0, 0),
    "impossible quaternion": header("image", 252, "2h6f", 1, 0, 3, 3, 3, 0, 0, 0),
    "qform against sform": conflicting_forms,
    # Voxels
    "nan": voxels("image", lambda data: np.where(data > 60, np.nan, data)),
    "infinity": voxels("image", lambda data: np.where(data > 60, np.inf, data)),
    "constant": voxels("image", lambda data: np.full_like(data, 7)),
    "zeros": voxels("image", np.zeros_like),
    "one line": voxels("image", lambda data: data[:, :1, :1]),
    "four dimensions": voxels("image", lambda data: np.stack([data] * 3, axis=-1)),
    "five dimensions": voxels("image", lambda data: data[..., None, None].repeat(2, 4)),
    "labels below zero": voxels("labels", lambda data: data.astype(np.int16) - 1),
    "labels between integers": voxels("labels", lambda data: data * np.float32(0.5)),
    "labels that are no number": voxels("labels", lambda data: np.where(data > 0, np.nan, 0.0)),
    "labels beyond 32 bits": voxels("labels", lambda data: data.astype(np.float64) * 1e12),
    "no labels at all": voxels("labels", np.zeros_like),
    "labels of another size": voxels("labels", lambda data: data[:-1]),
    "probabilities for labels": voxels("labels", lambda data: np.stack([data == 1, data == 7], -1) * 0.9),
    # Tables
    "no table": lambda tiny: tiny.table.unlink() or tiny.table,
    "empty table": table(lambda data: b""),
    "a header alone": table(lambda data: data.splitlines(True)[0]),
    "commas": table(lambda data: data.replace(b"\t", b",")),
    "another encoding": table(lambda data: data.replace(b"sub-03", "sub-ü3".encode("latin-1"))),
    "UTF-16": table(lambda data: data.decode().encode("utf-16")),
    "a spreadsheet": table(lambda data: b"PK\x03\x04" + noise(data)),
    "zero bytes": table(lambda data: data.replace(b"61", b"\0\0")),
    "a repeated row": repeated_row,
    "a path for an id": row("participant_id", "sub-../../etc"),
    "a command for an id": row("participant_id", "sub-01; touch pwned"),
    "a substitution for an id": row("participant_id", "sub-$(touch pwned)"),
    "a wildcard for an id": row("participant_id", "sub-*"),
    "an id with a line break": row("participant_id", '"sub-0\n1"'),
    "an empty id": row("participant_id", ""),
    "an unknown role": row("role", "atals"),
    "no role": row("role", ""),
    "words for a number": row("age", "seventy"),
    "an endless number": row("age", "inf"),
    "no atlas": lambda tiny: one_role(tiny, "target"),
    "no target": lambda tiny: one_role(tiny, "atlas"),
    "names of labels in swapped columns": swapped_columns,
    # Configs
    "a tag that runs": config("extra: !!python/object/apply:os.system ['touch pwned']\n"),
    "a tag that names": config("extra: !!python/name:os.system\n"),
    "no YAML": config("a: [\n"),
    "a tab": config("score:\n\tbootstrap: 3\n"),
    "an unknown key": config("scroe: {bootstrap: 3}\n"),
    "a text for a number": config("seed: many\n"),
    "a number out of range": config("subjects_per_job: 0\n"),
    "an unknown engine": lambda tiny: config("affine: {engine: magic}\n")(tiny) and "affine.engine",
    "a list for a table": config("register: [1, 2]\n"),
    "control characters": config("report: {subjects: '\x07'}\n"),
    # The output folder
    "output that is a file": output(lambda path: path.write_text("mine")),
    "output with other files": output(other_files),
}


def test_there_are_sixty_kinds() -> None:
    assert len(KINDS) >= 60


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_named(
    kind: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.bids.parent)
    values = {
        "output": str(tiny.output),
        "cohort": {"bids": str(tiny.bids), "covariates": ["age", "sex"]},
        "template": {"spacing": 2.0, "condition_on": ["age"]},
    }
    tiny.config_path.write_text(yaml.safe_dump(values))
    named = KINDS[kind](tiny)
    before = files_below(tiny.bids.parent)
    assert main(["cohort", "--config", str(tiny.config_path)]) == 2
    output = capsys.readouterr()
    assert str(named) in output.err or Path(str(named)).name in output.err, output.err
    assert "Traceback" not in output.err + output.out
    assert files_below(tiny.bids.parent) == before
