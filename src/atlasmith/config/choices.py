"""Check the names in a config against the tables of choices: losses, networks, fusion methods, metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from operator import attrgetter
from typing import Any

from atlasmith.config.schema import Config
from atlasmith.core.choices import Choice, is_number
from atlasmith.core.errors import InputError, Problem, did_you_mean

# Where each kind of choice is registered. Looked up by name, since the config comes before the stages, and
# most of its readers need neither torch nor SimpleITK.
TABLES = {
    "similarity": "atlasmith.losses:SIMILARITY",
    "regularizer": "atlasmith.losses:REGULARIZERS",
    "network": "atlasmith.networks:NETWORKS",
    "decoder": "atlasmith.networks:DECODERS",
    "parametrization": "atlasmith.transforms:PARAMETRIZATIONS",
    "optimizer": "atlasmith.optimization:OPTIMIZERS",
    "affine engine": "atlasmith.affine.engines:ENGINES",
    "fusion method": "atlasmith.fusion.table:FUSERS",
    "metric": "atlasmith.evaluation.metrics:SEGMENTATION_METRICS",
}
# Keys that name entries of these tables: one, or a list of several.
NAMED = {
    "template.decoder": "decoder",
    "affine.engine": "affine engine",
    "fusion.methods": "fusion method",
    "score.metrics": "metric",
}
# Keys of a section with the `name` of an entry of these tables, and its `settings`.
WITH_SETTINGS = {
    "template.network": "network",
    "template.parametrization": "parametrization",
    "register_.parametrization": "parametrization",
    "register_.instance_optimization.optimizer": "optimizer",
}
# Keys that map entries of these tables to a weight and parameters.
WEIGHTED = {
    "template.similarity": "similarity",
    "template.label_similarity": "similarity",
    "template.pairwise": "similarity",
    "template.regularization": "regularizer",
}


def read_table(kind: str) -> Mapping[str, Choice[Any]]:
    """Import a table of choices.

    Args:
        kind: A key of `TABLES`.

    Returns:
        Its entries by name.
    """
    module, name = TABLES[kind].split(":")
    table: Mapping[str, Choice[Any]] = getattr(import_module(module), name)
    return table


def chosen_entries(config: Config) -> Iterator[tuple[str, str, Choice[Any]]]:
    """List the entries that a checked config chooses: the kind, the name, and the entry.

    Example:
        >>> from atlasmith.config import parse_config
        >>> next(name for _, name, _ in chosen_entries(parse_config({"cohort": {"bids": "data"}})))
        'lncc'
    """
    for _, terms, kind in _weighted(config):
        for name in terms:
            yield kind, name, read_table(kind)[name]
    for _, section, kind in _with_settings(config):
        yield kind, section.name, read_table(kind)[section.name]
    for key, kind in NAMED.items():
        value = attrgetter(key)(config)
        for name in [value] if isinstance(value, str) else value:
            yield kind, name, read_table(kind)[name]


def _weighted(config: Config) -> Iterator[tuple[str, Mapping[str, Mapping[str, Any]], str]]:
    """List the keys of terms with weights, the terms, and the kind of table that they are from."""
    for key, kind in WEIGHTED.items():
        yield key, attrgetter(key)(config), kind
    for channel, terms in config.template.channel_similarity.items():
        yield f"template.channel_similarity.{channel}", terms, "similarity"


def _with_settings(config: Config) -> Iterator[tuple[str, Any, str]]:
    """List the keys of `WITH_SETTINGS`, their sections, and the kind of table that they are from."""
    for key, kind in WITH_SETTINGS.items():
        section = attrgetter(key)(config)
        if section is not None:
            yield key.replace("register_", "register"), section, kind


def check_choices(config: Config) -> None:
    """Check every name of a config that stands for an entry of a table, and the settings of entries.

    Raises:
        InputError: With every unknown name and every unusable parameter.
    """
    problems = []
    for key, terms, kind in _weighted(config):
        problems += term_problems(f"config: {key}", terms, kind)
    for key, section, kind in _with_settings(config):
        where, table = f"config: {key}", read_table(kind)
        problems += _unknown(f"{where}.name", [section.name], table, kind)
        if section.name in table:
            problems += _setting_problems(f"{where}.settings", section.settings, table[section.name])
    for key, kind in NAMED.items():
        value = attrgetter(key)(config)
        names = [value] if isinstance(value, str) else value
        problems += _unknown(f"config: {key}", names, read_table(kind), kind)
    if not problems:
        problems = [*_variance_problems(config), *_factor_problems(config)]
    if problems:
        raise InputError(problems)


def _variance_problems(config: Config) -> list[Problem]:
    """Check that regularizers of a posterior's variance get that of a single velocity field."""
    chosen = config.template.parametrization
    table: Mapping[str, Any] = read_table("regularizer")
    model = read_table("parametrization")[chosen.name](config.template.integration_steps, **chosen.settings)
    if model.channels(2) == 2:
        return []
    found = (
        f"it needs the variance of one velocity field, and the coefficients of '{chosen.name}' are several"
    )
    remedy = "Remove it, or choose another template.parametrization, such as stationary_velocity."
    return [
        Problem(f"config: template.regularization.{name}", found, remedy)
        for name in config.template.regularization
        if "log_variance" in table[name].needs
    ]


def _factor_problems(config: Config) -> list[Problem]:
    """Check that a network for several weights of the regularizers predicts for one of them."""
    chosen, factor = config.template.network, config.register_.regularization_factor
    settings = read_table("network")[chosen.name].settings | chosen.settings
    lowest, highest = (settings.get(name) for name in ("lowest_factor", "highest_factor"))
    if lowest is None or highest is None or lowest <= factor <= highest:
        return []
    found = f"this is {factor:g}, and template.network is trained for {lowest:g} to {highest:g}"
    remedy = "Give a factor within, or change the settings lowest_factor and highest_factor of the network."
    return [Problem("config: register.regularization_factor", found, remedy)]


def _unknown(where: str, names: Iterable[str], known: Iterable[str], kind: str) -> list[Problem]:
    known = list(known)
    return [
        Problem(where, f"unknown {kind} '{name}'", did_you_mean(name, known))
        for name in names
        if name not in known
    ]


def term_problems(where: str, terms: Mapping[str, Mapping[str, Any]], kind: str) -> list[Problem]:
    """Check the names, weights and settings of terms of an objective.

    Args:
        where: Names the terms in the messages.
        terms: For each name its `weight` and settings.
        kind: `similarity` or `regularizer`.

    Returns:
        A problem for each name, weight or setting that can't be used.

    Example:
        >>> [problem.found for problem in term_problems("register", {"lncc": {"window": 7}}, "similarity")]
        ['there is no weight']
    """
    table = read_table(kind)
    problems = _unknown(where, terms, table, kind)
    for name, settings in terms.items():
        if name not in table:
            continue
        weight: Any = settings.get("weight")
        if not is_number(weight) or weight < 0:
            found = f"the weight is {weight!r}" if "weight" in settings else "there is no weight"
            problems.append(Problem(f"{where}.{name}", found, "Give `weight`, a number of at least 0."))
        rest = {key: value for key, value in settings.items() if key != "weight"}
        problems += _setting_problems(f"{where}.{name}", rest, table[name], ["weight"])
    return problems


def _setting_problems(
    where: str, settings: Mapping[str, Any], entry: Choice[Any], others: Sequence[str] = ()
) -> list[Problem]:
    """Check the settings of an entry; `others` are the further keys that stand beside them."""
    known, problems = entry.settings, []
    for key, value in settings.items():
        if key not in known:
            problems += _unknown(where, [key], [*others, *known], "parameter")
        elif fault := entry.setting_problem(key, value):
            problems.append(Problem(f"{where}.{key}", *fault))
    return problems
