"""The output folder of a finished run."""

from __future__ import annotations

from pathlib import Path

from atlasmith.config import Config, load_config
from atlasmith.core.errors import AtlasmithError


def load_finished_run(results: Path, *required: str) -> Config:
    """Load the config of a finished run, with `results` as its output.

    Args:
        results: The run's output folder.
        required: Names of files in `Layout` that must exist.

    Raises:
        AtlasmithError: When one of them is missing.
    """
    config = load_config(results / "config.yaml").model_copy(update={"output": results})
    for path in (getattr(config.layout, name) for name in required):
        if not path.exists():
            raise AtlasmithError(f"{path} is missing. Finish the workflow in {results} first.")
    return config
