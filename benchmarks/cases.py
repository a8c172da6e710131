"""Small cohorts after public bug reports: write each, run its command, and check what comes out.

    python benchmarks/cases.py FOLDER [CASE ...] [--work WORK]

`FOLDER` holds a script for each case. A script writes a cohort and a config `my.yaml` below the folder that
it is given, and prints the command to run. Config keys of version 0.8.0 are renamed. Prints a line for each
case, and exits with 1 where one comes out wrong.
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import yaml

from atlasmith.config import Config, load_config
from atlasmith.core.grid import Array
from atlasmith.io.files import read_json
from atlasmith.io.tables import read_tsv

ROOT = Path(__file__).parents[1]
KEPT_KEYS = ("steps", "voxels", "width", "learning_rate")  # of `fusion.evidence`, in `fusion.autocontext`


class Wrong(Exception):
    """A case came out wrong."""


def expect(right: bool, otherwise: str) -> None:
    """Raise `Wrong` with a message unless something holds."""
    if not right:
        raise Wrong(otherwise)


@dataclass
class Run:
    """One run of a case.

    Args:
        folder: The folder that the case's script has written.
        returncode: Of its command.
        messages: What the command printed, and its jobs' logs.
    """

    folder: Path
    returncode: int
    messages: str

    @cached_property
    def config(self) -> Config:
        return load_config(self.folder / "my.yaml")

    @property
    def finished(self) -> bool:
        """Whether the whole workflow came to its end."""
        return self.returncode == 0 and self.config.layout.report.exists()

    def voxels(self, path: Path) -> Array:
        return np.asarray(nib.load(path).dataobj)

    def segmentation(self, subject: str, method: str = "majority") -> Array:
        return self.voxels(self.config.layout.segmentation(subject, method))

    def truth(self, subject: str) -> Array:
        return self.voxels(
            self.folder / f"bids/derivatives/manual/sub-{subject}/anat/sub-{subject}_dseg.nii.gz"
        )

    def dice(self, subject: str, method: str) -> float:
        return mean_dice(self.segmentation(subject, method), self.truth(subject))

    def expect_refusal(self, *words: str) -> str:
        """Expect a message without traceback that has all `words`."""
        expect(self.returncode != 0, "it is taken")
        expect("Traceback" not in self.messages, "it ends in a traceback")
        found = [line for line in self.messages.splitlines() if all(word in line for word in words)]
        expect(bool(found), f"no line of the messages has {' and '.join(map(repr, words))}")
        return f"refused: {found[0].strip()}"


@dataclass
class Case:
    """A case's script, and where it is run."""

    script: Path
    work: Path
    runs: dict[tuple[str, ...], Run] = field(default_factory=dict)

    def run(self, *arguments: str, **sections: Any) -> Run:
        """Run the script with arguments, then its command.

        Args:
            arguments: Of the script.
            sections: Keys that are added to its config.
        """
        folder = self.work / "_".join([self.script.stem, *(a.strip("-") for a in arguments), *sections])
        home = folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "HOME": str(home),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        }
        printed = subprocess.run(
            [sys.executable, self.script, folder, *arguments], check=True, capture_output=True, text=True
        ).stdout
        path = folder / "my.yaml"
        values = renamed(yaml.safe_load(path.read_text(encoding="utf-8")))
        path.write_text(yaml.safe_dump(values | sections), encoding="utf-8")
        (command,) = re.findall("^Run: (.*)$", printed, re.MULTILINE)
        done = subprocess.run(
            ["bash", "-c", command.replace("PROJECT", str(ROOT))],
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        logs = sorted((folder / "results/logs").rglob("*.log"))
        messages = "\n".join([done.stdout, *(log.read_text(encoding="utf-8") for log in logs)])
        messages = messages.replace(str(folder), ".")
        (folder / "messages.txt").write_text(messages, encoding="utf-8")
        return Run(folder, done.returncode, messages)


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    """Rename the config keys of version 0.8.0."""
    if "chunk" in values:
        values["subjects_per_job"] = values.pop("chunk")
    register = values.get("register", {})
    if "refine_steps" in register:
        register["instance_optimization"] = {"steps": register.pop("refine_steps")}
    fusion = values.get("fusion", {})
    if "methods" in fusion:
        fusion["methods"] = ["autocontext" if name == "evidence" else name for name in fusion["methods"]]
    if "evidence" in fusion:
        settings = fusion.pop("evidence")
        fusion["autocontext"] = {key: settings[key] for key in KEPT_KEYS if key in settings}
    return values


def mean_dice(found: Array, true: Array) -> float:
    """Compute the mean Dice over the labels 1 to 3."""
    pairs = [(found == label, true == label) for label in (1, 2, 3)]
    return float(np.mean([2 * np.sum(a & b) / (a.sum() + b.sum()) for a, b in pairs]))


def ages_as_text(case: Case) -> str:
    return case.run().expect_refusal("column 'age'", "063Y")


def atlases_agree(case: Case) -> str:
    run = case.run()
    expect(run.finished, f"it ends with {run.returncode}")
    same = np.array_equal(run.segmentation("03", "autocontext"), run.segmentation("03"))
    expect(same, "autocontext differs from majority where all atlases agree")
    named = {row["participant_id"]: row["duplicate"] for row in read_tsv(run.config.layout.atlas_qc)}
    expect(named == {"sub-01": "sub-02", "sub-02": "sub-01"}, f"atlas QC names {named}")
    return "autocontext equals majority, and atlas QC names the duplicates"


def ct_hounsfield(case: Case) -> str:
    refused = case.run().expect_refusal("Hounsfield", "preprocess.window")
    raw = case.run(preprocess={"window": [-100, 160]})
    windowed = case.run("--window")
    expect(raw.finished and windowed.finished, "a run with a window doesn't finish")
    pairs = [(raw.dice(s, m), windowed.dice(s, m)) for s in ("05", "06") for m in ("majority",)]
    expect(all(abs(a - b) < 0.01 for a, b in pairs), f"Dice with a window, and of windowed images: {pairs}")
    return refused


def empty_labels(case: Case) -> str:
    run = case.run()
    expect(run.finished, f"it ends with {run.returncode}")
    values = {
        row["value"]
        for row in read_tsv(run.config.layout.scores)
        if row["participant_id"] == "sub-05" and row["metric"] == "dice"
    }
    expect(values <= {"0", "n/a"}, f"Dice of sub-05 is {values}")
    return f"a report; Dice of sub-05 is {' or '.join(sorted(values)) or 'absent'}"


def field_of_view(case: Case) -> str:
    run = case.run()
    layout = run.config.layout
    expect(layout.segmentation("06", "majority").exists(), "sub-06 isn't segmented")
    expect(layout.report.exists(), "there is no report")
    report = layout.report.read_text(encoding="utf-8")
    expect("sub-05" in report, "the report doesn't name sub-05")
    return "sub-06 and the report come out, which names sub-05"


def taken(case: Case) -> str:
    """Expect that the cohort is taken as it is."""
    run = case.run()
    expect(run.returncode == 0, "it is refused")
    rows = read_tsv(run.config.layout.cohort)
    expect(len(rows) == 6, f"cohort.tsv has {len(rows)} rows")
    labels = [int(row["index"]) for row in read_tsv(run.config.layout.labels)]
    expect(labels == [1, 2, 3], f"labels are {labels}")
    return "taken"


def no_flock(case: Case) -> str:
    run = case.run()
    expect(run.finished, f"it ends with {run.returncode}")
    words = "can't be kept apart"
    expect(words in run.messages, "there is no warning")
    return next(line.strip() for line in run.messages.splitlines() if words in line)


def one_dark_voxel(case: Case) -> str:
    run, without = case.run(), case.run("--without")
    expect(run.finished and without.finished, "a run doesn't finish")
    grids = [read_json(r.config.layout.grid) for r in (run, without)]
    expect(grids[0] == grids[1], f"grids {[grid['shape'] for grid in grids]}")
    scores = [r.dice("05", m) for r in (run, without) for m in ("majority", "local_weighted")]
    expect(np.allclose(scores[:2], scores[2:], atol=0.01), f"Dice {scores}")
    return f"the same grid, Dice {scores[0]:.3f} and without that voxel {scores[2]:.3f}"


def one_with_session(case: Case) -> str:
    run = case.run()
    if run.returncode:
        return run.expect_refusal("ses-01")
    rows = [row for row in read_tsv(run.config.layout.cohort) if "sub-05" in row["image"]]
    expect(len(rows) == 1 and "ses-01" in rows[0]["image"], "ses-01 isn't found")
    return "found"


def pixdim_against_sform(case: Case) -> str:
    run = case.run()
    return run.expect_refusal("pixdim", "sub-05") if run.returncode else resampled_as_warped(run, "05")


def resampled_as_warped(run: Run, subject: str) -> str:
    """Expect that SimpleITK, with a subject's transform, resamples its image to the warped one."""
    layout = run.config.layout
    image = sitk.ReadImage(str(layout.preprocessed(subject)))
    template = sitk.ReadImage(str(layout.template_image))
    transform = sitk.ReadTransform(str(layout.forward(subject)))
    moved = sitk.GetArrayFromImage(sitk.Resample(image, template, transform))
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(layout.warped(subject))))
    error = float(np.abs(moved - warped).max())
    expect(error < 0.02, f"SimpleITK's image differs by {error:.3f}")
    return f"SimpleITK resamples to the warped image, within {error:.1e}"


def thin_slab(case: Case) -> str:
    run = case.run()
    if run.returncode:
        return run.expect_refusal("slices", "sub-01")
    scores = [run.dice(subject, "majority") for subject in ("05", "06")]
    expect(run.finished and min(scores) > 0.7, f"Dice {scores}")
    return f"segmented, Dice {scores[0]:.3f} and {scores[1]:.3f}"


def tilde_output(case: Case) -> str:
    run = case.run()
    expect(not (run.folder / "~").exists(), "there is a folder named ~")
    if run.returncode:
        return run.expect_refusal("~")
    expect((run.folder / "home/results-of-atlasmith/cohort.tsv").exists(), "nothing in the home folder")
    return "written below the home folder"


def turned_head(case: Case) -> str:
    run = case.run()
    expect(run.finished, f"it ends with {run.returncode}")
    sidecar = read_json(run.config.layout.segmentation_sidecar("05", "majority"))
    if sidecar.get("NeedsReview"):
        return f"NeedsReview is true, and the predicted Dice {sidecar.get('PredictedDice')}"
    sys.argv = [str(case.script), str(case.work / "turned_head_labels")]
    true = runpy.run_path(str(case.script))["slice_of"](5)[1][::-1, ::-1]
    score = mean_dice(run.segmentation("05"), true)
    expect(
        score > 0.8, f"Dice {score:.3f}, NeedsReview is false, PredictedDice {sidecar.get('PredictedDice')}"
    )
    return f"registered, Dice {score:.3f}"


def two_axes(case: Case) -> str:
    run = case.run()
    expect(run.finished, f"it ends with {run.returncode}")
    try:
        return resampled_as_warped(run, "05")
    except RuntimeError:
        text = (ROOT / "docs/outputs.md").read_text(encoding="utf-8")
        expect("two axes" in text, "SimpleITK can't resample, and docs/outputs.md doesn't say how")
        return "docs/outputs.md says what files of two axes need"


CHECKS: dict[str, Callable[[Case], str]] = {
    "ages_as_text": ages_as_text,
    "atlases_agree": atlases_agree,
    "ct_hounsfield": ct_hounsfield,
    "empty_labels": empty_labels,
    "field_of_view": field_of_view,
    "float_labels": taken,
    "itk_labels": taken,
    "nifti2": taken,
    "no_flock": no_flock,
    "one_dark_voxel": one_dark_voxel,
    "one_with_session": one_with_session,
    "pixdim_against_sform": pixdim_against_sform,
    "quoted_note": taken,
    "thin_slab": thin_slab,
    "tilde_output": tilde_output,
    "turned_head": turned_head,
    "two_axes": two_axes,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of the cases' scripts")
    parser.add_argument("cases", nargs="*", help="names of cases; default: all")
    parser.add_argument("--work", type=Path, help="where the cohorts are written; default: a new folder")
    arguments = parser.parse_args()
    work = (arguments.work or Path(tempfile.mkdtemp())).resolve()
    scripts = {path.stem: path for path in sorted(arguments.folder.resolve().glob("*.py"))}
    wrong = 0
    for name in arguments.cases or scripts:
        try:
            expect(name in CHECKS, "there is no check of this case")
            outcome = "right\t" + CHECKS[name](Case(scripts[name], work))
        except Exception as error:  # a missing output, say
            kind = "" if isinstance(error, Wrong) else f"{type(error).__name__}: "
            outcome, wrong = f"WRONG\t{kind}{error}", wrong + 1
        print(f"{name}\t{outcome}", flush=True)
    print(f"{wrong} wrong", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
