"""The cohort's aligned images as tensors, and their cache."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from atlasmith.core.grid import Grid
from atlasmith.io.images import write_image
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject, write_tsv
from atlasmith.io.transforms import write_affine
from atlasmith.training.dataset import AlignedImages, Cache

SHAPE = (10, 9, 8)


@pytest.fixture
def images(tmp_path) -> AlignedImages:
    """One atlas and one target, whose images lack the grid's first three planes."""
    layout, grid = Layout(tmp_path, "T", ("T1w",)), Grid(SHAPE, np.eye(4))
    native = grid.cropped([slice(3, 10), slice(0, 9), slice(0, 8)])
    subjects = []
    for name in ("atlas", "target"):
        paths = tmp_path / f"{name}.nii.gz", tmp_path / f"{name}_dseg.nii.gz"
        write_image(paths[0], np.ones(native.shape, np.float32), native)
        write_image(paths[1], np.full(native.shape, 300), native)
        write_affine(layout.affine(name), np.eye(4))
        write_image(layout.affine_image(name), np.full(SHAPE, 0.5, np.float32), grid)
        subjects.append(Subject(name, name, *paths))
    write_tsv(layout.labels, [{"index": value, "name": f"{value}"} for value in (7, 300)], ["index", "name"])
    return AlignedImages(layout, subjects, grid, cache=Cache(tmp_path, 10**6))


def test_a_cache_returns_what_was_made(tmp_path) -> None:
    cache, made = Cache(tmp_path, 10**6), []
    values = [torch.rand(3, 4).half(), torch.rand(2, 5, 7) > 0.5, torch.arange(6).int().view(2, 3).T]

    def make(value: torch.Tensor) -> torch.Tensor:
        made.append(value)
        return value

    for _ in range(3):  # made, then read
        for key, value in enumerate(values):
            found = cache.get(key, lambda value=value: make(value))
            assert found.dtype == value.dtype and torch.equal(found, value)
    assert len(made) == len(values)
    assert not list(tmp_path.iterdir())


def test_a_full_cache_makes_tensors_again(tmp_path) -> None:
    cache, made = Cache(tmp_path, 100), []

    def make(value: torch.Tensor) -> torch.Tensor:
        made.append(len(value))
        return value

    for _ in range(2):
        for size in (20, 15, 5):  # four bytes each: the second doesn't fit, the third does
            assert torch.equal(
                cache.get(size, lambda size=size: make(torch.arange(size).int())), torch.arange(size).int()
            )
    assert made == [20, 15, 5, 15]


def test_threads_share_a_cache(tmp_path) -> None:
    cache, values = Cache(tmp_path, 10**8), [torch.randn(20_000) for _ in range(8)]

    def check(start: int) -> None:
        for step in range(40):
            key = (start + step * (start + 1)) % 8
            assert torch.equal(cache.get(key, lambda: values[key]), values[key])  # noqa: B023

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(check, range(4)))


def test_a_batch_is_what_was_loaded_rounded_to_half_precision(images: AlignedImages) -> None:
    rng = np.random.default_rng(0)
    data = [rng.random(SHAPE, np.float32) for _ in images.subjects]
    for subject, values in zip(images.subjects, data, strict=True):
        write_image(images.layout.affine_image(subject.id), values, images.grid)
    expected = torch.from_numpy(np.stack([data[1], data[0], data[1]]).astype(np.float16).astype(np.float32))
    for _ in range(2):  # read, then from the cache
        loaded, masks = images.load([1, 0, 1])
        assert {x.dtype for x in loaded} == {torch.float16} and {x.dtype for x in masks} == {torch.bool}
        image, mask = images.batch([1, 0, 1])
        assert image.dtype == mask.dtype == torch.float32
        assert torch.equal(image[:, 0], expected)
        assert torch.equal(mask, torch.stack(masks).float())


def test_masks_are_the_field_of_view(images: AlignedImages) -> None:
    for _ in range(2):  # read, then from the cache
        data, masks = images.batch([1, 0])
        assert data.shape == masks.shape == (2, 1, *SHAPE)
        assert (data == 0.5).all()
        assert (masks[:, :, :3] == 0).all() and (masks[:, :, 3:] == 1).all()


def test_only_atlases_have_labels_for_training(images: AlignedImages) -> None:
    for _ in range(2):  # read, then from the cache
        indices = images.label_indices(0)
        assert indices.dtype == torch.int32
        assert (indices[:3] == 0).all() and (indices[3:] == 2).all()  # 300 is the second of 7 and 300
    with pytest.raises(ValueError, match="sub-target is no atlas"):
        images.label_indices(1)
