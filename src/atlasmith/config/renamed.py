"""Refuse keys of earlier versions with their new name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlasmith.core.errors import Problem

RENAMED = {
    "chunk": "subjects_per_job",
    "cohort.builders": "cohort.template_subjects",
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
    "fusion.fill": "fusion.prior_fallback",
    "fusion.assess": "fusion.quality",
    "fusion.evidence": "fusion.autocontext",
}
RENAMED_METHODS = {"evidence": "autocontext", "local_closest": "local_selection"}


def renamed_problems(values: Mapping[str, Any], where: str | Path) -> list[Problem]:
    """Find keys and fusion methods that had another name in an earlier version.

    Args:
        values: The config as read from YAML.
        where: The file, for the messages.

    Returns:
        A problem for each old name, which tells the new one.
    """
    found = {key: new for key, new in RENAMED.items() if _has(values, key.split("."))}
    problems = [
        Problem(f"{where}: {key}", "this key has a new name", f"Write {new}.") for key, new in found.items()
    ]
    fusion = values.get("fusion")
    methods = fusion.get("methods") if isinstance(fusion, Mapping) else None
    for method in methods if isinstance(methods, list) else []:
        if isinstance(method, str) and method in RENAMED_METHODS:
            found_method = f"the method '{method}' has a new name"
            problems.append(
                Problem(f"{where}: fusion.methods", found_method, f"Write {RENAMED_METHODS[method]}.")
            )
    return problems


def _has(values: Any, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True
