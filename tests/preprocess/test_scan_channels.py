"""Preprocessing of scans of several channels, with masks and excluded regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import Tiny

from atlasmith.cohort import write_checked_cohort
from atlasmith.config import Config
from atlasmith.core.grid import Array, Grid
from atlasmith.core.intensity import normalize
from atlasmith.io.channels import known_voxels, read_channels
from atlasmith.io.files import read_json
from atlasmith.io.images import read_image
from atlasmith.io.tables import read_cohort
from atlasmith.preprocess import preprocess, preprocess_subject

AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])


def ramp(points: Array) -> Array:
    """Intensities that are linear in the world, and positive in the cohort's field of view."""
    return np.asarray(points @ [1.0, 2.0, -1.0] + 100, dtype=np.float32)


def world(shape: tuple[int, ...], affine: Array) -> Array:
    index = np.moveaxis(np.indices(shape), 0, -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def second_channel(tiny: Tiny, name: str) -> Path:
    return tiny.image(name).with_name(f"{name}_T2w.nii.gz")


def run(tiny: Tiny, scan: str, **sections: object) -> Config:
    config = tiny.config(**sections)
    write_checked_cohort(config)
    preprocess_subject(config, scan)
    return config


def test_channels_are_resampled_onto_the_grid_of_the_first(tiny: Tiny) -> None:
    """Finer, shifted and shorter than the reference channel: linear interpolation of a ramp is exact."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, 3] = [-22, 0, 0]
    shape = (23, 12, 9)  # half of the second axis
    tiny.save(second_channel(tiny, "sub-02"), ramp(world(shape, affine)), affine)
    config = run(tiny, "02", cohort={"suffix": ["T1w", "T2w"]}, preprocess={"window": {"T2w": [0, 200]}})
    (subject,) = (s for s in read_cohort(config.layout.cohort) if s.id == "02")
    channels = read_channels(config.layout, subject, config.layout.preprocessed)
    assert channels.present == (True, True) and channels.data.shape == (2, 12, 10, 9)
    points = world(channels.grid.shape, channels.grid.affine)
    covered = points[..., 1] < 11.5  # the last plane of T2w is at 11 mm
    known = known_voxels(config.layout, subject, channels.grid)
    assert known[0].all()
    np.testing.assert_array_equal(known[1], covered)
    low, high = (
        np.array([-19, 3, 3]),
        np.array([-3, 8, 13]),
    )  # away from the edges, where smoothing repeats them
    inner = ((points > low) & (points < high)).all(axis=-1)
    np.testing.assert_allclose(channels.data[1][inner], ramp(points)[inner] / 200, atol=1e-4)
    assert (channels.data[1][~covered] == 0).all()
    np.testing.assert_array_equal(channels.data[0], normalize(read_image(tiny.image("sub-02")).data))
    sidecars = [read_json(config.layout.preprocessed_sidecar("02", channel)) for channel in ("T1w", "T2w")]
    assert [s["Normalization"] for s in sidecars] == ["percentiles", [0, 200]]
    assert [("AcquiredGrid" in s) for s in sidecars] == [False, True]


def test_a_scan_without_the_first_channel_keeps_its_own_grid(tiny: Tiny) -> None:
    path = second_channel(tiny, "sub-04")
    tiny.image("sub-04").rename(path)
    config = run(tiny, "04", cohort={"suffix": ["T1w", "T2w"]})
    (subject,) = (s for s in read_cohort(config.layout.cohort) if s.id == "04")
    assert not config.layout.preprocessed("04", "T1w").exists()
    channels = read_channels(config.layout, subject, config.layout.preprocessed)
    assert channels.present == (False, True) and (channels.data[0] == 0).all()
    np.testing.assert_array_equal(channels.data[1], normalize(read_image(path).data))
    known = known_voxels(config.layout, subject, channels.grid)
    assert not known[0].any() and known[1].all()


def give_lesion(tiny: Tiny, value: float) -> Array:
    """Exclude a block of the object of sub-02, and set its voxels, in the file's orientation."""
    region = np.zeros((12, 10, 9), dtype=np.uint8)
    region[4:7, 4:7, 3:6] = 1
    tiny.save(tiny.bids / "lesions" / "sub-02" / "anat" / "sub-02_mask.nii.gz", region)

    def damage(data: Array) -> None:
        data[region > 0] = value

    tiny.change(tiny.image("sub-02"), damage)
    return region > 0


@pytest.mark.parametrize("n4", [False, True])
def test_what_was_in_an_excluded_region_leaves_no_trace(n4: bool, tiny: Tiny) -> None:
    written = []
    for value in (0.0, 1e5):
        give_lesion(tiny, value)
        config = run(tiny, "02", cohort={"exclude": "lesions"}, preprocess={"n4": n4})
        written.append(config.layout.preprocessed("02").read_bytes())
    assert written[0] == written[1]


def test_a_valid_mask_is_written_for_every_scan(tiny: Tiny) -> None:
    region = give_lesion(tiny, 0.0)
    config = run(tiny, "02", cohort={"exclude": "lesions"})
    preprocess_subject(config, "01")
    masks = {name: read_image(config.layout.valid_mask(name)).data for name in ("01", "02")}
    np.testing.assert_array_equal(masks["02"], 1 - region[::-1])
    assert (masks["01"] == 1).all()
    for name in ("01", "02"):
        (subject,) = (s for s in read_cohort(config.layout.cohort) if s.id == name)
        grid = read_image(config.layout.preprocessed(name)).grid
        np.testing.assert_array_equal(known_voxels(config.layout, subject, grid)[0], masks[name] > 0)
    tiny.output = tiny.output.with_name("plain")
    assert not run(tiny, "01").layout.valid_mask("01").exists()


def test_the_scale_of_intensities_is_that_without_the_region() -> None:
    random = np.random.default_rng(0)
    image = np.where(random.random((20, 20, 1)) < 0.4, 0, random.uniform(50, 100, (20, 20, 1)))
    region = np.zeros(image.shape, dtype=bool)
    region[5:12, 5:12] = True
    found = preprocess(np.where(region, 1e4, image), Grid(image.shape, np.eye(4)), exclude=region)
    high = np.percentile(image[~region & (image > 0)], 99.5)
    np.testing.assert_allclose(found[~region], np.clip(image[~region] / high, 0, 1), atol=1e-6)
    inside = found[region]
    assert found[~region].min() <= inside.min() and inside.max() < 1
