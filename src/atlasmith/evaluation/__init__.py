"""Stage `score`: metrics of every stage's results, and their summary over subjects."""

from atlasmith.evaluation.scores import Score
from atlasmith.evaluation.segmentation_scores import evaluate
from atlasmith.evaluation.stage import score_subject
from atlasmith.evaluation.summary import summarize

__all__ = ["Score", "evaluate", "score_subject", "summarize"]
