"""`atlasmith run`: what it makes of its arguments, its plan, and whole runs."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from quick_run import SRC, atlasmith, make_cohort, write_settings

from atlasmith import __version__
from atlasmith.cli.main import main, parse
from atlasmith.cohort import read_participants
from atlasmith.config import parse_config
from atlasmith.core.errors import AtlasmithError, InputError
from atlasmith.io.files import lock
from atlasmith.launch.plan import Plan
from atlasmith.launch.profiles import profile_folder
from atlasmith.launch.request import Request, resolve_config
from atlasmith.launch.snakemake import command, failed_jobs
from atlasmith.workflow import PROFILES

PLANTED = """
import sys

if "propagate" in sys.orig_argv:
    import atlasmith.propagation as stage
    from atlasmith.core.errors import AtlasmithError

    original = stage.propagate_subject

    def propagate_subject(config, subject):
        if subject == "05":
            raise AtlasmithError("planted. Nothing to do.")
        original(config, subject)

    stage.propagate_subject = propagate_subject
"""


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    return make_cohort(tmp_path / "bids")


def test_further_arguments_are_snakemakes() -> None:
    args = parse(["run", "b", "o", "--cores", "2", "--set", "a.b=1", "-n", "--forcerun", "fuse", "--notemp"])
    assert (args.bids, args.out, args.cores, args.dry_run) == (Path("b"), Path("o"), "2", True)
    assert args.set == [("a.b", "1")] and args.arguments == ["--forcerun", "fuse", "--notemp"]
    assert parse(["run", "b", "o", "--set-threads", "x=1"]).arguments == ["--set-threads", "x=1"]
    with pytest.raises(SystemExit):
        parse(["cohort", "--config", "c", "--forcerun"])
    with pytest.raises(SystemExit):
        parse(["run", "b", "o", "--cores", "2", "--profile", "slurm"])


def test_arguments_replace_keys_of_the_config(
    bids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_settings(tmp_path / "my.yaml")
    settings = [("template.spacing", "2"), ("cohort.covariates", "[age]"), ("score.bootstrap", "7")]
    config, found = resolve_config(Request(Path("bids"), Path("x/../out"), path, settings))
    assert found is None
    assert (config.cohort.bids, config.output) == (bids, tmp_path / "out")
    assert (config.template.spacing, config.cohort.covariates) == (2.0, ["age"])
    assert (config.score.bootstrap, config.template.steps) == (7, 2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (("template.spacign", "2"), r"my\.yaml with --set: template\.spacign: unknown key.*'spacing'"),
        (("template.spacing", "-1"), r"template\.spacing: .*greater than or equal to 0\.000001"),
        (("template", "5"), r"template: "),
        (("template.spacing", "{"), r"--set template\.spacing: '\{' is not YAML"),
    ],
)
def test_settings_are_checked_as_the_config_is(
    setting: tuple[str, str], message: str, bids: Path, tmp_path: Path
) -> None:
    path = write_settings(tmp_path / "my.yaml")
    with pytest.raises(InputError, match=message):
        resolve_config(Request(bids, tmp_path / "out", path, [setting]))


def test_without_labels_it_says_what_is_missing(bids: Path, tmp_path: Path) -> None:
    (bids / "derivatives").rename(tmp_path / "derivatives")
    with pytest.raises(
        InputError, match=r"derivatives/manual: no image has labels(.|\n)*sub-X_dseg\.nii\.gz"
    ):
        resolve_config(Request(bids, tmp_path / "out"))


def test_a_config_is_made_from_the_data(bids: Path, tmp_path: Path) -> None:
    config, found = resolve_config(Request(bids, tmp_path / "out"))
    assert found is not None and config.template.spacing == found.spacing == 1.0
    assert config.cohort.role is None


def test_snakemakes_command(bids: Path, tmp_path: Path) -> None:
    config = parse_config({"cohort": {"bids": str(bids)}, "output": str(tmp_path / "out")})
    words = command(Request(bids, tmp_path / "out", cores="3", arguments=("--notemp",)), config)
    assert words[:4] == [sys.executable, "-m", "snakemake", "--notemp"]
    values = dict(pairwise(words))
    assert values["--directory"] == str(tmp_path / "out") and values["--cores"] == "3"
    assert values["--workflow-profile"] == str(PROFILES / "default")
    assert values["--resources"].startswith("mem_mb=")
    words = command(Request(bids, tmp_path / "out", profile="slurm"), config)
    assert str(PROFILES / "slurm") in words and "--resources" not in words and "--cores" not in words


def test_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slurm").mkdir()
    assert profile_folder("slurm") == PROFILES / "slurm"
    (tmp_path / "slurm" / "config.yaml").write_text("jobs: 1\n")
    assert profile_folder("slurm") == tmp_path / "slurm", "a folder of the user comes first"
    with pytest.raises(
        AtlasmithError, match=r"--profile lsf: there is no lsf/config\.yaml.*default or slurm"
    ):
        profile_folder("lsf")


def test_the_clone_has_the_default_profile_of_the_package() -> None:
    profile = "profiles/default/config.yaml"
    assert (SRC.parent / profile).read_text() == (PROFILES / "default" / "config.yaml").read_text()


def test_the_environment_of_jobs_has_the_version_of_the_rules() -> None:
    environment = yaml.safe_load((PROFILES.parent / "envs" / "atlasmith.yaml").read_text())
    assert {"pip": [f"atlasmith =={__version__}"]} in environment["dependencies"]


def test_failed_jobs_are_found_in_snakemakes_messages() -> None:
    text = (
        "[Fri]\nError in rule fuse_targets_1:\n    message: None\n    jobid: 3\n    input: a, b\n"
        "    log: /out/logs/fuse/targets-1.log (check log file(s) for error details)\n    shell:\n        x\n"
        "Error in rule cohort:\n    jobid: 1\n    log: /out/logs/cohort/all.log\n"
    )
    assert [(job.rule, str(job.log)) for job in failed_jobs(text)] == [
        ("fuse_targets_1", "/out/logs/fuse/targets-1.log"),
        ("cohort", "/out/logs/cohort/all.log"),
    ]


def test_the_plan_counts_the_scans_of_each_stage(bids: Path, tmp_path: Path) -> None:
    def plan(cores: int = 2, **sections: object) -> Plan:
        values = {"cohort": {"bids": str(bids), "role": None}, "output": str(tmp_path / "out"), **sections}
        config = parse_config(values)
        return Plan(config, read_participants(config), (40.0, 40.0, 0.0), cores)

    default = plan()
    assert default.voxels == 1600
    assert (default.count("preprocess"), default.count("propagate"), default.count("fuse_train")) == (6, 6, 3)
    majority = plan(fusion={"methods": ["majority"], "quality": False})
    assert majority.count("propagate") == 3
    assert {"fuse_train", "fuse_quality", "subpopulations"}.isdisjoint(majority.stages)
    assert majority.seconds() < default.seconds()
    assert plan(cores=4, subjects_per_job=1).seconds() < plan(cores=1, subjects_per_job=1).seconds()
    assert plan(template={"spacing": 0.5}).voxels == 6400
    text = default.text(None, {}, cluster=False)
    assert "6: 3 with labels (atlas), 3 to segment (target)" in text and "voxels of 1 mm" in text


def test_a_dry_run_from_any_folder_writes_nothing(bids: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = atlasmith(elsewhere, "run", "../bids", "../out", "--dry-run", "--set", "subjects_per_job=2")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 with labels (atlas), 3 to segment (target)" in result.stdout
    assert "found     labels in derivatives/manual" in result.stdout
    assert "preprocess_3" in result.stdout and "preprocess_4" not in result.stdout
    assert list(elsewhere.iterdir()) == [] and not (tmp_path / "out").exists()
    assert not (bids / "participants.tsv").exists()


def test_refused_input_is_exit_code_2(bids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert main(["run", str(bids), str(tmp_path / "out")]) == 2
    assert "the folder holds other files (mine.txt)" in capsys.readouterr().err
    held = lock(tmp_path / "new" / ".lock")
    assert main(["run", str(bids), str(tmp_path / "new")]) == 2
    assert "another run is writing here" in capsys.readouterr().err
    del held


@pytest.mark.slow
def test_a_run_goes_on_without_a_subject_that_fails(bids: Path, tmp_path: Path) -> None:
    """The others' results are those of a run in which nothing fails, since the subject is in the template."""
    settings = write_settings(tmp_path / "my.yaml")
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "sitecustomize.py").write_text(PLANTED)
    complete = atlasmith(tmp_path, "run", "bids", "complete", "--config", settings, "--cores", 2)
    assert complete.returncode == 0, complete.stdout + complete.stderr
    assert "report    " + str(tmp_path / "complete" / "report.html") in complete.stdout
    part = ("run", "bids", "part", "--config", settings, "--cores", 2)
    path = Path(f"{tmp_path / 'planted'}:{SRC}")
    failing = atlasmith(tmp_path, *part, path=path)
    assert failing.returncode == 1, failing.stdout + failing.stderr
    assert "failed    sub-05 in propagate: planted. Nothing to do." in failing.stdout
    assert "planted. Nothing to do." in (tmp_path / "part" / "report.html").read_text()

    def results(name: str) -> dict[str, str]:
        return {
            str(file.relative_to(tmp_path / name)): hashlib.sha256(
                file.read_bytes().replace(str(tmp_path / name).encode(), b"")
            ).hexdigest()
            for folder in ("sub-*", "tpl-*", "model")
            for file in (tmp_path / name).glob(f"{folder}/**/*")
            if file.is_file()
        }

    whole, rest = results("complete"), results("part")
    missing = {name for name in whole if name not in rest}
    assert missing and all("sub-05" in name and "desc-" in name for name in missing)
    assert rest == {name: whole[name] for name in rest}

    again = atlasmith(tmp_path, *part)
    assert again.returncode == 1 and "left out" in again.stdout
    retried = atlasmith(tmp_path, *part, "--retry-failed")
    assert retried.returncode == 0, retried.stdout + retried.stderr
    assert results("part") == whole


@pytest.mark.slow
def test_a_run_that_is_ended_leaves_no_process_and_goes_on(bids: Path, tmp_path: Path) -> None:
    settings = write_settings(tmp_path / "my.yaml")
    words = ["run", str(bids), str(tmp_path / "out"), "--config", str(settings), "--cores", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "atlasmith.cli", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "out" / "cohort.tsv").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in message
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path / "out") not in listed
    finished = atlasmith(tmp_path, *words)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.slow
def test_a_stage_that_fails_is_shown_with_the_end_of_its_log(bids: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(write_settings(tmp_path / "my.yaml").read_text())
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(values | {"template": {"shape": [4000, 4000, 4000]}}))
    result = atlasmith(tmp_path, "run", "bids", "out", "--config", "my.yaml", "--cores", 1)
    assert result.returncode == 2
    assert "failed: cohort, see" in result.stderr and "template.shape" in result.stderr
