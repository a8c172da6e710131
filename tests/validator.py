"""The official BIDS validator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest


def find_issues(folder: Path) -> list[dict[str, Any]]:
    """Validate a BIDS folder; skip the test where the validator isn't installed."""
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists():
        pytest.skip("the BIDS validator isn't installed: pip install bids-validator-deno")
    found = subprocess.run([validator, folder, "--format", "json"], capture_output=True, text=True)
    issues: list[dict[str, Any]] = json.loads(found.stdout)["issues"]["issues"]
    return issues


def errors(issues: Iterable[dict[str, Any]]) -> list[str]:
    """Describe the errors among the issues."""
    return [
        " ".join(str(issue.get(key, "")) for key in ("code", "subCode", "location"))
        for issue in issues
        if issue["severity"] == "error"
    ]
