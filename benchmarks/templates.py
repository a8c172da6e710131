"""Templates of the same people, built by us and by ANTs: how sharp, how good a bridge, how fast.

    python benchmarks/templates.py results-hippocampus --people 20 --steps 0 --rounds 4

The first atlases of a run are the cohort. Both tools start from the mean of the affinely aligned images: ours
by its own affine stage, training (`--steps`) and refinement (`--rounds`), ANTs by `ants.build_template`, 4
iterations of SyN. Then everyone is registered to each template by its own tool. Prints a Markdown table:

- bridge Dice: each person labelled by the others' labels, through the template, by majority (Ding and
  Niethammer 2022, arXiv:2202.03563), in the native grid, with the 95 % interval over people;
- sharpness: gradient energy and entropy focus criterion (lower is sharper) inside the affine mean's object,
  images on the same scale, over those of the affine mean;
- seconds to build the template, affine alignment included.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from peers import ants_image, labels_of, normalized, remove_files
from retrain import sharpness

from atlasmith.affine import align_subject, build_reference
from atlasmith.config import Config, load_config, parse_config
from atlasmith.core.grid import Array
from atlasmith.core.labels import label_index
from atlasmith.evaluation import metrics, statistics
from atlasmith.fusion.propagated import manual_labels, read_propagated
from atlasmith.io.images import Image, read_image
from atlasmith.io.tables import Subject, read_cohort, read_label_values, write_cohort
from atlasmith.propagation import propagate_subject
from atlasmith.registration import register_subjects
from atlasmith.template import train

ITERATIONS = 4  # of ants.build_template


def ours(config: Config, people: Sequence[Subject]) -> tuple[Image, float]:
    """The template, and seconds."""
    start = time.perf_counter()
    build_reference(config)
    for person in people:
        align_subject(config, person.id)
    train(config)
    return read_image(config.layout.template_image), time.perf_counter() - start


def our_bridge(config: Config, people: Sequence[Subject], values: Array) -> list[float]:
    register_subjects(config, [person.id for person in people])
    scores = []
    for person in people:
        propagate_subject(config, person.id)
        atlases = read_propagated(config.layout, person)
        scores.append(bridge(atlases.labels, manual_labels(person, atlases.grid), values))
    return scores


def bridge(votes: Array, own: Array, values: Array) -> float:
    """The mean bridge Dice over labels of others' maps (N, *shape) and one's own (*shape)."""
    propagated = label_index(votes, values).reshape(len(votes), -1)
    return float(np.mean(metrics.bridge_dice(propagated, label_index(own, values).ravel(), len(values))))


def theirs(start_from: Image, people: Sequence[Subject]) -> tuple[Image, float]:
    """The template by ANTs, and seconds."""
    import ants

    images = [ants_image(normalized(person.image)) for person in people]
    start = time.perf_counter()
    template = ants.build_template(
        initial_template=ants_image(start_from), image_list=images, iterations=ITERATIONS
    )
    seconds = time.perf_counter() - start
    return Image(start_from.grid.unsqueeze(template.numpy()), start_from.grid), seconds


def their_bridge(template: Image, people: Sequence[Subject], values: Array) -> list[float]:
    import ants

    fixed = ants_image(template)
    images = [ants_image(normalized(person.image)) for person in people]
    labels = [ants_image(labels_of(person.labels)) for person in people]
    found = [ants.registration(fixed, image, type_of_transform="SyN") for image in images]
    scores = []
    for j, own in enumerate(labels):
        votes = []
        for i, moving in enumerate(labels):
            if i == j:
                continue
            chain = [*found[j]["invtransforms"], *found[i]["fwdtransforms"]]
            # The inverse list has the affine first, to be inverted, and its warp after it.
            invert = [True, False, False, False]
            moved = ants.apply_transforms(images[j], moving, chain, "genericLabel", whichtoinvert=invert)
            votes.append(np.rint(moved.numpy()).astype(np.int32))
        scores.append(bridge(np.stack(votes), own.numpy().astype(np.int32), values))
    for registered in found:
        remove_files(registered)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="an output folder whose cohort is checked")
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--steps", type=int, help="of training, in place of the run's")
    parser.add_argument("--rounds", type=int, help="of refinement, likewise")
    parser.add_argument("--no-ants", action="store_true")
    options = parser.parse_args()
    settings = load_config(options.run / "config.yaml").model_copy(update={"output": options.run}).resolved()
    before = parse_config(settings).layout
    settings["template"] |= {"condition_on": [], "evaluate_at": {}}
    if options.steps is not None:
        settings["template"]["steps"] = options.steps
    if options.rounds is not None:
        settings["template"]["refinement"]["rounds"] = options.rounds
    known = [subject for subject in read_cohort(before.cohort) if subject.role == "atlas"]
    people = known[: options.people]
    values = np.array(read_label_values(before.labels))
    print("| template | bridge Dice | 95 % interval | gradient energy | entropy focus | s |")
    print("|---|---|---|---|---|---|")

    def row(name: str, scores: list[float], sharp: tuple[float, float], seconds: float) -> None:
        low, high = statistics.bootstrap_interval(np.array(scores), 0, 1000)
        print(
            f"| {name} | {np.mean(scores):.4f} | {low:.3f} to {high:.3f} | {sharp[0]:.2f} | {sharp[1]:.3f} "
            f"| {seconds:.0f} |",
            flush=True,
        )

    folder = Path(tempfile.mkdtemp())
    try:
        config = parse_config(settings | {"output": str(folder)})
        for path in (before.grid, before.labels):
            shutil.copy(path, folder)
        write_cohort(config.layout.cohort, people, config.cohort.covariates)
        template, seconds = ours(config, people)
        mean = read_image(config.layout.affine_reference)
        row("atlasmith", our_bridge(config, people, values), sharpness(template, mean), seconds)
    finally:
        shutil.rmtree(folder)
    if not options.no_ants:
        template, seconds = theirs(mean, people)
        row("ANTs", their_bridge(template, people, values), sharpness(template, mean), seconds)


if __name__ == "__main__":
    main()
