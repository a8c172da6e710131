"""The demo cohort: a real brain made into subjects with a known truth, and the grading of a run."""

from atlasmith.demo.generator import make_demo
from atlasmith.demo.grading import grade

__all__ = ["grade", "make_demo"]
