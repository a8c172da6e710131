"""Rules that tie keys of a config to one another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase

from atlasmith.config.schema import Config
from atlasmith.core.errors import Problem, did_you_mean
from atlasmith.io.tables import SUBPOPULATION

Finding = tuple[str, str, str]  # key, what was found, remedy


def cross_key_problems(config: Config, where: str | Path) -> list[Problem]:
    """Check a config's values against one another.

    Args:
        config: A config whose keys and types are valid.
        where: The file, for the messages.

    Returns:
        A problem for each violated rule.
    """
    checks = (
        _window,
        _channels,
        _covariates,
        _subpopulations,
        _processes,
        _adversary,
        _spacing,
        _registration,
    )
    return [
        Problem(f"{where}: {key}", found, remedy) for check in checks for key, found, remedy in check(config)
    ]


def _window(config: Config) -> Iterator[Finding]:
    window = config.preprocess.window
    windows = window if isinstance(window, dict) else {"": window}
    for channel, values in windows.items():
        if values and not -math.inf < values[0] < values[1] < math.inf:
            key = f"preprocess.window.{channel}".rstrip(".")
            yield key, f"this is {values}", "Give two finite numbers, the smaller one first."


def _channels(config: Config) -> Iterator[Finding]:
    channels, window = config.cohort.channels, config.preprocess.window
    for channel in dict.fromkeys(channels):
        if channels.count(channel) > 1:
            yield "cohort.suffix", f"'{channel}' is named twice", "Name each channel once."
    for key, named in (
        ("preprocess.window", window if isinstance(window, dict) else {}),
        ("template.channel_similarity", config.template.channel_similarity),
    ):
        for channel in named:
            if channel not in channels:
                found = f"'{channel}' isn't among the channels of cohort.suffix"
                yield f"{key}.{channel}", found, did_you_mean(channel, channels)
    for channel, terms in config.template.channel_similarity.items():
        if not terms:
            key = f"template.channel_similarity.{channel}"
            yield key, "there is no similarity", "Name one with its weight, or leave the channel out."


def _covariates(config: Config) -> Iterator[Finding]:
    covariates, template = config.cohort.covariates, config.template
    for name in template.condition_on:
        if name not in covariates:
            remedy = did_you_mean(name, covariates) if covariates else "Add it there."
            yield "template.condition_on", f"'{name}' isn't among cohort.covariates", remedy
    for name in template.evaluate_at:
        if name not in template.conditions:
            found = f"'{name}' isn't among template.condition_on"
            yield "template.evaluate_at", found, "Condition the template on it, or remove its values."


def _subpopulations(config: Config) -> Iterator[Finding]:
    template = config.template
    if template.subpopulations == 1:
        return
    letters = list(ascii_uppercase[: template.subpopulations])
    for value in template.evaluate_at.get(SUBPOPULATION, []):
        if value not in letters:
            found = f"there is no subpopulation {value!r}"
            remedy = f"Those of template.subpopulations are {', '.join(letters)}."
            yield f"template.evaluate_at.{SUBPOPULATION}", found, remedy
    if SUBPOPULATION in config.cohort.covariates:
        found = f"'{SUBPOPULATION}' is the covariate that template.subpopulations adds"
        yield "cohort.covariates", found, "Rename the column, or set template.subpopulations: 1."


def _processes(config: Config) -> Iterator[Finding]:
    if config.template.batch_size % config.processes:
        found = f"{config.processes} can't divide a batch of {config.template.batch_size} equally"
        yield "processes", found, "Give a divisor of template.batch_size."


def _adversary(config: Config) -> Iterator[Finding]:
    if config.template.adversary.weight and config.template.refinement.rounds:
        found = "refinement would replace the adversarially trained template by averages"
        yield (
            "template.adversary",
            found,
            "Set template.refinement.rounds: 0, or template.adversary.weight: 0.",
        )


def _spacing(config: Config) -> Iterator[Finding]:
    template, key = config.template, "template.training_spacing"
    if template.coarse_spacing < template.spacing:
        found = f"{template.coarse_spacing:g} mm is finer than template.spacing, {template.spacing:g} mm"
        yield key, found, "Set it to template.spacing or more, or to null."
    if template.coarse_spacing > template.spacing and not template.refinement.rounds:
        found = "template.refinement.rounds is 0, and refinement makes the template at template.spacing"
        yield key, found, "Set the rounds above 0, or this to null."


def _registration(config: Config) -> Iterator[Finding]:
    if config.register_.modes is not None:
        if config.register_.parametrization is not None:
            yield "register.modes", "register.parametrization is set, too", "Set one of the two to null."
        if not config.template.refinement.rounds:
            found = "template.refinement.rounds is 0, and refinement finds the modes"
            yield "register.modes", found, "Set it above 0, or the modes to null."
    if not config.template.steps and not config.register_.instance_optimization.steps:
        found = (
            "this is 0, and register.instance_optimization.steps is 0: without network and instance "
            "optimization, every subject would stay at its affine alignment"
        )
        yield "template.steps", found, "Set one of the two above 0."
