"""Run the whole workflow on a cohort, time it, and print the figures of the result as a Markdown table.

    python benchmarks/cohort.py examples/hippocampus.yaml --output results-hippocampus --cores 2

A folder that is finished already is only read, and its time isn't given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import yaml

from atlasmith.config import Config, load_config
from atlasmith.core.grid import DisplacementField
from atlasmith.evaluation import metrics
from atlasmith.io.images import read_image
from atlasmith.io.tables import read_cohort, read_tsv
from atlasmith.io.transforms import from_sitk, read_composite, to_sitk

EXPORTS = 20  # subjects whose exported transforms are applied by SimpleITK


def run(config: Path, output: Path, cores: int, extra: list[str]) -> float:
    """Seconds that the workflow took."""
    overrides = ["--config", f"output={output}", *extra]
    command = ["snakemake", "--cores", str(cores), "--configfile", str(config), *overrides]
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=sys.stderr)
    return time.monotonic() - start


def export_difference(config: Config) -> float:
    """Mean absolute difference, in % of the intensity range, within the object, between our warped image and
    what SimpleITK makes of the native image and the exported composite; the largest over subjects."""
    layout = config.layout
    template = read_image(layout.template_image)
    inside = metrics.foreground(template.data)
    worst = 0.0
    for subject in read_cohort(layout.cohort)[:EXPORTS]:
        native, ours = read_image(subject.image), read_image(layout.warped(subject.id)).data
        theirs = sitk.Resample(
            to_sitk(native.data, native.grid),
            to_sitk(template.data, template.grid),
            sitk.ReadTransform(str(layout.forward(subject.id))),
            sitk.sitkLinear,
            0.0,
        )
        gap = np.abs(from_sitk(theirs) - ours)[inside].mean()
        worst = max(worst, 100 * float(gap / np.ptp(ours)))
    return worst


def folding(config: Config) -> tuple[float, float]:
    """Mean and largest share of voxels with a non-positive Jacobian over all subjects, %."""
    layout = config.layout
    values = [
        float(row["value"])
        for subject in read_cohort(layout.cohort)
        for row in read_tsv(layout.registration_table(subject.id))
        if row["metric"] == "nonpositive_jacobian_percent"
    ]
    return float(np.mean(values)), max(values)


def folded_volume(config: Config) -> float:
    """Mean over subjects of the non-diffeomorphic volume, % of the template's grid."""
    values = []
    for subject in read_cohort(config.layout.cohort)[:EXPORTS]:
        field, *_ = read_composite(config.layout.forward(subject.id))
        assert isinstance(field, DisplacementField)
        # The template's grid is RAS, so millimetres along its axes are voxels times their size.
        voxels = np.moveaxis(field.grid.squeeze(field.vectors)[..., field.grid.axes], -1, 0)
        voxels = voxels / np.reshape(field.grid.tensor_spacing, (-1, *[1] * field.grid.ndim))
        values.append(metrics.nondiffeomorphic_volume_percent(voxels, np.ones(voxels.shape[1:], bool)))
    return float(np.mean(values))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--bids", help="where the cohort lies, if not where the config says")
    options = parser.parse_args()
    extra = []
    if options.bids:
        cohort = yaml.safe_load(options.config.read_text())["cohort"] | {"bids": options.bids}
        extra = [f"cohort={json.dumps(cohort)}"]
    finished = (options.output / "report.html").exists()
    seconds = run(options.config, options.output, options.cores, extra)
    config = load_config(options.output / "config.yaml")

    print("| figure | value | 95 % interval |\n|---|---|---|")
    if not finished:
        print(f"| whole workflow, {options.cores} cores | {seconds / 60:.1f} min | |")
    shown = {
        ("propagate", "mean"),
        ("fuse", "mean"),
        ("template", "n/a"),
        ("affine", "n/a"),
        ("register", "n/a"),
    }
    for row in read_tsv(config.layout.summary):
        if (row["stage"], row["label"]) in shown:
            name = f"{row['stage']}, {row['method']}: {row['metric']}"
            interval = f"{row['ci95_low']} to {row['ci95_high']}" if row["ci95_low"] != "n/a" else ""
            print(f"| {name} | {row['mean']} | {interval} |")
    mean, worst = folding(config)
    print(f"| non-positive Jacobian, mean and worst subject, % | {mean:.5f}, {worst:.5f} | |")
    print(f"| non-diffeomorphic volume, mean of {EXPORTS}, % | {folded_volume(config):.6f} | |")
    export = export_difference(config)
    print(f"| export: SimpleITK against ours, worst of {EXPORTS}, % of range | {export:.4f} | |")


if __name__ == "__main__":
    main()
