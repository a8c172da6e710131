"""Stage `report`: one HTML page that shows what was made, and which subjects need review."""

from atlasmith.report.page import write_report

__all__ = ["write_report"]
