"""Stage `report`: pages that show what needs review, then figures, and subjects in a viewer."""

from atlasmith.report.page import write_report

__all__ = ["write_report"]
