"""The benchmark scripts start, and record their figures."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
SCRIPTS = [
    path.stem
    for path in sorted(BENCHMARKS.glob("*.py"))
    if "parse_args()" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_figures_are_recorded_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures, results = (importlib.import_module(name) for name in ("figures", "results"))
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmarks/rings.py", "--seeds", "2", "--record"])
    for enabled in (False, True):
        record = figures.Record(enabled, dataset="rings", n=20)
        record.add("template", "atlasmith", {"shift_mm": (0.2, 0.1, 0.4), "slope_ratio": 0.9}, seconds=3.0)
        assert (tmp_path / "template.csv").exists() == enabled
    shift, ratio = results.read_rows(tmp_path / "template.csv")
    assert (shift["value"], shift["ci_low"], shift["ci_high"], shift["unit"]) == ("0.2", "0.1", "0.4", "mm")
    assert (ratio["metric"], ratio["value"], ratio["ci_low"], ratio["unit"]) == (
        "slope_ratio",
        "0.9",
        "",
        "1",
    )
    assert shift["command"] == "python benchmarks/rings.py --seeds 2"
    assert (shift["dataset"], shift["n"], shift["seconds"]) == ("rings", "20", "3")


CASE = '''"""A case."""
import sys
from pathlib import Path

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "my.yaml").write_text("chunk: 2\\nregister: {refine_steps: 3}\\ncohort: {bids: bids}\\n")
print("Right: a refusal.")
(folder / "said.txt").write_text("column 'age' has 063Y\\n")
print(f"Run: grep -q 'subjects_per_job: 2' {folder}/my.yaml && cat {folder}/said.txt && exit EXIT")
'''


@pytest.mark.parametrize(("code", "outcome"), [("2", "right"), ("0", "WRONG")])
def test_a_case_comes_out_right_or_wrong(
    code: str,
    outcome: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cases = importlib.import_module("cases")
    (tmp_path / "ages_as_text.py").write_text(CASE.replace("EXIT", code))
    monkeypatch.setattr(sys, "argv", ["cases.py", str(tmp_path), "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit) as stopped:
        cases.main()
    assert capsys.readouterr().out.startswith(f"ages_as_text\t{outcome}")
    assert stopped.value.code == (1 if outcome == "WRONG" else 0)
