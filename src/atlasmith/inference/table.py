"""The table of volumes and quality of the scans that a finished run was applied to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from atlasmith.fusion.quality import VOLUME_COLUMNS
from atlasmith.inference.finished_run import FinishedRun
from atlasmith.io.files import read_json
from atlasmith.io.layout import Layout
from atlasmith.io.tables import SCAN_COLUMNS, read_tsv, scan_columns, write_tsv

COLUMNS = [*SCAN_COLUMNS, "method", *VOLUME_COLUMNS, "needs_review", "review_reasons"]


def write_predictions(run: FinishedRun, scans: Sequence[str], out: Path, fast: bool = False) -> None:
    """Write a row for each label of each method of each scan, `Layout.predictions`.

    Args:
        run: The finished run.
        scans: Ids of the scans, whose results `out` has.
        out: The folder of the predictions.
        fast: Of the method that does without atlases alone.
    """
    layout = replace(run.config.layout, output=out)
    methods = [run.last_method(fast)] if fast else run.config.fusion.methods
    rows = [row for scan in scans for method in methods for row in _rows(layout, scan, method)]
    write_tsv(layout.predictions, rows, COLUMNS)


def _rows(layout: Layout, scan: str, method: str) -> Iterator[dict[str, Any]]:
    quality = read_json(layout.segmentation_sidecar(scan, method))
    for row in read_tsv(layout.volumes(scan, method)):
        yield {
            **scan_columns(scan),
            "method": method,
            **row,
            "needs_review": {True: "yes", False: "no"}.get(quality.get("NeedsReview")),
            "review_reasons": " ".join(quality.get("ReviewReasons", [])) or None,
        }
