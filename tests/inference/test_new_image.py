"""A new image through a finished run."""

from __future__ import annotations

import doctest
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from atlasmith.cli.main import main
from atlasmith.config import Config
from atlasmith.core.errors import InputError
from atlasmith.core.grid import Grid
from atlasmith.fusion import fuse_subject, train_fusers
from atlasmith.inference import image as image_module
from atlasmith.inference import predict, register_image
from atlasmith.inference.finished_run import open_run
from atlasmith.inference.prediction import _work_folder
from atlasmith.inference.scans import NewScan
from atlasmith.io.images import read_image, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.tables import read_cohort
from atlasmith.propagation import label_template, propagate_from_template, propagate_subject


@pytest.fixture(scope="module")
def finished(toy_registered: Config) -> Config:
    for subject in read_cohort(toy_registered.layout.cohort):
        if subject.role != "train":
            propagate_subject(toy_registered, subject.id)
    label_template(toy_registered)
    train_fusers(toy_registered)
    return toy_registered


def test_an_image_of_a_target_gets_the_results_of_the_target(
    finished: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = next(s for s in read_cohort(finished.layout.cohort) if s.role == "target")
    propagate_from_template(finished, target.id)
    fuse_subject(finished, target.id)
    image = tmp_path / "my scan.nii.gz"
    shutil.copyfile(target.image, image)
    before = {path: path.stat().st_mtime_ns for path in finished.output.rglob("*")}
    arguments = ["segment", "--results", str(finished.output), "--image", str(image)]
    arguments += ["--set", f"age={target.covariates['age']!r}", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    new, old = Layout(tmp_path / "out", "Toy", ("T1w",)), finished.layout
    pairs = [(path(new)("myscan"), path(old)(target.id)) for path in FILES]
    pairs += [
        (new.segmentation("myscan", method), old.segmentation(target.id, method))
        for method in ["template", *finished.fusion.methods]
    ]
    for found, expected in pairs:
        assert found.read_bytes() == expected.read_bytes(), found
    assert {path: path.stat().st_mtime_ns for path in finished.output.rglob("*")} == before
    assert not list((tmp_path / "out").rglob("*desc-propagated_T1w*"))
    capsys.readouterr()
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


FILES = [
    lambda layout: layout.affine,
    lambda layout: layout.forward,
    lambda layout: layout.inverse,
    lambda layout: layout.warped,
    lambda layout: layout.log_jacobian,
    lambda layout: layout.registration_table,
]


def test_predict_returns_the_written_files(finished: Config, tmp_path: Path) -> None:
    target = next(s for s in read_cohort(finished.layout.cohort) if s.role == "target")
    paths = predict(finished.output, target.image, {"age": 40}, tmp_path / "out")
    layout = Layout(tmp_path / "out", "Toy", ("T1w",))
    expected = [layout.segmentation(target.id, method) for method in finished.fusion.methods]
    assert {*expected, layout.forward(target.id), layout.warped(target.id)} <= set(paths)
    assert set(paths) == {path for path in (tmp_path / "out").rglob("*") if path.is_file()}


def test_example_runs(finished: Config, tmp_path: Path) -> None:
    target = next(s for s in read_cohort(finished.layout.cohort) if s.role == "target")
    scan = tmp_path / "scan.nii.gz"
    shutil.copyfile(target.image, scan)
    names = {"results": finished.output, "scan": scan, "folder": tmp_path / "prediction"}
    result = doctest.testmod(image_module, extraglobs=names)
    assert result.attempted and not result.failed


def test_a_subject_with_the_id_of_an_atlas(finished: Config, tmp_path: Path) -> None:
    atlas = next(s for s in read_cohort(finished.layout.cohort) if s.role == "atlas")
    register_image(finished.output, atlas.image, {}, tmp_path)
    layout = Layout(tmp_path, "Toy", ("T1w",))
    assert set(np.unique(read_image(layout.segmentation(atlas.id, "template")).data)) == {0, 4, 1000}
    # Registration alone segments by the template.
    assert not layout.segmentation(atlas.id, "majority").exists()


def test_nothing_of_the_run_is_linked_where_a_scan_is_written(finished: Config, tmp_path: Path) -> None:
    """Whatever participants and sessions are called; atlases are where the stages look for them."""
    ids = ["01", "01new", "02_ses-1", "02_ses-2", "03"]
    run = open_run(finished.output)
    atlases = [replace(run.atlases[0], id=name) for name in ids]
    run = replace(run, cohort=atlases, atlases=atlases)
    for name, expected in (("01", "01newnew"), ("02_ses-2", "02new_ses-2"), ("02_ses-3", "02_ses-3")):
        scan = NewScan(name, {"T1w": Path(atlases[0].image)}, {}, [])
        folder = tmp_path / name
        folder.mkdir()
        config, subject = _work_folder(run, scan, {}, folder, atlases)
        own = config.layout.subject_folder(subject.id)
        assert subject.id == expected and own.resolve() == own
        for atlas in ids:
            inside = config.layout.subject_folder(atlas).resolve()
            assert inside == finished.layout.subject_folder(atlas).resolve()


def test_all_problems_at_once(finished: Config, tmp_path: Path) -> None:
    image = tmp_path / "flat.nii.gz"
    write_image(image, np.full((20, 20, 1), np.nan, dtype=np.float32), Grid((20, 20, 1), np.eye(4)))
    with pytest.raises(InputError) as error:
        register_image(finished.output, image, {"age": "old", "aeg": "3"}, tmp_path / "out")
    for part in ("NaN or infinite", "age is 'old', no number", "'aeg' is no covariate", "Did you mean 'age'"):
        assert part in str(error.value)
    assert not (tmp_path / "out").exists()


def test_extrapolation_prints_a_warning_or_is_refused(
    finished: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = next(s for s in read_cohort(finished.layout.cohort) if s.role == "target")
    for number, (covariates, message) in enumerate(
        [({}, "no age is given"), ({"age": "70"}, "outside the cohort's range")]
    ):
        register_image(finished.output, target.image, covariates, tmp_path / str(number))
        assert message in capsys.readouterr().out
    with pytest.raises(InputError, match=r"age 130 is far outside the cohort's range.*--extrapolate"):
        register_image(finished.output, target.image, {"age": "130"}, tmp_path / "far")
    register_image(finished.output, target.image, {"age": "130"}, tmp_path / "far", extrapolate=True)


@pytest.mark.parametrize("arguments", [[], ["--config", "c"], ["--results", "r", "--image", "i"]])
def test_incomplete_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["register", *arguments]) == 2
    assert "--results, --image and --out" in capsys.readouterr().err
