"""The paragraph on the methods, and the tables of structures and figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_run import ATLASES, SHAPES, SUMMARY, make_config, make_run

from atlasmith.fusion.table import FUSERS
from atlasmith.io.tables import Subject, read_cohort, read_tsv, write_tsv
from atlasmith.losses import REGULARIZERS, SIMILARITY
from atlasmith.optimization import OPTIMIZERS
from atlasmith.report.figures import main_figures
from atlasmith.report.methods import find_references, methods_text
from atlasmith.report.results import Results
from atlasmith.report.structures import reference_volumes, structure_rows, subject_structures
from atlasmith.transforms import PARAMETRIZATIONS


def _subjects(tmp_path: Path) -> list[Subject]:
    image = tmp_path / "image.nii.gz"
    return [
        Subject("01", "atlas", image),
        Subject("02_ses-1", "target", image),
        Subject("02_ses-2", "target", image),
    ]


def test_the_text_says_what_the_config_chose(tmp_path: Path) -> None:
    config = make_config(
        tmp_path,
        preprocess={"n4": True},
        template={"similarity": {"mse": {"weight": 3.0}}, "steps": 77, "refinement": {"rounds": 4}},
        register={"instance_optimization": {"steps": 12}},
        fusion={"methods": ["jlf"], "quality": True},
    )
    text = " ".join(methods_text(config, _subjects(tmp_path)))
    for part in (
        "3 images of 2 participants",
        "N4",
        "conditional on age",
        "77 steps",
        "4 rounds",
        "12 steps",
    ):
        assert part in text
    assert "mse (Mean squared difference; weight 3)" in text and "Joint label fusion" in text
    assert "1 atlas " in text
    references = {reference.identifier: reference for reference in find_references(text)}
    assert references["doi:10.1109/TPAMI.2012.143"].name == "Wang et al. 2013"
    assert references["arXiv:1908.02738"].link == "https://arxiv.org/abs/1908.02738"
    without = make_config(
        tmp_path, template={"condition_on": [], "evaluate_at": {}}, fusion={"quality": False}
    )
    text = " ".join(methods_text(without, _subjects(tmp_path)))
    assert "conditional" not in text and "N4" not in text and "conformal" not in text


@pytest.mark.parametrize("name", FUSERS)
def test_every_fusion_method_is_described(name: str, tmp_path: Path) -> None:
    config = make_config(tmp_path, fusion={"methods": [name]})
    text = " ".join(methods_text(config, _subjects(tmp_path)))
    assert ".." not in text and "The default" not in text
    cited = FUSERS[name].text.count("doi:") + FUSERS[name].text.count("arXiv:")
    first = len(
        find_references(
            " ".join(
                methods_text(make_config(tmp_path, fusion={"methods": ["majority"]}), _subjects(tmp_path))
            )
        )
    )
    assert len(find_references(text)) <= first + cited


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_every_parametrization_is_described(name: str, tmp_path: Path) -> None:
    """That of the template, and that of the registrations where it is another one."""
    config = make_config(tmp_path, template={"parametrization": {"name": name}})
    text = " ".join(methods_text(config, _subjects(tmp_path)))
    kind = "diffeomorphic" if PARAMETRIZATIONS[name].diffeomorphic else "not always diffeomorphic"
    assert f"Deformations are {kind} and parametrized by {name}: " in text
    assert "For the registrations" not in text and "The default" not in text
    other = make_config(tmp_path, register={"parametrization": {"name": name}})
    text = " ".join(methods_text(other, _subjects(tmp_path)))
    assert "parametrized by stationary_velocity: " in text and "(Arsigny et al. 2006, doi:" in text
    assert (f"For the registrations to the template they were {name}: " in text) == (
        name != "stationary_velocity"
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_is_described(name: str, tmp_path: Path) -> None:
    optimizer = {"optimizer": {"name": name}}
    config = make_config(tmp_path, register={"instance_optimization": optimizer})
    text = " ".join(methods_text(config, _subjects(tmp_path)))
    assert f"40 steps of instance optimization ({name}: " in text and "The default" not in text
    without = make_config(tmp_path, register={"instance_optimization": optimizer | {"steps": 0}})
    assert f"({name}: " not in " ".join(methods_text(without, _subjects(tmp_path)))


def test_similarities_of_channels_and_labels_are_described(tmp_path: Path) -> None:
    config = make_config(
        tmp_path,
        cohort={"suffix": ["T1w", "T2w"]},
        template={
            "channel_similarity": {"T2w": {"mse": {"weight": 5.0}}},
            "label_similarity": {"mse": {"weight": 7.0}},
        },
    )
    text = " ".join(methods_text(config, _subjects(tmp_path)))
    assert "T1w and T2w" in text and "for T2w mse (" in text and "labels" in text and "weight 7" in text


def test_learning_from_unlabelled_images_is_described(tmp_path: Path) -> None:
    subjects = [*_subjects(tmp_path), Subject("03", "train", tmp_path / "image.nii.gz")]
    for methods, train_subjects, learns in (
        (["majority", "student"], True, True),
        (["majority", "student"], False, False),
        (["majority"], True, False),
    ):
        config = make_config(tmp_path, fusion={"methods": methods, "train_subjects": train_subjects})
        text = " ".join(methods_text(config, subjects))
        assert ("those that majority found" in text) == learns
        assert ("each of the other images" in text) == train_subjects
        assert "each of the other" not in " ".join(methods_text(config, subjects[:3]))


@pytest.mark.parametrize("kind", ["similarity", "regularization"])
def test_every_loss_is_described(kind: str, tmp_path: Path) -> None:
    table = SIMILARITY if kind == "similarity" else REGULARIZERS
    config = make_config(tmp_path, template={kind: {name: {"weight": 2.0} for name in table}})
    text = " ".join(methods_text(config, _subjects(tmp_path)))
    assert all(f"{name} (" in text for name in table)


def test_figures_beside_the_range_of_the_atlases(tmp_path: Path) -> None:
    config = make_run(tmp_path, SHAPES["2-D"])
    results = Results(config, read_cohort(config.layout.cohort))
    figures = {figure.name: figure for figure in main_figures(results)}
    dice = figures["Dice, votenet"]
    assert dice.reference == pytest.approx((0.7025, 0.7475))  # of 0.70, 0.71 ... 0.75
    places = dice.places
    # 0.1 to 0.9 with 15 % room at both ends
    assert places["low"] == pytest.approx(100 * 0.12 / 1.04, abs=0.01)
    assert places["mean"] == pytest.approx(100 * (0.12 + 0.7125) / 1.04, abs=0.01)
    assert figures["Sharpness, template over affine mean"].reference is None


def test_dice_is_of_the_atlases_where_no_target_has_labels(tmp_path: Path) -> None:
    config = make_run(tmp_path, SHAPES["2-D"])
    rows = [row for row in read_tsv(config.layout.summary) if row["stage"] != "fuse"]
    left_out = {"stage": "leave_one_out", "metric": "dice", "unit": "1", "n": 6}
    for method, mean in (("votenet", 0.9), ("single_atlas", 0.6)):
        rows += [{**left_out, "method": method, "label": "mean", "mean": mean}]
        rows += [{**left_out, "method": method, "label": "7", "mean": mean - 0.1}]
    write_tsv(config.layout.summary, [row for row in rows if row["metric"] != "dice"], SUMMARY)
    assert Results(config, []).segmentation_stages == ("propagate", "fuse")  # no Dice at all
    write_tsv(config.layout.summary, rows, SUMMARY)
    results = Results(config, read_cohort(config.layout.cohort))
    figures = {figure.name: figure.mean for figure in main_figures(results)}
    assert figures["Dice of atlases, votenet"] == 0.9
    assert figures["Dice of atlases, single atlases"] == 0.6
    methods, structures = structure_rows(results)
    assert methods == ["single_atlas", "votenet"]
    (seven,) = (row for row in structures if row["index"] == 7)
    assert [dice[0] for dice in seven["dice"]] == pytest.approx([0.5, 0.8])


def test_few_atlases_make_no_range(tmp_path: Path) -> None:
    config = make_run(tmp_path, SHAPES["2-D"])
    results = Results(config, read_cohort(config.layout.cohort))
    few = Results(config, results.subjects[:4])
    vars(few)["quality"] = [row for row in results.quality if row["participant_id"] < "sub-04"]
    vars(few)["scores"] = [row for row in results.scores if row["participant_id"] < "sub-04"]
    assert all(figure.reference is None for figure in main_figures(few))
    assert reference_volumes(few) == {}


def test_volumes_beside_those_of_the_atlases(tmp_path: Path) -> None:
    config = make_run(tmp_path, SHAPES["2-D"])
    results = Results(config, read_cohort(config.layout.cohort))
    references = reference_volumes(results)
    assert references[7] == pytest.approx((1.25, ATLASES - 0.25))  # ml, of 1, 2 ... 6
    within, beyond = (subject_structures(results, name, references)[0] for name in ("02", "09"))
    assert within["volume"] == 3 and not within["outside"] and within["interval"] == "2.70 to 3.30"
    assert beyond["volume"] == 10 and beyond["outside"]
    methods, rows = structure_rows(results)
    assert methods == ["votenet"] and rows[0]["dice"] == [(0.2, "0.100 to 0.900")]
    assert rows[1]["volume"] == pytest.approx(5.5) and rows[1]["count"] == 10


def test_the_voxel_size_of_training_is_named_where_it_is_another(tmp_path: Path) -> None:
    coarse = make_config(tmp_path, template={"spacing": 1.0, "training_spacing": 2.0, "steps": 30})
    assert "in 30 steps at 2 mm. " in " ".join(methods_text(coarse, _subjects(tmp_path)))
