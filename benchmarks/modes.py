"""Build the same subjects' template in each mode, and draw all of them in one picture.

    python benchmarks/modes.py results --covariate age --values 25 85 --out docs/images/template-modes.png

Trains a template in each mode from a finished run's affine stage, with the run's own config but for the mode.
A row of the picture is a mode: the template at both values (of a mixture, those of two subpopulations), and
the second minus the first, red where it is brighter. Prints a Markdown table: sharpness within the object of
the affine reference, divided by that of the affine reference, and the time of training.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from textwrap import fill
from typing import Any

import torch
from figures import print_header, print_row
from matplotlib.figure import Figure
from retrain import link_affine_stage, sharpness_ratios

from atlasmith.config import load_config, parse_config
from atlasmith.core.grid import Array
from atlasmith.io.images import Image, read_image
from atlasmith.io.tables import SUBPOPULATION, read_cohort
from atlasmith.networks import Groupwise
from atlasmith.report import pictures
from atlasmith.template import train
from atlasmith.template.subpopulations import find_subpopulations

UNREFINED = {"refinement": {"rounds": 0}}
MODES: dict[str, dict[str, Any]] = {
    "one template for all": {"condition_on": []},
    "refined": {},
    "without a network": {"steps": 0},
    "dense decoder, not refined": UNREFINED,
    "FiLM decoder, not refined": {"decoder": "film", **UNREFINED},
    "coordinates decoder, not refined": {"decoder": "coordinates", **UNREFINED},
    "adversarial": {"adversary": {"weight": 0.1}, **UNREFINED},
    "mixture of two": {"condition_on": [], "subpopulations": 2},
    "label-driven": {"label_similarity": {"dice": {"weight": 1.0}}},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished output folder; its affine stage is enough")
    parser.add_argument("--covariate", required=True)
    parser.add_argument("--values", type=float, nargs=2, required=True, help="values of the covariate")
    parser.add_argument("--axis", type=int, default=2, help="axis perpendicular to the shown plane")
    parser.add_argument("--out", type=Path, required=True, help="the picture")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), metavar="MODE")
    options = parser.parse_args()
    run = options.run.resolve()
    settings = load_config(run / "config.yaml").model_copy(update={"output": run}).resolved()
    settings["template"] |= {"condition_on": [options.covariate], "evaluate_at": {}}
    finished = parse_config(settings).layout
    subjects = read_cohort(finished.cohort)
    reference = read_image(finished.affine_reference)
    rows: dict[str, list[Array]] = {"affine reference": [reference.data]}
    names = [f"{options.covariate} {value:g}" for value in options.values]
    print_header("mode", "gradient energy", "entropy focus", "s")
    for mode in options.modes:
        config = parse_config(settings | {"template": settings["template"] | MODES[mode]})
        with tempfile.TemporaryDirectory() as folder:
            config = link_affine_stage(run, config, Path(folder), subjects)
            start = time.monotonic()
            if config.template.subpopulations > 1:
                find_subpopulations(config)
            train(config)
            seconds = time.monotonic() - start
            model = Groupwise.load(config.layout.template_weights)
        ends: list[dict[str, Any]] = [{options.covariate: value} for value in options.values]
        if config.template.subpopulations > 1:
            ends = [{SUBPOPULATION: name} for name in model.code.categorical[SUBPOPULATION]][:2]
        with torch.inference_mode():
            codes = [model.code.encode(end)[None] for end in ({}, *ends)]
            mean, *both = (reference.grid.unsqueeze(model.template(code)[0, 0].numpy()) for code in codes)
        rows[mode] = both if model.code.size else [mean]
        energy, entropy = sharpness_ratios(Image(mean, reference.grid), reference)
        print_row(mode, f"{energy:.2f}", f"{entropy:.3f}", f"{seconds:.0f}")
        draw(rows, reference, options.axis, names, options.out)


def draw(rows: dict[str, list[Array]], reference: Image, axis: int, names: list[str], out: Path) -> None:
    """Draw the templates of each mode, and where there are two their difference."""
    limits = pictures.window(reference.data)
    figure = Figure(figsize=(6.4, 1.75 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 3)
    for panel in panels.flat:
        panel.set_axis_off()

    def plane(data: Array) -> Array:
        return pictures.plane(data, reference.grid, axis, reference.grid.shape[axis] // 2)

    for line, (mode, images) in zip(panels, rows.items(), strict=True):
        line[0].text(
            -0.05, 0.5, fill(mode, 18), transform=line[0].transAxes, ha="right", va="center", fontsize=8
        )
        titles = ["A", "B"] if mode.startswith("mixture") else names
        for panel, image, title in zip(line, images, titles, strict=False):
            panel.imshow(pictures.gray(plane(image), limits))
            panel.set_title(title if len(images) == 2 else "", fontsize=7, pad=2)
        if len(images) == 2:
            line[2].imshow(pictures.diverging(plane(images[1] - images[0]), 0.3 * (limits[1] - limits[0])))
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    main()
