"""The report of synthetic output folders with known contents."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from synthetic_run import (
    ATLASES,
    EVIL,
    LABELS,
    SHAPES,
    SHIFT,
    SUMMARY,
    TARGETS,
    ball,
    grid_of,
    image_of,
    make_config,
    make_run,
    write_results,
    write_subjects,
)

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError
from atlasmith.io.tables import read_tsv, scan_columns, write_tsv
from atlasmith.report import write_report

SECTIONS = ["review", "figures", "template", "covariates", "growth", "structures", "subjects", "charts"]
SECTIONS += ["downloads", "methods", "provenance"]
VOID = ("meta", "img", "br", "input")


class Page(HTMLParser):
    """What a page has; every element must be closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.ids: list[str] = []
        self.links: list[tuple[str, str]] = []  # element, address
        self.images: list[str] = []  # alternative texts
        self.charts: list[str] = []
        self.open: list[str] = []
        self.feed(self.text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: str(value) for key, value in attrs}
        if tag not in VOID:
            self.open.append(tag)
        if "id" in values and "svg" not in self.open:
            self.ids.append(values["id"])
        self.links += [
            (tag, values[key]) for key in ("href", "src", "srcset", "action", "data") if key in values
        ]
        if tag == "img":
            self.images.append(values["alt"])
        if tag == "svg":
            self.charts.append(values["aria-label"])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def views(self) -> dict[str, dict[str, object]]:
        found = re.search(r'<script type="application/json" id="views">(.*?)</script>', self.text, re.DOTALL)
        assert found
        views: dict[str, dict[str, object]] = json.loads(found[1])
        return views


def page_of(config: Config) -> Page:
    write_report(config)
    return Page(config.layout.report)


def files_of(config: Config) -> dict[str, bytes]:
    folder = config.layout.report_folder
    return {"": config.layout.report.read_bytes()} | {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_pages_are_complete_and_load_nothing_from_elsewhere(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    config = make_run(tmp_path, shape)
    page = page_of(config)
    assert [name for name in page.ids if name in SECTIONS] == SECTIONS
    paths = [config.layout.report, *config.layout.report_folder.glob("*.html")]
    assert len(paths) == 2 + ATLASES + TARGETS
    for path in paths:
        page = Page(path)
        assert len(page.ids) == len(set(page.ids))
        for tag, link in page.links:
            if link.startswith("http"):
                assert tag == "a" and re.match(r"https://(doi|arxiv).org/", link)
            elif link.startswith("#"):
                assert link[1:] in page.ids
            elif not link.startswith("data:image/png;base64,"):
                assert (path.parent / unquote(link.split("#")[0])).exists(), link
        assert "url(http" not in page.text and "@import" not in page.text
        assert "<script>alert" not in page.text and "default-src 'none'" in page.text
        assert all(page.images) and all(page.charts)


def test_the_main_page_tells_the_figures(tmp_path: Path) -> None:
    config = make_run(tmp_path, SHAPES["3-D"])
    page = page_of(config)
    assert "&lt;script&gt;" in page.text
    # Of Dice 0.70 to 0.75 of the atlases, the middle 90 %: 0.7025 to 0.7475.
    bullet = next(chart for chart in page.charts if chart.startswith("Dice, votenet"))
    assert bullet == (
        "Dice, votenet: 0.812, 95 % interval 0.100 to 0.900, atlases, each segmented by all others: "
        "0.702 to 0.748"
    )
    assert "1.37" in page.text
    assert sum(alt.startswith("template, ") for alt in page.images) == 3
    assert sum(alt.startswith("affine mean, ") for alt in page.images) == 3
    assert f"{ATLASES} atlas, {TARGETS} target, 0 train" in page.text
    assert "votenet" in next(chart for chart in page.charts if chart.startswith("dice."))


def test_same_files_give_the_same_bytes_but_for_the_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_run(tmp_path, SHAPES["2-D"])
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    write_report(config)
    first = files_of(config)
    assert b"2023-11-14 22:13 UTC" in first[""]
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    write_report(config)
    later = files_of(config)
    assert {name for name in first if first[name] != later[name]} == {""}
    date = re.compile(rb"<time .*?</time>")
    assert date.sub(b"", first[""]) == date.sub(b"", later[""])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_checked_cohort_alone_makes_a_page(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    config = make_config(tmp_path)
    subjects = write_subjects(config, grid_of(shape))
    for subject in subjects:
        config.layout.preprocessed(subject.id).unlink()
    page = page_of(config)
    assert [name for name in page.ids if name in SECTIONS] == [
        "review",
        "figures",
        "subjects",
        "downloads",
        "methods",
        "provenance",
    ]
    assert "There are no scores yet" in page.text and "No subject has a page yet" in page.text
    assert {path.stem for path in config.layout.report_folder.iterdir()} == {"volumes"}


def test_targets_without_manual_labels(tmp_path: Path) -> None:
    config, grid = make_config(tmp_path), grid_of(SHAPES["3-D"])
    write_results(config, grid, write_subjects(config, grid, truth=False))
    config.layout.scores.unlink()
    config.layout.summary.unlink()
    page = page_of(config)
    assert "figures" in page.ids and "There are no scores yet" in page.text
    labels = Page(config.layout.subject_page("08")).views()["segmentation"]["labels"]
    assert [each["name"] for each in labels] == ["votenet", "majority"]  # type: ignore[attr-defined]
    labels = Page(config.layout.subject_page("00")).views()["segmentation"]["labels"]
    assert [each["name"] for each in labels] == ["votenet", "majority", "manual"]  # type: ignore[attr-defined]


def test_an_unchecked_cohort_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(AtlasmithError, match="atlasmith cohort"):
        write_report(make_config(tmp_path))


def test_channels_and_sessions(tmp_path: Path) -> None:
    config = make_config(tmp_path, cohort={"suffix": ["T1w", "T2w"]}, template={"spacing": 1.0})
    ids = [f"{n:02d}_ses-{s}" for n in range(5) for s in (1, 2)]
    grid = grid_of(SHAPES["3-D"])
    subjects = write_subjects(config, grid, ids=ids)
    write_results(config, grid, subjects)
    config.layout.preprocessed("00_ses-1", "T2w").unlink()
    page = page_of(config)
    assert "10 images" in page.text and "of 5 participants" in page.text and "T1w + T2w" in page.text
    views = Page(config.layout.subject_page("01_ses-2")).views()
    names = [channel["name"] for channel in views["segmentation"]["channels"]]  # type: ignore[attr-defined]
    assert names == ["T1w", "T2w", "confidence"]
    assert len(views["registration"]["channels"]) == 2  # type: ignore[arg-type]
    views = Page(config.layout.subject_page("00_ses-1")).views()
    names = [channel["name"] for channel in views["segmentation"]["channels"]]  # type: ignore[attr-defined]
    assert names == ["T1w", "confidence"]


def test_a_failure_leaves_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_run(tmp_path, SHAPES["2-D"])
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    write_report(config)
    before = files_of(config)
    config.layout.warped("09").write_bytes(b"no image")
    with pytest.raises(Exception, match="09"):
        write_report(config)
    assert files_of(config) == before
    assert not list(config.output.glob(".partial*"))


def test_pages_of_subjects_that_are_no_longer_shown_go(tmp_path: Path) -> None:
    config = make_run(tmp_path, SHAPES["2-D"])
    write_report(config)
    fewer = make_config(tmp_path, report={"subjects": 2})
    page = page_of(fewer)
    assert len(list(config.layout.report_folder.glob("sub-*.html"))) == 2
    assert f"2 of {ATLASES + TARGETS} have a page" in page.text


def test_the_size_is_told(tmp_path: Path) -> None:
    config = make_run(tmp_path, SHAPES["2-D"])
    page = page_of(config)
    size = sum(path.stat().st_size for path in config.layout.report_folder.iterdir())
    assert f"<dd>{size / 1e6:.1f} MB</dd>" in page.text
    assert f"<dd>{os.path.getsize(config.layout.report) / 1e6:.1f} MB</dd>" in page.text


def test_volumes_of_all_subjects_in_a_table(tmp_path: Path) -> None:
    config = make_run(tmp_path, SHAPES["2-D"])
    page = page_of(config)
    rows = read_tsv(config.layout.report_volumes)
    assert len(rows) == (ATLASES + TARGETS) * len(LABELS)
    assert rows[-1] == {
        **scan_columns("09"),
        "index": "7",
        "name": "b",
        "volume_mm3": "10000",
        "volume_lower_mm3": "9000",
        "volume_upper_mm3": "11000",
    }
    assert ("a", "report/volumes.tsv") in page.links


def test_many_labels_make_a_table_of_all(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    write_subjects(config, grid_of(SHAPES["2-D"]))
    labels = [{"index": n, "name": f"structure {n}"} for n in range(1, 301)]
    write_tsv(config.layout.labels, labels, ["index", "name"])
    rows = [
        {
            "stage": "fuse",
            "method": "votenet",
            "label": n,
            "metric": "dice",
            "unit": "1",
            "mean": n / 400,
            "n": 3,
        }
        for n in range(1, 301)
    ]
    write_tsv(config.layout.summary, rows, SUMMARY)
    text = page_of(config).text
    assert [int(n) for n in re.findall(r'data-sort="structure (\d+)"', text)] == list(range(1, 301))


def test_the_synthetic_subjects_move_as_told() -> None:
    """The slider between before and after changes the picture in the browser tests."""
    grid = grid_of(SHAPES["3-D"])
    assert (ball(grid) != ball(grid, SHIFT)).mean() > 0.02
    assert image_of(ball(grid)).max() <= 1.0
    assert EVIL in LABELS.values()
