"""The display of a run, from the log that Snakemake itself writes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from atlasmith.workflow.display import Display, RunState, last_progress

SNAKEFILE = """
rule all:
    input: "report.txt"

for number in (1, 2):
    rule:
        name: f"affine_{number}"
        output: f"affine-{number}.txt"
        log: f"logs/affine/job-{number}.log"
        shell: "echo 'affine: 3 of 8, 2 s left, 0.10 GiB' > {log}; touch {output}"

rule broken:
    output: "broken.txt"
    log: "logs/broken/all.log"
    shell: "false > {log}"

rule report:
    input: expand("affine-{n}.txt", n=(1, 2)), WANTED
    output: "report.txt"
    shell: "touch {output}"
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watch(folder: Path, stream: io.StringIO, wanted: str = "[]") -> tuple[Display, int]:
    (folder / "Snakefile").write_text(SNAKEFILE.replace("WANTED", wanted))
    log = folder / "snakemake.log"
    log.write_text("rule earlier:\n")  # of an earlier run, which isn't shown
    with log.open("a") as file:
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "--keep-going"]
        process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file)
        with Display(log, ["affine", "report"], stream) as display:
            return display, display.watch(process)


def test_a_run_is_read_from_the_log_of_snakemake(tmp_path: Path) -> None:
    stream = io.StringIO()
    display, code = watch(tmp_path, stream)
    stages = display.state.stages
    assert code == 0
    assert {name: (jobs.total, jobs.done, len(jobs.failed)) for name, jobs in stages.items()} == {
        "affine": (2, 2, 0),
        "report": (1, 1, 0),
    }
    assert not any(jobs.running for jobs in stages.values())
    assert stream.getvalue().splitlines()[-1].endswith("3 of 3 jobs done")


def test_a_failed_job_is_shown_on_a_terminal(tmp_path: Path) -> None:
    stream = Terminal()
    display, code = watch(tmp_path, stream, '"broken.txt"')
    assert code != 0
    assert display.state.stages["broken"].failed == {"broken"}
    shown = stream.getvalue()
    assert "1 failed" in shown and "affine" in shown and "100%" in shown


def test_a_running_job_has_the_log_that_is_read() -> None:
    state = RunState()
    for line in (
        "Job stats:",
        "job        count",
        "-------  -------",
        "template       1",
        "affine_10      1",
        "affine_11      1",
        "total          3",
        "",
        "localrule template:",
        "    input: a b",
        "    log: /results/logs/template/all.log",
        "    jobid: 2",
    ):
        state.read(line + "\n")
    assert state.stages["affine"].total == 2
    assert state.stages["template"].running == {"template": Path("/results/logs/template/all.log")}
    state.read("Error in rule template:\n")
    state.read("rule template:\n")  # Snakemake tries once more
    assert not state.stages["template"].failed
    state.read("Finished jobid: 2 (Rule: template)\n")
    assert state.stages["template"].done == 1 and not state.stages["template"].running


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("device: cpu\nresuming\n", (0.0, "")),
        (
            "template: 120 of 480, loss 0.1, 1.00 GiB\nnote\n",
            (0.25, "template: 120 of 480, loss 0.1, 1.00 GiB"),
        ),
    ],
)
def test_the_last_line_of_progress_counts(tmp_path: Path, text: str, expected: tuple[float, str]) -> None:
    (tmp_path / "all.log").write_text(text)
    assert last_progress(tmp_path / "all.log") == expected
    assert last_progress(tmp_path / "none.log") == (0.0, "")
