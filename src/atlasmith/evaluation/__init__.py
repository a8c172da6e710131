"""Scores of every stage, and their summary over subjects."""

from atlasmith.evaluation.stage import score_subject, summarize

__all__ = ["score_subject", "summarize"]
