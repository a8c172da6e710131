"""The config: keys and values are checked together, and defaults are written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from atlasmith.config import load_config, parse_config
from atlasmith.config.choices import check_choices
from atlasmith.core.errors import AtlasmithError, InputError
from atlasmith.losses import SIMILARITY

MINIMAL: dict[str, Any] = {"cohort": {"bids": "data"}}


def with_section(section: str, **values: Any) -> dict[str, Any]:
    return {**MINIMAL, section: {**MINIMAL.get(section, {}), **values}}


def message_of(values: Any) -> str:
    with pytest.raises(InputError) as caught:
        parse_config(values, "my.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "where", "hint"),
    [
        ({**MINIMAL, "outptu": "x"}, "my.yaml: outptu", "Did you mean 'output'?"),
        ({**MINIMAL, "registr": {}}, "my.yaml: registr", "Did you mean 'register'?"),
        (with_section("cohort", covariate=["age"]), "cohort.covariate", "Did you mean 'covariates'?"),
        (
            with_section("register", instance_optimisation={}),
            "register.instance_optimisation",
            "Did you mean 'instance_optimization'?",
        ),
        (with_section("fusion", votenet={"stesp": 3}), "fusion.votenet.stesp", "Did you mean 'steps'?"),
        (with_section("template", network={"nam": "unet"}), "template.network.nam", "Did you mean 'name'?"),
        (
            with_section("register", parametrization={"nam": "unet"}),
            "register.parametrization.nam",
            "Did you mean 'name'?",
        ),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(
    values: dict[str, Any], where: str, hint: str
) -> None:
    text = message_of(values)
    assert where in text and "unknown key" in text and hint in text


@pytest.mark.parametrize(
    ("values", "where", "found"),
    [
        ({}, "my.yaml: cohort", "required"),
        (with_section("template", spacing=-1), "template.spacing", "-1"),
        (with_section("template", spacing="wide"), "template.spacing", "'wide'"),
        (with_section("template", batch_size=1), "template.batch_size", "1"),
        (with_section("template", name="my template"), "template.name", "'my template'"),
        (with_section("fusion", methods=[]), "fusion.methods", "[]"),
        ({**MINIMAL, "device": "tpu"}, "my.yaml: device", "'tpu'"),
        ({**MINIMAL, "processes": 3}, "my.yaml: processes", "a batch of 4"),
        (with_section("preprocess", window=[240]), "preprocess.window", "[240]"),
        (with_section("preprocess", window=[240, -160]), "preprocess.window", "[240.0, -160.0]"),
        (with_section("preprocess", window=[0, float("inf")]), "preprocess.window", "finite"),
    ],
)
def test_a_bad_value_is_named(values: dict[str, Any], where: str, found: str) -> None:
    text = message_of(values)
    assert where in text and found in text


def test_all_problems_are_reported_at_once() -> None:
    text = message_of({**with_section("template", spacing=0, stesp=3), "sed": 1})
    assert "3 problems" in text
    assert "template.spacing" in text and "'steps'" in text and "'seed'" in text


def test_covariates_of_the_template_must_be_declared() -> None:
    text = message_of({"cohort": {"bids": "d", "covariates": ["age"]}, "template": {"condition_on": ["aeg"]}})
    assert "'aeg'" in text and "Did you mean 'age'?" in text
    text = message_of(
        {"cohort": {"bids": "d", "covariates": ["age"]}, "template": {"evaluate_at": {"age": [60]}}}
    )
    assert "template.evaluate_at" in text and "'age'" in text


def test_neither_network_nor_instance_optimization_is_refused() -> None:
    values = with_section("template", steps=0) | with_section("register", instance_optimization={"steps": 0})
    text = message_of(values)
    assert "my.yaml: template.steps" in text and "register.instance_optimization.steps" in text
    assert "affine" in text and "1 problem" in text
    parse_config(with_section("template", steps=0))
    parse_config(with_section("register", instance_optimization={"steps": 0}))


@pytest.mark.parametrize("values", [None, [], "text"])
def test_a_config_that_is_no_table(values: Any) -> None:
    assert "my.yaml" in message_of(values)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    with pytest.raises(AtlasmithError, match=r"my\.yaml: no such config file"):
        load_config(path)
    path.write_text("cohort: [")
    with pytest.raises(InputError, match="not YAML"):
        load_config(path)
    path.write_text(yaml.safe_dump(MINIMAL))
    assert load_config(path).cohort.bids == Path("data")


def test_the_resolved_config_has_every_value_and_loads_again(tmp_path: Path) -> None:
    config = parse_config(
        {
            "cohort": {"bids": "d", "covariates": ["age", "sex"]},
            "template": {"condition_on": ["age", "sex"], "evaluate_at": {"age": [60, 90], "sex": ["F"]}},
            "register": {"instance_optimization": {"steps": 3}},
        }
    )
    resolved = config.resolved()
    assert (
        resolved["register"]["instance_optimization"]["steps"] == 3 and resolved["template"]["steps"] == 500
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(resolved))
    assert load_config(path) == config


def test_a_digest_depends_on_its_sections_alone() -> None:
    plain, other = parse_config(MINIMAL), parse_config(with_section("template", steps=7))
    assert plain.digest("template") != other.digest("template")
    assert plain.digest("fusion", "score") == other.digest("fusion", "score")
    assert plain.digest("fusion") != parse_config({**MINIMAL, "seed": 1}).digest("fusion")


def test_the_default_choices_are_known() -> None:
    check_choices(parse_config(MINIMAL))


def test_velocities_of_one_time_may_have_a_variance() -> None:
    for settings in ({"name": "bspline_velocity"}, {"name": "residual_flow", "settings": {"times": 1}}):
        terms = {"regularization": {"kl": {"weight": 1}}, "parametrization": settings}
        check_choices(parse_config(with_section("template", **terms)))


def test_the_regularization_factor_holds_for_registration_alone() -> None:
    config = parse_config(with_section("register", regularization_factor=3.0))
    trained, registered = config.objective["regularization"], config.register_objective["regularization"]
    assert registered == {name: terms | {"weight": 3 * terms["weight"]} for name, terms in trained.items()}


@pytest.mark.parametrize("factor", [0.05, 4.0])
def test_a_conditioned_network_predicts_for_factors_that_it_is_trained_for(factor: float) -> None:
    settings = {"name": "clapirn", "settings": {"highest_factor": 3}}
    values = with_section("template", network=settings)
    check_choices(parse_config({**values, "register": {"regularization_factor": 3}}))
    with pytest.raises(InputError, match=rf"this is {factor:g}, and .* is trained for 0\.1 to 3"):
        check_choices(parse_config({**values, "register": {"regularization_factor": factor}}))


def test_parameters_with_a_default_number_may_be_set() -> None:
    assert SIMILARITY["lncc"].settings.keys() == {"window", "compat"}


@pytest.mark.parametrize(
    ("values", "where", "hint"),
    [
        (with_section("template", similarity={"lnc": {"weight": 1}}), "template.similarity", "'lncc'?"),
        (
            with_section("template", label_similarity={"dcie": {"weight": 1}}),
            "template.label_similarity",
            "'dice'?",
        ),
        (with_section("template", regularization={"bendin": {"weight": 1}}), "regularization", "'bending'?"),
        (with_section("template", similarity={"lncc": {"window": 7}}), "similarity.lncc", "no weight"),
        (with_section("template", similarity={"mse": {"weight": -1}}), "similarity.mse", "weight is -1"),
        (with_section("template", similarity={"mse": {"weight": "high"}}), "similarity.mse", "'high'"),
        (with_section("template", similarity={"lncc": {"weight": 1, "windw": 7}}), "lncc", "'window'?"),
        (with_section("template", similarity={"lncc": {"weight": 1, "mask": 7}}), "lncc", "parameter 'mask'"),
        (with_section("template", similarity={"lncc": {"weight": 1, "window": "x"}}), "lncc.window", "'x'"),
        (with_section("template", network={"name": "unett"}), "template.network.name", "'unet'?"),
        (
            with_section("template", network={"settings": {"widht": 2}}),
            "template.network.settings",
            "parameter 'widht'",
        ),
        (with_section("template", parametrization={"name": "displacment"}), "name", "'displacement'?"),
        (
            with_section("register", parametrization={"name": "displacment"}),
            "register.parametrization.name",
            "'displacement'?",
        ),
        (
            with_section("register", instance_optimization={"optimizer": {"name": "adma"}}),
            "register.instance_optimization.optimizer.name",
            "'adam'?",
        ),
        (
            with_section("register", instance_optimization={"optimizer": {"settings": {"levels": "two"}}}),
            "optimizer.settings.levels",
            "'two' is no number",
        ),
        (
            with_section("template", network={"name": "cascades", "settings": {"count": 0}}),
            "template.network.settings.count",
            "0 is out of range. Give a number of at least 1. The default is 3.",
        ),
        (
            with_section("register", parametrization={"name": "cpab", "settings": {"cells": 0}}),
            "register.parametrization.settings.cells",
            "0 is out of range. Give a number above 0. The default is 6.0.",
        ),
        (
            with_section(
                "template",
                regularization={"kl": {"weight": 1}},
                parametrization={"name": "time_dependent_velocity"},
            ),
            "template.regularization.kl",
            "coefficients of 'time_dependent_velocity' are several",
        ),
        (with_section("fusion", methods=["majorty"]), "fusion.methods", "'majority'?"),
        (with_section("score", metrics=["hd95"]), "score.metrics", "'hd95_mm'?"),
    ],
)
def test_an_unknown_choice_is_named_with_the_nearest_known_one(
    values: dict[str, Any], where: str, hint: str
) -> None:
    with pytest.raises(InputError) as caught:
        check_choices(parse_config(values))
    assert len(caught.value.problems) == 1
    assert where in str(caught.value) and hint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"seed: 1\ncohort: {bids: x}\nseed: 2\n", "the key 'seed' occurs 2 times"),
        (b"cohort: {bids: x}\ntemplate:\n  steps: 3\n  name: A\n  steps: 4\n", "'steps' occurs 2 times"),
        ("cohort: {bids: Größe}\n".encode("latin-1"), "not YAML"),
    ],
)
def test_yaml_that_would_be_mended_in_silence(tmp_path: Path, text: bytes, found: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(text)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert found in str(caught.value) and str(path) in str(caught.value)


def test_a_byte_order_mark_and_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("cohort: {bids: x}\n", encoding="utf-8-sig")
    assert load_config(path).cohort.bids == Path("x")
    with pytest.raises(AtlasmithError, match="no such config file"):
        load_config(tmp_path)


def test_keys_of_single_channels_name_channels() -> None:
    cohort = {"bids": "d", "suffix": ["T1w", "T2w", "T1w"]}
    values = {
        "cohort": cohort,
        "preprocess": {"window": {"T2w": [5, 0], "CT": [0, 80]}},
        "template": {"channel_similarity": {"T2": {"mi": {"weight": 1}}, "T1w": {}}},
    }
    message = message_of(values)
    for part in (
        "cohort.suffix: 'T1w' is named twice",
        "preprocess.window.T2w: this is [5.0, 0.0]",
        "preprocess.window.CT: 'CT' isn't among the channels",
        "template.channel_similarity.T2: 'T2' isn't among the channels",
        "template.channel_similarity.T1w: there is no similarity",
    ):
        assert part in message
    cohort["suffix"] = ["T1w", "T2w"]
    own = {"mi": {"weight": 1.0}}
    config = parse_config({"cohort": cohort, "template": {"channel_similarity": {"T2w": own}}})
    assert config.objective["channel_similarity"] == {1: own}
    config.template.channel_similarity["T2w"] = {"mii": {"weight": 1.0}}
    with pytest.raises(InputError, match=r"channel_similarity\.T2w.*unknown similarity 'mii'"):
        check_choices(config)


def test_training_is_not_finer_than_the_template_and_needs_refinement_where_coarser() -> None:
    finer = with_section("template", spacing=2.0, training_spacing=1.0)
    assert "template.training_spacing: 1 mm is finer than template.spacing, 2 mm" in message_of(finer)
    unrefined = {"spacing": 1.0, "training_spacing": 2.0, "refinement": {"rounds": 0}}
    found = message_of(with_section("template", **unrefined))
    assert "template.training_spacing: template.refinement.rounds is 0" in found
    for spacing in (1.0, None):  # as fine as the template
        config = parse_config(with_section("template", **unrefined | {"training_spacing": spacing}))
        assert config.template.coarse_spacing == 1.0
