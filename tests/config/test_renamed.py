"""Keys of earlier versions are refused with their new name."""

from __future__ import annotations

from typing import Any

import pytest

from atlasmith.config import parse_config
from atlasmith.config.renamed import RENAMED, RENAMED_METHODS
from atlasmith.config.schema import Config
from atlasmith.core.errors import InputError

# Every key of 0.8.0 that is gone.
OLD_KEYS = [
    "chunk",
    "cohort.builders",
    "affine.n4",
    "preprocess.masks",
    "template.populations",
    "template.squarings",
    "template.labels",
    "template.pairs",
    "template.regularisation",
    "template.views",
    "template.network.passes",
    "register.refine_steps",
    "register.refine_learning_rate",
    "register.pair_steps",
    "fusion.closest",
    "fusion.local_closest",
    "fusion.fill",
    "fusion.assess",
    "fusion.evidence",
]


def config_with(key: str, value: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"cohort": {"bids": "data"}}
    *sections, last = key.split(".")
    section = values
    for name in sections:
        section = section.setdefault(name, {})
    section[last] = value
    return values


def problems(values: dict[str, Any]) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_config(values, "my.yaml")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("value", [3, None, {"steps": 3}])
@pytest.mark.parametrize("key", OLD_KEYS)
def test_an_old_key_is_refused_with_its_new_name(key: str, value: Any) -> None:
    (problem,) = problems(config_with(key, value))
    assert problem == f"my.yaml: {key}: this key has a new name. Write {RENAMED[key]}."


def test_new_names_are_keys_of_the_config() -> None:
    assert set(RENAMED) == set(OLD_KEYS)
    for new in RENAMED.values():
        values = Config.model_validate({"cohort": {"bids": "data"}}).resolved()
        for name in new.split("."):
            values = values[name]


@pytest.mark.parametrize("method", RENAMED_METHODS)
def test_an_old_method_is_refused_with_its_new_name(method: str) -> None:
    (problem,) = problems(config_with("fusion.methods", ["majority", method]))
    assert "fusion.methods" in problem and f"'{method}'" in problem and RENAMED_METHODS[method] in problem


def test_old_keys_are_reported_with_all_other_problems() -> None:
    values = config_with("template.views", {"age": [60]})
    values["template"]["spacign"] = 2
    assert ["new name" in problem for problem in problems(values)] == [True, False]


def test_old_values_are_kept() -> None:
    config = parse_config({"cohort": {"bids": "data", "covariates": ["chunk"], "role": "builders"}})
    assert config.cohort.covariates == ["chunk"] and config.cohort.role == "builders"
