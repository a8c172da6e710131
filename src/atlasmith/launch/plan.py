"""What a run is going to do: subjects, grid, stages, time and memory."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atlasmith.cohort import Participant
from atlasmith.config import Config
from atlasmith.core.machine import count_gpus
from atlasmith.core.progress import format_seconds
from atlasmith.fusion.student.settings import MOST_UNLABELLED
from atlasmith.io.failures import Failure
from atlasmith.io.files import read_json
from atlasmith.launch.discovery import Discovery
from atlasmith.workflow.resources import GPU_STAGES, SPARE, expected_seconds, memory_mb

START_SECONDS = 6.0  # of a job, before it computes
# The stages in their order, and whether one job computes several subjects.
STAGES = {
    "cohort": False,
    "preprocess": True,
    "affine_reference": False,
    "affine": True,
    "subpopulations": False,
    "template": False,
    "register": True,
    "template_labels": False,
    "propagate": True,
    "fuse_train": False,
    "fuse": True,
    "fuse_quality": False,
    "score": True,
    "score_summary": False,
    "report": False,
}


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    Attributes:
        config: The run's config.
        participants: The scans, from the tables.
        extent: Size (3,) of the largest field of view, mm, from which the grid is guessed.
        cores: On which jobs run side by side.
    """

    config: Config
    participants: Sequence[Participant]
    extent: Sequence[float]
    cores: int

    def count(self, stage: str) -> int:
        """Return the number of scans that a stage works on; 0 where the config has no use for it."""
        config, roles = self.config, Counter(p.role for p in self.participants)
        trained, several = bool(config.fusion.networks), roles["atlas"] > 1
        atlases = roles["atlas"] if several and (trained or config.fusion.quality) else 0
        segmented = atlases + roles["target"] + (roles["train"] if config.fusion.train_subjects else 0)
        unlabelled = min(roles["train"], MOST_UNLABELLED) if config.fusion.learns_from_unlabelled else 0
        counts = {
            "subpopulations": len(self.participants) if config.template.subpopulations > 1 else 0,
            "template": sum(p.in_template for p in self.participants),
            "template_labels": roles["atlas"],
            "propagate": segmented,
            "fuse_train": roles["atlas"] + unlabelled if trained else 0,
            "fuse": segmented,
            "fuse_quality": roles["atlas"] if config.fusion.quality and several else 0,
        }
        return counts.get(stage, len(self.participants))

    @property
    def stages(self) -> list[str]:
        """The stages that the run has, in their order."""
        return [stage for stage in STAGES if self.count(stage)]

    @property
    def grid(self) -> list[int] | None:
        """The shape of the template's grid, once the cohort stage has decided it."""
        path = self.config.layout.grid
        return read_json(path)["shape"] if path.exists() else None

    @property
    def voxels(self) -> int:
        """The number of voxels of the template's grid; before it is decided, that of the fields of view."""
        shape, spacing = self.grid or self.config.template.shape, self.config.template.spacing
        return math.prod(shape or [max(1, round(length / spacing)) for length in self.extent])

    def seconds(self) -> float:
        """Estimate the time of the whole run, from nothing, on the CPU."""
        atlases = sum(p.role == "atlas" for p in self.participants)
        total = 0.0
        for stage in self.stages:
            count = self.count(stage)
            jobs = math.ceil(count / self.config.subjects_per_job) if STAGES[stage] else 1
            work = expected_seconds(stage, self.config, self.voxels, count, atlases) + jobs * START_SECONDS
            total += work / min(jobs, self.cores)
        return total

    def memory_gib(self) -> tuple[float, str]:
        """Estimate the largest memory of a job in GiB, and name its stage."""
        atlases = sum(p.role == "atlas" for p in self.participants)
        needs = {stage: memory_mb(stage, self.config, self.voxels, atlases) for stage in self.stages}
        stage = max(needs, key=lambda name: needs[name])
        return needs[stage] / SPARE / 1024, stage

    def text(self, found: Discovery | None, failures: Mapping[str, Failure], cluster: bool) -> str:
        """Describe the plan.

        Args:
            found: What the config was made from; None where the user gave one.
            failures: Subjects that failed in an earlier run, and are left out.
            cluster: Whether jobs run elsewhere.

        Returns:
            A line for each topic.
        """
        config = self.config
        roles = Counter(p.role for p in self.participants)
        members = ", ".join(f"{roles[role]} {name}" for role, name in ROLE_NAMES.items() if roles[role])
        memory, largest = self.memory_gib()
        size = f"voxels of {config.template.spacing:g} mm"
        size = (
            f"{' x '.join(map(str, self.grid))} {size}"
            if self.grid
            else f"{size}; stage cohort decides the size"
        )
        if config.template.training_spacing is not None:
            size += f"; the network's of {config.template.training_spacing:g} mm"
        time = f"about {format_seconds(self.seconds())} from the start to the report"
        where = "on a cluster" if cluster else f"on {self.cores} cores"
        lines = {
            "subjects": f"{len(self.participants)}: {members}",
            "images": f"{', '.join(config.cohort.channels)} in {config.cohort.bids}",
            "grid": size,
            "stages": ", ".join(name.replace("_", " ") for name in self.stages),
            "estimate": f"{time} {where} (CPU); {memory:.1f} GiB in the largest job, {largest}",
            "device": _device(config, cluster),
            "output": str(config.output),
            "logs": f"{config.layout.snakemake_log} and {config.layout.log('STAGE', 'JOB')}",
        }
        if found is not None:
            lines["found"] = _choices(found)
        if failures:
            names = ", ".join(f"sub-{f.subject} ({f.stage})" for f in failures.values())
            lines["left out"] = f"{names}: failed earlier; --retry-failed tries again"
        return "\n".join(f"{name:<9} {text}" for name, text in lines.items())


STAGES_ON_GPU = ", ".join(GPU_STAGES).replace("_", " ")
ROLE_NAMES = {
    "atlas": "with labels (atlas)",
    "target": "to segment (target)",
    "train": "for the template (train)",
}


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _choices(found: Discovery) -> str:
    """What was read from the data, and how to change it."""
    kind = "a subject with labels is an atlas" if found.roles is None else "roles of participants.tsv"
    labels = f"labels in {found.labels}"
    window = ", CT: Hounsfield units from -160 to 240" if found.hounsfield else ""
    spacing = f"voxels of {found.spacing:g} mm" if found.spacing else ""
    return f"{labels}, {kind}, {spacing}{window}. Change by --set, or write a config with `atlasmith init`"


def _device(config: Config, cluster: bool) -> str:
    if cluster:
        return {
            "cpu": "CPU",
            "auto": "GPUs where the profile gives jobs some, otherwise the CPU",
            "cuda": f"GPUs, which these stages ask for: {STAGES_ON_GPU}",
        }[config.device]
    here = count_gpus()
    if config.device == "cpu" or (config.device == "auto" and not here):
        return "CPU"
    return f"{max(here, 1)} GPU{'s' if here > 1 else ''}, for {STAGES_ON_GPU}"
