"""Stage `cohort`: check a BIDS cohort as a whole, and decide the common grid."""

from atlasmith.cohort.stage import run

__all__ = ["run"]
