"""The student, and the ensemble of it and auto-context fusion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fusion_data import fused_dice, random_atlases, trained_shortly, with_fusion, write_phantom_cohort

from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Grid
from atlasmith.fusion import fuse_subject, train_fusers
from atlasmith.fusion.ensemble import ENSEMBLE, LEAST, WEIGHTS
from atlasmith.fusion.fuser import FusionInputs
from atlasmith.fusion.library import Library
from atlasmith.fusion.propagated import read_atlases, read_propagated
from atlasmith.fusion.student.model import Student, tiles
from atlasmith.fusion.student.pseudo_labels import STEPS, PseudoLabels, read_unlabelled
from atlasmith.fusion.student.settings import StudentSettings, choose_unlabelled
from atlasmith.fusion.student.training import draw_sample
from atlasmith.io.images import read_image, read_labels, write_image
from atlasmith.io.tables import read_cohort, read_tsv, write_cohort
from atlasmith.networks import SubpixelUNet

RANDOM = np.random.default_rng(0)
VALUES = [0, 3, 9, 300]


def untrained(
    without: list[list[str]], ndim: int = 2, patch: int = 16, values: list[int] = VALUES
) -> Student:
    torch.manual_seed(0)
    student = Student(values, [4, 8], without, ndim, 1, patch).eval()
    for network in student.networks.each:
        torch.nn.init.normal_(network.body.head.weight)  # its weights start near zero
    return student


@pytest.mark.parametrize("shape", [(13, 10), (9, 8, 7)])
def test_the_subpixel_network_takes_any_size(shape: tuple[int, ...]) -> None:
    network = SubpixelUNet(len(shape), 2, 3, [4, 8])
    assert network(torch.rand(1, 2, *shape)).shape == (1, 3, *shape)


@pytest.mark.parametrize("shape", [(40, 33), (21, 18, 35)])
def test_tiles_cover_a_grid_once(shape: tuple[int, ...]) -> None:
    covered = torch.zeros(shape)
    for tile, around, inner in tiles(shape, 16):
        covered[tile] += 1
        assert torch.equal(torch.ones(shape)[around][inner], torch.ones(shape)[tile])
        for own, part, wide in zip(tile, inner, around, strict=True):
            assert wide.start + part.start == own.start and wide.stop - wide.start <= 16
    assert bool((covered == 1).all())


def test_votes_are_shares_and_many_labels_share_channels() -> None:
    atlases = random_atlases(RANDOM, (20, 18), VALUES)
    votes = untrained([[]]).votes(atlases.labels)
    for channel, value in zip(votes, VALUES[1:], strict=True):
        torch.testing.assert_close(channel, (atlases.labels == value).float().mean(dim=0))
    voting = torch.ones(atlases.labels.shape, dtype=torch.bool)
    voting[:2, :9] = False
    some = untrained([[]]).votes(atlases.labels, voting)
    torch.testing.assert_close(some[0, :9], (atlases.labels[2:, :9] == 3).float().mean(dim=0))
    torch.testing.assert_close(some[:, 9:], votes[:, 9:])
    assert untrained([[]], values=list(range(60))).votes(atlases.labels.clamp(max=59)).shape == (16, 20, 18)


@pytest.mark.parametrize("excluded", [False, True])
def test_probabilities_add_up_and_excluded_regions_are_voted_on(excluded: bool) -> None:
    atlases = random_atlases(RANDOM, (40, 22), VALUES)
    if excluded:
        target_valid = torch.ones(40, 22, dtype=torch.bool)
        target_valid[5:9] = False
        atlases = replace(atlases, target_valid=target_valid)
    total, first = torch.zeros(40, 22), torch.zeros(40, 22)
    for value, box, probability in untrained([[]]).probabilities(atlases, "new"):  # type: ignore[arg-type]
        total[box] += probability
        if value == 3:
            first[box] = probability
    torch.testing.assert_close(total, torch.ones(40, 22))
    share = (atlases.labels == 3).float().mean(dim=0)
    assert torch.allclose(first[5:9], share[5:9]) == excluded
    assert not torch.allclose(first[20:], share[20:])


def test_an_atlas_is_segmented_by_the_networks_that_hold_it_out() -> None:
    student, atlases = untrained([["a", "b"], ["c"]]), random_atlases(RANDOM, (20, 18), VALUES)

    def found(subject: str) -> list[torch.Tensor]:
        return [p for _, _, p in student.probabilities(atlases, subject)]  # type: ignore[arg-type]

    before = found("a"), found("c")
    torch.nn.init.zeros_(student.networks.each[1].body.head.weight)
    assert all(map(torch.equal, before[0], found("a")))
    assert not all(map(torch.equal, before[1], found("c")))


def test_samples_are_of_the_atlases_and_their_votes(tmp_path: Path) -> None:
    config = write_phantom_cohort(tmp_path)
    atlases = read_atlases(config.layout)
    library, student = Library(config.layout, atlases), untrained([[]], values=[0, 1, 2])
    nothing = PseudoLabels(config, [], [], "digest")
    draws, agreements = {"warped": 0, "alone": 0, "without": 0}, list[float]()
    for seed in range(40):
        random = torch.Generator().manual_seed(seed)
        sample = draw_sample(library, nothing, student, StudentSettings(patch=16), random)
        assert sample.inputs.shape == (1, 3, 16, 16) and sample.labels.unique().tolist() == [0, 1, 2]
        draws["warped" if len(sample.participants) == 2 else "alone"] += 1
        draws["without"] += not sample.inputs[:, 1:].any()
        if sample.inputs[:, 1:].any():  # votes go along with the labels, whatever the augmentation
            agreed = sample.inputs[0, 1:].argmax(dim=0)[(sample.inputs[0, 1:].amax(0) > 0.9)]
            labels = sample.labels[0][sample.inputs[0, 1:].amax(0) > 0.9]
            agreements += (agreed + 1 == labels).float().tolist()
    assert min(draws.values()) > 8
    assert np.mean(agreements) > 0.9


def with_train_subjects(config: Config) -> Config:
    """The phantom cohort with all but two targets as subjects for training, which are segmented, too."""
    cohort = read_cohort(config.layout.cohort)
    write_cohort(config.layout.cohort, [*cohort[:10], *(replace(s, role="train") for s in cohort[10:])], [])
    return with_fusion(config, train_subjects=True)


def test_unlabelled_scans_have_the_labels_of_the_method_before_the_student(tmp_path: Path) -> None:
    config = with_train_subjects(with_fusion(write_phantom_cohort(tmp_path), methods=["majority", "student"]))
    assert config.fusion.pseudo_label_method == "majority"
    fuse_subject(with_fusion(config, methods=["majority"]), "10")
    labels = read_labels(config.layout.segmentation("10", "majority")).data[..., 0]
    confidence = read_image(config.layout.confidence("10", "majority")).data[..., 0]
    unlabelled = PseudoLabels(config, read_unlabelled(config), [(), ("00", "03")], "digest")
    assert [subject.id for subject in unlabelled.subjects] == ["10", "11"]
    scan = unlabelled[0]
    np.testing.assert_array_equal(scan.labels[0], labels)
    np.testing.assert_allclose(scan.confidence[0] / STEPS, confidence, atol=0.002)
    atlases = read_propagated(config.layout, unlabelled.subjects[0])
    kept = [position for position, name in enumerate(atlases.ids) if name not in ("00", "03")]
    shares = torch.stack([(atlases.labels[kept] == value).float().mean(dim=0) for value in (0, 1, 2)])
    np.testing.assert_array_equal(scan.labels[1], shares.argmax(dim=0))
    np.testing.assert_allclose(scan.confidence[1] / STEPS, shares.amax(dim=0), atol=0.002)
    again = vars(PseudoLabels(config, unlabelled.subjects, unlabelled.folds, "digest")[0])
    assert all(torch.equal(again[name], kept) for name, kept in vars(scan).items())
    unlabelled.remove()
    assert not list(config.layout.fuser_checkpoint("student").parent.iterdir())

    library, student = Library(config.layout, read_atlases(config.layout)), untrained([[]], values=[0, 1, 2])
    settings, drawn = StudentSettings(patch=48), set[frozenset[str]]()
    for seed in range(20):
        random = torch.Generator().manual_seed(seed)
        sample = draw_sample(library, unlabelled, student, settings, random)
        drawn.add(sample.participants)
        for own, weight in map(sample.version, (0, 1)):
            assert own.shape == weight.shape == (1, 48, 48)
        versions = torch.equal(sample.version(0)[0], sample.version(1)[0])
        assert versions == sample.is_manual == (not sample.participants <= {"10", "11"})
        if not sample.is_manual:
            assert not sample.inputs[:, 1:].any()
            between = (sample.weight > 0.3) & (sample.weight < 0.99)
            assert float(between.float().mean()) > 0.05 and float(sample.weight.max()) < 1.001
    assert {frozenset(["10"]), frozenset(["11"])} < drawn
    nothing = with_fusion(config, train_subjects=False)
    assert not PseudoLabels(nothing, read_unlabelled(nothing), [()], "digest")


def test_many_unlabelled_scans_are_chosen_evenly_whatever_the_order_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlasmith.fusion.student.settings.MOST_UNLABELLED", 3)
    config = with_fusion(write_phantom_cohort(tmp_path), methods=["student"], train_subjects=True)
    names = ["5", "10", "1", "30", "2"]
    one = read_cohort(config.layout.cohort)[0]
    write_cohort(config.layout.cohort, [replace(one, id=name, role="train") for name in names], [])
    assert [subject.id for subject in read_unlabelled(config)] == choose_unlabelled(names) == ["1", "2", "5"]


def test_atlases_without_some_participants() -> None:
    """The one that is left keeps its channels, and where it isn't valid nothing is known."""
    both = random_atlases(RANDOM, (6, 5), VALUES, atlases=3)
    valid = torch.ones(3, 6, 5, dtype=torch.bool)
    valid[1, :2] = False
    present = np.array([[True, True, False]])
    atlases = replace(both, ids=["a_ses-1", "b", "a_ses-2"], present=present, valid=valid)
    left = atlases.without({"a"})
    assert left.ids == ["b"] and left.present is not None and left.present.tolist() == [[True]]
    assert torch.equal(left.labels[0, 2:], both.labels[1, 2:])
    assert left.comparable is not None and not left.comparable[:2].any() and left.comparable[2:].all()
    assert not atlases.without({"a", "b"}).ids


def test_without_any_atlas_outside_a_fold_nothing_is_known(tmp_path: Path) -> None:
    config = with_train_subjects(with_fusion(write_phantom_cohort(tmp_path), methods=["majority"]))
    everyone = tuple(f"{index:02d}" for index in range(8))
    scan = PseudoLabels(config, read_cohort(config.layout.cohort)[10:], [(), everyone], "digest")[0]
    assert bool((scan.confidence[0] > 0).all()) and not scan.confidence[1].any()


def test_what_is_excluded_of_an_unlabelled_scan_weighs_nothing(tmp_path: Path) -> None:
    config = with_train_subjects(with_fusion(write_phantom_cohort(tmp_path), methods=["majority"]))
    valid = np.ones((48, 48, 1), np.uint8)
    valid[:10] = 0
    cohort = read_cohort(config.layout.cohort)
    write_image(tmp_path / "lesion.nii.gz", 1 - valid, Grid(valid.shape, np.eye(4)))
    write_image(config.layout.valid_mask("10"), valid, Grid(valid.shape, np.eye(4)))
    cohort[10] = replace(cohort[10], exclude=tmp_path / "lesion.nii.gz")
    scan = PseudoLabels(config, cohort[10:], [()], "digest")[0]
    assert not scan.confidence[:, :10].any() and bool((scan.confidence[:, 10:] > 0).all())


@pytest.mark.parametrize(
    ("methods", "found"),
    [
        (["student"], "majority"),
        (["local_weighted", "majority", "student"], "local_weighted"),
        (["ensemble"], "autocontext"),
        (["autocontext", "votenet", "ensemble"], "autocontext"),
    ],
)
def test_the_method_that_labels_unlabelled_scans(methods: list[str], found: str) -> None:
    config = parse_config({"cohort": {"bids": "data"}, "fusion": {"methods": methods}})
    assert config.fusion.pseudo_label_method == found


def test_student_and_ensemble_are_better_than_the_majority(tmp_path: Path) -> None:
    config = write_phantom_cohort(tmp_path)
    settings = config.fusion.section("student").model_copy(
        update={"channels": [8, 16], "steps": 150, "patch": 32}
    )
    methods = ["majority", "autocontext", "student", "ensemble"]
    config = with_fusion(config, methods=methods, student=settings)
    assert config.fusion.networks == ["autocontext", "student"]
    train_fusers(config)
    rows = read_tsv(config.layout.fuser_training("student"))
    assert sum(row["validation"] != "n/a" for row in rows) >= 5
    dice = fused_dice(config)
    for subject in read_cohort(config.layout.cohort)[8:]:  # the same if it is the only method
        alone = with_fusion(config, methods=["ensemble"])
        path = config.layout.segmentation(subject.id, "ensemble")
        before = path.read_bytes()
        fuse_subject(alone, subject.id)
        assert path.read_bytes() == before
    assert dice["student"] > dice["majority"] + 0.02
    assert dice["ensemble"] > dice["majority"] + 0.05


def test_training_again_gives_the_same_student(tmp_path: Path) -> None:
    config = with_train_subjects(with_fusion(write_phantom_cohort(tmp_path), methods=["student"]))
    config = trained_shortly(config)
    weights = []
    for _ in range(2):
        train_fusers(config)
        weights.append(config.layout.fuser_weights("student").read_bytes())
    assert weights[0] == weights[1]


def test_the_ensemble_is_the_geometric_mean() -> None:
    atlases = random_atlases(RANDOM, (6, 5), VALUES)
    whole, part = (slice(0, 6), slice(0, 5)), (slice(1, 4), slice(2, 5))
    first, second = (torch.rand(3, 3) for _ in range(2))
    zeros = torch.zeros(6, 5)
    a, b = zeros.clone(), zeros.clone()
    a[part], b[part] = first, second
    members = [[(0, whole, 1 - a), (3, part, first)], [(0, whole, 1 - b), (3, part, second)]]
    inputs = FusionInputs.of(atlases, ENSEMBLE.settings_type(), lambda: [iter(m) for m in members])
    found = {value: (box, p) for value, box, p in ENSEMBLE(inputs)}
    weights = list(WEIGHTS.values())
    means = [
        (x + LEAST) ** weights[0] * (y + LEAST) ** weights[1] - LEAST for x, y in ((1 - a, 1 - b), (a, b))
    ]
    expected = means[1] / sum(means)
    torch.testing.assert_close(found[3][1], expected[part])
    torch.testing.assert_close(found[0][1][part], 1 - expected[part])


def test_a_label_of_one_member_alone_can_win() -> None:
    atlases = random_atlases(RANDOM, (4, 4), VALUES)
    whole = (slice(0, 4), slice(0, 4))
    members = [[(0, whole, torch.full((4, 4), 0.01)), (3, whole, torch.full((4, 4), 0.99))]]
    members.append([(0, whole, torch.full((4, 4), 0.6)), (9, whole, torch.full((4, 4), 0.4))])
    inputs = FusionInputs.of(atlases, ENSEMBLE.settings_type(), lambda: members)
    total = sum(p for _, _, p in ENSEMBLE(inputs))
    torch.testing.assert_close(total, torch.ones(4, 4))


def test_the_config_knows_the_members_settings() -> None:
    config = parse_config(
        {"cohort": {"bids": "data"}, "fusion": {"methods": ["ensemble"], "student": {"steps": 7}}}
    )
    assert config.fusion.networks == ["autocontext", "student"]
    assert list(config.fusion.trainings) == ["autocontext", "autocontext_second", "student"]
    assert config.fusion.section("student").steps == 7
