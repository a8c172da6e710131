"""What needs review: failed subjects, segmentations outside what was calibrated, findings of the atlas QC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from atlasmith.io.failures import read_failures
from atlasmith.io.tables import MISSING, scan_id
from atlasmith.report.results import Results, table_at
from atlasmith.report.text import count_text, number_text, words

MIN_ATLASES = 5  # that can be told apart by their agreement, see docs/quality.md
FAILED, SEGMENTATION, ATLAS = "failed", "segmentation", "atlas"


@dataclass(frozen=True)
class Finding:
    """A subject that needs review.

    Args:
        subject: Its id.
        kind: `FAILED`, `SEGMENTATION` or `ATLAS`.
        reasons: Sentences.
    """

    subject: str
    kind: str
    reasons: tuple[str, ...]


def find_review(results: Results) -> list[Finding]:
    """List what needs review, failures first; empty where nothing does."""
    return [*_failures(results), *_segmentations(results), *_atlases(results)]


def _failures(results: Results) -> Iterator[Finding]:
    """Yield the subjects that a stage couldn't process."""
    for subject, failure in read_failures(results.layout.failures).items():
        yield Finding(subject, FAILED, (f"Stage {failure.stage}: {failure.message}",))


def _segmentations(results: Results) -> Iterator[Finding]:
    """Yield the subjects whose segmentation by the last method is outside what was calibrated."""
    for subject, sidecar in results.sidecars.items():
        if sidecar.get("NeedsReview"):
            expected = sidecar.get("ExpectedDice")
            default = (
                "No label was found."
                if expected is None
                else f"The expected Dice of {number_text(expected)} is far below that of the atlases."
            )
            yield Finding(subject, SEGMENTATION, tuple(sidecar.get("ReviewReasons") or [default]))


def _atlases(results: Results) -> Iterator[Finding]:
    """Yield the atlases that differ from all others."""
    for row in table_at(results.layout.atlas_qc):
        if row["finding"] not in ("", MISSING):
            other = row.get("duplicate", "")
            duplicate = f" ({other})" if other.startswith("sub-") else ""
            text = row["finding"]
            yield Finding(scan_id(row), ATLAS, (f"{text[:1].upper()}{text[1:]}{duplicate}.",))


def checks_made(results: Results) -> tuple[list[str], list[str]]:
    """Say what was checked, and what couldn't be."""
    judged = [name for name, sidecar in results.sidecars.items() if "NeedsReview" in sidecar]
    atlases = table_at(results.layout.atlas_qc)
    made, missing = [], []
    if judged:
        made.append(
            f"{count_text(len(judged), 'segmentation')} by {words(results.last_method)}, compared with what "
            "was calibrated on the atlases, each segmented by all others"
        )
    elif results.sidecars:
        missing.append("the segmentations, which needs several atlases and fusion.quality")
    if len(atlases) >= MIN_ATLASES:
        made.append(f"{count_text(len(atlases), 'atlas')}, compared with each other")
    else:
        missing.append(f"the atlases, which needs {MIN_ATLASES} of them and fusion.quality")
    return made, missing
