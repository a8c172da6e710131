"""The page. Each section is a function from the run's files to HTML, left out when it has nothing to show.

Next to scoring, this is the only place that reads a target's labels: to show them beside what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from atlasmith.config import Config
from atlasmith.core.grid import Array, Grid
from atlasmith.io.files import read_json, write_text
from atlasmith.io.images import Image, read_image, read_labels
from atlasmith.io.layout import Layout
from atlasmith.io.tables import ALL, MEAN, MISSING, Subject, read_cohort, read_tsv
from atlasmith.report import pictures
from atlasmith.report.pictures import PLANES, plane, plane_axes
from atlasmith.workflow.provenance import software_versions

FOLDING = "nonpositive_jacobian_percent"
VIEWS = 12  # template images along the covariates, at most
LEGEND = 12  # labels named beside the pictures, at most
ENDS = 15  # labels shown at either end of a long table
NOTABLE = 5  # subjects named for each reason to look at them
CONVENTION = (
    "Left is on the left (neurological); front or top is up; in sagittal planes, front is on the right."
)

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2024;--soft:#5b6570;--line:#d9dee3;--card:#f4f6f8;
--link:#1f66b0}
@media(prefers-color-scheme:dark){:root{--paper:#14171a;--ink:#e6e9ec;--soft:#9aa5b0;--line:#30363c;--card:#1e2226;
--link:#7ab8ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1120px;padding:0 16px 48px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{margin:24px 0 4px}h2{margin:40px 0 8px;scroll-margin-top:64px}h3{margin:20px 0 6px;font-size:1rem}
p{margin:4px 0 12px}a{color:var(--link)}.soft,figcaption,summary{color:var(--soft)}
nav{position:sticky;top:0;z-index:1;background:var(--paper);border-bottom:1px solid var(--line);padding:8px 0;
overflow-x:auto;white-space:nowrap}nav a{margin-right:16px;text-decoration:none}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:10px}
.card{background:var(--card);border-radius:8px;padding:10px 14px}.card b{display:block;font-size:1.5rem}
figure{margin:0;max-width:360px}.planes,.tiles{gap:8px;align-items:start;margin-bottom:8px}
.planes{display:flex;flex-wrap:wrap}.planes figure{min-width:100px;flex-basis:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(30%,150px),1fr))}
figure img{display:block;width:100%;height:auto;background:#000;
border-radius:4px}.crisp img{image-rendering:pixelated}
figcaption{font-size:.8rem;line-height:1.3;padding:3px 0}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:12px}
.charts svg{width:100%;height:auto}.charts text{font-family:inherit!important}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:3px 10px 3px 0;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
.text{text-align:left}
.key{display:inline-block;width:.9em;height:.9em;border-radius:2px;margin:0 4px 0 12px;vertical-align:-1px}
details{margin:8px 0}
pre{overflow-x:auto;background:var(--card);padding:12px;border-radius:8px;font-size:.8rem}
"""


def write_report(config: Config) -> None:
    """Write `layout.report` from the files of an output folder: the same files give the same bytes.

    Only the cohort's table and grid must be there; a section whose files aren't is left out. Raises
    `AtlasmithError` where the cohort wasn't checked yet.
    """
    run = _Run(config, read_cohort(config.layout.cohort))
    shown = [(anchor, title, body) for anchor, title, make in SECTIONS if (body := make(run))]
    name = escape(config.template.name)
    nav = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in shown)
    parts = "".join(
        f'<section><h2 id="{anchor}">{title}</h2>{body}</section>\n' for anchor, title, body in shown
    )
    write_text(
        config.layout.report,
        f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{name} · atlasmith</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>{STYLE}</style></head><body>
<h1>{name}</h1><nav>{nav}</nav>
{parts}</body></html>
""",
    )


@dataclass(frozen=True)
class _Run:
    """What several sections look at."""

    config: Config
    subjects: list[Subject]

    @property
    def layout(self) -> Layout:
        return self.config.layout

    @cached_property
    def grid(self) -> Grid:
        return Grid.from_dict(read_json(self.layout.grid))

    @cached_property
    def summary(self) -> list[dict[str, str]]:
        return _table_at(self.layout.summary)

    @cached_property
    def scores(self) -> list[dict[str, str]]:
        return _table_at(self.layout.scores)

    @cached_property
    def label_names(self) -> dict[int, str]:
        """Without the background."""
        return {int(r["index"]): r["name"] for r in _table_at(self.layout.labels) if int(r["index"]) != 0}

    def values(self, stage: str, method: str, metric: str) -> dict[str, float]:
        """A score of each subject that has it; the mean over labels, where labels are scored."""
        wanted = (stage, method, metric)
        return {
            row["subject"]: float(row["value"])
            for row in self.scores
            if (row["stage"], row["method"], row["metric"]) == wanted and _is_overall(row)
        }

    def dice(self) -> dict[str, float]:
        """Of the last fusion method."""
        return self.values("fuse", self.config.fusion.methods[-1], "dice")

    def similarity(self) -> dict[str, float]:
        return self.values("register", "warped", "ncc")


def _table_at(path: Path) -> list[dict[str, str]]:
    return read_tsv(path) if path.exists() else []


def _json_at(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _image_at(path: Path) -> Image | None:
    return read_image(path) if path.exists() else None


def _is_overall(row: Mapping[str, str]) -> bool:
    """Whether a score is of all labels together, or of no label, and known."""
    return row["label"] in (MISSING, MEAN, ALL) and row.get("value", row.get("mean")) != MISSING


def _number(text: str | float) -> str:
    if text == MISSING:
        return "–"
    value = float(text)
    return f"{value:.0f}" if value.is_integer() or abs(value) >= 100 else f"{value:#.3g}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _interval(row: Mapping[str, str]) -> str:
    return "" if row["ci95_low"] == MISSING else f"{_number(row['ci95_low'])} to {_number(row['ci95_high'])}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """Cells are text, escaped here; the first `words` columns hold words, the others numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        classes = [" class=text" if column < words else "" for column in range(len(cells))]
        return "".join(f"<{tag}{c}>{escape(cell)}</{tag}>" for cell, c in zip(cells, classes, strict=True))

    top, body = line(head, "th"), "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _details(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def _row(shown: Iterable[tuple[Array, str]], kind: str = "tiles") -> str:
    """Pictures (RGB bytes) with captions, side by side: `tiles` of one width, or `planes` at one scale."""
    figures = "".join(
        f'<figure style="flex-grow:{pixels.shape[1]}"><img src="{pictures.png(pixels)}" '
        f'width="{pixels.shape[1]}" height="{pixels.shape[0]}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for pixels, caption in shown
    )
    return f'<div class="{kind}">{figures}</div>'


def _heading(subject: str, why: str) -> str:
    return f"<h3>sub-{escape(subject)}{' · ' + escape(why) if why else ''}</h3>"


def _key(colors: Iterable[tuple[tuple[int, int, int], str]]) -> str:
    return "<p class=soft>" + "".join(
        f'<span class="key" style="background:rgb{color}"></span>{escape(name)}' for color, name in colors
    ) + "</p>"  # fmt: skip


def _from_worst_to_best(
    values: Mapping[str, float], ids: Sequence[str], count: int, what: str
) -> dict[str, str]:
    """At most `count` of `ids`, evenly from the lowest value to the highest, and why; else the first."""
    ranked = sorted((value, name) for name, value in values.items() if name in ids)
    if not ranked:
        return dict.fromkeys(ids[:count], "")
    places = sorted({round(place) for place in np.linspace(0, len(ranked) - 1, count).tolist()})
    last = len(ranked) - 1
    words = {last // 2: "median", (last + 1) // 2: "median", 0: "lowest", last: "highest"}
    chosen = {}
    for place in places:
        value, name = ranked[place]
        chosen[name] = f"{words.get(place, f'{place + 1} of {last + 1} by')} {what}, {_number(value)}"
    return chosen


# The sections, in the order of the page


def _headline(run: _Run) -> str:
    roles = [f"{sum(s.role == role for s in run.subjects)} {role}" for role in ("atlas", "target", "train")]
    facts = [
        f"{len(run.subjects)} images ({', '.join(roles)})",
        f"{' × '.join(map(str, run.grid.tensor_shape))} voxels of "
        f"{' × '.join(f'{mm:.3g}' for mm in run.grid.tensor_spacing)} mm",
        f"{len(run.label_names)} labels",
    ]
    builders = sum(subject.in_template for subject in run.subjects)
    if builders < len(run.subjects):
        facts.append(f"a template made by {builders}")
    methods = run.config.fusion.methods
    wanted = [
        *((("fuse", method, "dice"), f"Dice, {_words(method)}") for method in reversed(methods)),
        (("propagate", "single_atlas", "dice"), "Dice, single atlas"),
        (("register", "warped", FOLDING), "folded voxels"),
        (
            ("template", "template", "gradient_energy_ratio"),
            "sharpness (gradient energy), template over affine mean",
        ),
    ]
    overall = {(r["stage"], r["method"], r["metric"]): r for r in run.summary if _is_overall(r)}
    cards = []
    for key, what in wanted:
        if row := overall.get(key):
            unit = " %" if row["unit"] == "%" else ""
            interval = f", 95 % interval {_interval(row)}" if _interval(row) else ""
            count = f", n = {row['n']}" if row["n"] != "1" else ""
            cards.append(
                f'<div class="card"><b>{escape(_number(row["mean"]) + unit)}</b>{escape(what)}'
                f'<span class="soft">{escape(interval + count)}</span></div>'
            )
    figures = f'<div class="cards">{"".join(cards)}</div>' if cards else "<p>There are no scores yet.</p>"
    return f"<p>{escape(' · '.join(facts))}</p>{figures}"


def _template(run: _Run) -> str:
    template, mean = _image_at(run.layout.template_image), _image_at(run.layout.affine_reference)
    if template is None:
        return ""
    known = [(image, name) for image, name in ((template, "template"), (mean, "affine mean")) if image]
    limits = pictures.window(*(image.data for image, _ in known))
    rows = [
        [(_middle(image, axis, limits), f"{name}, {PLANES[axis]}") for axis in plane_axes(image.grid)]
        for image, name in known
    ]
    if run.layout.template_labels.exists():
        labels = read_labels(run.layout.template_labels)
        colors = pictures.palette(list(run.label_names))
        rows.append(
            [
                (pictures.overlay(gray, _middle_plane(labels, axis), colors), f"labels, {PLANES[axis]}")
                for axis, (gray, _) in zip(plane_axes(labels.grid), rows[0], strict=True)
            ]
        )
    if template.grid.ndim == 2:  # one beside the other
        rows = [[shown for row in rows for shown in row]]
    return f"<p class=soft>{CONVENTION} All at the same brightness.</p>" + "".join(
        _row(r, "planes") for r in rows
    )


def _middle(image: Image, axis: int, limits: tuple[float, float]) -> Array:
    return pictures.gray(_middle_plane(image, axis), limits)


def _middle_plane(image: Image, axis: int) -> Array:
    return plane(image.data, image.grid, axis, image.grid.shape[axis] // 2)


def _covariates(run: _Run) -> str:
    path = run.layout.template_description
    described = read_json(path).get("cohort", {}) if path.exists() else {}
    views = [(int(k), entry) for k, entry in described.items() if run.layout.template_at(int(k)).exists()]
    mean = _image_at(run.layout.template_image)
    if not views or mean is None:
        return ""
    keep = sorted({round(i) for i in np.linspace(0, len(views) - 1, min(VIEWS, len(views))).tolist()})
    images = [read_image(run.layout.template_at(views[i][0])) for i in keep]
    names = [
        ", ".join(
            f"{n} {v:g}" if isinstance(v, float) else f"{n} {v}" for n, v in views[i][1]["covariates"].items()
        )
        for i in keep
    ]
    limits = pictures.window(*(image.data for image in images))
    changes = [image.data - mean.data for image in images]
    limit = max(float(np.percentile(np.abs(changes), 99.5)), 1e-6)
    text = (
        "<p class=soft>Each template at the same brightness, over its difference from the template at the "
        f"cohort's mean: red is brighter, blue darker, full color at {_number(limit)}."
    )
    if len(keep) < len(views):
        text += f" {len(keep)} of {len(views)} are shown."
    rows = ""
    for axis in plane_axes(mean.grid)[:2]:
        index = mean.grid.shape[axis] // 2
        rows += _row((_middle(image, axis, limits), name) for image, name in zip(images, names, strict=True))
        rows += _row(
            (pictures.diverging(plane(change, mean.grid, axis, index), limit), f"{name}: difference")
            for change, name in zip(changes, names, strict=True)
        )
    return f"{text}</p>{rows}"


def _registration(run: _Run) -> str:
    layout = run.layout
    ids = [s.id for s in run.subjects if layout.affine_image(s.id).exists()]
    template = _image_at(layout.template_image)
    if not ids or template is None:
        return ""
    count = run.config.report.subjects
    chosen = _from_worst_to_best(run.similarity(), ids, count, "correlation with the template")
    jacobians = {name: _image_at(layout.log_jacobian(name)) for name in chosen}
    known = [np.abs(image.data) for image in jacobians.values() if image]
    limit = max(float(np.percentile(np.concatenate(known), 99.5)) if known else 0.0, 0.05)
    by_id = {subject.id: subject for subject in run.subjects}
    body = (
        f"<p class=soft>{CONVENTION} The log-Jacobian is of the warp after the affine: red where the subject "
        "is larger than the template, blue where it is smaller, full color at a factor of "
        f"{np.exp(limit):.2f}.</p>"
    )
    for name, why in chosen.items():
        images = [
            (_image_at(by_id[name].image), "as it came, middle slice"),
            (_image_at(layout.affine_image(name)), "after affine"),
            (_image_at(layout.warped(name)), "after warping"),
            (template, "template"),
        ]
        shown = [
            (_middle(image, plane_axes(image.grid)[0], pictures.window(image.data)), what)
            for image, what in images
            if image
        ]
        if jacobian := jacobians[name]:
            axis = plane_axes(jacobian.grid)[0]
            middle = plane(jacobian.data, jacobian.grid, axis, jacobian.grid.shape[axis] // 2)
            shown.append((pictures.diverging(middle, limit), "log-Jacobian"))
        body += _heading(name, why) + _row(shown)
    return body


def _segmentations(run: _Run) -> str:
    layout, methods = run.layout, run.config.fusion.methods
    found = {
        subject.id: [method for method in methods if layout.segmentation(subject.id, method).exists()]
        for subject in run.subjects
        if subject.role == "target"
    }
    ids = [name for name, done in found.items() if done]
    chosen = _from_worst_to_best(run.dice(), ids, 3, f"Dice by {_words(methods[-1])}")
    by_id = {subject.id: subject for subject in run.subjects}
    colors = pictures.palette(list(run.label_names))
    rows = "".join(
        _heading(name, why) + _row(_segmented(run, by_id[name], found[name], colors), "tiles crisp")
        for name, why in chosen.items()
    )
    if not rows:
        return ""
    text = f"<p class=soft>{CONVENTION} The plane with the largest labelled area.</p>"
    if 0 < len(colors) <= LEGEND:
        text += _key((colors[label], run.label_names[label]) for label in colors)
    if any(by_id[name].labels for name in chosen):
        text += _key(
            [
                (pictures.AGREE, "same as the truth"),
                (pictures.MISSED, "missed"),
                (pictures.EXTRA, "too much"),
                (pictures.WRONG, "another label"),
            ]
        )
    else:
        text += "<p>The targets shown have no labels of their own to compare with.</p>"
    return text + rows


def _segmented(
    run: _Run, subject: Subject, methods: Sequence[str], colors: Mapping[int, tuple[int, int, int]]
) -> list[tuple[Array, str]]:
    """Image, truth, and each method's labels with their disagreement, in one plane."""
    layout = run.layout
    image = read_image(subject.image)
    found = {method: read_labels(layout.segmentation(subject.id, method)).data for method in methods}
    truth = read_labels(subject.labels).data if subject.labels else None
    axis, index = pictures.largest_plane(found[methods[-1]] if truth is None else truth, image.grid)

    def cut(data: Array) -> Array:
        return plane(data, image.grid, axis, index)

    def known(labels: Array) -> Array:
        """A label that the cohort's table doesn't name isn't scored, nor shown."""
        return np.where(np.isin(labels, list(colors)), labels, 0)

    background = pictures.gray(cut(image.data), pictures.window(image.data))
    shown = [(background, f"image, {PLANES[axis]}")]
    if truth is not None:
        shown.append((pictures.overlay(background, known(cut(truth)), colors), "truth"))
    for method, labels in found.items():
        shown.append((pictures.overlay(background, known(cut(labels)), colors), _words(method)))
        if truth is not None:
            wrong = pictures.disagreement(background, known(cut(truth)), known(cut(labels)))
            shown.append((wrong, f"{_words(method)}: disagreement"))
    if confidence := _image_at(layout.confidence(subject.id, methods[-1])):
        what = f"{_words(methods[-1])}: confidence, dark is 0, yellow is 1"
        shown.append((pictures.sequential(cut(confidence.data)), what))
    return shown


def _training(run: _Run) -> str:
    body = ""
    tables = [
        (run.layout.template_training, "Template"),
        (run.layout.segmenter_training, "Segmenter"),
        (run.layout.fuser_training("votenet"), "VoteNet"),
        (run.layout.fuser_training("autocontext"), "Evidence"),
        (run.layout.fuser_training("autocontext_second"), "Evidence, heard again"),
    ]
    for path, what in tables:
        rows = _table_at(path)
        charts = []
        for column in [name for name in rows[0] if name != "step"] if rows else []:
            points = np.array([(float(r["step"]), float(r[column])) for r in rows if r[column] != MISSING])
            if len(points):
                charts.append(pictures.curve(points[:, 0], points[:, 1], column))
        if charts:
            body += f'<h3>{what}</h3><div class="charts">{"".join(charts)}</div>'
    return body and "<p class=soft>Faint: as measured; bold: smoothed.</p>" + body


def _distributions(run: _Run) -> str:
    """One chart a metric, one row of dots a method; a method's name tells its stage."""
    groups: dict[str, dict[str, list[float]]] = {}
    ids = {subject.id for subject in run.subjects}
    for row in run.scores:
        if row["subject"] in ids and _is_overall(row):
            by_method = groups.setdefault(_words(row["metric"]), {})  # which ends in its unit
            by_method.setdefault(_words(row["method"]), []).append(float(row["value"]))
    charts = "".join(
        pictures.strips({name: np.array(values) for name, values in by_method.items()}, metric)
        for metric, by_method in groups.items()
    )
    if not charts:
        return ""
    return (
        "<p class=soft>A dot is a subject (the mean over labels, where there are labels); the box holds the "
        f'middle half, the line is the median.</p><div class="charts">{charts}</div>'
    )


def _scores(run: _Run) -> str:
    if not run.summary:
        return ""
    head = ["stage", "method", "metric", "mean", "95 % interval", "SD", "median", "n", "unit"]
    rows = [
        [
            *(_words(row[key]) for key in ("stage", "method", "metric")),
            _number(row["mean"]),
            _interval(row),
            *(_number(row[key]) for key in ("sd", "median", "n")),
            "" if row["unit"] == "1" else row["unit"],
        ]
        for row in run.summary
        if _is_overall(row)
    ]
    return _table(head, rows, words=3) + _label_table(run)


def _label_table(run: _Run) -> str:
    """Mean Dice of each label by method; of many labels, the best and the worst come first."""
    by_label: dict[str, dict[str, str]] = {}
    methods: dict[str, None] = {}
    for row in run.summary:
        if row["metric"] == "dice" and row["label"] not in (MISSING, MEAN):
            by_label.setdefault(row["label"], {})[row["method"]] = row["mean"]
            methods[row["method"]] = None
    if not by_label:
        return ""
    last = list(methods)[-1]
    ranked = sorted(by_label, key=lambda label: (-_sortable(by_label[label].get(last, MISSING)), int(label)))

    def table(labels: Sequence[str]) -> str:
        rows = (
            [
                f"{label} {run.label_names.get(int(label), '')}",
                *(_number(by_label[label].get(method, MISSING)) for method in methods),
            ]
            for label in labels
        )
        return _table(["label", *map(_words, methods)], rows)

    title = f"<h3>Dice by label, sorted by {escape(_words(last))}</h3>"
    if len(ranked) <= 2 * ENDS:
        return title + table(ranked)
    return (
        f"{title}<p class=soft>The highest {ENDS}</p>{table(ranked[:ENDS])}"
        f"<p class=soft>The lowest {ENDS}</p>{table(ranked[-ENDS:])}"
        f"{_details(f'All {len(ranked)} labels', table(ranked))}"
    )


def _sortable(text: str) -> float:
    """A missing value is below all others."""
    return -np.inf if text == MISSING else float(text)


def _far_below(values: Mapping[str, float]) -> dict[str, float]:
    """Those more than three interquartile ranges below the first quartile: far out (Tukey 1977)."""
    if not values:
        return {}
    first, third = np.percentile(list(values.values()), [25, 75])
    return {name: value for name, value in values.items() if value < first - 3 * (third - first)}


def _to_look_at(run: _Run) -> str:
    lowest = [
        ("lowest Dice", run.dice()),
        ("lowest correlation with the template", run.similarity()),
    ]
    ranked = [(why, sorted((value, name) for name, value in values.items())) for why, values in lowest]
    folding = run.values("register", "warped", FOLDING)
    ranked.append(("most folded voxels, %", sorted((-v, name) for name, v in folding.items() if v > 0)))
    failed = "affine alignment has failed, it seems: correlation"
    rows = [
        [f"sub-{name}", failed, _number(value)]
        for name, value in _far_below(run.values("affine", "affine", "ncc")).items()
    ]
    rows += [
        [f"sub-{r['atlas']}", f"atlas: {r['finding']}", ""]
        for r in _table_at(run.layout.atlas_qc)
        if r["finding"]
    ]
    method = run.config.fusion.methods[-1]
    worth = {s.id: _json_at(run.layout.segmentation_sidecar(s.id, method)) for s in run.subjects}
    rows += [
        [
            f"sub-{name}",
            f"segmentation by {_words(method)} has failed, it seems: expected Dice",
            _number(known["ExpectedDice"] or 0),
        ]
        for name, known in worth.items()
        if known.get("LookAt")
    ]
    predicted = {name: known.get("PredictedDice") for name, known in worth.items()}
    ranked.append(
        ("lowest predicted Dice", sorted((v, name) for name, v in predicted.items() if v is not None))
    )
    rows += [
        [f"sub-{name}", why, _number(abs(value) if why.startswith("most") else value)]
        for why, items in ranked
        for value, name in items[:NOTABLE]
    ]
    return _table(["subject", "why", "value"], rows, words=2) if rows else ""


def _provenance(run: _Run) -> str:
    settings = yaml.safe_dump(run.config.resolved(), sort_keys=False, allow_unicode=True)
    return _table(["software", "version"], [[k, str(v)] for k, v in software_versions().items()], words=2) + _details(
        "The whole config", f"<pre>{escape(settings)}</pre>"
    )


SECTIONS: list[tuple[str, str, Callable[[_Run], str]]] = [
    ("summary", "Summary", _headline),
    ("template", "Template", _template),
    ("covariates", "Covariates", _covariates),
    ("registration", "Registration", _registration),
    ("segmentation", "Segmentation", _segmentations),
    ("training", "Training", _training),
    ("distributions", "Distributions", _distributions),
    ("scores", "Scores", _scores),
    ("subjects", "Subjects to look at", _to_look_at),
    ("provenance", "Provenance", _provenance),
]
