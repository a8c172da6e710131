"""Write the report: its main page, and a folder with pages of the template and of single subjects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from atlasmith.config import Config
from atlasmith.core.progress import track
from atlasmith.io.files import atomic_folder, write_text
from atlasmith.io.tables import SCAN_COLUMNS, read_cohort, scan_columns, write_tsv
from atlasmith.report.main_page import CONVENTION, file_entry, main_context
from atlasmith.report.results import Results
from atlasmith.report.review import Finding, find_review
from atlasmith.report.structures import reference_volumes, subject_structures
from atlasmith.report.subject_page import (
    SharedVolumes,
    ranks_of,
    read_segmented,
    registration_view,
    segmentation_view,
    shared_volumes,
    template_view,
    thumbnail,
)
from atlasmith.report.subjects import choose_pages, subject_columns, subject_status
from atlasmith.report.template_page import conditional_entries, covariates_text
from atlasmith.report.text import number_text, size_text, words

ASSETS = files("atlasmith.report") / "assets"
SHARED_ASSETS = ("niivue.js", "niivue.LICENSE", "viewer.js")  # beside the pages that need them
SIZE_MARK = "@SIZE-OF-PAGE@"
VOLUME_COLUMNS = [*SCAN_COLUMNS, "index", "name", "volume_mm3", "volume_lower_mm3", "volume_upper_mm3"]


def write_report(config: Config) -> None:
    """Write the HTML report of an output folder: the same files give the same bytes, except for the date.

    Only the cohort's table and grid must be there; a section whose files are missing is left out. The date is
    that of the environment variable SOURCE_DATE_EPOCH, if it is set.

    Args:
        config: The run's config.

    Raises:
        AtlasmithError: If the cohort wasn't checked yet.
    """
    layout = config.layout
    results = Results(config, read_cohort(layout.cohort))
    findings = find_review(results)
    pages = _Pages(results, findings)
    with atomic_folder(layout.report_folder) as folder:
        gallery = pages.write(folder)
        context = main_context(results, findings, gallery, folder) | {
            "template_page": "report/template.html" if pages.shared else "",
            "folder_size": size_text(sum(path.stat().st_size for path in folder.iterdir())),
            "size_mark": SIZE_MARK,
        }
        text = pages.render("report.html.j2", context)
    write_text(layout.report, text.replace(SIZE_MARK, size_text(len(text.encode()))))


def make_environment() -> Environment:
    """Make the environment of the page templates: everything is escaped, and nothing undefined is used."""
    environment = Environment(
        loader=PackageLoader("atlasmith.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number_text
    environment.globals |= {
        "style": Markup(_asset("report.css")),
        "script": Markup(_asset("report.js")),
    }
    return environment


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


class _Pages:
    """Pages of the template and of subjects, in a folder with what they share.

    Args:
        results: Of the run.
        findings: What needs review.
    """

    def __init__(self, results: Results, findings: Sequence[Finding]) -> None:
        self.results, self.findings = results, findings
        self.environment = make_environment()
        self.shared: SharedVolumes | None = shared_volumes(results)
        self.status = subject_status(results, findings)
        self.columns = subject_columns(results)
        self.references = reference_volumes(results)

    def render(self, template: str, context: Mapping[str, Any]) -> str:
        """Fill a page's template."""
        return self.environment.get_template(template).render(
            {**context, "template": self.results.config.template.name}
        )

    def write(self, folder: Path) -> list[dict[str, Any]]:
        """Write all pages into a folder; return what the main page shows of each subject's."""
        results = self.results
        write_tsv(folder / results.layout.report_volumes.name, self._volume_rows(), VOLUME_COLUMNS)
        chosen = choose_pages(results, self.findings)
        if not chosen and self.shared is None:
            return []
        for name in SHARED_ASSETS:
            write_text(folder / name, _asset(name))
        shared = {
            "names": list(results.label_names.values()),
            "colors": list(results.colors[label] for label in results.label_names),
            "volumes": self.shared.volumes if self.shared else {},
        }
        write_text(folder / "shared.js", f"var atlasmith = {json.dumps(shared)};\n")
        if self.shared:
            self._write_template(folder / results.layout.template_page.name, self.shared)
        return [self._write_subject(folder, chosen, k) for k in track(range(len(chosen)), "report")]

    def _write_template(self, path: Path, shared: SharedVolumes) -> None:
        entries = [(number, covariates_text(values)) for number, values in conditional_entries(self.results)]
        views = {"template": template_view(self.results, shared, entries)}
        write_text(path, self.render("template.html.j2", {"views": views, "convention": CONVENTION}))

    def _write_subject(self, folder: Path, chosen: Sequence[str], place: int) -> dict[str, Any]:
        """Write the page of one subject; return what the main page shows of it."""
        results, subject = self.results, chosen[place]
        layout = results.layout
        segmented = read_segmented(results, subject)
        views = {
            "segmentation": segmentation_view(results, subject, segmented),
            "registration": registration_view(results, subject, self.shared),
        }
        structures = subject_structures(results, subject, self.references)
        ranks = ranks_of(results)
        for row in structures:
            row["rank"] = ranks[row["index"]]
        facts = [(c.title, c.text(subject)) for c in self.columns if subject in c.values]
        names = [layout.subject_page(s).name for s in chosen]
        context = {
            "subject": subject,
            "status": self.status[subject],
            "facts": facts,
            "reasons": [r for f in self.findings if f.subject == subject for r in f.reasons],
            "previous": names[place - 1] if place else "",
            "next": names[place + 1] if place + 1 < len(names) else "",
            "views": views,
            "convention": CONVENTION,
            "structures": structures,
            "method": words(results.last_method),
            "has_intervals": any(row["interval"] for row in structures),
            "has_references": any(row["reference"] for row in structures),
            "has_predictions": any(row["predicted"] == row["predicted"] for row in structures),
            "files": list(self._files(subject)),
        }
        write_text(folder / layout.subject_page(subject).name, self.render("subject.html.j2", context))
        picture, alt = thumbnail(results, segmented)
        caption = [f"{c.title} {c.text(subject)}" for c in self.columns[-1:] if subject in c.values]
        return {
            "subject": subject,
            "page": f"report/{layout.subject_page(subject).name}",
            "picture": picture,
            "alt": f"sub-{subject}, {alt}",
            "status": self.status[subject],
            "caption": " · ".join([results.by_id[subject].role, *caption]),
        }

    def _files(self, subject: str) -> Iterator[dict[str, str]]:
        """Yield links to the main files of a subject."""
        layout = self.results.layout
        known = [(layout.preprocessed(subject, c), f"preprocessed image, {c}") for c in layout.channels]
        for method in self.results.config.fusion.methods:
            known.append((layout.segmentation(subject, method), f"labels by {words(method)}"))
            known.append((layout.volumes(subject, method), f"volumes by {words(method)}"))
        known += [
            (layout.forward(subject), "transform that resamples the image onto the template's grid"),
            (layout.inverse(subject), "transform that resamples template images onto the subject's grid"),
            (layout.log_jacobian(subject), "logarithm of the Jacobian determinant"),
        ]
        for path, text in known:
            if path.exists():
                yield file_entry(path, layout.report_folder, text)

    def _volume_rows(self) -> Iterator[dict[str, str]]:
        """Yield the volumes of each segmented subject by the last method."""
        for subject, table in self.results.volumes.items():
            for row in table.values():
                yield {**scan_columns(subject), **row}
