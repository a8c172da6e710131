"""The command line: every verb reaches its stage, and errors become exit codes."""

from __future__ import annotations

import errno
import importlib
import inspect
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from atlasmith import __version__
from atlasmith.cli.main import VERBS, main
from atlasmith.core.errors import AtlasmithError
from atlasmith.inference import Prediction
from atlasmith.io.tables import Subject, write_cohort
from atlasmith.launch.request import Request

COHORT_VERBS = {
    "cohort": "atlasmith.cohort:write_checked_cohort",
    "affine-reference": "atlasmith.affine:build_reference",
    "subpopulations": "atlasmith.template.subpopulations:find_subpopulations",
    "template": "atlasmith.template:train",
    "template-labels": "atlasmith.propagation:label_template",
    "fuse-train": "atlasmith.fusion:train_fusers",
    "fuse-quality": "atlasmith.fusion:assess_quality",
    "score-summary": "atlasmith.evaluation:summarize",
    "report": "atlasmith.report:write_report",
    "demo-grade": "atlasmith.demo:grade",
}
SUBJECT_VERBS = {
    "preprocess": "atlasmith.preprocess:preprocess_subject",
    "affine": "atlasmith.affine:align_subject",
    "propagate": "atlasmith.propagation:propagate_subject",
    "fuse": "atlasmith.fusion:fuse_subject",
    "score": "atlasmith.evaluation:score_subject",
}
OTHER_VERBS = {"register", "segment", "predict", "run", "init", "demo", "schema"}
REPORT = COHORT_VERBS["report"]


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text("cohort: {bids: somewhere}\n")
    return str(path)


@pytest.fixture
def scans(tmp_path: Path) -> str:
    """A config whose output folder has a checked cohort of three scans of two participants."""
    path = tmp_path / "config.yaml"
    path.write_text(f"cohort: {{bids: somewhere}}\noutput: {tmp_path}\n")
    subjects = [Subject(name, "target", Path("image.nii")) for name in ("A_ses-1", "A_ses-2", "B")]
    write_cohort(tmp_path / "cohort.tsv", subjects, [])
    return str(path)


def replace(monkeypatch: pytest.MonkeyPatch, target: str, function: Callable[..., None]) -> None:
    """Replace `module:name` by a function."""
    module, name = target.split(":")
    monkeypatch.setattr(importlib.import_module(module), name, function)


def record(monkeypatch: pytest.MonkeyPatch, target: str) -> list[tuple[Any, ...]]:
    """Replace `module:name` by a function of the same signature that records its arguments."""
    module, name = target.split(":")
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    calls: list[tuple[Any, ...]] = []

    def recorder(*args: Any, **kwargs: Any) -> None:
        signature.bind(*args, **kwargs)
        calls.append((*args, kwargs) if kwargs else args)

    replace(monkeypatch, target, recorder)
    return calls


def predictions(monkeypatch: pytest.MonkeyPatch, name: str, result: Any) -> list[tuple[Any, ...]]:
    """Record the calls of a function of new images, which returns `result`."""
    calls: list[tuple[Any, ...]] = []

    def recorder(*args: Any, **kwargs: Any) -> Any:
        calls.append((*args, kwargs))
        return result

    replace(monkeypatch, f"atlasmith.inference.image:{name}", recorder)
    return calls


def test_these_are_all_verbs() -> None:
    assert {*COHORT_VERBS, *SUBJECT_VERBS, *OTHER_VERBS} == set(VERBS)


@pytest.mark.parametrize(("verb", "target"), COHORT_VERBS.items())
def test_verbs_of_the_whole_cohort(
    verb: str, target: str, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record(monkeypatch, target)
    assert main([verb, "--config", config]) == 0
    assert [str(call[0].cohort.bids) for call in calls] == ["somewhere"]


@pytest.mark.parametrize(("verb", "target"), SUBJECT_VERBS.items())
def test_verbs_of_subjects(verb: str, target: str, scans: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record(monkeypatch, target)
    assert main([verb, "--config", scans, "--subjects", "sub-A_ses-2", "B"]) == 0
    assert main([verb, "--config", scans, "--subject", "sub-A"]) == 0
    assert [call[1] for call in calls] == ["A_ses-2", "B", "A_ses-1", "A_ses-2"]


def test_an_unknown_subject(scans: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["affine", "--config", scans, "--subjects", "B", "sub-A_ses-3"]) == 2
    assert "--subjects: 'sub-A_ses-3' is no scan of the cohort" in capsys.readouterr().err


def test_register_takes_its_subjects_at_once(scans: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record(monkeypatch, "atlasmith.registration:register_subjects")
    assert main(["register", "--config", scans, "--subjects", "sub-A", "B", "A_ses-1"]) == 0
    assert [call[1] for call in calls] == [["A_ses-1", "A_ses-2", "B"]]


@pytest.mark.parametrize(("verb", "segment"), [("register", False), ("segment", True)])
def test_verbs_of_a_new_image(
    verb: str, segment: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = predictions(monkeypatch, "register_image", Prediction("i", reasons=["It is a mouse."]))
    arguments = ["--results", "r", "--image", "i.nii", "--set", "age=72", "--out", str(tmp_path)]
    assert main([verb, *arguments]) == 0
    options = {"segment": segment, "extrapolate": False, "device": "auto"}
    assert calls == [(Path("r"), Path("i.nii"), {"age": "72"}, tmp_path, options)]
    assert main([verb, *arguments, "--strict", "--extrapolate", "--device", "cpu"]) == 1
    assert calls[1][-1] == {"segment": segment, "extrapolate": True, "device": "cpu"}


def test_many_new_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Prediction("a"), Prediction("b", error=AtlasmithError("broken")), Prediction("c", reasons=["?"])]
    calls = predictions(monkeypatch, "predict_all", found)
    arguments = ["predict", "--results", "r", "--out", str(tmp_path), "x.nii", "folder"]
    assert main(arguments) == 1
    options = {"table": None, "extrapolate": False, "device": "auto"}
    assert calls == [(Path("r"), [Path("x.nii"), Path("folder")], {}, tmp_path, options)]
    message = capsys.readouterr().err
    assert "1 of 3 images failed: sub-b" in message and "need review" not in message
    found.pop(1)
    assert main(arguments) == 0
    assert main([*arguments, "--strict"]) == 1
    assert "1 of 2 images need review: sub-c" in capsys.readouterr().err


def test_template_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = record(monkeypatch, "atlasmith.inference.query:query_template")
    assert main(["template", "query", "--results", "r", "--set", "age=72", "--out", str(tmp_path)]) == 0
    assert calls == [(Path("r"), {"age": "72"}, tmp_path, {"extrapolate": False, "device": "auto"})]
    with pytest.raises(SystemExit):
        main(["template", "query", "--help"])
    assert "--results" in capsys.readouterr().out


def test_run_gives_the_exit_code_of_the_workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []

    def run(request: Request) -> int:
        asked.append(request)
        return 1

    replace(monkeypatch, "atlasmith.launch.run:run_cohort", run)
    arguments = ["--set", "template.spacing=2", "--cores", "2", "--forcerun", "report", "--retry-failed"]
    assert main(["run", "bids", str(tmp_path), *arguments]) == 1
    (request,) = asked
    assert (request.bids, request.out, request.config) == (Path("bids"), tmp_path, None)
    assert (request.settings, request.cores, request.profile) == ([("template.spacing", "2")], "2", None)
    assert request.retry_failed and not request.dry_run and request.arguments == ["--forcerun", "report"]


def test_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record(monkeypatch, "atlasmith.launch.init:write_config")
    assert main(["init", "bids", "--out", str(tmp_path)]) == 0
    assert calls == [(Path("bids"), tmp_path)]


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record(monkeypatch, "atlasmith.demo:make_demo")
    assert main(["demo", "--out", str(tmp_path), "--seed", "3"]) == 0
    assert main(["demo", "--out", str(tmp_path), "--body", "head"]) == 0
    assert calls == [(tmp_path, {"seed": 3, "body": "brain"}), (tmp_path, {"seed": 0, "body": "head"})]


def test_schema_names_the_keys_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert "register" in schema["properties"]
    assert schema["additionalProperties"] is False


def test_a_users_error_is_a_message_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("cohort: {bids: x}\ntemplate: {spacign: 3}\n")
    assert main(["template", "--config", str(path)]) == 2
    message = capsys.readouterr().err
    assert str(path) in message
    assert "unknown key 'spacign'. Did you mean 'spacing'?" in message
    assert "Traceback" not in message


def test_a_missing_config_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: no such config file" in capsys.readouterr().err


def test_a_programming_error_keeps_its_traceback(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(config: object) -> None:
        raise RuntimeError("a bug")

    replace(monkeypatch, REPORT, fails)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["report", "--config", config])


def test_a_stages_error_is_a_message(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(config: object) -> None:
        raise AtlasmithError("grid.json is missing. Run `atlasmith cohort` first.")

    replace(monkeypatch, REPORT, fails)
    assert main(["report", "--config", config]) == 2
    assert (
        capsys.readouterr().err == "atlasmith report: grid.json is missing. Run `atlasmith cohort` first.\n"
    )


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.nii.gz"), ["x.nii.gz", "The disk is full"]),
        (OSError("write failed (file x.h5, error message = 'No space left on device')"), ["x.h5", "is full"]),
        (SafetensorError("I/O error: No space left on device (os error 28)"), ["is full"]),
        (OSError(errno.EROFS, "Read-only file system", "x.tsv"), ["x.tsv", "Nothing can be written"]),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.nii.gz"), ["x.nii.gz", "was there"]),
        (MemoryError(), ["out of memory", "docs/scaling.md"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ["out of memory"]),
    ],
    ids=["full disk", "HDF5's", "safetensors'", "read-only", "vanished", "memory", "torch's memory"],
)
def test_errors_of_the_system_are_messages(
    error: Exception,
    parts: list[str],
    config: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(config: object) -> None:
        raise error

    replace(monkeypatch, REPORT, fails)
    assert main(["report", "--config", config]) == 2
    message = capsys.readouterr().err
    assert message.startswith("atlasmith report: ") and "What is finished stays" in message
    for part in parts:
        assert part in message


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limits of file size here")
def test_a_file_that_cannot_be_finished_is_removed(tmp_path: Path) -> None:
    code = (
        "import resource, sys, numpy as np\n"
        "from atlasmith import cli, report\n"
        "from atlasmith.core.grid import Grid\n"
        "from atlasmith.io.images import write_image\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "image, grid = np.random.default_rng(0).random((40, 40, 40)), Grid((40, 40, 40), np.eye(4))\n"
        "report.write_report = lambda config: write_image(sys.argv[2], image, grid)\n"
        "sys.exit(cli.main(['report', '--config', sys.argv[1]]))\n"
    )
    config, image = tmp_path / "config.yaml", tmp_path / "x.nii.gz"
    config.write_text("cohort: {bids: somewhere}\n")
    ended = subprocess.run([sys.executable, "-c", code, config, image], capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert "may not grow so large" in ended.stderr and "Traceback" not in ended.stderr
    assert sorted(tmp_path.iterdir()) == [config]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    "module", ["atlasmith.cli", "atlasmith.cohort", "atlasmith.preprocess", "atlasmith.affine"]
)
def test_nothing_before_the_template_imports_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
