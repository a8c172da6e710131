"""Sections of the report: functions from a run's results to HTML, empty when there is nothing to show."""
