"""Measure the contribution of each part of registration, on the atlases of a finished run.

    python benchmarks/ablation.py results-hippocampus --atlases 12
    python benchmarks/ablation.py results-brain --atlases 8 --labelled 3 --against results-brain-unrefined

The last atlases and those that the run held out are labelled by each of the first atlases, through the
template and on its grid. Labels of targets are not used, so that settings may be chosen by the result. Prints
a Markdown table: the mean Dice of single atlases, its difference from the run's own settings with a 95 %
interval over the labelled subjects, and the time to register one subject. `--against` adds runs that were
trained differently.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import Record, make_parser, print_header, print_row
from torch import Tensor

from atlasmith.config import Config, load_config, parse_config
from atlasmith.core.fields import compose, resize_displacement
from atlasmith.core.grid import Array, Grid
from atlasmith.core.sampling import warp
from atlasmith.evaluation import metrics, statistics
from atlasmith.io.files import read_json
from atlasmith.io.tables import read_cohort, read_label_values
from atlasmith.registration.stage import load_registration
from atlasmith.training.dataset import AlignedImages

# Changes of the run's config, by dotted name; None removes a term.
CHANGES: dict[str, dict[str, Any]] = {
    "network, without instance optimization": {"register.instance_optimization.steps": 0},
    "10 steps at 0.2": {
        "register.instance_optimization.steps": 10,
        "register.instance_optimization.learning_rate": 0.2,
    },
    "without mse": {"template.similarity.mse": None},
    "LNCC over 5 voxels": {"template.similarity.lncc.window": 5},
    "LNCC over 9 voxels": {"template.similarity.lncc.window": 9},
    "diffusion 0.1": {"template.regularization.diffusion.weight": 0.1},
    "diffusion 1.6": {"template.regularization.diffusion.weight": 1.6},
}

Displacements = list[tuple[Tensor, Tensor]]  # of each subject, from the template space to its image and back


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """Apply changes to a config."""
    values = config.resolved()
    for name, value in changes.items():
        *path, last = name.split(".")
        section = values
        for key in path:
            section = section[key]
        if value is None:
            section.pop(last, None)
        else:
            section[last] = value
    return parse_config(values)


class AtlasSubset:
    """The first atlases of a run, and the subjects that they label, on the template's grid.

    Args:
        run: Output folder of a finished run.
        atlases: Number of atlases that label.
        labelled: Number of subjects to be labelled, the last atlases or those that were held out.
    """

    def __init__(self, run: Path, atlases: int, labelled: int) -> None:
        self.config = load_config(run / "config.yaml").model_copy(update={"output": run})
        cohort = read_cohort(self.config.layout.cohort)
        known = [subject for subject in cohort if subject.role == "atlas"]
        first = known[:atlases]
        held_out = [s for s in cohort if f"sub-{s.id}" in self.config.cohort.hold_out]
        known += [replace(subject, role="atlas") for subject in held_out]  # whose labels are for this, too
        self.subjects = first + [s for s in known[-labelled:] if s not in first]
        self.labelled = range(len(self.subjects))[-labelled:]
        self.atlases = range(len(first))
        grid = Grid.from_dict(read_json(self.config.layout.grid))
        self.images = AlignedImages(self.config.layout, self.subjects, grid)
        self.labels = len(read_label_values(self.config.layout.labels))

    @property
    def pairs(self) -> int:
        """Number of pairs of an atlas and a labelled subject."""
        return sum(atlas != subject for atlas in self.atlases for subject in self.labelled)

    def register(self, config: Config) -> tuple[Displacements, float]:
        """Register all subjects; displacements, and median seconds for a subject."""
        registration = load_registration(config)
        seconds, displacements = [], []
        for index, subject in enumerate(self.subjects):
            image, mask = self.images.batch([index])
            code = registration.model.code.encode(subject.covariates)
            start = time.perf_counter()
            features = registration.model.features(image, [subject.id])
            for both in registration.to_template_space(code[None], mask, features):
                forward, inverse = (resize_displacement(x, mask.shape[2:]) for x in both)
                displacements.append((forward, inverse))
            seconds.append(time.perf_counter() - start)
        return displacements, float(np.median(seconds))

    def dice(self, displacements: Displacements) -> Array:
        """Compute for each labelled subject (N,) the mean Dice of single atlases."""
        scores = []
        for subject in self.labelled:
            truth = self.images.label_indices(subject).numpy()
            overlaps = []
            for atlas in self.atlases:
                if atlas == subject:
                    continue
                labels = self.images.label_indices(atlas)[None, None].float()
                composed = compose(displacements[atlas][0], displacements[subject][1])
                moved = warp(labels, composed, mode="nearest")
                counts = metrics.count_overlap(truth, moved[0, 0].int().numpy(), self.labels)
                overlaps.append(np.nanmean(metrics.dice(counts)))
            scores.append(np.mean(overlaps))
        return np.array(scores)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, help="a finished output folder")
    parser.add_argument("--atlases", type=int, default=12, help="number of the first atlases, which label")
    parser.add_argument("--labelled", type=int, default=12, help="number of last atlases, to be labelled")
    parser.add_argument("--against", type=Path, nargs="*", default=[], help="other runs of the cohort")
    options = parser.parse_args()
    subset = AtlasSubset(options.run, options.atlases, options.labelled)
    config, settings = subset.config, subset.config.register_.instance_optimization
    record = Record(
        options.record,
        dataset=config.cohort.bids.name,
        n=subset.pairs,
        note=f"{len(subset.atlases)} atlases, {subset.pairs} pairs, template grid",
    )

    displacements, seconds = subset.register(config)
    own = subset.dice(displacements)
    default = f"default: {settings.steps} steps at {settings.learning_rate:g}"
    print(f"{len(subset.labelled)} subjects labelled by {len(subset.atlases)} atlases")
    print_header("change", "Dice", "difference, 95 % interval", "s for a subject")
    print_row(default, f"{own.mean():.4f}", "", f"{seconds:.2f}")
    record.add("ablation", default, {"dice": own.mean()}, seconds=seconds)

    def compare(name: str, scores: Array, seconds: float | None) -> None:
        found = statistics.summary(scores - own, config.seed, config.score.bootstrap)
        difference = found["mean"], found["ci95_low"], found["ci95_high"]
        interval = f"{difference[0]:+.4f}, {difference[1]:+.4f} to {difference[2]:+.4f}"
        print_row(name, f"{scores.mean():.4f}", interval, "" if seconds is None else f"{seconds:.2f}")
        figures = {"dice": float(scores.mean()), "dice_difference": difference}
        record.add("ablation", name, figures, seconds=seconds)

    zero = [(torch.zeros_like(forward), torch.zeros_like(inverse)) for forward, inverse in displacements]
    compare("affine alone", subset.dice(zero), None)
    for name, changes in CHANGES.items():
        displacements, seconds = subset.register(changed(config, changes))
        compare(name, subset.dice(displacements), seconds)
    for run in options.against:
        other = AtlasSubset(run, options.atlases, options.labelled)
        displacements, seconds = other.register(other.config)
        compare(run.name, other.dice(displacements), seconds)


if __name__ == "__main__":
    main()
