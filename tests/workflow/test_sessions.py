"""A run of a cohort with sessions: no scan is segmented or judged by its own participant's labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import CONFIG, finish, make_small_run, start

from atlasmith.config import load_config
from atlasmith.fusion.autocontext.model import AutoContext
from atlasmith.io.files import read_json
from atlasmith.io.layout import Layout
from atlasmith.io.tables import participant_of, read_cohort, read_tsv, scan_id
from atlasmith.io.weights import read_network

PARTICIPANTS = {"01": "00", "05": "04"}  # which scans become the second session of another's participant


def make_sessions(folder: Path) -> None:
    """Make a run of four participants of it: two atlases of sub-00, a target and another image of sub-04."""
    make_small_run(folder)
    bids = folder / "bids"
    moved = {old: (new, "ses-2") for old, new in PARTICIPANTS.items()}
    moved |= {name: (name, "ses-1") for name in PARTICIPANTS.values()}
    for root in (bids, bids / "derivatives" / "manual"):
        for old, (new, session) in moved.items():
            for path in sorted((root / f"sub-{old}" / "anat").glob("*.nii.gz")):
                target = root / f"sub-{new}" / session / "anat" / path.name.replace(old, f"{new}_{session}")
                target.parent.mkdir(parents=True)
                path.rename(target)
            (root / f"sub-{old}" / "anat").rmdir()
    rows = {row["participant_id"]: row for row in read_tsv(bids / "participants.tsv")}
    for old, new in PARTICIPANTS.items():
        lines = [
            f"ses-{n}\t{row['role']}\t{row['age']}\n"
            for n, row in enumerate((rows[f"sub-{new}"], rows.pop(f"sub-{old}")), start=1)
        ]
        table = bids / f"sub-{new}" / f"sub-{new}_sessions.tsv"
        table.write_text("session_id\trole\tage\n" + "".join(lines))
    lines = [f"{name}\t{row['role']}\t{row['age']}\n" for name, row in rows.items()]
    (bids / "participants.tsv").write_text("participant_id\trole\tage\n" + "".join(lines))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sessions")
    make_sessions(folder)
    finish(start(folder, "--cores", 2))
    return folder


@pytest.fixture
def layout(run: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.chdir(run)
    return load_config(run / CONFIG).layout


@pytest.mark.slow
class TestSessions:
    def test_roles_and_covariates_are_those_of_the_scans(self, layout: Layout) -> None:
        found = [(s.id, s.role, s.covariates["age"]) for s in read_cohort(layout.cohort)]
        assert found == [
            ("00_ses-1", "atlas", 30),
            ("00_ses-2", "atlas", 40),
            ("02", "atlas", 50),
            ("03", "atlas", 60),
            ("04_ses-1", "target", 70),
            ("04_ses-2", "train", 80),
        ]

    def test_atlases_are_of_other_participants(self, layout: Layout) -> None:
        everyone = {"00_ses-1", "00_ses-2", "02", "03"}
        for scan in (*everyone, "04_ses-1"):
            found = set(read_json(layout.propagated_sidecar(scan))["atlases"])
            assert found == {atlas for atlas in everyone if participant_of(atlas) != participant_of(scan)}

    def test_networks_are_trained_without_whole_participants(self, layout: Layout) -> None:
        network = read_network(layout.fuser_weights("autocontext"), AutoContext)
        assert [sorted(held_out) for held_out in network.first.without] == [["00"], ["02"], ["03"]]
        for scan in ("00_ses-1", "00_ses-2"):
            assert list(network.first.for_subject(scan)) == [network.first.each[0]]

    def test_scores_are_summarized_over_participants(self, layout: Layout) -> None:
        scores = read_tsv(layout.scores)
        assert {scan_id(row) for row in scores} >= {"00_ses-1", "00_ses-2", "04_ses-1", "04_ses-2"}
        (row,) = (r for r in read_tsv(layout.summary) if (r["method"], r["metric"]) == ("warped", "ncc"))
        values: dict[str, list[float]] = {}
        for score in scores:
            if (score["method"], score["metric"]) == ("warped", "ncc"):
                values.setdefault(score["participant_id"], []).append(float(score["value"]))
        means = [sum(own) / len(own) for own in values.values()]
        assert int(row["n"]) == len(means) == 4
        assert float(row["mean"]) == pytest.approx(sum(means) / 4)

    def test_nothing_runs_again(self, run: Path, layout: Layout) -> None:
        assert "Nothing to be done" in finish(start(run, "--cores", 1))
