"""What each ingredient of registration is worth: atlases registered anew to a finished run's template.

    python benchmarks/ablation.py results-hippocampus --atlases 12
    python benchmarks/ablation.py results-brain --atlases 8 --labelled 3 --against results-brain-unrefined

The last of the atlases, those that the run held out at the end, are labelled by each of the first, through
the template and on its grid; targets' labels play no part, so that settings can be chosen by this. Prints a
Markdown table: mean Dice of single atlases, its difference to the run's own settings with a 95 % interval
over the people labelled, and seconds to register one person. `--against` adds runs that differ in training.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlasmith.config import Config, load_config, parse_config
from atlasmith.core.fields import compose
from atlasmith.core.grid import Array, Grid
from atlasmith.core.sampling import warp
from atlasmith.evaluation import metrics, statistics
from atlasmith.io.files import read_json
from atlasmith.io.tables import read_cohort, read_label_values
from atlasmith.registration.stage import load_registration
from atlasmith.training.dataset import AlignedImages

# What is changed of the run's config, by dotted name; None takes a term out.
CHANGES: dict[str, dict[str, Any]] = {
    "the network alone": {"register.instance_optimization.steps": 0},
    "10 steps at 0.2": {
        "register.instance_optimization.steps": 10,
        "register.instance_optimization.learning_rate": 0.2,
    },
    "without `mse`": {"template.similarity.mse": None},
    "LNCC over 5 voxels": {"template.similarity.lncc.window": 5},
    "LNCC over 9 voxels": {"template.similarity.lncc.window": 9},
    "diffusion 0.1": {"template.regularization.diffusion.weight": 0.1},
    "diffusion 1.6": {"template.regularization.diffusion.weight": 1.6},
}


def changed(config: Config, changes: dict[str, Any]) -> Config:
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


class People:
    """A run's first atlases, and its last ones or those held out, to be labelled, on the template's grid."""

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
        self.values = np.array(read_label_values(self.config.layout.labels))

    def registered(self, config: Config) -> tuple[list[tuple[Tensor, Tensor]], float]:
        """Maps to and from the common space, and seconds a person."""
        registration = load_registration(config)
        seconds, maps = [], []
        for index, subject in enumerate(self.subjects):
            image, mask = self.images.batch([index])
            code = registration.model.code.encode(subject.covariates)
            start = time.perf_counter()
            features = registration.model.features(image, [subject.id])
            maps += registration.to_template_space(code, mask, features)
            seconds.append(time.perf_counter() - start)
        return maps, float(np.median(seconds))

    def dice(self, maps: list[tuple[Tensor, Tensor]]) -> Array:
        """Of single atlases, the mean for each person labelled (N,)."""
        scores = []
        for person in self.labelled:
            truth = metrics.label_index(self.images.labels(person).numpy(), self.values)
            overlaps = []
            for atlas in self.atlases:
                if atlas == person:
                    continue
                labels = self.images.labels(atlas)[None, None].float()
                moved = warp(labels, compose(maps[atlas][0], maps[person][1]), mode="nearest")
                found = metrics.label_index(moved[0, 0].int().numpy(), self.values)
                overlaps.append(
                    np.nanmean(metrics.dice(metrics.count_overlap(truth, found, len(self.values))))
                )
            scores.append(np.mean(overlaps))
        return np.array(scores)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished output folder")
    parser.add_argument("--atlases", type=int, default=12, help="the first so many label")
    parser.add_argument("--labelled", type=int, default=12, help="the last so many atlases are labelled")
    parser.add_argument("--against", type=Path, nargs="*", default=[], help="other runs of the cohort")
    options = parser.parse_args()
    people = People(options.run, options.atlases, options.labelled)
    config = people.config

    maps, seconds = people.registered(config)
    own = people.dice(maps)
    print(f"{len(people.labelled)} people labelled by {len(people.atlases)} atlases\n")
    print("| change | Dice | difference, 95 % interval | s a person |\n|---|---|---|---|")
    print(f"| none | {own.mean():.4f} | | {seconds:.2f} |", flush=True)

    def row(name: str, scores: Array, seconds: float) -> None:
        found = statistics.summary(scores - own, config.seed, config.score.bootstrap)
        interval = f"{found['mean']:+.4f}, {found['ci95_low']:+.4f} to {found['ci95_high']:+.4f}"
        print(f"| {name} | {scores.mean():.4f} | {interval} | {seconds:.2f} |", flush=True)

    still = [(torch.zeros_like(there), torch.zeros_like(back)) for there, back in maps]
    row("affine alone", people.dice(still), 0)
    for name, changes in CHANGES.items():
        maps, seconds = people.registered(changed(config, changes))
        row(name, people.dice(maps), seconds)
    for run in options.against:
        other = People(run, options.atlases, options.labelled)
        maps, seconds = other.registered(other.config)
        row(run.name, other.dice(maps), seconds)


if __name__ == "__main__":
    main()
