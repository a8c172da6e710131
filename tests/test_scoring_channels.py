"""Stage `score` with several channels and excluded regions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_scoring import Cohort

from atlasmith.config import parse_config
from atlasmith.core.grid import Array
from atlasmith.evaluation import metrics, score_subject, summarize
from atlasmith.io.files import write_json
from atlasmith.io.images import write_image
from atlasmith.io.tables import read_cohort, read_tsv, write_cohort
from atlasmith.io.transforms import write_composite

CHANNELS = ("T1w", "T2w")


@pytest.fixture(params=[False, True], ids=["3d", "2d"])
def cohort(tmp_path: Path, request: pytest.FixtureRequest) -> Cohort:
    """A cohort whose T2w is the square of T1w; atlas a2 has no T2w, target t1 no T1w; t2 has a lesion."""
    cohort = Cohort(tmp_path, request.param)
    values = cohort.config.resolved()
    values["cohort"] |= {"suffix": list(CHANNELS), "exclude": "lesions"}
    cohort.config = parse_config(values)
    cohort.layout = layout = cohort.config.layout
    second = cohort.image**2
    write_image(layout.template_channel("T2w"), second, cohort.grid)
    write_image(layout.affine_reference_channel("T2w"), second / 2, cohort.grid)
    for name in ("a1", "t1", "t2"):
        cohort.native(layout.preprocessed(name, "T2w"), second)
        write_json(layout.preprocessed_sidecar(name, "T2w"), {})
        write_image(layout.affine_image(name, "T2w"), cohort.image, cohort.grid)
        write_image(layout.warped(name, "T2w"), second, cohort.grid)
    layout.warped("t1").unlink()
    present = {"a1": CHANNELS, "a2": CHANNELS[:1], "t1": CHANNELS[1:], "t2": CHANNELS}
    subjects = [
        replace(
            subject,
            channels={channel: layout.preprocessed(subject.id, channel) for channel in present[subject.id]},
            exclude=layout.valid_mask("t2") if subject.id == "t2" else None,
        )
        for subject in read_cohort(layout.cohort)
    ]
    write_cohort(layout.cohort, subjects, [])
    write_composite(layout.forward("t2"), [np.eye(4)])
    cohort.native(layout.valid_mask("t2"), (~lesion(cohort)).astype(np.float32))
    return cohort


def lesion(cohort: Cohort) -> Array:
    mask = np.zeros(cohort.shape, bool)
    mask[9:14, 7:12] = True
    return mask


def test_each_channel_is_scored_and_the_reference_as_before(cohort: Cohort) -> None:
    single = Cohort(cohort.folder / "single", cohort.shape[2] == 1).scores("a1")
    scores = cohort.scores("a1")
    of_second = {key: value for key, value in scores.items() if key[2] == "T2w"}
    assert {key: value for key, value in scores.items() if key not in of_second} == single
    assert {key[3] for key in of_second} == set(metrics.IMAGE_METRICS)
    assert scores["register", "warped", "T2w", "ncc"] == pytest.approx(1)
    assert scores["affine", "initial", "T2w", "ncc"] == pytest.approx(1, abs=1e-5)
    assert 0.5 < scores["affine", "affine", "T2w", "ncc"] < 0.999
    assert not any(label == "T2w" for _, _, label, _ in cohort.scores("a2"))
    # A subject without the reference channel, whose other measures of registration have no label either.
    only = {key[1:3] for key in cohort.scores("t1") if key[0] == "register" and key[3] == "ncc"}
    assert only == {("warped", "T2w")}


def test_what_is_excluded_has_no_part_in_similarity(cohort: Cohort) -> None:
    layout, images = cohort.layout, []
    for value in (0.9, 0.5):  # in the place of the lesion
        image = np.where(lesion(cohort), value, cohort.image).astype(np.float32)
        cohort.native(layout.preprocessed("t2"), image)
        write_image(layout.affine_image("t2"), image, cohort.grid)
        write_image(layout.warped("t2"), image, cohort.grid)
        images.append(cohort.scores("t2"))
    steps = [("affine", "initial"), ("affine", "affine"), ("register", "warped")]
    for step in steps:
        for name in metrics.IMAGE_METRICS:
            assert images[0][*step, "n/a", name] == images[1][*step, "n/a", name]
    assert images[0]["register", "warped", "n/a", "ncc"] == pytest.approx(1)


def test_the_template_is_scored_by_channel(cohort: Cohort) -> None:
    for name in cohort.ids:
        score_subject(cohort.config, name)
    summarize(cohort.config)
    rows = {(r["method"], r["label"], r["metric"]): r for r in read_tsv(cohort.layout.summary)}
    # Half of the template's intensities: a quarter of its energy, and the same sharpness.
    assert float(rows["template", "T2w", "gradient_energy_ratio"]["mean"]) == pytest.approx(4, rel=1e-5)
    sharpness = [
        rows[method, "T2w", "sharpness_per_mm"]["mean"] for method in ("template", "affine_reference")
    ]
    assert float(sharpness[0]) == pytest.approx(float(sharpness[1]), rel=1e-5)
    assert ("template", "T2w", "centrality_mm") not in rows and ("template", "n/a", "centrality_mm") in rows
    assert rows["warped", "T2w", "ncc"]["n"] == "3" and rows["warped", "n/a", "ncc"]["n"] == "3"


def test_the_template_is_not_scored_where_nobody_may_be_learned_from(cohort: Cohort) -> None:
    layout = cohort.layout
    everyone = [replace(s, exclude=layout.valid_mask(s.id)) for s in read_cohort(layout.cohort)]
    for subject in everyone:
        write_composite(layout.forward(subject.id), [np.eye(4)])
        cohort.native(layout.valid_mask(subject.id), (~lesion(cohort)).astype(np.float32))
        score_subject(cohort.config, subject.id)
    found = []
    for subjects in (everyone, [replace(everyone[0], exclude=None), *everyone[1:]]):
        write_cohort(layout.cohort, subjects, [])
        summarize(cohort.config)
        rows = {(r["method"], r["label"], r["metric"]): r for r in read_tsv(layout.summary)}
        found.append(float(rows["template", "n/a", "gradient_energy_per_mm2"]["mean"]))
    grid = cohort.grid
    image, inside = grid.squeeze(cohort.image), grid.squeeze(metrics.foreground(grid.squeeze(cohort.image)))
    for value, mask in zip(found, (inside & ~grid.squeeze(lesion(cohort)), inside), strict=True):
        expected = metrics.gradient_energy_per_mm2(image, mask, grid.tensor_spacing)
        assert value == pytest.approx(expected, rel=1e-5)
