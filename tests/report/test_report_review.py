"""What the report tells to look at: planted findings are named with reason and link, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import ATLASES, SHAPES, TARGETS, make_config, make_run

from atlasmith.config import Config
from atlasmith.core.ranks import choose_evenly
from atlasmith.io.failures import Failure, write_failure
from atlasmith.io.files import read_json, write_json
from atlasmith.io.tables import SCAN_COLUMNS, read_cohort, read_tsv, scan_columns, write_tsv
from atlasmith.report import write_report
from atlasmith.report.results import Results
from atlasmith.report.review import ATLAS, FAILED, SEGMENTATION, checks_made, find_review
from atlasmith.report.subjects import choose_pages


def _results(config: Config) -> Results:
    return Results(config, read_cohort(config.layout.cohort))


def _review_section(config: Config) -> str:
    write_report(config)
    text = config.layout.report.read_text(encoding="utf-8")
    found = re.search(r'<section aria-labelledby="review">(.*?)</section>', text, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def run(tmp_path: Path) -> Config:
    return make_run(tmp_path, SHAPES["2-D"])


def _flag(config: Config, subject: str, **entries: object) -> None:
    path = config.layout.segmentation_sidecar(subject, "votenet")
    write_json(path, read_json(path) | {"NeedsReview": True} | entries)


def test_nothing_wrong_says_so(run: Config) -> None:
    assert find_review(_results(run)) == []
    text = _review_section(run)
    assert "Nothing needs review" in text and "sub-" not in text
    assert f"{TARGETS} segmentations by votenet, compared" in text


def test_low_values_alone_are_no_finding(run: Config) -> None:
    """Neither an affine nor a Dice far below the others is named: only what was calibrated is."""
    rows = read_tsv(run.layout.scores)
    for row in rows:
        if row["participant_id"] == "sub-07":
            row["value"] = "0.01"
    affine = {**rows[0], "stage": "affine", "method": "affine", "metric": "ncc"}
    rows += [
        {**affine, "participant_id": f"sub-0{n}", "value": "-0.5" if n == 3 else "0.9"} for n in range(9)
    ]
    write_tsv(run.layout.scores, rows, list(rows[0]))
    assert find_review(_results(run)) == []


def test_every_kind_of_finding_with_reason_and_link(run: Config) -> None:
    _flag(run, "08", ReviewReasons=["Its intensities differ.", "Its pose differs."])
    _flag(run, "09", ExpectedDice=None)
    _flag(run, "07", ExpectedDice=0.25)
    rows = [
        {"participant_id": "sub-01", "finding": "its labels differ from all others'"},
        {"participant_id": "sub-02", "finding": "it seems to be a duplicate", "duplicate": "sub-03"},
        {"participant_id": "sub-03", "finding": ""},
    ]
    write_tsv(run.layout.atlas_qc, rows, ["participant_id", "duplicate", "finding"])
    write_failure(run.layout.failures, Failure("06", "register", "no overlap. Check the image."))
    run.layout.preprocessed("06").unlink()
    findings = find_review(_results(run))
    assert [(f.subject, f.kind, f.reasons) for f in findings] == [
        ("06", FAILED, ("Stage register: no overlap. Check the image.",)),
        ("07", SEGMENTATION, ("The expected Dice of 0.250 is far below that of the atlases.",)),
        ("08", SEGMENTATION, ("Its intensities differ.", "Its pose differs.")),
        ("09", SEGMENTATION, ("No label was found.",)),
        ("01", ATLAS, ("Its labels differ from all others'.",)),
        ("02", ATLAS, ("It seems to be a duplicate (sub-03).",)),
    ]
    text = _review_section(run)
    links = re.findall(r'<a href="report/sub-(\d+).html">sub-\1</a>', text)
    assert links == ["07", "08", "09", "01", "02"]  # the failed one has no image to show
    assert "sub-06" in text and "no overlap" in text and "sub-03" not in links
    page = run.layout.subject_page("08").read_text(encoding="utf-8")
    assert "Its pose differs." in page


def test_what_could_not_be_checked_is_said(run: Config) -> None:
    for subject in _results(run).subjects:
        path = run.layout.segmentation_sidecar(subject.id, "votenet")
        write_json(path, {"FusionMethod": "votenet"})
    assert checks_made(_results(run)) == (
        [],
        [
            "the segmentations, which needs several atlases and fusion.quality",
            "the atlases, which needs 5 of them and fusion.quality",
        ],
    )
    assert "Nothing needs review, as far as it was checked" in _review_section(run)
    rows = [{**scan_columns(f"{n:02d}"), "finding": ""} for n in range(5)]
    write_tsv(run.layout.atlas_qc, rows, [*SCAN_COLUMNS, "finding"])
    assert checks_made(_results(run))[0] == ["5 atlases, compared with each other"]


def test_pages_go_to_what_needs_review_then_spread(run: Config, tmp_path: Path) -> None:
    _flag(run, "08")
    fewer = make_config(tmp_path, report={"subjects": 3})
    results = _results(fewer)
    # Dice rises with the number: of 06, 07 and 09, the lowest and the highest have pages.
    assert choose_pages(results, find_review(results)) == ["06", "08", "09"]
    many = make_config(tmp_path, report={"subjects": TARGETS + 2})
    results = _results(many)
    chosen = choose_pages(results, find_review(results))
    assert chosen == ["00", f"{ATLASES - 1:02d}", "06", "07", "08", "09"]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 50])
def test_spread_is_even_and_has_both_ends(count: int) -> None:
    chosen = [int(x) for x in choose_evenly([str(n) for n in range(10)], count)]
    assert len(chosen) == min(count, 10) and chosen == sorted(set(chosen))
    if count > 1:
        assert chosen[0] == 0 and chosen[-1] == 9
        assert np.ptp(np.diff(chosen)) <= 1
