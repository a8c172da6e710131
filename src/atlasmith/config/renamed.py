"""Keys of earlier versions, which are refused with their new name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlasmith.core.errors import Problem

RENAMED = {
    "chunk": "subjects_per_job",
    "cohort.builders": "cohort.template_subjects",
    "affine.n4": "preprocess.n4",
    "preprocess.masks": "cohort.masks",
    "template.populations": "template.subpopulations",
    "template.squarings": "template.integration_steps",
    "template.labels": "template.label_similarity",
    "template.pairs": "template.pairwise",
    "template.regularisation": "template.regularization",
    "template.views": "template.evaluate_at",
    "template.network.passes": "template.network.cascades",
    "register.refine_steps": "register.instance_optimization.steps",
    "register.refine_learning_rate": "register.instance_optimization.learning_rate",
    "register.pair_steps": "register.instance_optimization.pairwise_steps",
    "fusion.closest": "fusion.atlas_selection",
    "fusion.local_closest": "fusion.local_selection.atlases",
    "fusion.fill": "fusion.prior_fallback",
    "fusion.assess": "fusion.quality",
    "fusion.evidence": "fusion.autocontext",
}
RENAMED_METHODS = {"evidence": "autocontext", "local_closest": "local_selection"}  # in fusion.methods
ABSENT = object()  # unlike None, which a key may be set to


def renamed_problems(values: Mapping[str, Any], where: str | Path) -> list[Problem]:
    """Find keys and fusion methods that had another name in an earlier version.

    Args:
        values: The config as read from YAML.
        where: The file, for the messages.

    Returns:
        A problem for each old name, with the new one.
    """
    problems = [
        Problem(f"{where}: {old}", "this key has a new name", f"Write {new}.")
        for old, new in RENAMED.items()
        if _lookup(values, old) is not ABSENT
    ]
    methods = _lookup(values, "fusion.methods")
    return problems + [
        Problem(f"{where}: fusion.methods", f"the method '{old}' has a new name", f"Write {new}.")
        for old, new in RENAMED_METHODS.items()
        if isinstance(methods, list) and old in methods
    ]


def _lookup(values: Any, key: str) -> Any:
    """Return the value of a dotted key, `ABSENT` where there is none."""
    for name in key.split("."):
        if not isinstance(values, Mapping) or name not in values:
            return ABSENT
        values = values[name]
    return values
