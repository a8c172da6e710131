"""What the main page of the report shows."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from atlasmith.config.choices import chosen_entries
from atlasmith.io.tables import MISSING, scan_id
from atlasmith.report import charts
from atlasmith.report.figures import main_figures
from atlasmith.report.growth import growth_charts
from atlasmith.report.methods import find_references, methods_text
from atlasmith.report.results import Results, is_overall, table_at
from atlasmith.report.review import ATLAS, FAILED, SEGMENTATION, Finding, checks_made
from atlasmith.report.structures import structure_rows
from atlasmith.report.subjects import subject_columns, subject_status
from atlasmith.report.template_page import conditional_template, template_rows
from atlasmith.report.text import count_text, size_text, words
from atlasmith.workflow.provenance import software_versions

CONVENTION = (
    "Left is on the left (neurological convention); anterior or superior is up; in sagittal planes, anterior "
    "is on the right."
)
KINDS = {FAILED: "failed", SEGMENTATION: "segmentation", ATLAS: "atlas"}


def main_context(
    results: Results, findings: Sequence[Finding], gallery: Sequence[dict[str, Any]], folder: Path
) -> dict[str, Any]:
    """Gather what the template `report.html.j2` shows, but the sizes of the pages.

    Args:
        results: Of the run.
        findings: What needs review.
        gallery: The subjects with a page: `subject`, `page`, `picture`, `alt`, `status`, `caption`.
        folder: Where the pages are, until they are complete.

    Returns:
        Variables of the template.
    """
    pages = {item["subject"]: item["page"] for item in gallery}
    status = subject_status(results, findings)
    dice_methods, structures = structure_rows(results)
    checked, unchecked = checks_made(results)
    context = {
        "facts": _facts(results),
        "findings": [
            {"subject": f.subject, "kind": f.kind, "reasons": f.reasons, "page": pages.get(f.subject)}
            for f in findings
        ],
        "kinds": KINDS,
        "checked": checked,
        "unchecked": unchecked,
        "figures": main_figures(results),
        "convention": CONVENTION,
        "template_rows": template_rows(results),
        "conditional": conditional_template(results),
        "growth": growth_charts(results),
        "method": words(results.last_method),
        "structures": structures,
        "of_atlases": results.segmentation_stages[1] == "leave_one_out",
        "has_volumes": any(row["count"] for row in structures),
        "dice_titles": [f"Dice, {words(method)}" for method in dice_methods],
        "gallery": gallery,
        "count": len(results.subjects),
        "columns": subject_columns(results),
        "table": [
            {"subject": s.id, "page": pages.get(s.id), "status": status[s.id]} for s in results.subjects
        ],
        "distributions": _distributions(results),
        "training": _training(results),
        "files": _tables(results, folder),
        **_provenance(results),
    }
    return context | {"sections": _sections(context)}


def _sections(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Anchors and titles of the sections that the page has."""
    every = [
        ("review", "What to look at", True),
        ("figures", "Figures", True),
        ("template", "Template", context["template_rows"]),
        ("covariates", "Covariates", context["conditional"]),
        ("growth", "Growth", context["growth"]),
        ("structures", "Structures", context["structures"]),
        ("subjects", "Subjects", True),
        ("charts", "Charts", context["distributions"] or context["training"]),
        ("downloads", "Tables", True),
        ("methods", "Methods", True),
        ("provenance", "Provenance", True),
    ]
    return [(anchor, title) for anchor, title, shown in every if shown]


def _facts(results: Results) -> list[str]:
    """The cohort in figures."""
    subjects, grid = results.subjects, results.grid
    roles = [f"{sum(s.role == role for s in subjects)} {role}" for role in ("atlas", "target", "train")]
    participants = len({subject.participant for subject in subjects})
    facts = [
        f"{len(subjects)} images ({', '.join(roles)})",
        *([f"of {count_text(participants, 'participant')}"] if participants < len(subjects) else []),
        *([" + ".join(results.layout.channels)] if len(results.layout.channels) > 1 else []),
        f"{' × '.join(map(str, grid.tensor_shape))} voxels of "
        f"{' × '.join(f'{mm:.3g}' for mm in grid.tensor_spacing)} mm",
        f"{len(results.label_names)} labels",
    ]
    builders = sum(subject.in_template for subject in subjects)
    if builders < len(subjects):
        facts.append(f"template of {builders} images")
    return facts


def _distributions(results: Results) -> list[Markup]:
    """Make a chart for each metric, with a row of dots for each method."""
    groups: dict[str, dict[str, list[float]]] = {}
    for row in results.scores:
        if scan_id(row) in results.by_id and is_overall(row):
            by_method = groups.setdefault(words(row["metric"]), {})  # which ends in its unit
            of_atlases = " (atlases)" if row["stage"] == "leave_one_out" else ""
            by_method.setdefault(words(row["method"]) + of_atlases, []).append(float(row["value"]))
    return [
        charts.strips({name: np.array(values) for name, values in by_method.items()}, metric)
        for metric, by_method in groups.items()
    ]


def _training(results: Results) -> list[tuple[str, list[Markup]]]:
    """Make a chart for each column of each training table."""
    layout = results.layout
    tables = [
        (layout.template_training, "Template"),
        (layout.segmenter_training, "Segmenter"),
        *((layout.fuser_training(name), title) for name, title in results.config.fusion.trainings.items()),
    ]
    shown = []
    for path, title in tables:
        rows = table_at(path)
        curves = []
        for column in [name for name in rows[0] if name != "step"] if rows else []:
            points = np.array([(float(r["step"]), float(r[column])) for r in rows if r[column] != MISSING])
            if len(points):
                curves.append(charts.curve(points[:, 0], points[:, 1], column))
        if curves:
            shown.append((title, curves))
    return shown


def _tables(results: Results, folder: Path) -> list[dict[str, str]]:
    """List the run's tables with links; that of volumes is still in `folder`."""
    layout = results.layout
    known = [
        (layout.scores, "scores of each subject"),
        (layout.summary, "means with intervals"),
        (layout.comparisons, "paired comparisons of fusion methods"),
        (layout.report_volumes, "volumes of each subject by the main method"),
        (layout.quality_table, "atlases, each segmented by all others"),
        (layout.atlas_qc, "quality control of the atlases"),
        (layout.cohort, "the checked cohort"),
        (layout.labels, "labels, their names and colors"),
        (layout.template_training, "training of the template"),
    ]
    places = {layout.report_volumes: folder / layout.report_volumes.name}
    return [
        file_entry(path, layout.output, text, places.get(path))
        for path, text in known
        if places.get(path, path).exists()
    ]


def file_entry(path: Path, page_folder: Path, text: str, place: Path | None = None) -> dict[str, str]:
    """Describe a link to a file, relative to the folder of a page.

    Args:
        path: The file.
        page_folder: Of the page.
        text: What the file is.
        place: Where it is at present; None: at `path`.

    Returns:
        `href`, `name` and `text`, which tells the size too.
    """
    href = Path(os.path.relpath(path, page_folder)).as_posix()
    size = (place or path).stat().st_size
    return {"href": href, "name": path.name, "text": f"{text}, {size_text(size)}"}


def _provenance(results: Results) -> dict[str, Any]:
    """What made these results, when, and how they are described in a manuscript."""
    config = results.config
    methods = methods_text(config, results.subjects)
    choices = [(kind, name, entry.text) for kind, name, entry in chosen_entries(config)]
    command = ["atlasmith", "run", config.cohort.bids, config.output, "--config", config.layout.config]
    return {
        "methods": methods,
        "references": find_references(" ".join(methods)),
        "choices": list(dict.fromkeys(choices)),
        "date": date_of_report(),
        "versions": software_versions(),
        "command": shlex.join(map(str, command)),
        "settings": yaml.safe_dump(config.resolved(), sort_keys=False, allow_unicode=True),
    }


def date_of_report() -> datetime:
    """Return the date of the environment variable SOURCE_DATE_EPOCH, or else the present one, in UTC."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(int(seconds), UTC)
    return now.replace(microsecond=0)
