"""New images through a finished run, in one process: models and atlases are loaded once."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import overload

import torch

from atlasmith import __version__
from atlasmith.affine.search import one_thread
from atlasmith.cohort.output import BIDSIGNORE
from atlasmith.core.errors import AtlasmithError, system_fault
from atlasmith.core.grid import Grid
from atlasmith.inference.finished_run import FinishedRun, open_run
from atlasmith.inference.prediction import Prediction, is_finished, predict_scan, read_prediction
from atlasmith.inference.scans import NewScan, find_scans
from atlasmith.inference.table import write_predictions
from atlasmith.io.files import read_json, write_json, write_text
from atlasmith.io.memory import available_memory, keep_in_memory
from atlasmith.io.sidecars import BIDS_VERSION, RAW, RUN
from atlasmith.training.device import select_device
from atlasmith.workflow.resources import memory_mb


@overload
def predict(  # type: ignore[overload-overlap]  # a text is a sequence of texts, too
    results: str | Path,
    image: str | Path,
    covariates: Mapping[str, float | str] | None = None,
    out: str | Path = "prediction",
    *,
    extrapolate: bool = False,
    device: str = "auto",
) -> list[Path]: ...


@overload
def predict(
    results: str | Path,
    image: Sequence[str | Path],
    covariates: Mapping[str, float | str] | None = None,
    out: str | Path = "prediction",
    *,
    extrapolate: bool = False,
    device: str = "auto",
    fast: bool = False,
) -> list[Prediction]: ...


def predict(
    results: str | Path,
    image: str | Path | Sequence[str | Path],
    covariates: Mapping[str, float | str] | None = None,
    out: str | Path = "prediction",
    *,
    extrapolate: bool = False,
    device: str = "auto",
    fast: bool = False,
) -> list[Path] | list[Prediction]:
    """Segment raw images by a finished run.

    Args:
        results: Output folder of the run.
        image: An image, NIfTI; or several images, folders of images, and BIDS datasets.
        covariates: The subjects' covariates, by name; one that isn't given is taken from the participants.tsv
            of a BIDS dataset, or else counts as the cohort's mean.
        out: Folder to write to.
        extrapolate: Accept covariates far outside the cohort's range.
        device: Where to compute, `auto`, `cpu` or `cuda`, whatever the run was made on.
        fast: Segment by the student alone, from the image, without registration.

    Returns:
        Of one image, the files written: transforms, warped image, log-Jacobian, and labels, confidence and
        volumes by each fusion method. Of several, a `Prediction` each, with the error of those that failed;
        `predictions.tsv` in `out` has the volumes and the quality of all.

    Raises:
        InputError: With all problems of the image and the covariates.
        AtlasmithError: When the run isn't finished, or `out` has the subject of the only image already.

    Example:
        >>> paths = predict(results, scan, {"age": 40}, folder)  # doctest: +ELLIPSIS
        sub-scan: ... s, 1 of 1
        >>> [path.name for path in paths if path.name.endswith("majority_dseg.nii.gz")]
        ['sub-scan_space-T1w_desc-majority_dseg.nii.gz']
    """
    texts = {name: str(value) for name, value in (covariates or {}).items()}
    if isinstance(image, str | Path):
        return register_image(
            Path(results), Path(image), texts, Path(out), True, extrapolate, device, fast
        ).files
    images = [Path(path) for path in image]
    options = {"extrapolate": extrapolate, "device": device, "fast": fast}
    return predict_all(Path(results), images, texts, Path(out), **options)  # type: ignore[arg-type]


def register_image(
    results: Path,
    image: Path,
    covariates: Mapping[str, str],
    out: Path,
    segment: bool = False,
    extrapolate: bool = False,
    device: str = "auto",
    fast: bool = False,
) -> Prediction:
    """Register one raw image to a finished run's template.

    Writes what the run has of each of its targets, under the same names: transforms in both directions, the
    warped image, the log-Jacobian and the template's labels; with `segment` also labels, confidence and
    volumes by each fusion method. Nothing in `results` changes.

    Args:
        results: Output folder of the run.
        image: The image, NIfTI.
        covariates: The subject's covariates, as text, by name. One that isn't given counts as the cohort's
            mean; a subpopulation that isn't given is that of the nearest template.
        out: Folder to write to.
        segment: Also segment the image.
        extrapolate: Accept covariates far outside the cohort's range.
        device: Where to compute, `auto`, `cpu` or `cuda`, whatever the run was made on.
        fast: See `predict`.

    Raises:
        InputError: With all problems of the image and the covariates.
        AtlasmithError: When the run isn't finished, or `out` has this subject already.
    """
    run = open_run(results, device)
    run.last_method(fast)
    if image.is_dir():
        raise AtlasmithError(f"{image}: this is a folder. Give one image, or use `atlasmith predict`.")
    (scan,) = find_scans(run.config, [image], covariates)
    folder = run.config.layout.subject_folder(scan.id)
    found = out / folder.relative_to(run.config.output)
    if found.exists():
        raise AtlasmithError(f"{found} exists already. Choose another folder, or remove it.")
    _warn_masks(run)
    with one_thread():
        prediction = predict_scan(run, scan, out, segment, extrapolate, fast)
    _tell(run, prediction, "1 of 1")
    return prediction


def predict_all(
    results: Path,
    images: Sequence[Path],
    covariates: Mapping[str, str],
    out: Path,
    table: Path | None = None,
    extrapolate: bool = False,
    device: str = "auto",
    fast: bool = False,
) -> list[Prediction]:
    """Segment many raw images by a finished run; one that fails doesn't end the others.

    Args:
        results: Output folder of the run.
        images: Images, folders of images, and BIDS datasets.
        covariates: Of all subjects, as text, by name.
        out: Folder to write to; scans whose results it has already are skipped.
        table: A table of covariates, see `find_scans`.
        extrapolate: Accept covariates far outside the cohort's range.
        device: Where to compute, `auto`, `cpu` or `cuda`, whatever the run was made on.
        fast: See `predict`.

    Returns:
        The prediction of each scan, or its error.

    Raises:
        InputError: With all problems of the inputs as a whole.
        AtlasmithError: When the run isn't finished.
    """
    run = open_run(results, device)
    run.last_method(fast)
    scans = find_scans(run.config, images, covariates, table)
    _warn_masks(run)
    _mark_output(run, out)
    done: dict[str, Prediction] = {}

    def process(scan: NewScan) -> Prediction:
        try:
            if is_finished(run, scan, out, True, fast):
                return read_prediction(run, scan, out, fast)
            return predict_scan(run, scan, out, True, extrapolate, fast)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # whose variables may fill a GPU
            return Prediction(scan.id, error=error)

    with keep_in_memory(run.config.output), one_thread(), _workers(run, len(scans)) as pool:
        for future in as_completed([pool.submit(process, scan) for scan in scans]):
            prediction = future.result()
            done[prediction.scan] = prediction
            _tell(run, prediction, f"{len(done)} of {len(scans)}")
    write_predictions(run, [scan.id for scan in scans if done[scan.id].error is None], out, fast)
    return [done[scan.id] for scan in scans]


@contextmanager
def _workers(run: FinishedRun, scans: int) -> Iterator[ThreadPoolExecutor]:
    """Divide the threads of torch among as many scans at a time as fit into memory. They take turns on a GPU,
    while others are prepared on the CPU: see `predict_scan`."""
    threads = torch.get_num_threads()
    voxels = Grid.from_dict(read_json(run.config.layout.grid)).shape
    size = memory_mb("fuse", run.config, voxels[0] * voxels[1] * voxels[2], len(run.atlases)) * 2**20
    count = max(1, min(threads, scans, available_memory() // size))
    torch.set_num_threads(max(1, threads // count))
    try:
        # Each thread of a process has a current GPU of its own.
        with ThreadPoolExecutor(count, initializer=partial(select_device, run.config.device)) as pool:
            try:
                yield pool
            finally:
                pool.shutdown(cancel_futures=True)  # an interrupt ends what hasn't begun
    finally:
        torch.set_num_threads(threads)


def _tell(run: FinishedRun, prediction: Prediction, position: str) -> None:
    """Print a line about a scan, and warnings on stderr."""
    name = f"sub-{prediction.scan}"
    if prediction.error is not None:
        print(f"{name}: failed, {position}", flush=True)
        fault = prediction.error
        if not isinstance(fault, AtlasmithError) and system_fault(fault) is None:
            traceback.print_exception(fault)
        print(f"{name}: {describe_error(fault)}", file=sys.stderr, flush=True)
        return
    method = run.config.fusion.methods[-1]  # the one of which quality is predicted
    dice = prediction.predicted_dice
    parts = [] if dice is None else [f"predicted Dice {dice:.2f} by {method}"]
    parts += ["needs review"] if prediction.reasons else []
    parts += [f"{prediction.seconds:.1f} s" if prediction.seconds else "finished before, skipped", position]
    print(f"{name}: {', '.join(parts)}", flush=True)
    if prediction.reasons:
        text = f"{name} needs review, and no Dice is predicted. {' '.join(prediction.reasons)}"
        print(text, file=sys.stderr, flush=True)


def describe_error(error: Exception) -> str:
    """Return the message of an error of one scan."""
    if isinstance(error, AtlasmithError):
        return str(error)
    return system_fault(error) or f"{type(error).__name__}: {error}"


def _warn_masks(run: FinishedRun) -> None:
    if run.config.cohort.masks is not None:
        print("the images of this run were masked: new images must be masked too", flush=True)


def _mark_output(run: FinishedRun, out: Path) -> None:
    """Write what makes the folder a BIDS derivative."""
    config = run.config
    links = {RUN: os.path.relpath(config.output, out), RAW: os.path.relpath(config.cohort.bids, out)}
    write_json(
        out / "dataset_description.json",
        {
            "Name": f"{config.template.name}: predictions of new images",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "atlasmith", "Version": __version__}],
            "DatasetLinks": links,
        },
    )
    write_text(out / ".bidsignore", f"{BIDSIGNORE}predictions.*\n")
