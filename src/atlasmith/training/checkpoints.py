"""Resumable state on disk, which belongs to one config and one cohort."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from atlasmith.core import distributed
from atlasmith.io.weights import read_weights, write_tensors


class Checkpoint:
    """A file of named tensors and plain values, from which a killed training resumes.

    Args:
        path: The file; written whole or not at all, by the main process alone.
        digest: Identifies what the state depends on: config, inputs, version. A state with another digest is
            ignored.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path, self.digest = path, digest

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Read the values and tensors of the last `save`, or None where there is nothing to resume."""
        if not self.path.exists():
            return None
        values, tensors = read_weights(self.path)
        if values.pop("digest", None) != self.digest:
            distributed.log(f"{self.path} belongs to another config or cohort: starting anew")
            return None
        return values, tensors

    def save(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Replace the state."""
        if distributed.is_main_process():
            write_tensors(self.path, tensors, {"digest": self.digest, **values})

    def remove(self) -> None:
        """Delete the state, once the results that it led to are safe."""
        self.path.unlink(missing_ok=True)
