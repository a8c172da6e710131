"""Sidecars: what BIDS derivatives say of an image, as JSON beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from atlasmith import __version__
from atlasmith.core.grid import Grid
from atlasmith.io.files import read_json, write_json
from atlasmith.io.layout import Layout, sidecar_path

BIDS_VERSION = "1.11.1"
RAW = "raw"  # the name of the cohort's BIDS folder in URIs
RUN = "run"  # that of the finished run, in what is written of a new image


def read_description(folder: Path) -> dict[str, Any]:
    """Read the dataset_description.json of a BIDS folder; empty where there is no valid one."""
    try:
        found = read_json(folder / "dataset_description.json")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def bids_uri(layout: Layout, path: Path) -> str:
    """Name a file in a way that is true on any machine.

    Args:
        layout: Of the run.
        path: A file of the run, of its cohort's BIDS folder, or another.

    Returns:
        A BIDS URI; of a file elsewhere, such as the image of a new subject, only its name.

    Example:
        >>> bids_uri(Layout(Path("out"), "X", ("T1w",), Path("bids")), Path("bids/sub-01/a.nii"))
        'bids:raw:sub-01/a.nii'
    """
    file = Path(os.path.abspath(path))
    output = Path(os.path.abspath(layout.output))
    if file.is_relative_to(output):
        # The stages of a new image work in a folder with links to the run.
        linked = not file.parent.resolve().is_relative_to(output.resolve())
        return f"bids:{RUN if linked else ''}:{file.relative_to(output).as_posix()}"
    if layout.bids is not None:
        raw = Path(os.path.abspath(layout.bids))
        if file.is_relative_to(raw):
            return f"bids:{RAW}:{file.relative_to(raw).as_posix()}"
    return file.name


def write_sidecar(
    layout: Layout,
    path: Path,
    description: str,
    *,
    grid: Grid,
    sources: Iterable[Path],
    reference: Path,
    skull_stripped: bool | None = None,
    **facts: Any,
) -> None:
    """Write the sidecar of an image.

    Args:
        layout: Of the run.
        path: The image.
        description: What it is.
        grid: Of the image; its voxel size is the resolution.
        sources: Files that it was made from.
        reference: The image whose space it is in.
        skull_stripped: Whether an image of intensities has no skull; None for other images.
        facts: Further entries.
    """
    write_json(
        sidecar_path(path),
        {
            "Description": description,
            "Sources": [bids_uri(layout, source) for source in sources],
            "SpatialReference": bids_uri(layout, reference),
            "Resolution": f"{' x '.join(f'{size:.4g}' for size in grid.tensor_spacing)} mm",
            **({} if skull_stripped is None else {"SkullStripped": skull_stripped}),
            **facts,
            "GeneratedBy": f"atlasmith {__version__}",
        },
    )


def is_skull_stripped(images: Iterable[Path]) -> bool:
    """Return whether the sidecars of all images say that they have no skull."""
    return all(_stated_skull_stripped(sidecar_path(image)) for image in images)


def source_is_skull_stripped(layout: Layout, image: Path, masked: bool) -> bool:
    """Decide whether a source image has no skull: as its sidecar, or that of the whole cohort, says.

    Args:
        layout: Of the run.
        image: The image.
        masked: What is assumed where no sidecar says.
    """
    shared = [] if layout.bids is None else [layout.bids / f"{layout.suffix}.json"]
    stated = [_stated_skull_stripped(file) for file in (sidecar_path(image), *shared)]
    return next((value for value in stated if value is not None), masked)


def _stated_skull_stripped(sidecar: Path) -> bool | None:
    try:
        return bool(read_json(sidecar)["SkullStripped"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
