"""Random edits of headers, files and configs: accepted, or refused without a traceback."""

from __future__ import annotations

import gzip
import shutil
import struct

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import Tiny, files_below

from atlasmith.cli.main import main

# Without deadline, and with the same examples each time.
RANDOMLY = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


# Small and large numbers, and any eight bytes.
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
    """Overwrite some bytes, among the first `among`."""
    raw = bytearray(data)
    for place, new in edits:
        start = place % (among or max(len(raw), 1))
        raw[start : start + len(new)] = new
    return bytes(raw)


def keys(values: dict[str, object], *above: str) -> list[tuple[str, ...]]:
    """List the path of each key of a config, sections included."""
    found = []
    for name, value in values.items():
        found.append((*above, name))
        if isinstance(value, dict):
            found += keys(value, *above, name)
    return found


class TestRandomEdits:
    """Whatever a byte or a value becomes: it is accepted, or refused with a message that names the file."""

    @pytest.fixture
    def cohort(self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Tiny:
        monkeypatch.chdir(tiny.bids.parent)
        return tiny

    def check(self, tiny: Tiny, named: str, capsys: pytest.CaptureFixture[str], **sections: object) -> None:
        tiny.config_path.write_text(yaml.safe_dump(tiny.config().resolved() | sections))
        before = files_below(tiny.bids.parent)
        shutil.rmtree(tiny.output, ignore_errors=True)
        code = main(["cohort", "--config", str(tiny.config_path)])
        messages = capsys.readouterr().err
        assert code in (0, 2) and "Traceback" not in messages
        assert code == 0 or named in messages, messages
        after = files_below(tiny.bids.parent)
        assert {p: b for p, b in after.items() if tiny.output not in p.parents} == before
        shutil.rmtree(tiny.output, ignore_errors=True)

    @RANDOMLY
    @given(kind=st.sampled_from(["image", "labels"]), edits=EDITS)
    def test_headers(
        self, cohort: Tiny, capsys: pytest.CaptureFixture[str], kind: str, edits: list[tuple[int, bytes]]
    ) -> None:
        path = getattr(cohort, kind)("sub-01")
        kept = path.read_bytes()
        path.write_bytes(gzip.compress(edited(gzip.decompress(kept), edits, among=348), 1))
        self.check(cohort, "sub-01", capsys)
        path.write_bytes(kept)

    @RANDOMLY
    @given(edits=EDITS)
    @pytest.mark.parametrize(("kind", "named"), [("image", "sub-01"), ("table", "")])
    def test_compressed_files(
        self,
        cohort: Tiny,
        capsys: pytest.CaptureFixture[str],
        kind: str,
        named: str,
        edits: list[tuple[int, bytes]],
    ) -> None:
        path = cohort.table if kind == "table" else cohort.image("sub-01")
        kept = path.read_bytes()
        path.write_bytes(edited(kept, edits))
        self.check(cohort, named, capsys)
        path.write_bytes(kept)

    @RANDOMLY
    @given(data=st.data(), value=VALUES)
    def test_configs(
        self, cohort: Tiny, capsys: pytest.CaptureFixture[str], data: st.DataObject, value: object
    ) -> None:
        values = cohort.config().resolved()
        *above, last = data.draw(st.sampled_from([k for k in keys(values) if k[0] != "output"]))
        section = values
        for name in above:
            section = section[name]
        section[last] = value
        self.check(cohort, "", capsys, **values)
