"""The predicted quality of a finished run's segmentations, against the targets' manual labels.

    python benchmarks/assessment.py results-hippocampus --roles target train

Prints a Markdown table with a row for each method: Pearson's r and the mean absolute error of the predicted
Dice, over subjects (means over labels) and over labels, and the coverage of the intervals of volumes with its
own 95 % interval over subjects. Of subjects with the role `train`, which are segmented with
`fusion.train_subjects`, the run doesn't use the manual labels either.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from atlasmith.config import Config, load_config
from atlasmith.core.labels import count_overlap, dice, label_index
from atlasmith.evaluation import statistics
from atlasmith.io.images import read_labels
from atlasmith.io.tables import MISSING, read_cohort, read_label_values, read_tsv


def coverage_of(percent: list[float], config: Config) -> str:
    """Format the mean of the subjects' coverages, with its interval."""
    low, high = statistics.bootstrap_interval(np.array(percent), config.seed, config.score.bootstrap)
    return f"{np.mean(percent):.1f} % ({low:.0f} to {high:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished output folder")
    parser.add_argument("--roles", nargs="+", choices=["target", "train"], default=["target"])
    options = parser.parse_args()
    config = load_config(options.run / "config.yaml").model_copy(update={"output": options.run})
    layout = config.layout
    values = np.array(read_label_values(layout.labels))
    subjects = [
        subject
        for subject in read_cohort(layout.cohort, passed="fuse")
        if subject.role in options.roles and subject.labels is not None
    ]
    print(f"{len(subjects)} subjects\n")
    print("| method | r, subjects | r, labels | error, subjects | error, labels | coverage |")
    print("|---|---|---|---|---|---|")
    for method in config.fusion.methods:
        ids, pairs = [], []
        covered: dict[str, list[bool]] = defaultdict(list)
        for subject in subjects:
            truth = read_labels(subject.labels)
            fused = read_labels(layout.segmentation(subject.id, method))
            counts = count_overlap(
                *(label_index(image.data, values) for image in (truth, fused)), len(values)
            )
            scores = dice(counts)
            for row in read_tsv(layout.volumes(subject.id, method)):
                k = int(label_index(np.array(int(row["index"])), values)) - 1
                if row["predicted_dice"] == MISSING or not counts.truth[k]:
                    continue
                ids.append(subject.id)
                pairs.append((float(row["predicted_dice"]), scores[k]))
                if row["volume_lower_mm3"] != MISSING:
                    volume = counts.truth[k] * truth.grid.voxel_volume
                    low, high = float(row["volume_lower_mm3"]), float(row["volume_upper_mm3"])
                    covered[subject.id].append(low <= volume <= high)
        by_label = np.array(pairs)
        by_subject = np.array([by_label[np.array(ids) == name].mean(axis=0) for name in np.unique(ids)])
        r = [f"{np.corrcoef(x.T)[0, 1]:.2f}" for x in (by_subject, by_label)]
        error = [f"{np.abs(x[:, 0] - x[:, 1]).mean():.3f}" for x in (by_subject, by_label)]
        coverage = coverage_of([100 * np.mean(found) for found in covered.values()], config)
        print(f"| {method} | {r[0]} | {r[1]} | {error[0]} | {error[1]} | {coverage} |")


if __name__ == "__main__":
    main()
