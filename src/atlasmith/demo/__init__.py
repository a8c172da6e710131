"""The demo cohort: a real brain made into subjects with a known truth, and the grading of a run."""

from atlasmith.demo.generator import grade, make_demo

__all__ = ["grade", "make_demo"]
