"""Sections `Summary`, `Methods` and `Provenance`: the cohort, the main scores, and what made them."""

from __future__ import annotations

from html import escape

import yaml

from atlasmith.config.choices import chosen_entries
from atlasmith.report.markup import details, interval_text, number_text, table, words
from atlasmith.report.results import FOLDING, Results, is_overall
from atlasmith.workflow.provenance import software_versions


def overview(results: Results) -> str:
    """Show the size of the cohort and a card for each main score."""
    wanted = [
        *((("fuse", m, "dice"), f"Dice, {words(m)}") for m in reversed(results.config.fusion.methods)),
        (("propagate", "single_atlas", "dice"), "Dice, single atlas"),
        (("register", "warped", FOLDING), "folded voxels"),
        (
            ("template", "template", "gradient_energy_ratio"),
            "sharpness (gradient energy), template over affine mean",
        ),
    ]
    overall = {(r["stage"], r["method"], r["metric"]): r for r in results.summary if is_overall(r)}
    cards = "".join(_card(overall[key], title) for key, title in wanted if key in overall)
    figures = f'<div class="cards">{cards}</div>' if cards else "<p>There are no scores yet.</p>"
    return f"<p>{escape(' · '.join(_facts(results)))}</p>{figures}"


def _facts(results: Results) -> list[str]:
    """The cohort in figures."""
    subjects, grid = results.subjects, results.grid
    roles = [f"{sum(s.role == role for s in subjects)} {role}" for role in ("atlas", "target", "train")]
    facts = [
        f"{len(subjects)} images ({', '.join(roles)})",
        f"{' × '.join(map(str, grid.tensor_shape))} voxels of "
        f"{' × '.join(f'{mm:.3g}' for mm in grid.tensor_spacing)} mm",
        f"{len(results.label_names)} labels",
    ]
    builders = sum(subject.in_template for subject in subjects)
    if builders < len(subjects):
        facts.append(f"template of {builders} subjects")
    return facts


def _card(row: dict[str, str], title: str) -> str:
    """A score in large type, with its interval and number of subjects."""
    unit = " %" if row["unit"] == "%" else ""
    interval = f", 95 % interval {interval_text(row)}" if interval_text(row) else ""
    count = f", n = {row['n']}" if row["n"] != "1" else ""
    return (
        f'<div class="card"><b>{escape(number_text(row["mean"]) + unit)}</b>{escape(title)}'
        f'<span class="soft">{escape(interval + count)}</span></div>'
    )


def methods(results: Results) -> str:
    """Show what the config chose, in the words of each choice."""
    rows = [(kind, name, entry.text) for kind, name, entry in chosen_entries(results.config)]
    return table(["choice", "name", "what it is"], dict.fromkeys(rows), text_columns=3)


def provenance(results: Results) -> str:
    """Show what made these results."""
    settings = yaml.safe_dump(results.config.resolved(), sort_keys=False, allow_unicode=True)
    versions = [(name, str(version)) for name, version in software_versions().items()]
    return table(["software", "version"], versions, text_columns=2) + details(
        "The complete config", f"<pre>{escape(settings)}</pre>"
    )
