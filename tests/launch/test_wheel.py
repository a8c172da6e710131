"""The wheel carries the workflow: it runs a cohort where there is no clone."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from quick_run import make_cohort, write_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy of the sources, so that no build folder is left behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "src"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(folder)], check=True)
    code = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"
    built = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=folder, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_has_the_files_of_the_workflow(wheel: Path) -> None:
    package = ROOT / "src" / "atlasmith"
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    names = set(zipfile.ZipFile(wheel).namelist())
    assert not {f"atlasmith/{path.relative_to(package).as_posix()}" for path in files} - names


@pytest.mark.slow
def test_a_run_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)}))
    # The dependencies are those of this environment; its link to the clone is none of them.
    shared = tmp_path / "shared"
    shared.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "atlasmith" not in path.name and path.suffix != ".pth":
            (shared / path.name).symlink_to(path)
    (site / "shared.pth").write_text(f"{shared}\n")
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, "--quiet", str(wheel)], check=True)
    make_cohort(tmp_path / "bids")
    settings = write_settings(tmp_path / "my.yaml")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [environment / "bin" / "atlasmith", "run", "../bids", "../out", "--config", settings, "--cores", "2"],
        cwd=elsewhere,
        env=variables | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "out" / "report.html").exists() and list(elsewhere.iterdir()) == []
    log = (tmp_path / "out" / "logs" / "snakemake.log").read_text()
    assert str(site / "atlasmith" / "workflow" / "Snakefile") in log and str(ROOT) not in log
