"""Sidecars of images: URIs, and whether an image has a skull."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlasmith.io.columns import COLUMNS
from atlasmith.io.files import write_json
from atlasmith.io.layout import Layout
from atlasmith.io.sidecars import bids_uri, is_skull_stripped, source_is_skull_stripped
from atlasmith.io.tables import write_tsv


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "bids" / "derivatives" / "run", "X", ("T1w",), tmp_path / "bids")


def test_a_file_is_named_after_its_dataset(layout: Layout, tmp_path: Path) -> None:
    assert bids_uri(layout, layout.warped("01")).startswith("bids::sub-01/anat/sub-01_space-X")
    assert bids_uri(layout, tmp_path / "bids" / "sub-01" / "a.nii") == "bids:raw:sub-01/a.nii"
    assert bids_uri(layout, tmp_path / "elsewhere" / "scan.nii") == "scan.nii"


def test_a_file_of_a_run_that_another_folder_links_to(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "finished" / "tpl-X").mkdir(parents=True)
    layout.output.mkdir(parents=True)
    (layout.output / "tpl-X").symlink_to(tmp_path / "finished" / "tpl-X")
    assert bids_uri(layout, layout.template_image) == "bids:run:tpl-X/tpl-X_res-1_T1w.nii.gz"


def test_a_skull_is_stripped_if_the_nearest_sidecar_says_so(layout: Layout, tmp_path: Path) -> None:
    image = tmp_path / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    assert [source_is_skull_stripped(layout, image, masked) for masked in (False, True)] == [False, True]
    write_json(tmp_path / "bids" / "T1w.json", {"SkullStripped": True})
    assert source_is_skull_stripped(layout, image, False)
    write_json(image.with_name("sub-01_T1w.json"), {"SkullStripped": False})
    assert not source_is_skull_stripped(layout, image, True)


def test_a_template_has_no_skull_if_no_subject_has_one(layout: Layout) -> None:
    images = [layout.preprocessed(name) for name in ("01", "02", "03")]
    for name in ("01", "02"):
        write_json(layout.preprocessed_sidecar(name), {"SkullStripped": True})
    assert is_skull_stripped(images[:2]) and not is_skull_stripped(images)


def test_the_sidecar_of_a_table_describes_the_columns_that_are_known(tmp_path: Path) -> None:
    write_tsv(tmp_path / "table.tsv", [], ["index", "weight_of_my_cat"])
    assert '"index"' in (tmp_path / "table.json").read_text() and "index" in COLUMNS
    assert "weight_of_my_cat" not in (tmp_path / "table.json").read_text()
