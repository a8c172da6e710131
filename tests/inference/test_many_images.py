"""Many new images through a finished run."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrated import calibrate

from atlasmith.cli.main import main
from atlasmith.config import Config
from atlasmith.core.errors import InputError
from atlasmith.inference import predict, register_image
from atlasmith.inference.prediction import Prediction
from atlasmith.inference.scans import NewScan, find_scans, scan_name
from atlasmith.io.files import read_json
from atlasmith.io.images import read_image, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.tables import read_cohort, read_tsv, write_tsv

METHODS = ["majority", "autocontext"]


@pytest.fixture(scope="module")
def finished(toy_registered: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was made on a GPU, moved to where its cohort isn't any more."""
    output = tmp_path_factory.mktemp("moved") / "results"
    shutil.copytree(toy_registered.output, output)
    fusion = toy_registered.fusion.model_copy(update={"methods": METHODS})
    config = toy_registered.model_copy(update={"output": output, "fusion": fusion})
    calibrate(config)
    text = config.layout.config.read_text().replace(str(config.cohort.bids), "/nowhere")
    text = text.replace("device: cpu", "device: cuda")
    methods = f"methods: [{', '.join(METHODS)}]"
    lines = text.splitlines()
    start = lines.index("  methods:")
    end = next(k for k in range(start + 1, len(lines)) if not lines[k].startswith("  - "))
    config.layout.config.write_text("\n".join([*lines[:start], f"  {methods}", *lines[end:]]))
    table = config.layout.cohort.read_text()
    config.layout.cohort.write_text(table.replace(str(config.cohort.bids), "/nowhere"))
    return output


@pytest.fixture
def targets(toy: Config) -> list[Path]:
    return [s.image for s in read_cohort(toy.layout.cohort) if s.role == "target"]


def layout_of(folder: Path) -> Layout:
    return Layout(folder, "Toy", ("T1w",))


def test_many_images_give_what_each_of_them_gives(
    finished: Path, targets: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    found = predict(finished, targets, {"age": 45}, tmp_path / "many")
    alone = predict(finished, targets[1], {"age": 45}, tmp_path / "one")
    assert [x.scan for x in found] == ["08", "09", "10"] and not any(x.error or x.reasons for x in found)
    for path in alone:
        assert (tmp_path / "many" / path.relative_to(tmp_path / "one")).read_bytes() == path.read_bytes()
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before

    layout = layout_of(tmp_path / "many")
    rows = read_tsv(layout.predictions)
    keys = [(row["participant_id"], row["method"], row["index"]) for row in rows]
    assert keys == [(f"sub-{s}", m, k) for s in ("08", "09", "10") for m in METHODS for k in ("4", "1000")]
    first = read_tsv(layout.volumes("08", "majority"))[0]
    assert {key: rows[0][key] for key in first} == first and rows[0]["needs_review"] == "no"
    dice = read_json(layout.segmentation_sidecar("09", "autocontext"))["PredictedDice"]
    assert found[1].predicted_dice == dice and dice > 0.8
    assert f"predicted Dice {dice:.2f} by autocontext" in capsys.readouterr().out


def test_a_failure_ends_no_other_image_and_what_is_finished_is_skipped(
    finished: Path, targets: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    shutil.copyfile(targets[0], folder / "a.nii.gz")
    (folder / "b.nii.gz").write_bytes(b"no image")
    shutil.copyfile(targets[1], folder / "c.nii.gz")
    arguments = ["predict", "--results", str(finished), "--out", str(out), "--set", "age=45", str(folder)]
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert "1 of 3 images failed: sub-b" in output.err and "can't be read as NIfTI" in output.err
    written = {path: path.stat().st_mtime_ns for path in out.glob("sub-*/anat/*")}
    assert {path.parts[-3] for path in written} == {"sub-a", "sub-c"}
    shutil.copyfile(targets[2], folder / "b.nii.gz")
    assert main(arguments) == 0
    assert "sub-a: " in (lines := capsys.readouterr().out) and lines.count("finished before, skipped") == 2
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert {row["participant_id"] for row in read_tsv(layout_of(out).predictions)} == {
        "sub-a",
        "sub-b",
        "sub-c",
    }
    assert not list(out.rglob(".partial*"))


def test_an_interrupt_ends_what_has_not_begun(
    finished: Path, targets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def predict_scan(run: object, scan: NewScan, *_: object) -> Prediction:
        begun.append(scan.id)
        time.sleep(0.05)
        return Prediction(scan.id)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("atlasmith.inference.image.predict_scan", predict_scan)
    monkeypatch.setattr("atlasmith.inference.image._tell", interrupt)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # images at a time
    paths = [tmp_path / f"{k}.nii.gz" for k in range(20)]
    for path in paths:
        path.symlink_to(targets[0])
    with pytest.raises(KeyboardInterrupt):
        predict(finished, paths, {"age": 45}, tmp_path / "out")
    assert 0 < len(begun) < 20


def test_unsuitable_images_are_told(
    finished: Path, targets: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = read_image(targets[0])
    random = np.random.default_rng(0)
    half = image.grid.cropped([slice(0, image.grid.shape[0] // 2), slice(None), slice(None)])
    images = {
        "noise": (random.uniform(0, 500, image.data.shape), image.grid),
        "inverted": (np.where(image.data > 80, 900 - image.data, image.data), image.grid),
        "crop": (image.data[: half.shape[0]], half),
    }
    for name, (data, grid) in images.items():
        write_image(tmp_path / f"{name}.nii.gz", data, grid)
    paths = [str(tmp_path / f"{name}.nii.gz") for name in images]
    arguments = ["--results", str(finished), "--out", str(tmp_path / "out"), "--set", "age=45"]
    assert main(["predict", *arguments, *paths]) == 0
    message, layout = capsys.readouterr().err, layout_of(tmp_path / "out")
    for name in images:
        assert f"sub-{name} needs review, and no Dice is predicted." in message
        for method in METHODS:
            sidecar = read_json(layout.segmentation_sidecar(name, method))
            assert sidecar["NeedsReview"] is True and sidecar["ReviewReasons"]
            assert sidecar["PredictedDice"] is None
            for row in read_tsv(layout.volumes(name, method)):
                assert row["predicted_dice"] == row["volume_lower_mm3"] == row["volume_upper_mm3"] == "n/a"
    assert main(["predict", *arguments, *paths, "--strict"]) == 1
    assert "3 of 3 images need review" in capsys.readouterr().err
    found = register_image(finished, tmp_path / "noise.nii.gz", {"age": "45"}, tmp_path / "register")
    assert found.reasons and found.error is None


def test_a_dataset_has_sessions_and_covariates(
    finished: Path, toy: Config, targets: list[Path], tmp_path: Path
) -> None:
    bids = tmp_path / "bids"
    for scan, image in zip(("A_ses-1", "A_ses-2", "B"), targets, strict=True):
        folder = bids.joinpath(*f"sub-{scan}".split("_"), "anat")
        folder.mkdir(parents=True)
        shutil.copyfile(image, folder / f"sub-{scan}_T1w.nii.gz")
    rows = [{"participant_id": "sub-A", "age": 40, "hand": "left"}, {"participant_id": "sub-B", "age": "n/a"}]
    write_tsv(bids / "participants.tsv", rows, ["participant_id", "age", "hand"])
    found = {scan.id: scan for scan in find_scans(toy, [bids], {})}
    assert {name: scan.covariates for name, scan in found.items()} == {
        "A_ses-1": {"age": "40"},
        "A_ses-2": {"age": "40"},
        "B": {},
    }
    table = tmp_path / "ages.tsv"
    rows = [{"participant_id": "sub-A", "session_id": "ses-2", "age": 50}]
    write_tsv(table, rows, ["participant_id", "session_id", "age"])
    assert [scan.covariates["age"] for scan in find_scans(toy, [bids], {}, table)[:2]] == ["40", "50"]
    assert [scan.covariates for scan in find_scans(toy, [bids], {"age": "30"}, table)] == [{"age": "30"}] * 3

    shutil.copyfile(targets[0], bids / "sub-B/anat/sub-B_run-2_T1w.nii.gz")
    predictions = predict(finished, [bids], {}, tmp_path / "out")
    assert [prediction.error is None for prediction in predictions] == [True, True, False]
    assert "several T1w images" in str(predictions[2].error)
    layout = layout_of(tmp_path / "out")
    assert layout.segmentation("A_ses-2", "majority").exists()
    assert {row["session_id"] for row in read_tsv(layout.predictions)} == {"ses-1", "ses-2"}


def test_problems_of_the_inputs_come_first(toy: Config, targets: list[Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError) as error:
        find_scans(toy, [empty, targets[0], targets[0]], {}, tmp_path / "none.tsv")
    for part in (
        "no NIfTI image in this folder",
        "none.tsv: there is no such table",
        "has the same id, sub-08",
    ):
        assert part in str(error.value)


def test_names_of_scans() -> None:
    assert scan_name(Path("sub-01_ses-02_acq-fast_T1w.nii.gz")) == "01_ses-02"
    assert scan_name(Path("patient 7_T2w.nii"), "T2w") == "patient7"


def test_channels_are_told_by_suffixes(toy: Config) -> None:
    cohort = toy.cohort.model_copy(update={"suffix": ["T1w", "T2w"]})
    config = toy.model_copy(update={"cohort": cohort})
    paths = [Path(f"sub-{name}.nii.gz") for name in ("1_T2w", "1_T1w", "2_T2w")]
    found = [(scan.id, list(scan.images)) for scan in find_scans(config, paths, {})]
    assert found == [("1", ["T1w", "T2w"]), ("2", ["T2w"])]
    with pytest.raises(InputError, match="doesn't tell which channel"):
        find_scans(config, [Path("scan.nii.gz")], {})


def test_a_run_that_was_made_on_a_gpu_is_applied_where_there_is_none(
    finished: Path,
    targets: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device: cuda" in (finished / "config.yaml").read_text()
    image = ["--results", str(finished), "--image", str(targets[0]), "--set", "age=45"]
    queried = ["template", "query", "--results", str(finished), "--set", "age=45"]
    for number, command in enumerate((["register", *image], queried)):
        arguments = [*command, "--out", str(tmp_path / str(number))]
        assert main([*arguments, "--device", "cuda"]) == 2
        assert "torch sees no GPU" in capsys.readouterr().err
        assert main(arguments) == 0
        message = capsys.readouterr().err
        assert "this run was made with `device: cuda`; torch sees no GPU here" in message
        assert main([*arguments[:-1], str(tmp_path / f"cpu{number}"), "--device", "cpu"]) == 0
        assert "torch sees no GPU" not in capsys.readouterr().err


def test_a_run_whose_weights_cannot_be_read(
    finished: Path, targets: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "run"
    shutil.copytree(finished, broken)
    (broken / "model" / "template.safetensors").write_bytes(b"half of it")
    arguments = ["predict", "--results", str(broken), "--out", str(tmp_path / "out"), str(targets[0])]
    assert main(arguments) == 2
    assert "template.safetensors" in capsys.readouterr().err
