"""Ways in which a script can break a cohort: each ends in a message that names the file or the key, with no
traceback, nothing executed and nothing written."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import Tiny

from atlasmith.cli.main import main

Spoil = Callable[[Tiny], object]  # gives what the message must name


def header(kind: str, offset: int, form: str, *values: float) -> Spoil:
    """Bytes of the header of an image, or of labels, are overwritten."""

    def spoil(tiny: Tiny) -> Path:
        path = getattr(tiny, kind)("sub-01")
        tiny.patch(path, offset, struct.pack(f"<{form}", *values))
        return path

    return spoil


def content(kind: str, make: Callable[[bytes], bytes]) -> Spoil:
    """A file's bytes are replaced by what `make` makes of them."""

    def spoil(tiny: Tiny) -> Path:
        path = getattr(tiny, kind)("sub-01")
        path.write_bytes(make(path.read_bytes()))
        return path

    return spoil


def voxels(kind: str, edit: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def spoil(tiny: Tiny) -> Path:
        path = getattr(tiny, kind)("sub-01")
        tiny.change(path, edit)
        return path

    return spoil


def row(column: str, value: str) -> Spoil:
    """A cell of participants.tsv."""

    def spoil(tiny: Tiny) -> Path:
        tiny.rows[1][column] = value
        tiny.write_table()
        return tiny.table

    return spoil


def table(make: Callable[[bytes], bytes]) -> Spoil:
    def spoil(tiny: Tiny) -> Path:
        tiny.table.write_bytes(make(tiny.table.read_bytes()))
        return tiny.table

    return spoil


def config(text: str) -> Spoil:
    """Text at the end of the config; the message must name the file."""

    def spoil(tiny: Tiny) -> str:
        with config_of(tiny).open("a", encoding="utf-8") as file:
            file.write(text)
        return str(config_of(tiny))

    return spoil


def names(tiny: Tiny) -> Path:
    path = tiny.bids / "derivatives/manual/dseg.tsv"
    path.write_bytes(b"index\tname\nleft\t1\n")
    return path


def forms(tiny: Tiny) -> Path:
    """A qform that places the image elsewhere than its sform does."""
    path = tiny.image("sub-01")
    file = nib.load(path)
    moved = file.affine.copy()
    moved[0, 3] += 30
    file.set_sform(file.affine, code=1)
    file.set_qform(moved, code=1)
    nib.Nifti1Image(np.asanyarray(file.dataobj), None, file.header).to_filename(path)
    return path


def nowhere(tiny: Tiny) -> Path:
    """Neither image nor labels say where they lie: they agree."""
    header("labels", 252, "2h", 0, 0)(tiny)
    return header("image", 252, "2h", 0, 0)(tiny)


def folder(tiny: Tiny) -> Path:
    path = tiny.image("sub-01")
    path.unlink()
    path.mkdir()
    return path


def link(target: str) -> Spoil:
    def spoil(tiny: Tiny) -> Path:
        path = tiny.image("sub-01")
        path.unlink()
        path.symlink_to(target)
        return path

    return spoil


def twice(tiny: Tiny) -> Path:
    tiny.rows.append(dict(tiny.rows[0]))
    tiny.write_table()
    return tiny.table


def one_role(tiny: Tiny, role: str) -> Path:
    for one in tiny.rows:
        one["role"] = role
    tiny.write_table()
    return tiny.table


def output(make: Callable[[Path], object]) -> Spoil:
    def spoil(tiny: Tiny) -> Path:
        make(tiny.output)
        return tiny.output

    return spoil


def somebody_elses(path: Path) -> None:
    path.mkdir()
    (path / "thesis.docx").write_text("my thesis")


def noise(data: bytes) -> bytes:
    return np.random.default_rng(0).bytes(len(data))


KINDS: dict[str, Spoil] = {
    # Files
    "empty image": content("image", lambda data: b""),
    "empty labels": content("labels", lambda data: b""),
    "cut gzip": content("image", lambda data: data[:-500]),
    "cut before packing": content("image", lambda data: gzip.compress(gzip.decompress(data)[:-500])),
    "header alone": content("image", lambda data: gzip.compress(gzip.decompress(data)[:352])),
    "half a header": content("image", lambda data: gzip.compress(gzip.decompress(data)[:100])),
    "packed nothing": content("labels", lambda data: gzip.compress(b"")),
    "not packed": content("image", gzip.decompress),
    "packed twice": content("image", gzip.compress),
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
    "no orientation of anything": nowhere,
    "no orientation": header("image", 252, "2h", 0, 0),
    "no orientation of labels": header("labels", 252, "2h", 0, 0),
    "sform of zeros": header("image", 280, "4f", 0, 0, 0, 0),
    "sform that is no number": header("image", 280, "4f", np.nan, 0, 0, 0),
    "infinite sform": header("image", 280, "4f", 1, 0, 0, np.inf),
    "flat sform": header("image", 280, "4f", 0, 2, 0, 0),
    "impossible quaternion": header("image", 252, "2h6f", 1, 0, 3, 3, 3, 0, 0, 0),
    "qform against sform": forms,
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
    "a row twice": twice,
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
    "names of labels the wrong way round": names,
    # Configs
    "a tag that runs": config("extra: !!python/object/apply:os.system ['touch pwned']\n"),
    "a tag that names": config("extra: !!python/name:os.system\n"),
    "no YAML": config("a: [\n"),
    "a tab": config("score:\n\tbootstrap: 3\n"),
    "a key twice over": config("scroe: {bootstrap: 3}\n"),
    "a text for a number": config("seed: many\n"),
    "a number out of range": config("chunk: 0\n"),
    "an engine that isn't there": lambda tiny: config("affine: {engine: magic}\n")(tiny) and "affine.engine",
    "a list for a table": config("register: [1, 2]\n"),
    "control characters": config("report: {subjects: '\x07'}\n"),
    # The output folder
    "output that is a file": output(lambda path: path.write_text("mine")),
    "output of somebody else": output(somebody_elses),
}


# Where a test may take as long as it does, and always sees the same examples.
RANDOMLY = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def config_of(tiny: Tiny) -> Path:
    return tiny.bids.parent / "config.yaml"


def files_below(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


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
    config_of(tiny).write_text(yaml.safe_dump(values))
    named = KINDS[kind](tiny)
    before = files_below(tiny.bids.parent)
    assert main(["cohort", "--config", str(config_of(tiny))]) == 2
    said = capsys.readouterr()
    assert str(named) in said.err or Path(str(named)).name in said.err, said.err
    assert "Traceback" not in said.err + said.out
    assert files_below(tiny.bids.parent) == before


# What scripts leave in headers, and what bytes turn into: small and large numbers, and any eight bytes.
NUMBERS = st.sampled_from([0, 1, -1, 2, 3, 7, 127, 255, 32767, -32768, 2**31 - 1, -(2**31)])
BYTES = st.one_of(
    st.binary(min_size=1, max_size=8),
    NUMBERS.map(lambda n: struct.pack("<h", n % 65536 - 32768)),
    st.floats(width=32).map(lambda x: struct.pack("<f", x)),
)
EDITS = st.lists(st.tuples(st.integers(0, 10**6), BYTES), min_size=1, max_size=4)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.floats(), st.text(max_size=8))
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))


def edited(data: bytes, edits: list[tuple[int, bytes]], among: int | None = None) -> bytes:
    """Some bytes are overwritten, among the first so many."""
    raw = bytearray(data)
    for place, new in edits:
        start = place % (among or max(len(raw), 1))
        raw[start : start + len(new)] = new
    return bytes(raw)


def keys(values: dict[str, object], *above: str) -> list[tuple[str, ...]]:
    """The path of each setting of a config, sections included."""
    found = []
    for name, value in values.items():
        found.append((*above, name))
        if isinstance(value, dict):
            found += keys(value, *above, name)
    return found


class TestBrokenAtRandom:
    """Whatever a byte or a value becomes: it is taken, or refused in a message that names the file."""

    @pytest.fixture
    def settled(self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Tiny:
        monkeypatch.chdir(tiny.bids.parent)
        return tiny

    def judge(self, tiny: Tiny, named: str, capsys: pytest.CaptureFixture[str], **sections: object) -> None:
        config_of(tiny).write_text(yaml.safe_dump(tiny.config().resolved() | sections))
        before = files_below(tiny.bids.parent)
        shutil.rmtree(tiny.output, ignore_errors=True)
        code = main(["cohort", "--config", str(config_of(tiny))])
        said = capsys.readouterr()
        assert code in (0, 2) and "Traceback" not in said.err
        assert code == 0 or named in said.err, said.err
        after = files_below(tiny.bids.parent)
        assert {p: b for p, b in after.items() if tiny.output not in p.parents} == before
        shutil.rmtree(tiny.output, ignore_errors=True)

    @RANDOMLY
    @given(kind=st.sampled_from(["image", "labels"]), edits=EDITS)
    def test_headers(
        self, settled: Tiny, capsys: pytest.CaptureFixture[str], kind: str, edits: list[tuple[int, bytes]]
    ) -> None:
        path = getattr(settled, kind)("sub-01")
        kept = path.read_bytes()
        path.write_bytes(gzip.compress(edited(gzip.decompress(kept), edits, among=348), 1))
        self.judge(settled, "sub-01", capsys)
        path.write_bytes(kept)

    @RANDOMLY
    @given(edits=EDITS)
    @pytest.mark.parametrize(("kind", "named"), [("image", "sub-01"), ("table", "")])
    def test_files_as_they_lie(
        self,
        settled: Tiny,
        capsys: pytest.CaptureFixture[str],
        kind: str,
        named: str,
        edits: list[tuple[int, bytes]],
    ) -> None:
        path = settled.table if kind == "table" else settled.image("sub-01")
        kept = path.read_bytes()
        path.write_bytes(edited(kept, edits))
        self.judge(settled, named, capsys)
        path.write_bytes(kept)

    @RANDOMLY
    @given(data=st.data(), value=VALUES)
    def test_configs(
        self, settled: Tiny, capsys: pytest.CaptureFixture[str], data: st.DataObject, value: object
    ) -> None:
        values = settled.config().resolved()
        *above, last = data.draw(st.sampled_from([k for k in keys(values) if k[0] != "output"]))
        section = values
        for name in above:
            section = section[name]
        section[last] = value
        self.judge(settled, "", capsys, **values)


class Executed:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize(
    "bytes_",
    [pickle.dumps(Executed()), b"", b"\xff" * 64, (1 << 40).to_bytes(8, "little") + b"{}"],
    ids=["a pickle", "nothing", "a header of no size", "a header beyond the file"],
)
def test_weights_that_are_none(
    bytes_: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from atlasmith.core.errors import AtlasmithError
    from atlasmith.io.weights import read_weights

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "template.safetensors"
    path.write_bytes(bytes_)
    with pytest.raises(AtlasmithError, match=r"template\.safetensors"):
        read_weights(path)
    assert not (tmp_path / "pwned").exists()
