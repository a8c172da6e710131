"""Files that stay in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atlasmith.core.grid import Grid
from atlasmith.io import memory
from atlasmith.io.images import read_image, read_labels, write_image
from atlasmith.io.memory import keep_in_memory
from atlasmith.io.transforms import read_composite, write_composite


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    image, transform = tmp_path / "run" / "image.nii.gz", tmp_path / "run" / "map.h5"
    write_image(image, np.arange(8).reshape(2, 2, 2), Grid((2, 2, 2), np.eye(4)))
    write_composite(transform, [np.eye(4)])
    return image, transform


def test_files_below_the_folder_are_read_once(files: tuple[Path, Path], tmp_path: Path) -> None:
    image, transform = files
    (link := tmp_path / "link").symlink_to(image.parent)
    outside = tmp_path / "run of another.nii.gz"
    outside.write_bytes(image.read_bytes())
    with keep_in_memory(image.parent):
        assert read_image(image) is read_image(link / image.name)
        assert read_composite(transform) is read_composite(transform)
        assert read_labels(image) is not read_image(image)
        assert read_image(outside) is not read_image(outside)
    assert read_image(image) is not read_image(image)


def test_what_is_too_large_is_read_again(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = files
    monkeypatch.setattr(memory, "available_memory", lambda: 200 / memory.SHARE)  # bytes: one image
    with keep_in_memory(image.parent):
        assert read_image(image) is read_image(image)
        assert read_labels(image) is not read_labels(image)
        assert np.array_equal(read_labels(image).data, read_image(image).data)


def test_memory_is_free() -> None:
    assert memory.available_memory() > 2**20
