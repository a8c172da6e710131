"""Run the whole workflow on a cohort, measure its time, and print the figures of the result.

    python benchmarks/cohort.py examples/hippocampus.yaml --output results-hippocampus --cores 2

A folder that is finished already is only read, and its time isn't printed. Prints a Markdown table.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import yaml
from figures import Figure, Record, make_parser, print_header, print_row

from atlasmith.config import Config, load_config
from atlasmith.core.grid import DisplacementField
from atlasmith.evaluation import metrics
from atlasmith.io.images import read_image
from atlasmith.io.tables import read_cohort, read_tsv
from atlasmith.io.transforms import from_sitk, read_composite, to_sitk

ROOT = Path(__file__).parents[1]
EXPORTS = 20  # subjects whose exported transforms are applied by SimpleITK
# Stages and labels of the summary that are printed.
SHOWN = {("propagate", "mean"), ("fuse", "mean"), ("template", "n/a"), ("affine", "n/a"), ("register", "n/a")}
# Topic of the stages and metrics that are recorded.
RECORDED = {
    ("propagate", "dice"): "segmentation",
    ("fuse", "dice"): "segmentation",
    ("fuse", "hd95_mm"): "segmentation",
    ("template", "gradient_energy_ratio"): "template",
    ("template", "mean_displacement_mm"): "template",
    ("register", "inverse_consistency_mm"): "registration",
}


def run(config: Path, output: Path, cores: int, extra: list[str]) -> float:
    """Run the workflow; returns seconds."""
    overrides = ["--config", f"output={output}", *extra]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--cores", str(cores), "--configfile", str(config)]
    start = time.monotonic()
    subprocess.run([*command, *overrides], check=True, stdout=sys.stderr)
    return time.monotonic() - start


def export_difference(config: Config) -> float:
    """Compare our warped images with SimpleITK's, of the preprocessed image and the exported composite.

    Returns:
        Mean absolute difference within the object, in % of the intensity range; the largest over subjects.
    """
    layout = config.layout
    template = read_image(layout.template_image)
    inside = metrics.foreground(template.data)
    worst = 0.0
    for subject in read_cohort(layout.cohort)[:EXPORTS]:
        native, ours = read_image(layout.preprocessed(subject.id)), read_image(layout.warped(subject.id)).data
        resampled = sitk.Resample(
            to_sitk(native.data, native.grid),
            to_sitk(template.data, template.grid),
            sitk.ReadTransform(str(layout.forward(subject.id))),
            sitk.sitkLinear,
            0.0,
        )
        difference = np.abs(from_sitk(resampled) - ours)[inside].mean()
        worst = max(worst, 100 * float(difference / np.ptp(ours)))
    return worst


def folding_percent(config: Config) -> tuple[float, float]:
    """Compute mean and largest percentage of voxels with a nonpositive Jacobian over all subjects."""
    layout = config.layout
    values = [
        float(row["value"])
        for subject in read_cohort(layout.cohort)
        for row in read_tsv(layout.registration_table(subject.id))
        if row["metric"] == "nonpositive_jacobian_percent"
    ]
    return float(np.mean(values)), max(values)


def nondiffeomorphic_volume_percent(config: Config) -> float:
    """Compute the nondiffeomorphic volume, % of the template's grid; the mean over subjects."""
    values = []
    for subject in read_cohort(config.layout.cohort)[:EXPORTS]:
        field, *_ = read_composite(config.layout.forward(subject.id))
        assert isinstance(field, DisplacementField)
        # The template's grid is RAS, so that millimeters along its axes are voxels times their size.
        voxels = np.moveaxis(field.grid.squeeze(field.vectors)[..., field.grid.axes], -1, 0)
        voxels = voxels / np.reshape(field.grid.tensor_spacing, (-1, *[1] * field.grid.ndim))
        values.append(metrics.nondiffeomorphic_volume_percent(voxels, np.ones(voxels.shape[1:], bool)))
    return float(np.mean(values))


def print_summary(config: Config, record: Record) -> None:
    """Print and record the rows of the scores' summary that are means over labels or subjects."""
    subjects = read_cohort(config.layout.cohort)
    targets, atlases = (sum(s.role == role for s in subjects) for role in ("target", "atlas"))
    for row in read_tsv(config.layout.summary):
        stage, metric = row["stage"], row["metric"]
        if (stage, row["label"]) not in SHOWN:
            continue
        known = row["ci95_low"] != "n/a"
        interval = f"{row['ci95_low']} to {row['ci95_high']}" if known else ""
        print_row(f"{stage}, {row['method']}: {metric}", row["mean"], interval)
        topic = RECORDED.get((stage, metric))
        if topic is None or row["mean"] == "n/a":
            continue
        value = float(row["mean"])
        bounds = (float(row["ci95_low"]), float(row["ci95_high"])) if known else ()
        figures: dict[str, Figure] = {metric: (value, *bounds) if known else value}
        if topic == "segmentation":
            note = f"{targets} targets, {atlases} atlases, native grid"
            record.add(topic, row["method"], figures, n=row["n"], note=note)
        else:
            record.add(topic, "atlasmith", figures, n=len(subjects), note=_protocol(config))


def _protocol(config: Config) -> str:
    return f"all {len(read_cohort(config.layout.cohort))} subjects, whole workflow"


def main() -> None:
    parser = make_parser(__doc__)
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
    config = load_config(options.output / "config.yaml").model_copy(update={"output": options.output})
    subjects = len(read_cohort(config.layout.cohort))
    record = Record(options.record, dataset=config.cohort.bids.name)

    print_header("figure", "value", "95 % interval")
    if not finished:
        print_row(f"whole workflow, {options.cores} cores", f"{seconds / 60:.1f} min", "")
        method, figures = f"{options.config.stem}, {options.cores} cores", {"time_min": seconds / 60}
        record.add("scaling", method, figures, n=subjects, note="whole workflow")
    print_summary(config, record)
    mean, worst = folding_percent(config)
    volume, export = nondiffeomorphic_volume_percent(config), export_difference(config)
    print_row("nonpositive Jacobian, mean and worst subject, %", f"{mean:.5f}, {worst:.5f}", "")
    print_row(f"nondiffeomorphic volume, mean of {EXPORTS}, %", f"{volume:.6f}", "")
    print_row(f"export: SimpleITK and ours, worst of {EXPORTS}, % of range", f"{export:.4f}", "")
    for count, figures in (
        (subjects, {"nonpositive_jacobian_percent": mean, "nonpositive_jacobian_worst_percent": worst}),
        (
            min(EXPORTS, subjects),
            {"nondiffeomorphic_volume_percent": volume, "export_difference_worst_percent": export},
        ),
    ):
        record.add("registration", "atlasmith", figures, n=count, note=_protocol(config))


if __name__ == "__main__":
    main()
