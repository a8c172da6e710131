"""Entries of the tables of choices, of toy functions and of all tables that there are."""

from typing import Any, Literal

import pytest
import torch

from atlasmith.core.choices import Choice, CountOrZero, Fraction, Positive, Share
from atlasmith.core.errors import AtlasmithError
from atlasmith.losses import (
    REGULARIZERS,
    SIMILARITY,
    Regularizer,
    Similarity,
    registration_objective,
    required_inputs,
)
from atlasmith.networks import DECODERS, NETWORKS
from atlasmith.optimization import OPTIMIZERS
from atlasmith.transforms import PARAMETRIZATIONS, Coefficients, deformation_model

TABLES: dict[str, dict[str, Choice[Any]]] = {
    "similarities": dict(SIMILARITY),
    "regularizers": dict(REGULARIZERS),
    "networks": dict(NETWORKS),
    "decoders": dict(DECODERS),
    "parametrizations": dict(PARAMETRIZATIONS),
    "optimizers": dict(OPTIMIZERS),
}


@Choice.declare("A toy.")
def toy(
    x: float,
    factor: float = 2.0,
    fast: bool = False,
    mode: Literal["add", "multiply"] = "add",
    times: int = 1,
    radius: CountOrZero = 2,
    size: Positive = 1.0,
    share: Share = 0.5,
    part: Fraction = 0.5,
) -> float:
    return x + times * factor if mode == "add" else x * factor**times


class Built:
    """A toy."""

    def __init__(self, mode: Literal["add", "multiply"] = "add") -> None:
        self.mode = mode


def test_an_entry_is_called_as_its_function() -> None:
    assert toy(3.0) == 5.0 and toy(3.0, mode="multiply") == 6.0
    numbers = {"factor": 2.0, "times": 1, "radius": 2, "size": 1.0, "share": 0.5, "part": 0.5}
    assert toy.settings == numbers | {"fast": False, "mode": "add"}


@pytest.mark.parametrize(
    ("name", "value", "found", "remedy"),
    [
        ("factor", "x", "'x' is no number", "default is 2.0"),
        ("factor", float("nan"), "nan is no number", "default is 2.0"),
        ("factor", True, "True is no number", "default is 2.0"),
        ("fast", 1, "1 is no boolean", "true or false"),
        ("times", 1.5, "1.5 is no whole number", "default is 1"),
        ("times", "x", "'x' is no number", "default is 1"),
        ("mode", "multiplly", "unknown value 'multiplly'", "Did you mean 'multiply'?"),
        ("factor", -0.1, "-0.1 is out of range", "a number of at least 0. The default is 2.0."),
        ("times", 0, "0 is out of range", "a number of at least 1"),
        ("radius", -1, "-1 is out of range", "a number of at least 0"),
        ("radius", 0.5, "0.5 is no whole number", "default is 2"),
        ("size", 0, "0 is out of range", "a number above 0"),
        ("share", 1.1, "1.1 is out of range", "a number from 0 to 1"),
        ("part", 1.0, "1.0 is out of range", "a number above 0 and below 1"),
    ],
)
def test_unusable_settings_have_a_remedy(name: str, value: object, found: str, remedy: str) -> None:
    problem = toy.setting_problem(name, value)
    assert problem is not None and found in problem[0] and remedy in problem[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [("factor", 0), ("times", 2), ("fast", True), ("mode", "multiply"), ("radius", 0), ("share", 1)],
)
def test_usable_settings_have_no_problem(name: str, value: object) -> None:
    assert toy.setting_problem(name, value) is None


def test_settings_of_a_class_are_checked() -> None:
    entry = Choice(Built, "A toy.")
    assert entry.settings == {"mode": "add"} and entry.setting_problem("mode", "multiply") is None
    assert entry.setting_problem("mode", "subtract") is not None


def test_all_settings_are_checked_at_once() -> None:
    toy.check_settings({"times": 2, "mode": "add"})
    with pytest.raises(AtlasmithError, match=r"unknown setting 'timse'. Did you mean 'times'\?"):
        toy.check_settings({"timse": 2})
    with pytest.raises(AtlasmithError, match="setting 'times': 0 is out of range"):
        toy.check_settings({"factor": 1.0, "times": 0})


@pytest.mark.parametrize("kind", TABLES)
def test_defaults_are_in_range_and_negative_numbers_are_not(kind: str) -> None:
    for name, entry in TABLES[kind].items():
        for setting, default in entry.settings.items():
            assert entry.setting_problem(setting, default) is None, (name, setting)
            if not isinstance(default, bool | str):
                assert entry.setting_problem(setting, -1) is not None, (name, setting)


@pytest.mark.parametrize("kind", TABLES)
def test_every_entry_declares_its_text(kind: str) -> None:
    for name, entry in TABLES[kind].items():
        assert entry.text.endswith(".") and len(entry.text) < 160, name
        assert entry.function.__doc__, name


def test_toy_entries_join_the_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function and a line in the table are all that a new similarity or regularizer needs."""

    @Similarity.declare("Largest difference.")
    def largest(fixed, moved, mask=None, power=1.0):  # type: ignore[no-untyped-def]
        return (fixed - moved).abs().flatten(1).amax(1) ** power

    @Regularizer.declare("Largest displacement.", needs=("forward", "pair_dependence"))
    def longest(forward, pair_dependence, spacing):  # type: ignore[no-untyped-def]
        return forward.abs().amax()

    monkeypatch.setitem(SIMILARITY, "largest", largest)
    monkeypatch.setitem(REGULARIZERS, "longest", longest)
    image = torch.rand(2, 1, 8, 10)
    objective = registration_objective(
        image,
        image + 0.5,
        torch.ones_like(image),
        Coefficients(torch.zeros(2, 2, 4, 5)),
        deformation=deformation_model(integration_steps=3),
        spacing=(1.0, 1.0),
        similarity={"largest": {"weight": 3.0, "power": 2.0}},
        regularization={"longest": {"weight": 1.0}},
    )
    assert objective.terms["largest"].item() == pytest.approx(0.75, abs=1e-4)
    assert objective.terms["longest"].item() == 0
    assert longest.training_only and required_inputs({"longest": {}}) == {"forward", "pair_dependence"}
