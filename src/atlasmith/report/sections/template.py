"""Sections `Template` and `Covariates`: the template at the mean, and how it changes with covariates."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasmith.io.images import Image, read_image, read_labels
from atlasmith.report import markup, pictures
from atlasmith.report.pictures import PLANES, plane_axes
from atlasmith.report.results import Results, image_at, json_at

MAX_TEMPLATES = 12  # template images along the covariates


def template(results: Results) -> str:
    """Show the template, the affine mean, and the template's labels, in the middle planes."""
    layout = results.layout
    image, mean = image_at(layout.template_image), image_at(layout.affine_reference)
    if image is None:
        return ""
    known = [(each, name) for each, name in ((image, "template"), (mean, "affine mean")) if each]
    limits = pictures.window(*(each.data for each, _ in known))
    rows = [
        [
            (markup.middle_picture(each, axis, limits), f"{name}, {PLANES[axis]}")
            for axis in plane_axes(each.grid)
        ]
        for each, name in known
    ]
    if layout.template_labels.exists():
        labels = read_labels(layout.template_labels)
        colors = pictures.palette(list(results.label_names))
        rows.append(
            [
                (pictures.overlay(gray, markup.middle_plane(labels, axis), colors), f"labels, {PLANES[axis]}")
                for axis, (gray, _) in zip(plane_axes(labels.grid), rows[0], strict=True)
            ]
        )
    if image.grid.ndim == 2:  # side by side
        rows = [[shown for row in rows for shown in row]]
    shown = "".join(markup.picture_row(row, "planes") for row in rows)
    return markup.note(f"{markup.CONVENTION} All at the same brightness.") + shown


def covariates(results: Results) -> str:
    """Show the template along the covariates, and its differences from the template at their mean."""
    layout = results.layout
    described = json_at(layout.template_description).get("cohort", {})
    entries = [(int(k), entry) for k, entry in described.items() if layout.template_at(int(k)).exists()]
    mean = image_at(layout.template_image)
    if not entries or mean is None:
        return ""
    kept = sorted(
        {round(i) for i in np.linspace(0, len(entries) - 1, min(MAX_TEMPLATES, len(entries))).tolist()}
    )
    images = [read_image(layout.template_at(entries[i][0])) for i in kept]
    names = [_covariates_text(entries[i][1]["covariates"]) for i in kept]
    limits = pictures.window(*(image.data for image in images))
    changes = [Image(image.data - mean.data, mean.grid) for image in images]
    limit = max(float(np.percentile(np.abs([change.data for change in changes]), 99.5)), 1e-6)
    text = (
        "Each template at the same brightness, above its difference from the template at the "
        f"cohort's mean: red is brighter, blue darker, full color at {markup.number_text(limit)}."
    )
    if len(kept) < len(entries):
        text += f" {len(kept)} of {len(entries)} are shown."
    rows = ""
    for axis in plane_axes(mean.grid)[:2]:
        rows += markup.picture_row(
            (markup.middle_picture(image, axis, limits), name)
            for image, name in zip(images, names, strict=True)
        )
        rows += markup.picture_row(
            (pictures.diverging(markup.middle_plane(change, axis), limit), f"{name}: difference")
            for change, name in zip(changes, names, strict=True)
        )
    return markup.note(text) + rows


def _covariates_text(values: dict[str, Any]) -> str:
    """Covariates and their values in markup.words."""
    return ", ".join(f"{n} {v:g}" if isinstance(v, float) else f"{n} {v}" for n, v in values.items())
