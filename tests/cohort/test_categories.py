"""A column of texts is categorical unless its values look like numbers or missing values."""

from __future__ import annotations

import pytest
from tiny import Tiny, only

from atlasmith.cohort import check_cohort
from atlasmith.cohort.categories import category_problem


def column(*texts: str) -> dict[str, str]:
    return {f"sub-{number:02d}": text for number, text in enumerate(texts, start=1)}


@pytest.mark.parametrize(
    "texts",
    [
        ["F", "M"],
        ["F", "M", "M", "F", "O"],
        ["left", "right", "left", "T3", "right"],
        ["site one", "site two", "site one", "site two"],
        [f"site{k // 2}" for k in range(20)],
    ],
)
def test_categories(texts: list[str]) -> None:
    assert category_problem(column(*texts)) is None


@pytest.mark.parametrize(
    ("texts", "found", "remedy"),
    [
        (["072Y", "068Y", "072Y", "061Y"], "'072Y' (sub-01)", "without unit"),
        (["72,5", "68,0", "61,25"], "'72,5' (sub-01)", "a point for decimals"),
        (["60+", "70+", "80+"], "'60+' (sub-01)", "without unit"),
        (["72 years", "68 years"], "'72 years' (sub-01)", "without unit"),
        (["<60", "<60", ">80"], "'<60' (sub-01)", "without unit"),
        (["60-69", "70-79", "60-69"], "'60-69' (sub-01)", "begin names of categories with a letter"),
        (["1_000", "1_200"], "'1_000' (sub-01)", "without unit"),
        (["2019-05-02", "2021-11-30"], "'2019-05-02' (sub-01)", "begin names of categories with a letter"),
        (["F", "M", "NA"], "'NA' (sub-03) seems to stand for a missing value", "n/a"),
        (["F", "M", "nan"], "'nan' (sub-03) seems", "n/a"),
        (["F", "M", "None"], "'None' (sub-03) seems", "n/a"),
        (["F", "M", "  "], "'  ' (sub-03) seems", "n/a"),
        (["F", "M", "F "], "'F ' (sub-03) begins or ends with a blank", "Remove"),
        (["F", "M", "f"], "'F' and 'f' differ by capital letters alone", "one of them"),
        (["Ann", "Ben", "Cid", "Dan", "Eve", "Fay"], "6 of 6 values differ", "few categories"),
    ],
)
def test_texts_that_are_no_categories(texts: list[str], found: str, remedy: str) -> None:
    fault = category_problem(column(*texts))
    assert fault is not None
    assert found in fault[0]
    assert remedy in fault[1]


@pytest.mark.parametrize("text", ["{:03d}Y", "{},5", "{}+", "{} years", "~{}"])
def test_ages_that_are_all_broken_alike_are_refused(tiny: Tiny, text: str) -> None:
    for number, row in enumerate(tiny.rows):
        row["age"] = text.format(60 + 3 * number)
    tiny.write_table()
    only(tiny.problems(), tiny.table, "column 'age'", repr(text.format(60)), "such as 72.5")


@pytest.mark.parametrize("text", ["N/A", "NA", "nan", "NaN", "n.a."])
def test_a_missing_category_is_n_a_alone(tiny: Tiny, text: str) -> None:
    tiny.rows[2]["sex"] = text
    tiny.write_table()
    only(tiny.problems(), tiny.table, "column 'sex'", "sub-03")


def test_an_age_above_89_is_read_as_bids_writes_it(tiny: Tiny) -> None:
    tiny.rows[3]["age"] = "89+"
    tiny.write_table()
    assert check_cohort(tiny.config()).subjects[3].covariates["age"] == 89
