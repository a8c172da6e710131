"""Section `Training`: the training curves of every network."""

from __future__ import annotations

import numpy as np

from atlasmith.io.tables import MISSING
from atlasmith.report import pictures
from atlasmith.report.markup import note
from atlasmith.report.results import Results, table_at


def training(results: Results) -> str:
    """Show a chart for each column of each training table."""
    layout = results.layout
    tables = [
        (layout.template_training, "Template"),
        (layout.segmenter_training, "Segmenter"),
        *((layout.fuser_training(name), title) for name, title in results.config.fusion.trainings.items()),
    ]
    body = ""
    for path, title in tables:
        rows = table_at(path)
        charts = []
        for column in [name for name in rows[0] if name != "step"] if rows else []:
            points = np.array([(float(r["step"]), float(r[column])) for r in rows if r[column] != MISSING])
            if len(points):
                charts.append(pictures.curve(points[:, 0], points[:, 1], column))
        if charts:
            body += f'<h3>{title}</h3><div class="charts">{"".join(charts)}</div>'
    return body and note("Faint: as measured; bold: smoothed.") + body
