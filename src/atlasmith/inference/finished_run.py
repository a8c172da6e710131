"""The output folder of a finished run, and what it is applied with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from atlasmith.config import Config, load_config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.progress import write_line
from atlasmith.io.channels import channel_paths
from atlasmith.io.files import read_json
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.registration.stage import load_registration
from atlasmith.registration.template import TemplateRegistration


def load_finished_run(results: Path, *required: str, device: str = "auto") -> Config:
    """Load the config of a finished run, with `results` as its output.

    Args:
        results: The run's output folder.
        required: Names of files in `Layout` that must exist.
        device: Where to compute, `auto`, `cpu` or `cuda`, whatever the run was made on.

    Raises:
        AtlasmithError: When one of them is missing, or can't be read.
    """
    if not results.is_dir():
        raise AtlasmithError(f"{results}: there is no such folder. Give the output folder of a finished run.")
    made = load_config(results / "config.yaml")
    config = made.model_copy(update={"output": results, "device": device})
    for path in (getattr(config.layout, name) for name in required):
        if not path.exists():
            raise AtlasmithError(f"{path} is missing. Finish the workflow in {results} first.")
        check_readable(path)
    if (made.device, device) == ("cuda", "auto") and not torch.cuda.is_available():
        text = "this run was made with `device: cuda`; torch sees no GPU here, so that the CPU computes"
        write_line(f"{results}: {text}", sys.stderr)
    return config


def check_readable(path: Path) -> None:
    """Raise `AtlasmithError` for a file of a run that this user may not read."""
    try:
        path.open("rb").close()
    except PermissionError:
        raise AtlasmithError(
            f"{path}: you may not read this file. Ask its owner for it: `chmod -R a+rX {path.parent}`."
        ) from None


def read_run(config: Config, passed: str | None = None) -> list[Subject]:
    """Read the cohort of a finished run, of which nothing is needed but the run's folder.

    Args:
        config: From `load_finished_run`.
        passed: A stage; scans that failed in it, or before, are left out.

    Returns:
        The scans, with the preprocessed image for the image, and the copy of the labels that the run keeps of
        each atlas.
    """
    layout = config.layout

    def moved(scan: Subject) -> Subject:
        own = layout.atlas_labels(scan.id)
        image = layout.preprocessed(scan.id, next(iter(scan.channels), None))
        return replace(
            scan,
            image=image if image.exists() else scan.image,
            labels=own if own.exists() else scan.labels,
        )

    return [moved(scan) for scan in read_cohort(layout.cohort, passed)]


@dataclass
class FinishedRun:
    """A finished run, with what is loaded once for many images.

    Attributes:
        config: Of the run.
        cohort: Its scans.
        atlases: Those that are propagated to new images.
        registration: The template and its network.
        quality: The quality model; empty where none was fitted.
        predictors: Networks of fusion methods that were read already, see `SubjectFusion`.
        lock: Held by the scan that computes on a GPU, whose memory one may fill.
    """

    config: Config
    cohort: Sequence[Subject]
    atlases: Sequence[Subject]
    registration: TemplateRegistration
    quality: dict[str, Any]
    predictors: dict[tuple[str, str], Any] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    @property
    def covariates(self) -> list[str]:
        """Names of the covariates that a new image may have."""
        return list(dict.fromkeys([*self.config.cohort.covariates, *self.config.template.conditions]))

    @property
    def turn(self) -> AbstractContextManager[Any]:
        """What a scan holds while it computes: the lock on a GPU, and nothing on the CPU."""
        return self.lock if self.registration.device.type == "cuda" else nullcontext()

    def last_method(self, fast: bool) -> str:
        """Return the method whose segmentation counts: that without atlases, or the last of the config's.

        Raises:
            AtlasmithError: Where the run has no method that does without atlases.
        """
        if not fast:
            return self.config.fusion.methods[-1]
        method = self.config.fusion.without_atlases
        if method is None or not self.config.layout.fuser_weights(method).exists():
            raise AtlasmithError(
                f"{self.config.output}: this run has no method that segments without registration. Run the "
                "workflow with `ensemble` or `student` in fusion.methods."
            )
        return method


def open_run(results: Path, device: str = "auto") -> FinishedRun:
    """Open a finished run to apply it to new images.

    Args:
        results: The run's output folder.
        device: See `load_finished_run`.

    Raises:
        AtlasmithError: When the run isn't finished, or a file of it is missing or can't be read.
    """
    files = ("template_weights", "template_labels", "affine_reference", "grid")
    config = load_finished_run(results, *files, device=device)
    layout = config.layout
    usable = {scan.id for scan in read_cohort(layout.cohort, passed="propagate")}
    cohort = read_run(config)
    atlases = [scan for scan in cohort if scan.role == "atlas" and scan.id in usable]
    for atlas in atlases:
        if atlas.labels is None or not atlas.labels.exists():
            raise AtlasmithError(
                f"{layout.atlas_labels(atlas.id)} is missing, and there is no {atlas.labels}. Run `atlasmith "
                "template-labels` again where the atlas's labels are."
            )
        images = channel_paths(layout, atlas, layout.preprocessed)
        for path in (*images, layout.forward(atlas.id), atlas.labels):
            check_readable(path)
    quality = read_json(layout.quality_model) if layout.quality_model.exists() else {}
    return FinishedRun(config, cohort, atlases, load_registration(config), quality)
