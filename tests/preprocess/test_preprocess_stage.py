"""Preprocessing of one subject: normalization, bias correction, orientation, sidecar."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest
from tiny import Tiny

from atlasmith import __version__
from atlasmith.cohort import write_checked_cohort
from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array
from atlasmith.core.intensity import normalize
from atlasmith.io.files import read_json
from atlasmith.io.images import read_grid, read_image
from atlasmith.preprocess import preprocess, preprocess_subject

ORIENTATIONS = {
    "LAS": np.diag([-2.0, 2.0, 2.0, 1.0]),
    "PIR": np.array([[0, 0, 2.0, -3], [-2.0, 0, 0, 4], [0, -2.0, 0, 5], [0, 0, 0, 1]]),
    "oblique": np.array([[1.9, -0.6, 0, 1], [0.6, 1.9, 0, 2], [0, 0, 2.0, 3], [0, 0, 0, 1]]),
}


def preprocessed(tiny: Tiny, masks: str | None = None, **settings: object) -> tuple[Config, Array]:
    """Check the cohort and preprocess subject 02 in a new output folder; config and voxels as in the file."""
    shutil.rmtree(tiny.output, ignore_errors=True)
    config = tiny.config(preprocess=settings, cohort={"masks": masks})
    write_checked_cohort(config)
    preprocess_subject(config, "02")
    return config, np.asanyarray(nib.load(config.layout.preprocessed("02")).dataobj)


def source(tiny: Tiny) -> Array:
    return np.asanyarray(nib.load(tiny.image("sub-02")).dataobj)


@pytest.mark.parametrize("affine", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_the_image_keeps_the_orientation_of_the_subject(affine: Array, tiny: Tiny) -> None:
    tiny.save(tiny.image("sub-02"), source(tiny), affine)
    labels = np.asanyarray(nib.load(tiny.labels("sub-02")).dataobj)
    tiny.save(tiny.labels("sub-02"), labels, affine)
    config, data = preprocessed(tiny)
    written, original = (nib.load(x) for x in (config.layout.preprocessed("02"), tiny.image("sub-02")))
    assert written.shape == original.shape and written.get_data_dtype() == np.float32
    np.testing.assert_array_equal(written.affine, original.affine)
    assert read_grid(config.layout.preprocessed("02")).same_as(read_grid(tiny.image("sub-02")))
    np.testing.assert_array_equal(data, normalize(source(tiny)))


def test_a_file_of_two_axes_keeps_them(tiny: Tiny) -> None:
    for row in tiny.rows:
        for path in (tiny.image(row["participant_id"]), tiny.labels(row["participant_id"])):
            if path.exists():
                tiny.change(path, lambda data: data[:, :, 4])
    _, data = preprocessed(tiny)
    np.testing.assert_array_equal(data, normalize(source(tiny)))
    assert data.ndim == 2


def test_percentiles_scale_to_the_unit_interval(tiny: Tiny) -> None:
    _, data = preprocessed(tiny)
    image = source(tiny)
    assert data.min() == 0 and data.max() == 1 and (data[image == 0] == 0).all()
    high = np.percentile(image[image > 0], 99.5)
    np.testing.assert_allclose(data, np.clip(image / high, 0, 1), atol=1e-6)


def test_a_window_is_applied_before_everything_else_is_decided(tiny: Tiny) -> None:
    """A few voxels far beyond the window change nothing within it."""
    tiny.change(tiny.image("sub-02"), lambda data: data.__setitem__((0, 0), -3000))
    _, data = preprocessed(tiny, window=[60, 90])
    np.testing.assert_allclose(data, np.clip((source(tiny) - 60) / 30, 0, 1), atol=1e-6)


def test_the_sidecar_names_source_window_and_software(tiny: Tiny) -> None:
    config, _ = preprocessed(tiny, window=[60, 90])
    sidecar = read_json(config.layout.preprocessed_sidecar("02"))
    assert sidecar["Sources"] == ["bids:raw:sub-02/anat/sub-02_T1w.nii.gz"]
    assert sidecar["Normalization"] == [60, 90] and sidecar["BiasCorrection"] == "none"
    assert sidecar["GeneratedBy"] == f"atlasmith {__version__}"
    config, _ = preprocessed(tiny)
    assert read_json(config.layout.preprocessed_sidecar("02"))["Normalization"] == "percentiles"


def test_n4_is_in_the_sidecar_and_in_the_image(tiny: Tiny) -> None:
    points = np.moveaxis(np.indices((36, 40, 34)), 0, -1) - np.array([17.5, 19.5, 16.5])
    inside = np.linalg.norm(points / [15, 17, 14], axis=-1) < 1
    tiny.save(
        tiny.image("sub-04"), np.where(inside, 100 * np.exp(0.02 * points[..., 1]), 0).astype(np.float32)
    )
    spread = []
    for n4 in (False, True):
        config, _ = preprocessed(tiny, n4=n4)
        preprocess_subject(config, "04")
        assert read_json(config.layout.preprocessed_sidecar("04"))["BiasCorrection"] == (
            "N4" if n4 else "none"
        )
        data = np.asanyarray(nib.load(config.layout.preprocessed("04")).dataobj)
        spread.append(data[inside].std() / data[inside].mean())
    assert spread[1] < 0.3 * spread[0]
    image = read_image(tiny.image("sub-04"))
    np.testing.assert_array_equal(
        preprocess(image.data, image.grid, n4=True), read_image(config.layout.preprocessed("04")).data
    )


@pytest.mark.parametrize("n4", [False, True])
def test_equal_images_give_equal_bytes(n4: bool, tiny: Tiny) -> None:
    config, _ = preprocessed(tiny, n4=n4)
    path = config.layout.preprocessed("02")
    before = path.read_bytes()
    path.unlink()
    preprocess_subject(config, "02")
    assert path.read_bytes() == before


@pytest.mark.parametrize(("value", "window"), [(7.0, None), (7.0, [0, 50]), (0.0, None), (80.0, [0, 50])])
def test_an_image_without_contrast_is_refused(value: float, window: list[float] | None, tiny: Tiny) -> None:
    config = tiny.config(preprocess={"window": window})
    write_checked_cohort(config)
    tiny.change(tiny.image("sub-02"), lambda data: np.full_like(data, value))
    with pytest.raises(AtlasmithError, match=r"sub-02_T1w.*no contrast.*preprocess\.window"):
        preprocess_subject(config, "02")
    assert not config.layout.preprocessed("02").exists()
    assert not config.layout.preprocessed_sidecar("02").exists()


def test_a_window_outside_the_intensities_is_refused(tiny: Tiny) -> None:
    with pytest.raises(AtlasmithError, match="no contrast"):
        preprocessed(tiny, window=[2000, 3000])


def test_an_unknown_subject_is_an_error_with_a_suggestion(tiny: Tiny) -> None:
    config = tiny.config()
    write_checked_cohort(config)
    with pytest.raises(AtlasmithError, match="subject"):
        preprocess_subject(config, "2")


def give_masks(tiny: Tiny) -> None:
    """Write a mask of each subject that leaves out the last planes of its object."""
    for row in tiny.rows:
        name = row["participant_id"]
        mask = np.asanyarray(nib.load(tiny.image(name)).dataobj) > 0
        mask[7:] = False
        tiny.save(tiny.bids / "masks" / name / "anat" / f"{name}_mask.nii.gz", mask.astype(np.uint8))


def test_what_lies_outside_a_mask_is_background(tiny: Tiny) -> None:
    give_masks(tiny)
    config, data = preprocessed(tiny, masks="masks")
    inside = source(tiny) * (np.arange(12) < 7)[:, None, None]
    np.testing.assert_array_equal(data, normalize(np.where(inside > 0, inside, inside[inside > 0].min())))
    assert (data[7:] == 0).all() and data.max() == 1
    sidecar = read_json(config.layout.preprocessed_sidecar("02"))
    assert sidecar["Masked"] and len(sidecar["Sources"]) == 2
    assert not read_json(preprocessed(tiny)[0].layout.preprocessed_sidecar("02"))["Masked"]


def test_masks_that_are_missing_or_do_not_fit_are_reported_together(tiny: Tiny) -> None:
    give_masks(tiny)
    path = tiny.bids / "masks" / "sub-01" / "anat" / "sub-01_mask.nii.gz"
    path.unlink()
    tiny.save(path.parents[2] / "sub-02" / "anat" / "sub-02_mask.nii.gz", np.ones((3, 3, 3), np.uint8))
    tiny.save(path.parents[2] / "sub-03" / "anat" / "sub-03_mask.nii.gz", np.zeros((12, 10, 9), np.uint8))
    problems = tiny.problems(cohort={"masks": "masks"})
    assert len(problems) == 3
    for problem, subject in zip(problems, ("sub-01", "sub-02", "sub-03"), strict=True):
        assert subject in problem and "mask" in problem
