"""Section `Segmentation`: fused labels beside the truth.

Next to stage `score`, this is the only place that reads a target's labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from atlasmith.core.grid import Array
from atlasmith.io.images import read_image, read_labels
from atlasmith.io.tables import Subject
from atlasmith.report import markup, pictures
from atlasmith.report.pictures import PLANES, plane
from atlasmith.report.results import Results, image_at

MAX_LEGEND = 12  # labels named beside the pictures
EXAMPLES = 3  # targets shown


def segmentation(results: Results) -> str:
    """Show examples from the lowest to the highest Dice."""
    layout = results.layout
    methods_of = {
        subject.id: [m for m in results.config.fusion.methods if layout.segmentation(subject.id, m).exists()]
        for subject in results.subjects
        if subject.role == "target"
    }
    ids = [name for name, methods in methods_of.items() if methods]
    if not ids:
        return ""
    chosen = markup.choose_examples(
        results.dice(), ids, EXAMPLES, f"Dice by {markup.words(results.last_method)}"
    )
    colors = pictures.palette(list(results.label_names))
    rows = "".join(
        markup.subject_heading(name, reason)
        + markup.picture_row(_planes(results, results.by_id[name], methods_of[name], colors), "tiles crisp")
        for name, reason in chosen.items()
    )
    text = markup.note(f"{markup.CONVENTION} The plane with the largest labeled area.")
    if 0 < len(colors) <= MAX_LEGEND:
        text += markup.legend((colors[label], results.label_names[label]) for label in colors)
    if any(results.by_id[name].labels for name in chosen):
        text += markup.legend(
            [
                (pictures.AGREE, "same as the truth"),
                (pictures.MISSED, "missed"),
                (pictures.EXTRA, "false positive"),
                (pictures.WRONG, "another label"),
            ]
        )
    else:
        text += "<p>The targets shown have no labels of their own to compare with.</p>"
    return text + rows


def _planes(
    results: Results, subject: Subject, methods: Sequence[str], colors: Mapping[int, tuple[int, int, int]]
) -> list[tuple[Array, str]]:
    """Image, truth, and each method's labels with their disagreement, in one plane, with captions."""
    layout = results.layout
    image = read_image(layout.preprocessed(subject.id))
    predicted = {method: read_labels(layout.segmentation(subject.id, method)).data for method in methods}
    truth = read_labels(subject.labels).data if subject.labels else None
    axis, index = pictures.largest_plane(predicted[methods[-1]] if truth is None else truth, image.grid)

    def plane_of(data: Array) -> Array:
        return plane(data, image.grid, axis, index)

    def labels_of(data: Array) -> Array:
        """Without labels that the cohort's table doesn't name, which aren't scored."""
        labels = plane_of(data)
        return np.where(np.isin(labels, list(colors)), labels, 0)

    background = pictures.gray(plane_of(image.data), pictures.window(image.data))
    shown = [(background, f"image, {PLANES[axis]}")]
    if truth is not None:
        shown.append((pictures.overlay(background, labels_of(truth), colors), "truth"))
    for method, labels in predicted.items():
        shown.append((pictures.overlay(background, labels_of(labels), colors), markup.words(method)))
        if truth is not None:
            wrong = pictures.disagreement(background, labels_of(truth), labels_of(labels))
            shown.append((wrong, f"{markup.words(method)}: disagreement"))
    if confidence := image_at(layout.confidence(subject.id, methods[-1])):
        caption = f"{markup.words(methods[-1])}: confidence, dark is 0, yellow is 1"
        shown.append((pictures.sequential(plane_of(confidence.data)), caption))
    return shown
