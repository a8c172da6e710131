"""How far the votes of atlases err together, through the template and by a registration of each pair.

    python benchmarks/diversity.py results-hippocampus --targets 10 --atlases 15

The first so many atlases are propagated to the first so many targets again, into a temporary folder: through
the template, with so many steps on each pair after it as `--pairwise` says, and by greedy (skipped where it
is missing, `pip install -e '.[peers]'`). Prints two Markdown tables, means over targets on their fusion
grids. Of each source of votes:

- Dice of single atlases, and of what fusion methods of the run make of them all, trained ones as they are;
- the correlation of errors: Pearson's, of two atlases' errors over the voxels where any atlas of any source
  errs, which are the same for all sources; the mean over pairs of atlases;

and by number of atlases, drawn at random: Dice of the majority, and of an oracle that takes the true label
wherever an atlas has it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from figures import Record, make_parser, print_header, print_row
from fusion import link_run
from peers import labels_of, load_greedy, mean_dice, normalized
from torch import Tensor

from atlasmith.config import Config, load_config
from atlasmith.core.grid import Array
from atlasmith.core.world import resample_labels
from atlasmith.fusion.fuser import Predictor
from atlasmith.fusion.probabilities import most_probable_labels
from atlasmith.fusion.propagated import PropagatedAtlases, read_propagated
from atlasmith.fusion.stage import SubjectFusion
from atlasmith.io.images import Image
from atlasmith.io.tables import Subject, read_cohort, read_label_values, write_cohort
from atlasmith.io.transforms import from_sitk, to_sitk
from atlasmith.propagation import propagate_subject

Source = Callable[[Config, Subject], PropagatedAtlases]

COUNTS = (1, 3, 5, 10, 20)  # of atlases, and all
DRAWS = 10  # of so many atlases
TEMPLATE, GREEDY = "through the template", "greedy, each pair"


def through_template(config: Config, target: Subject, pairwise_steps: int = 0) -> PropagatedAtlases:
    """Propagate as the workflow does."""
    settings = config.register_.instance_optimization.model_copy(update={"pairwise_steps": pairwise_steps})
    register = config.register_.model_copy(update={"instance_optimization": settings})
    propagate_subject(config.model_copy(update={"register_": register}), target.id)
    return read_propagated(config.layout, target)


def greedy(
    register: Callable[[sitk.Image, sitk.Image], Any], config: Config, target: Subject
) -> PropagatedAtlases:
    """Register each atlas to the target by greedy, and resample it to the fusion grid."""
    like = read_propagated(config.layout, target)
    reference = to_sitk(like.grid.unsqueeze(like.target[0].numpy()), like.grid)
    atlases = {atlas.id: atlas for atlas in read_cohort(config.layout.cohort)}

    def picture(image: Image) -> sitk.Image:
        return to_sitk(image.data.astype(np.float32), image.grid)

    labels, images = [], []
    for name in like.ids:
        atlas = atlases[name]
        tool = register(*(picture(normalized(subject.image)) for subject in (target, atlas)))
        tool.execute(
            "-d 3 -V 0 -rf reference -rm moving image -ri NN -rm manual labels -r field matrix",
            reference=reference,
            manual=picture(labels_of(atlas.labels)),
            image=None,
            labels=None,
        )
        labels.append(torch.from_numpy(np.rint(from_sitk(tool["labels"])).astype(np.int32)))
        images.append(torch.from_numpy(from_sitk(tool["image"]).astype(np.float32)))
    return replace(like, labels=torch.stack(labels), images=torch.stack(images)[None])


def most_voted(labels: Tensor) -> Tensor:
    """Return the label (*shape) that most of some maps (N, *shape) have; of equal ones the lowest."""
    return labels.mode(dim=0).values


def by_count(
    labels: Tensor, truth: Tensor, values: Array, rng: np.random.Generator
) -> dict[int, tuple[float, float]]:
    """Compute Dice of the majority and of the oracle, by number of atlases drawn."""
    curve = {}
    for count in [n for n in COUNTS if n < len(labels)] + [len(labels)]:
        scores = []
        for _ in range(DRAWS if count < len(labels) else 1):
            drawn = labels[torch.from_numpy(rng.choice(len(labels), count, replace=False))]
            majority = most_voted(drawn)
            oracle = torch.where((drawn == truth).any(dim=0), truth, majority)
            scores.append([mean_dice(each.numpy(), truth.numpy(), values) for each in (majority, oracle)])
        curve[count] = tuple(np.mean(scores, axis=0).tolist())
    return curve


def error_correlation(labels: Tensor, truth: Tensor, where: Tensor) -> float:
    """Compute the mean correlation of two atlases' errors over the voxels `where` (*shape)."""
    errors = (labels != truth)[:, where].numpy().astype(np.float32)
    matrix = np.corrcoef(errors[errors.std(axis=1) > 0])
    return float(matrix[~np.eye(len(matrix), dtype=bool)].mean())


def fused(
    config: Config, atlases: PropagatedAtlases, subject: str, cache: dict[tuple[str, str], Predictor]
) -> list[Tensor]:
    """Fuse by each method of the run."""
    fusion = SubjectFusion(config, atlases, subject, cache)
    return [
        most_probable_labels(fusion.probabilities(method), atlases.labels.shape[1:], torch.device("cpu"))[0]
        for method in config.fusion.methods
    ]


def joined(parts: Sequence[PropagatedAtlases]) -> PropagatedAtlases:
    """Join the votes of several sources."""
    return replace(
        parts[0],
        labels=torch.cat([part.labels for part in parts]),
        images=torch.cat([part.images for part in parts], dim=1),
        ids=[name for part in parts for name in part.ids],
    )


def measure(
    config: Config, sources: dict[str, Source], targets: list[Subject]
) -> dict[str, list[list[float]]]:
    """Print the curves of each source, and return its other figures, a list for each target."""
    values = np.array(read_label_values(config.layout.labels))
    figures: dict[str, list[list[float]]] = defaultdict(list)
    curves: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    predictors: dict[tuple[str, str], Predictor] = {}
    rng = np.random.default_rng(config.seed)
    for target in targets:
        found = {name: source(config, target) for name, source in sources.items()}
        if GREEDY in found:
            found["both"] = joined([found[TEMPLATE], found[GREEDY]])
        grid, manual = found[TEMPLATE].grid, labels_of(target.labels)
        truth = resample_labels(manual.data, manual.grid, [], grid)
        where = torch.stack([(atlases.labels != truth).any(dim=0) for atlases in found.values()]).any(dim=0)
        for name, atlases in found.items():
            maps = [atlases.labels, torch.stack(fused(config, atlases, target.id, predictors))]
            single, scores = (
                [mean_dice(labels, truth.numpy(), values) for labels in stack.numpy()] for stack in maps
            )
            errors = error_correlation(atlases.labels, truth, where)
            figures[name].append([float(np.mean(single)), errors, *scores])
            for count, pair in by_count(atlases.labels, truth, values, rng).items():
                curves[name, count].append(pair)
        print(
            target.id, *(f"{n}: {np.mean(v, axis=0).round(4)}" for n, v in figures.items()), file=sys.stderr
        )
    print_header("votes", "atlases", "majority", "oracle")
    for (name, count), pairs in curves.items():
        print_row(name, count, *(f"{value:.4f}" for value in np.mean(pairs, axis=0)))
    return figures


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, help="a finished output folder")
    parser.add_argument("--targets", type=int, default=10)
    parser.add_argument("--atlases", type=int, default=15)
    parser.add_argument("--pairwise", type=int, default=10)
    return parser.parse_args()


def main() -> None:
    options = read_options()
    run = options.run.resolve()
    config = load_config(run / "config.yaml").model_copy(update={"output": run})
    cohort = read_cohort(config.layout.cohort)
    atlases = [s for s in cohort if s.role == "atlas"]
    targets = [s for s in cohort if s.role == "target" and s.labels is not None][: options.targets]
    sources: dict[str, Source] = {
        TEMPLATE: through_template,
        f"and {options.pairwise} steps on each pair": partial(
            through_template, pairwise_steps=options.pairwise
        ),
    }
    try:
        sources[GREEDY] = partial(greedy, load_greedy())
    except ImportError as error:
        print(f"greedy is skipped: {error}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        link_run(run, output, ["*propagated*", "cohort.tsv"])
        config = config.model_copy(update={"output": output})
        dropped = atlases[options.atlases :]
        write_cohort(config.layout.cohort, [s for s in cohort if s not in dropped], config.cohort.covariates)
        figures = measure(config, sources, targets)
    methods = config.fusion.methods
    note = f"{len(targets)} targets, {min(options.atlases, len(atlases))} atlases, fusion grid"
    record = Record(options.record, dataset=config.template.name.lower(), note=note, n=len(targets))
    print_header("votes", "single Dice", "correlation of errors", *methods)
    for name, rows in figures.items():
        values = np.mean(rows, axis=0)
        print_row(name, *(f"{value:.4f}" for value in values))
        keys = ["dice_single_atlas", "error_correlation", *(f"dice_{method}" for method in methods)]
        record.add("segmentation", f"votes {name}", dict(zip(keys, values.tolist(), strict=True)))


if __name__ == "__main__":
    main()
