"""Build templates of the same subjects by atlasmith and by ANTs: sharpness, propagation through them, time.

    python benchmarks/templates.py results-hippocampus --subjects 20 --steps 0 --rounds 4

The first atlases of a run are the cohort. Both tools start from the mean of the affinely aligned images:
atlasmith by its own affine stage, training (`--steps`) and refinement (`--rounds`), ANTs by
`ants.build_template`, 4 iterations of SyN. Then every subject is registered to each template by the same
tool. Prints a Markdown table:

- bridge Dice: each subject labelled by the labels of the others, through the template, by majority voting
  (Ding and Niethammer 2022, arXiv:2202.03563), on the native grid, with the 95 % interval over subjects;
- sharpness: gradient energy and entropy focus criterion (lower is sharper) within the object of the affine
  reference, of images on the same scale, divided by those of the affine reference;
- seconds to build the template, affine alignment included.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from figures import Record, make_parser, print_header, print_row
from peers import ants_image, labels_of, normalized, remove_files
from retrain import sharpness_ratios

from atlasmith.affine import align_subject, build_reference
from atlasmith.config import Config, load_config, parse_config
from atlasmith.core.grid import Array
from atlasmith.core.labels import label_index
from atlasmith.evaluation import metrics, statistics
from atlasmith.fusion.propagated import manual_labels, read_propagated
from atlasmith.io.images import Image, read_image
from atlasmith.io.tables import Subject, read_cohort, read_label_values, write_cohort
from atlasmith.preprocess import preprocess_subject
from atlasmith.propagation import propagate_subject
from atlasmith.registration import register_subjects
from atlasmith.template import train

ITERATIONS = 4  # of ants.build_template


def bridge_dice(propagated: Array, manual: Array, values: Array) -> float:
    """Compute the mean over labels of the bridge Dice.

    Args:
        propagated: Labels (N, *shape) of the other subjects.
        manual: The subject's own labels (*shape).
        values: All labels.
    """
    index = label_index(propagated, values).reshape(len(propagated), -1)
    return float(np.mean(metrics.bridge_dice(index, label_index(manual, values).ravel(), len(values))))


def build_ours(config: Config, subjects: Sequence[Subject]) -> tuple[Image, float]:
    """Build the template by atlasmith; seconds, too."""
    start = time.perf_counter()
    for subject in subjects:
        preprocess_subject(config, subject.id)
    build_reference(config)
    for subject in subjects:
        align_subject(config, subject.id)
    train(config)
    return read_image(config.layout.template_image), time.perf_counter() - start


def score_ours(config: Config, subjects: Sequence[Subject], values: Array) -> list[float]:
    """Register all subjects to our template; the bridge Dice of each."""
    register_subjects(config, [subject.id for subject in subjects])
    scores = []
    for subject in subjects:
        propagate_subject(config, subject.id)
        atlases = read_propagated(config.layout, subject)
        manual = manual_labels(subject, atlases.grid)
        scores.append(bridge_dice(atlases.labels.numpy(), manual.numpy(), values))
    return scores


def build_ants(initial: Image, subjects: Sequence[Subject]) -> tuple[Image, float]:
    """Build the template by ANTs; seconds, too."""
    import ants

    images = [ants_image(normalized(subject.image)) for subject in subjects]
    start = time.perf_counter()
    template = ants.build_template(
        initial_template=ants_image(initial), image_list=images, iterations=ITERATIONS
    )
    seconds = time.perf_counter() - start
    return Image(initial.grid.unsqueeze(template.numpy()), initial.grid), seconds


def score_ants(template: Image, subjects: Sequence[Subject], values: Array) -> list[float]:
    """Register all subjects to a template by ANTs; the bridge Dice of each."""
    import ants

    fixed = ants_image(template)
    images = [ants_image(normalized(subject.image)) for subject in subjects]
    labels = [ants_image(labels_of(subject.labels)) for subject in subjects]
    found = [ants.registration(fixed, image, type_of_transform="SyN") for image in images]
    scores = []
    for j, manual in enumerate(labels):
        propagated = []
        for i, moving in enumerate(labels):
            if i == j:
                continue
            chain = [*found[j]["invtransforms"], *found[i]["fwdtransforms"]]
            # The inverse list begins with the affine, which is to be inverted, and its warp follows.
            invert = [True, False, False, False]
            moved = ants.apply_transforms(images[j], moving, chain, "genericLabel", whichtoinvert=invert)
            propagated.append(np.rint(moved.numpy()).astype(np.int32))
        scores.append(bridge_dice(np.stack(propagated), manual.numpy().astype(np.int32), values))
    for registration in found:
        remove_files(registration)
    return scores


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, help="an output folder whose cohort is checked")
    parser.add_argument("--subjects", type=int, default=20, help="number of atlases, the first ones")
    parser.add_argument("--steps", type=int, help="training steps, in place of the run's")
    parser.add_argument("--rounds", type=int, help="rounds of refinement, in place of the run's")
    parser.add_argument("--no-ants", action="store_true", help="leave ANTs out")
    options = parser.parse_args()
    settings = load_config(options.run / "config.yaml").model_copy(update={"output": options.run}).resolved()
    finished = parse_config(settings).layout
    template_settings = settings["template"]
    template_settings |= {"condition_on": [], "evaluate_at": {}}
    if options.steps is not None:
        template_settings["steps"] = options.steps
    if options.rounds is not None:
        template_settings["refinement"]["rounds"] = options.rounds
    known = [subject for subject in read_cohort(finished.cohort) if subject.role == "atlas"]
    subjects = known[: options.subjects]
    values = np.array(read_label_values(finished.labels))
    dataset = parse_config(settings).cohort.bids.name
    note = f"template of {len(subjects)} subjects"
    record = Record(options.record, dataset=dataset, n=len(subjects), note=note)
    print_header("template", "bridge Dice", "95 % interval", "gradient energy", "entropy focus", "s")

    def report(name: str, scores: list[float], sharpness: tuple[float, float], seconds: float) -> None:
        mean, (low, high) = float(np.mean(scores)), statistics.bootstrap_interval(np.array(scores), 0, 1000)
        interval = f"{low:.3f} to {high:.3f}"
        print_row(
            name, f"{mean:.4f}", interval, f"{sharpness[0]:.2f}", f"{sharpness[1]:.3f}", f"{seconds:.0f}"
        )
        figures = {
            "bridge_dice": (mean, low, high),
            "gradient_energy_ratio": sharpness[0],
            "entropy_focus_ratio": sharpness[1],
        }
        record.add("peers", name, figures, seconds=seconds)

    steps, rounds = template_settings["steps"], template_settings["refinement"]["rounds"]
    training = f"{steps} steps" if steps else "no network"
    name = f"atlasmith, {training}, {rounds} round{'' if rounds == 1 else 's'}"
    with tempfile.TemporaryDirectory() as folder:
        config = parse_config(settings | {"output": folder})
        for source, copy in ((finished.grid, config.layout.grid), (finished.labels, config.layout.labels)):
            copy.write_bytes(source.read_bytes())
        write_cohort(config.layout.cohort, subjects, config.cohort.covariates)
        template, seconds = build_ours(config, subjects)
        reference = read_image(config.layout.affine_reference)
        report(name, score_ours(config, subjects, values), sharpness_ratios(template, reference), seconds)
    if not options.no_ants:
        template, seconds = build_ants(reference, subjects)
        sharpness = sharpness_ratios(template, reference)
        report(f"ANTs, {ITERATIONS} iterations", score_ants(template, subjects, values), sharpness, seconds)


if __name__ == "__main__":
    main()
