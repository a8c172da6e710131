"""Write the generated parts of the pages, from the package itself.

    python docs/generate.py

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; NAME is a key of `PARTS`. The
rest of a page is written by hand. A test asserts that the pages are current.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from atlasmith.affine.engines import ENGINES
from atlasmith.cli.main import build_parser
from atlasmith.config import Config
from atlasmith.config.choices import NAMED, WEIGHTED, WITH_SETTINGS
from atlasmith.config.renamed import RENAMED, RENAMED_METHODS
from atlasmith.core.choices import Choice
from atlasmith.evaluation.metrics import metrics_of
from atlasmith.evaluation.metrics.table import Kind, Metric
from atlasmith.fusion.table import FUSERS
from atlasmith.io.layout import Layout
from atlasmith.losses import REGULARIZERS, SIMILARITY
from atlasmith.networks import DECODERS, NETWORKS, Network
from atlasmith.optimization import OPTIMIZERS
from atlasmith.transforms import PARAMETRIZATIONS

DOCS = Path(__file__).parent
# Where a docstring refers to the arguments of another function.
ARGUMENTS = re.compile(r"(;|\s+(?=A))\s*[Aa]rguments (and result )?(as|in) [^.;]*([.;])( \w)?")
GENERATED = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
PAGES = {
    "similarity": "similarities.md",
    "regularizer": "regularizers.md",
    "network": "networks.md",
    "decoder": "networks.md#decoders",
    "parametrization": "registration.md#parametrizations",
    "optimizer": "registration.md#optimizers",
    "affine engine": "networks.md#affine-engines",
    "fusion method": "fusion.md",
    "metric": "metrics.md",
}  # of each kind of choice
FOLDERS = {
    "The run": "",
    "The template": "tpl-T",
    "Each subject": "sub-X",
    "Networks and models": "model",
    "Scores": "scores",
    "The report": "report",
    "Logs": "logs",
    "The answer of `atlasmith template query`": "query",
    "The answer of `atlasmith template modes`": "modes",
    "The answer of `atlasmith predict`": "predictions",
}  # titles of the groups of outputs, and the first part of their paths
PLACEHOLDERS = {
    "subject": "X",
    "atlas": "X",
    "method": "METHOD",
    "channel": "CHANNEL",
    "network": "NETWORK",
    "covariate": "COVARIATE",
    "index": "N",
    "mode": "N",
    "deviation": "plus2",
    "stage": "STAGE",
    "name": "JOB",
}  # for the arguments of `Layout`'s methods


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def code(value: Any) -> str:
    """Return a value as YAML, in code."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
    return f"`{text}`"


# The config


def config_sections(schema: Mapping[str, Any], value: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield a table of the keys of each section of the config's JSON schema."""
    rows, sections = [], []
    for name, field in value["properties"].items():
        key = prefix + name
        if "$ref" in field:
            section = schema["$defs"][field["$ref"].rpartition("/")[2]]
            sections.append((key, section))
            continue
        rows.append(
            [f"`{key}`", config_values(field), config_default(field, name, value), description(key, field)]
        )
    if rows:
        yield table(["key", "value", "default", "what it is"], rows)
    for key, section in sections:
        level = "#" * (2 + key.count("."))
        yield f"{level} `{key}`\n\n{section['description'].splitlines()[0]}"
        yield from config_sections(schema, section, key + ".")


def config_values(field: Mapping[str, Any]) -> str:
    """Say in words which values a key may have."""
    if "anyOf" in field:
        return " or ".join(config_values(part) for part in field["anyOf"])
    if "$ref" in field:
        return "table"
    if "enum" in field:
        return ", ".join(code(value) for value in field["enum"])
    kind = field.get("type", "any")
    if kind in ("integer", "number"):
        limits = [
            f"{word} {field[key]:g}"
            for key, word in (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"))
            if key in field
        ]
        return " ".join([kind, *limits])
    if kind == "array":
        items = (
            re.sub(r"^(\w+)", r"\1s", config_values(field["items"])) if "type" in field["items"] else "values"
        )
        return f"list of {items}"
    words = {"string": "text", "boolean": "`true` or `false`", "null": "`null`", "object": "table"}
    return words.get(kind, kind)


def config_default(field: Mapping[str, Any], name: str, section: Mapping[str, Any]) -> str:
    """Return a key's default."""
    if name in section.get("required", []):
        return "required"
    if "default" in field:
        return code(field["default"])
    return code([] if field.get("type") == "array" else {})


def description(key: str, field: Mapping[str, Any]) -> str:
    """Return a key's description, with a link to the table that it chooses from."""
    sections = {f"{name.replace('register_', 'register')}.name": kind for name, kind in WITH_SETTINGS.items()}
    kind = (NAMED | WEIGHTED | sections).get(key)
    link = f"; see [{PAGES[kind].partition('.')[0]}]({PAGES[kind]})" if kind else ""
    return field["description"] + link


def configuration() -> str:
    """List every key of the config by section."""
    schema = Config.model_json_schema(by_alias=True)
    return "\n\n".join(config_sections(schema, schema))


def renamed() -> str:
    """List the keys and fusion methods that had another name in an earlier version."""
    keys = [f"- `{old}` is now `{new}`" for old, new in RENAMED.items()]
    methods = [f"- the fusion method `{old}` is now `{new}`" for old, new in RENAMED_METHODS.items()]
    return "\n".join(keys + methods)


# The command line


def command_line() -> str:
    """Describe every verb."""
    parser = build_parser()
    return "\n\n".join(f"## `{verb.prog}`\n\n{verb_text(verb)}" for verb in subparsers(parser))


def subparsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Return the parsers of a parser's verbs."""
    actions = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return [verb for action in actions for verb in action.choices.values()]


def verb_text(parser: argparse.ArgumentParser) -> str:
    """Describe a verb and its arguments."""
    parts = [sentence(parser.description or "")]
    for group in parser._action_groups:
        actions = [
            action for action in group._group_actions if action.option_strings and action.dest != "help"
        ]
        if actions:
            if group.description:
                parts.append(sentence(f"{group.title}: {group.description}"))
            parts.append(table(["option", "what it is"], [option(action) for action in actions]))
    parts += [f"### `{verb.prog}`\n\n{verb_text(verb)}" for verb in subparsers(parser)]
    return "\n\n".join(parts)


def option(action: argparse.Action) -> list[str]:
    """Return the row of an option."""
    metavar = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    more = " ..." if action.nargs == "+" else ""
    names = ", ".join(f"`{name}{metavar}{more}`" for name in action.option_strings)
    default = f" (default: {action.default})" if action.default not in (None, [], argparse.SUPPRESS) else ""
    return [names, (action.help or "") + default + ("; required" if action.required else "")]


def sentence(text: str) -> str:
    """Return a text with a capital letter and a full stop."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


# The outputs


def outputs() -> str:
    """List every file that `Layout` names, by folder."""
    layout = Layout(Path(), "T", ("T1w",))
    rows: dict[str, list[list[str]]] = {folder: [] for folder in FOLDERS.values()}
    paths: dict[str, Path] = {}
    members = [pair for part in reversed(Layout.__mro__) for pair in vars(part).items()]
    for name, member in members:
        if isinstance(member, property):
            path = getattr(layout, name)
        elif inspect.isfunction(member) and not name.startswith("_"):
            parameters = list(inspect.signature(member).parameters.values())[1:]
            if any(parameter.name == "entities" for parameter in parameters):  # makes names of any kind
                continue
            given = [p.name for p in parameters if p.default is not None]  # None: the reference channel
            path = member(layout, *(PLACEHOLDERS[parameter] for parameter in given))
        else:
            continue
        if not isinstance(path, Path):
            continue
        paths[name] = path
        folder = path.parts[0] if len(path.parts) > 1 else ""
        folder = next((key for key in ("query", "modes", "predictions") if name.startswith(key)), folder)
        rows[folder].append([f"`{path}`", " ".join((member.__doc__ or "").split("\n\n")[0].split())])
    names = {**PLACEHOLDERS, **{name: path.name for name, path in paths.items()}}

    def without_names(text: str) -> str:  # of Python
        return re.sub(r"`(\w+)`", lambda match: f"`{names.get(match[1], match[1])}`", text)

    return "\n\n".join(
        f"## {title}\n\n"
        + table(["file", "what it is"], [[file, without_names(text)] for file, text in rows[folder]])
        for title, folder in FOLDERS.items()
    )


# The tables of choices


def body(entry: Choice[Any]) -> tuple[str, dict[str, str]]:
    """Return the docstring of an entry's function, without its sections, and its parameters by name."""
    lines = (inspect.getdoc(entry.function) or "").splitlines()
    start = next((i for i, line in enumerate(lines) if re.fullmatch(r"[A-Z]\w+:", line)), len(lines))
    parameters: dict[str, str] = {}
    name = ""
    inside = False
    for line in lines[start:]:
        if re.fullmatch(r"[A-Z]\w+:", line):
            inside = line == "Args:"
        elif inside and (match := re.fullmatch(r"    (\w+): (.*)", line)):
            name = match[1]
            parameters[name] = match[2]
        elif inside and name and line.strip():
            parameters[name] += f" {line.strip()}"
    return plain(ARGUMENTS.sub(_without_arguments, "\n".join(lines[:start])).strip()), parameters


def _without_arguments(match: re.Match[str]) -> str:
    if match[1] == ";":
        return match[4] + (match[5] or "")
    return (match[5] or "").upper()


def plain(text: str) -> str:
    """Escape what Markdown would take for markup, outside of code, and link DOIs and arXiv numbers."""
    parts = re.split(r"(`[^`]*`|(?:doi|arXiv):\S*[^\s.,;:])", text)
    return "".join(
        part if part.startswith("`") else link(part) if part.startswith(("doi:", "arXiv:")) else escape(part)
        for part in parts
    )


def link(reference: str) -> str:
    """Return a link to a DOI or an arXiv number, and what follows it in the text."""
    rest = ""
    while reference[-1] in ".,;:" or (reference[-1] == ")" and reference.count(")") > reference.count("(")):
        reference, rest = reference[:-1], reference[-1] + rest
    kind, name = reference.split(":", 1)
    site = {"doi": "https://doi.org/", "arXiv": "https://arxiv.org/abs/"}[kind]
    address = name.replace("<", "%3C").replace(">", "%3E")
    return f"[{escape(reference)}](<{site}{address}>){rest}"


def escape(text: str) -> str:
    """Escape what Markdown would take for markup."""
    return re.sub(r"([*_<\[$])", r"\\\1", text)


def settings(entry: Choice[Any]) -> str:
    """List an entry's settings with their defaults."""
    return ", ".join(f"`{name}` {value}" for name, value in entry.settings.items())


def choices(
    entries: Mapping[str, Choice[Any]], formulas: Mapping[str, str], **columns: Callable[[Any], str]
) -> str:
    """Return a table of entries, with these columns, and the definition of each below."""
    rows = [
        [f"`{name}`", plain(entry.text), *(column(entry) for column in columns.values())]
        for name, entry in entries.items()
    ]
    parts = [table(["name", "what it is and when to use it", *columns], rows)]
    for name, entry in entries.items():
        text, parameters = body(entry)
        known = entry.settings
        listed = [
            f"- `{key}` (default {code(known[key])}): {plain(parameters[key])}"
            for key in known
            if key in parameters
        ]
        formula = f"$$\n{formulas[name].strip()}\n$$" if name in formulas else ""
        section = [f"### `{name}`", formula, text, "\n".join(listed)]
        if text or formula:
            parts.append("\n\n".join(part for part in section if part))
    return "\n\n".join(parts)


def formulas_of(kind: str) -> dict[str, str]:
    """Read the typeset formulas of one kind of choice, by name."""
    known: dict[str, dict[str, str]] = yaml.safe_load((DOCS / "formulas.yaml").read_text(encoding="utf-8"))
    return known.get(kind, {})


def metric_table(*kinds: Kind) -> str:
    """List the metrics of some kinds."""

    def unit(metric: Metric) -> str:
        return "" if metric.unit == "1" else metric.unit

    return choices(
        metrics_of(*kinds), formulas_of("metric"), unit=unit, better=lambda metric: metric.better
    ).replace("what it is and when to use it", "definition", 1)


def fusers() -> str:
    """List the fusion methods: what each needs, and its section of the config."""
    rows = [
        [
            f"`{name}`",
            plain(fuser.text),
            "label maps, images" if fuser.needs_images else "label maps",
            "yes" if fuser.training else "",
            f"`fusion.{fuser.section}`" if fuser.section else "",
        ]
        for name, fuser in FUSERS.items()
    ]
    return table(["name", "what it is", "computed from", "trained on the atlases", "settings"], rows)


def widths(network: Network) -> str:
    """List the default widths of a network's levels."""
    return ", ".join(map(str, inspect.signature(network.function).parameters["channels"].default))


def weights(network: Network) -> str:
    """Count the parameters of a network for 3-D images of one channel."""
    return f"{sum(parameter.numel() for parameter in network(3, 1, 3).parameters()):,}"


PARTS: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "renamed": renamed,
    "cli": command_line,
    "outputs": outputs,
    "similarities": lambda: choices(SIMILARITY, formulas_of("similarity"), settings=settings),
    "regularizers": lambda: choices(
        REGULARIZERS,
        formulas_of("regularizer"),
        needs=lambda entry: ", ".join(need.replace("_", " ") for need in entry.needs),
        settings=settings,
    ),
    "networks": lambda: choices(NETWORKS, {}, **{"default widths": widths, "parameters, 3-D": weights}),
    "decoders": lambda: choices(DECODERS, {}),
    "parametrizations": lambda: choices(
        PARAMETRIZATIONS,
        formulas_of("parametrization"),
        diffeomorphic=lambda entry: "yes" if entry.diffeomorphic else "no",
        settings=settings,
    ),
    "optimizers": lambda: choices(OPTIMIZERS, formulas_of("optimizer")),
    "engines": lambda: choices(ENGINES, {}),
    "fusers": fusers,
    "metrics-segmentation": lambda: metric_table("overlap", "multilabel", "surface"),
    "metrics-image": lambda: metric_table("image", "intensity"),
    "metrics-transform": lambda: metric_table("jacobian", "displacement", "landmark", "transform"),
    "metrics-template": lambda: metric_table("sharpness", "entropy", "cohort"),
    "metrics-probability": lambda: metric_table("calibration", "uncertainty"),
}


def current(text: str) -> str:
    """Return a page with its generated parts as they should be."""
    return GENERATED.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n\n{match[3]}", text)


def main() -> None:
    """Write all pages that have generated parts."""
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if (new := current(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
