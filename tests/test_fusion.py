from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter, uniform_filter

from atlasmith.config import Config, parse_config
from atlasmith.config.schema import FusionSection, JLFSection
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Grid
from atlasmith.core.sampling import sample
from atlasmith.core.world import resampling_coordinates
from atlasmith.fusion import autocontext, fuse_subject, methods, staple, train_fusers
from atlasmith.fusion.apply import on_native
from atlasmith.fusion.autocontext import positions
from atlasmith.fusion.calibration import CALIBRATIONS, calibrate
from atlasmith.fusion.jlf import correlated_weights, solved
from atlasmith.fusion.methods import FUSERS, Votes, fuse, plurality, shares
from atlasmith.fusion.propagated import Stack, own_labels, read_stack
from atlasmith.fusion.uncertainty import PARTS, Uncertainty, misfit
from atlasmith.fusion.votenet import CHANNELS, FAR, Trust, consensus, inputs, shrunk
from atlasmith.io.files import read_json, write_json
from atlasmith.io.images import read_grid, read_image, read_labels, write_image
from atlasmith.io.tables import Subject, read_cohort, read_tsv, write_cohort, write_tsv
from atlasmith.propagation import propagate_subject

RANDOM = np.random.default_rng(0)


def untrained(stack: Stack) -> Iterator[methods.Share]:
    case = autocontext.find_candidates(stack, autocontext.disputed(stack))
    values = np.unique(stack.labels)
    known = torch.from_numpy(positions(case.labels, values))
    logits = autocontext.CandidateClassifier(len(values), 8)(torch.from_numpy(case.evidence), known)
    return autocontext.said(stack, case, logits.softmax(-1).detach().numpy())


def votes(
    labels: np.ndarray,
    trust: np.ndarray | None = None,
    images: np.ndarray | None = None,
    target: np.ndarray | None = None,
    **settings: object,
) -> Votes:
    images = np.zeros(labels.shape, np.float32) if images is None else images
    target = images[0] if target is None else target
    stack = Stack(labels, images, target, None)  # type: ignore[arg-type]
    fusion = FusionSection.model_validate(settings)
    alone = np.eye(len(labels), dtype=np.float32)
    return Votes(labels, images, target, lambda: trust, lambda: alone, lambda: untrained(stack), fusion)


@pytest.mark.parametrize("shape", [(9, 8), (7, 8, 6)])
def test_majority_is_simpleitks_label_voting(shape: tuple[int, ...]) -> None:
    labels = RANDOM.choice([0, 4, 7, 200], size=(5, *shape)).astype(np.int32)
    fused, confidence = plurality(FUSERS["majority"](votes(labels)), labels.shape[1:])
    undecided = 255
    theirs = sitk.GetArrayFromImage(
        sitk.LabelVoting([sitk.GetImageFromArray(m.astype(np.uint8)) for m in labels], undecided)
    )
    clear = theirs != undecided
    np.testing.assert_array_equal(fused[clear], theirs[clear])
    assert clear.mean() > 0.4
    np.testing.assert_allclose(confidence, (labels == fused).mean(0), rtol=1e-6)


def test_ties_go_to_the_smallest_label_and_any_integer_survives() -> None:
    labels = np.array([[[1000]], [[4]]], dtype=np.int32)
    assert plurality(shares(labels, np.ones(labels.shape, np.float32)), labels.shape[1:])[0].item() == 4
    assert (
        plurality(shares(labels, np.array([[[0.6]], [[0.4]]], np.float32)), labels.shape[1:])[0].item()
        == 1000
    )


def test_local_weights_prefer_the_atlas_that_looks_like_the_target() -> None:
    target = RANDOM.random((16, 16)).astype(np.float32)
    images = np.stack([target, *RANDOM.random((4, 16, 16))]).astype(np.float32)
    labels = np.zeros((5, 16, 16), np.int32)
    labels[0] = 9
    weights = methods.local_weighted(votes(labels, images=images, target=target))
    assert (plurality(shares(labels, weights), target.shape)[0] == 9).all()
    alike = methods.local_weighted(votes(labels, images=np.stack([images[1]] * 5), target=target))
    np.testing.assert_allclose(alike, 1)


def test_the_locally_closest_atlases_alone_vote() -> None:
    target = RANDOM.random((16, 32)).astype(np.float32)
    images = RANDOM.random((5, *target.shape)).astype(np.float32)
    labels = np.ones(images.shape, np.int32)
    for half, two in ((np.s_[:, :16], [1, 3]), (np.s_[:, 16:], [0, 4])):
        for k in two:
            images[k][half] = target[half]
            labels[k][half] = 5
    given = votes(labels, images=images, target=target, local_selection=2)
    weights = methods.local_selection(given)
    assert ((weights == 0) | (weights == 1)).all()
    away = np.abs(np.arange(32) - 15.5) > methods.PATCH
    assert (weights[:, :, away].sum(0) == 2).all()
    assert (plurality(shares(labels, weights), target.shape)[0][:, away] == 5).all()
    everyone = votes(labels, images=images, target=target, local_selection=9)
    np.testing.assert_array_equal(methods.local_selection(everyone), methods.majority(everyone))


def test_votenet_weighs_by_trust_and_hard_votes_fall_back() -> None:
    labels = np.array([[[1, 1]], [[1, 1]], [[2, 2]]], np.int32)
    trust = np.array([[[0.4, 0.1]], [[0.3, 0.2]], [[0.9, 0.45]]], np.float32)
    soft, _ = plurality(FUSERS["votenet"](votes(labels, trust, votenet={"sharpness": 1})), labels.shape[1:])
    hard, _ = plurality(
        FUSERS["votenet_hard"](votes(labels, trust, votenet={"sharpness": 1})), labels.shape[1:]
    )
    np.testing.assert_array_equal(soft, [[2, 2]])
    np.testing.assert_array_equal(hard, [[2, 2]])
    assert plurality(FUSERS["majority"](votes(labels)), labels.shape[1:])[0].tolist() == [[1, 1]]


@pytest.mark.parametrize("method", FUSERS)
def test_all_atlases_alike_give_their_labels(method: str) -> None:
    labels = np.broadcast_to(RANDOM.integers(0, 140, (10, 11)), (4, 10, 11)).astype(np.int32)
    trust = RANDOM.random(labels.shape).astype(np.float32)
    fused, confidence = plurality(FUSERS[method](votes(labels, trust)), labels.shape[1:])
    np.testing.assert_array_equal(fused, labels[0])
    np.testing.assert_allclose(confidence, 1, rtol=1e-5)


def test_consensus_and_inputs() -> None:
    labels = torch.tensor([[[1, 2]], [[1, 3]], [[0, 3]]])
    torch.testing.assert_close(consensus(labels), torch.tensor([[[0.5, 0]], [[0.5, 0.5]], [[0, 0.5]]]))
    x = inputs(torch.rand(6, 7), torch.rand(3, 6, 7), torch.zeros(3, 6, 7).int(), torch.ones(3, 6, 7))
    assert x.shape == (3, CHANNELS, 6, 7)
    torch.testing.assert_close(x[:, 3], torch.ones(3, 6, 7))  # one label everywhere: nowhere near a boundary


def test_inputs_with_boundaries_and_two_scales() -> None:
    labels = torch.zeros(1, 24, 9, dtype=torch.int32)
    labels[:, :12] = 3
    image = torch.arange(24.0)[:, None].expand(24, 9)
    seen = inputs(image, 2 * image[None], labels, torch.zeros(1, 24, 9), boundary=True, scales=2)[0]
    assert len(seen) == CHANNELS + 3
    # 0 beside the boundary, then a step more each voxel, as far as FAR.
    wanted = (torch.tensor([*range(11, -1, -1), *range(12)]) / FAR).clamp(max=1)
    torch.testing.assert_close(seen[CHANNELS], wanted[:, None].expand(24, 9))
    torch.testing.assert_close(seen[CHANNELS + 1][2:-2], image[2:-2])  # a ramp's mean is its middle
    torch.testing.assert_close(seen[CHANNELS + 2][2:-2], 2 * image[2:-2])


def test_correlated_weights_have_a_closed_form() -> None:
    """Two atlases that err as one, and an independent one, share one vote and have one."""
    wrong = torch.full((5, 3), 0.5)
    as_one = torch.tensor([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]])  # with p = 1/2, r = -1: never together
    found = correlated_weights(wrong, as_one, 0.05)
    # M = [[.5, .5, 0], [.5, .5, 0], [0, 0, .5]]: weights as 1 / 1.05, 1 / 1.05, 1 / .55.
    one, two = 1 / 1.05, 1 / 0.55
    wanted = torch.tensor([one, one, two]) / (2 * one + two)
    torch.testing.assert_close(found, wanted.expand(5, 3))


def test_without_correlation_joint_weights_favour_who_errs_less() -> None:
    wrong = torch.tensor([[0.1, 0.3, 0.9]])
    (found,) = correlated_weights(wrong, torch.eye(3), 0.1)
    diagonal = wrong[0] * (1 - wrong[0]) + 0.1
    weights = torch.linalg.solve(torch.outer(wrong[0], wrong[0]) + torch.diag(diagonal), torch.ones(3))
    torch.testing.assert_close(found, weights.clamp(min=0) / weights.clamp(min=0).sum())
    assert found[0] > found[1] > found[2]


def test_the_errors_of_a_twin_correlate() -> None:
    """What atlases' errors on each other say, with few of them drawn to what is usual."""
    count = torch.full((4, 4), 100.0)
    together = torch.full((4, 4), 20.0).fill_diagonal_(200.0)  # twice as large as probabilities say
    together[0, 1] = together[1, 0] = 180
    found = shrunk(together, count)
    assert (found.diagonal() == 1).all() and torch.equal(found, found.T)
    usual = (2 * 90 + 10 * 10) / 12 / 100
    assert usual < float(found[0, 1]) < 0.9 and 0.1 < float(found[2, 3]) < usual
    assert torch.equal(shrunk(torch.zeros(1, 1), torch.zeros(1, 1)), torch.ones(1, 1))


@pytest.mark.parametrize("method", ["votenet", "jlf", "autocontext", "staple"])
def test_a_prior_and_a_fill_follow_any_method(method: str) -> None:
    labels = RANDOM.integers(0, 3, (7, 12, 11)).astype(np.int32)
    trust, images = (RANDOM.random(labels.shape).astype(np.float32) for _ in range(2))
    plain, prior = (votes(labels, trust, images, **settings) for settings in ({}, {"prior": 2.0}))
    shape = labels.shape[1:]
    alone, weighed = (np.zeros((3, *shape)) for _ in range(2))
    for values, case in ((alone, plain), (weighed, prior)):
        for value, box, share in fuse(method, case):
            values[value, *box] = share
    share = np.stack([(labels == value).mean(axis=0) for value in range(3)])
    wanted = alone * share**2
    np.testing.assert_allclose(weighed, wanted / wanted.sum(axis=0), rtol=1e-4, atol=1e-6)
    top = np.sort(share, axis=0)
    clear = top[-1] > top[-2]
    fused, best = plurality(fuse(method, plain), shape)
    fill = float(np.median(best))
    mended, confidence = plurality(fuse(method, votes(labels, trust, images, fill=fill)), shape)
    unsure = best < fill
    assert unsure.any() and not unsure.all()
    np.testing.assert_array_equal(mended[unsure & clear], share.argmax(axis=0)[unsure & clear])
    np.testing.assert_array_equal(mended[~unsure], fused[~unsure])
    np.testing.assert_allclose(confidence[unsure], top[-1][unsure], rtol=1e-5)


def test_fused_labels_land_in_the_native_grid() -> None:
    native = Grid((12, 10, 9), np.diag([1.0, 2.0, 1.5, 1.0]))
    box = [slice(3, 8), slice(2, 7), slice(0, 9)]
    crop = native.cropped(box)
    labels = RANDOM.integers(0, 3, (3, *crop.shape)).astype(np.int32)
    weights = np.ones(labels.shape, np.float32)
    fused, confidence = on_native(shares(labels, weights), crop, native)
    expected = np.zeros(native.shape, int)
    expected[tuple(box)] = plurality(shares(labels, weights), crop.shape)[0]
    np.testing.assert_array_equal(fused, expected)
    assert (confidence[:3] == 1).all()


def test_coarse_votes_are_interpolated() -> None:
    native = Grid((24, 24, 1), np.eye(4))
    coarse = native.resampled(3.0)
    radius = np.hypot(*(np.mgrid[:8, :8] - 3.5))
    labels = np.stack([np.where(radius < r, 5, 0) for r in (2.2, 2.6, 3.0)]).astype(np.int32)
    fused, _ = on_native(shares(labels, np.ones(labels.shape, np.float32)), coarse, native)
    area = (fused == 5).sum() / 9
    assert area == pytest.approx((labels[1] == 5).sum(), rel=0.2)
    assert fused[12, 12, 0] == 5 and fused[0, 0, 0] == 0


def test_memory_does_not_grow_with_the_number_of_labels() -> None:
    import tracemalloc

    peaks = []
    for count in (2, 134):
        labels = RANDOM.integers(0, count, (6, 40, 40, 20)).astype(np.int32)
        tracemalloc.start()
        plurality(shares(labels, np.ones(labels.shape, np.float32)), labels.shape[1:])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def phantom_library(folder: Path, atlases: int = 8) -> Config:
    """A cohort in which each propagated atlas is misregistered in one half of the image, at random."""
    random = np.random.default_rng(1)
    config = parse_config(
        {
            "output": str(folder),
            "device": "cpu",
            "cohort": {"bids": str(folder)},
            "template": {"name": "Toy"},
            "fusion": {
                "methods": ["majority", "votenet", "votenet_hard", "autocontext"],
                "votenet": {"channels": [8, 16], "steps": 150, "patch": 32, "batch_size": 8},
                "autocontext": {"steps": 120, "voxels": 10_000, "width": 32},
            },
        }
    )
    layout, grid = config.layout, Grid((48, 48, 1), np.eye(4))
    x, y = np.mgrid[:48, :48] - 23.5

    def picture(dx: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        radius = np.hypot(x - dx, y - dy)
        labels = np.where(radius < 7, 2, np.where(radius < 14, 1, 0))
        return (np.select([labels == 2, labels == 1], [0.9, 0.5], 0.1)).astype(np.float32), labels

    subjects = []
    for index in range(atlases + 4):
        name, role = f"{index:02d}", "atlas" if index < atlases else "target"
        image, labels = picture(np.zeros_like(x), np.zeros_like(x))
        paths = folder / f"{name}_T1w.nii.gz", folder / f"{name}_dseg.nii.gz"
        write_image(
            paths[0], (image + 0.02 * random.normal(size=image.shape))[..., None].astype(np.float32), grid
        )
        write_image(paths[1], labels[..., None], grid)
        subjects.append(Subject(name, role, paths[0], paths[1]))
        voters = [k for k in range(atlases) if k != index]
        stack = []
        for _ in voters:
            angle = random.uniform(0, 2 * np.pi)
            wrong = (np.cos(angle) * x + np.sin(angle) * y > 0) * 5.0
            way = random.uniform(0, 2 * np.pi)
            stack.append(picture(wrong * np.cos(way), wrong * np.sin(way)))
        images = np.stack([s[0] for s in stack], -1) + 0.02 * random.normal(size=(48, 48, len(voters)))
        write_image(layout.propagated_images(name), images[:, :, None].astype(np.float32), grid)
        write_image(layout.propagated_labels(name), np.stack([s[1] for s in stack], -1)[:, :, None], grid)
        write_json(layout.propagated_sidecar(name), {"atlases": [f"{k:02d}" for k in voters]})
    write_cohort(layout.cohort, subjects, [])
    write_tsv(layout.labels, [{"index": 1, "name": "ring"}, {"index": 2, "name": "core"}], ["index", "name"])
    return config


def test_networks_find_out_which_half_to_trust(tmp_path: Path) -> None:
    config = phantom_library(tmp_path)
    train_fusers(config)
    for network in ("votenet", "autocontext"):
        rows = read_tsv(config.layout.fuser_training(network))
        assert sum(row["validation"] != "n/a" for row in rows) >= 5
    scores: dict[str, list[float]] = {method: [] for method in config.fusion.methods}
    for subject in read_cohort(config.layout.cohort)[8:]:
        fuse_subject(config, subject.id)
        truth = read_labels(subject.labels).data
        for method in scores:
            fused = read_labels(config.layout.segmentation(subject.id, method)).data
            scores[method] += [  # Dice
                2 * ((fused == k) & (truth == k)).sum() / ((fused == k).sum() + (truth == k).sum())
                for k in (1, 2)
            ]
    mean = {method: np.mean(values) for method, values in scores.items()}
    assert mean["votenet"] > mean["majority"] + 0.03
    assert mean["votenet_hard"] > mean["majority"] + 0.03
    assert mean["autocontext"] > mean["majority"] + 0.05


def test_three_atlases_teach_something(tmp_path: Path) -> None:
    # Each of them is disputed by two, a target by three: shares of votes that no jury has met.
    config = phantom_library(tmp_path, atlases=3)
    section = config.fusion.model_copy(update={"methods": ["majority", "autocontext"]})
    config = config.model_copy(update={"fusion": section})
    train_fusers(config)
    right: dict[str, list[float]] = {method: [] for method in section.methods}
    for subject in read_cohort(config.layout.cohort)[3:]:
        fuse_subject(config, subject.id)
        truth = read_labels(subject.labels).data
        for method in right:
            right[method].append(
                np.mean(read_labels(config.layout.segmentation(subject.id, method)).data == truth)
            )
    assert np.mean(right["autocontext"]) > np.mean(right["majority"]) + 0.04


def test_votenet_with_all_it_may_see(tmp_path: Path) -> None:
    """Boundaries, two scales, a local temperature; and a correlation of every two atlases."""
    config = phantom_library(tmp_path)
    seen = {"boundary": True, "scales": 2, "calibration": "local_temperature", "steps": 100}
    fusion = config.fusion.model_copy(
        update={
            "methods": ["majority", "votenet_joint"],
            "votenet": config.fusion.votenet.model_copy(update=seen),
        }
    )
    config = config.model_copy(update={"fusion": fusion})
    train_fusers(config)
    subject = read_cohort(config.layout.cohort)[8]
    fuse_subject(config, subject.id)
    truth = read_labels(subject.labels).data
    right = {
        method: np.mean(read_labels(config.layout.segmentation(subject.id, method)).data == truth)
        for method in fusion.methods
    }
    assert right["votenet_joint"] > right["majority"] + 0.01
    trust, stack = Trust(config), read_stack(config.layout, subject)
    found = trust.correlation(stack)
    assert found.shape == (8, 8) and (np.diag(found) == 1).all()
    np.testing.assert_allclose(found, found.T, atol=1e-5)
    assert 0 < np.abs(found[~np.eye(8, dtype=bool)]).max() < 1
    with pytest.raises(AtlasmithError, match="stranger"):
        trust.correlation(replace(stack, atlases=["stranger"]))


def test_correlations_that_dont_fit_leave_equal_votes() -> None:
    labels = np.array([[[1]]] * 9 + [[[2]]], np.int32)
    apart = np.where(np.eye(10), 1, -0.5).astype(np.float32)
    case = replace(votes(labels, np.full(labels.shape, 0.8, np.float32)), correlation=lambda: apart)
    fused, confidence = plurality(FUSERS["votenet_joint"](case), (1, 1))
    assert fused.tolist() == [[1]] and confidence[0, 0] > 0.5


def trained_shortly(config: Config) -> Config:
    fusion = config.fusion
    short = {name: getattr(fusion, name).model_copy(update={"steps": 40}) for name in fusion.networks}
    return config.model_copy(update={"fusion": fusion.model_copy(update=short)})


def test_the_same_seed_gives_the_same_networks(tmp_path: Path) -> None:
    config = trained_shortly(phantom_library(tmp_path))
    weights = []
    for _ in range(2):
        train_fusers(config)
        weights.append([config.layout.fuser_weights(n).read_bytes() for n in config.fusion.networks])
    assert weights[0] == weights[1]


def test_training_may_not_read_a_targets_labels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no atlas"):
        own_labels(Subject("x", "target", tmp_path, tmp_path), Grid((4, 4, 4), np.eye(4)))


def test_the_chain_on_the_toy_cohort(toy_registered: Config) -> None:
    """Fused in the target's own grid and orientation, with volumes that add up; no worse than majority."""
    layout = toy_registered.layout
    for subject in read_cohort(layout.cohort):
        if subject.role != "train":
            propagate_subject(toy_registered, subject.id)
    train_fusers(toy_registered)
    target = next(s for s in read_cohort(layout.cohort) if s.id == "09")
    unsure = toy_registered.fusion.model_copy(update={"uncertainty": True})
    fuse_subject(toy_registered.model_copy(update={"fusion": unsure}), "09")
    truth = read_labels(target.labels).data
    dice = {}
    for method in toy_registered.fusion.methods:
        segmentation = read_labels(layout.segmentation("09", method))
        assert segmentation.grid.same_as(read_grid(target.image))
        assert set(np.unique(segmentation.data)) == {0, 4, 1000}
        rows = read_tsv(layout.volumes("09", method))
        for row in rows:
            volume = (segmentation.data == int(row["index"])).sum() * 1.5
            assert float(row["volume_mm3"]) == pytest.approx(volume, rel=1e-4)
        confidence = read_image(layout.confidence("09", method)).data
        assert confidence.min() > 0 and confidence.max() <= 1.0001
        parts = read_image(layout.uncertainty("09", method)).data
        assert parts.shape == (*confidence.shape, 3) and parts.min() >= 0
        sure = confidence > 0.999
        assert (parts[sure, 0] < 0.05).all() and (parts[~sure].max(axis=0) > 0).all()
        assert list(read_json(layout.segmentation_sidecar("09", method))["Uncertainty"]) == list(PARTS)
        both = [(segmentation.data == k, truth == k) for k in (4, 1000)]
        dice[method] = np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in both])
    assert min(dice.values()) > 0.85
    assert min(dice["votenet"], dice["autocontext"]) > dice["majority"] - 0.02


def test_uncertainty_has_three_parts() -> None:
    labels = np.array([[[1, 1, 0]], [[1, 2, 0]], [[1, 2, 0]], [[1, 0, 0]]], np.int32)
    images = np.stack([np.full((1, 3), value, np.float32) for value in (0.5, 0.5, 0.7, 0.3)])
    stack = Stack(labels, images, np.full((1, 3), 0.5, np.float32), Grid((1, 3, 1), np.eye(4)))
    unsure = Uncertainty(stack.labels)
    fused, _ = plurality(unsure.passed(FUSERS["majority"](votes(labels))), (1, 3))
    entropy, disagreement, registration = unsure.maps(misfit(stack))
    assert fused.tolist() == [[1, 2, 0]]
    np.testing.assert_allclose(entropy, [[0, 1.5 * np.log(2), 0]], atol=1e-6)
    np.testing.assert_allclose(disagreement, [[0, 0.5, 0]], atol=1e-6)
    np.testing.assert_allclose(registration, np.full((1, 3), np.sqrt(0.02)), rtol=1e-5)


def test_trust_is_a_probability_for_every_atlas(toy_registered: Config) -> None:
    if not toy_registered.layout.fuser_weights("votenet").exists():
        pytest.skip("runs after the chain's test")
    shape = (20, 18)
    stack = Stack(
        RANDOM.integers(0, 2, (5, *shape)).astype(np.int32),
        RANDOM.random((5, *shape)).astype(np.float32),
        RANDOM.random(shape).astype(np.float32),
        Grid((*shape, 1), np.eye(4)),
    )
    trust = Trust(toy_registered)(stack)
    assert trust.shape == (5, *shape) and trust.min() >= 0 and trust.max() <= 1


def planted(logit: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    """Overconfident logits, what was seen with them, and whether they were right."""
    generator = torch.Generator().manual_seed(0)
    z, seen = 3 * torch.randn(40_000, generator=generator), torch.randn(40_000, 2, generator=generator)
    return [z, seen, (torch.rand(len(z), generator=generator) < logit(z, seen).sigmoid()).float()]


def calibrated(name: str, judged: Sequence[torch.Tensor]) -> torch.nn.Module:
    torch.manual_seed(0)
    calibration = CALIBRATIONS[name](2)
    calibrate(calibration, *judged)
    return calibration


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_calibrations_find_a_planted_temperature(name: str) -> None:
    z, seen, right = planted(lambda z, seen: 0.6 * z)
    found = calibrated(name, (z, seen, right))(z, seen).detach()
    assert (found.sigmoid() - (0.6 * z).sigmoid()).abs().mean() < 0.01
    few = [torch.tensor([-1.0, 1, 2]), torch.zeros(3, 2), torch.tensor([0.0, 1, 1])]  # a perfect split
    assert calibrated(name, few)(*few[:2]).abs().max() < 10


def test_platt_finds_an_offset_and_a_local_temperature_where_it_holds() -> None:
    judged = planted(lambda z, seen: 0.6 * z - 0.5)
    platt = calibrated("platt", judged)
    assert (platt.scale.item(), platt.offset.item()) == pytest.approx((0.6, -0.5), abs=0.03)
    z, seen, right = planted(lambda z, seen: z * (0.3 + 0.7 * seen[:, 0].sigmoid()))
    wanted = (z * (0.3 + 0.7 * seen[:, 0].sigmoid())).sigmoid()
    found = {n: calibrated(n, (z, seen, right))(z, seen).detach() for n in CALIBRATIONS}
    errors = {name: float((logits.sigmoid() - wanted).abs().mean()) for name, logits in found.items()}
    assert errors["local_temperature"] < 0.01 < 0.02 < errors["temperature"]
    for name in ("temperature", "local_temperature"):
        assert ((found[name] > 0) == (z > 0)).all()  # what is likelier than not stays so


@pytest.mark.parametrize("method", ["votenet", "votenet_hard"])
def test_small_trust_in_all_atlases_still_decides(method: str) -> None:
    labels = np.array([[[7, 0]], [[7, 0]], [[5, 0]]], np.int32)
    trust = np.full(labels.shape, 1e-3, np.float32)
    fused, confidence = plurality(
        FUSERS[method](votes(labels, trust, votenet={"sharpness": 16})), labels.shape[1:]
    )
    assert fused.tolist() == [[7, 0]]
    np.testing.assert_allclose(confidence, [[2 / 3, 1]], rtol=1e-6)


def test_the_border_of_the_image_is_no_boundary_of_a_label() -> None:
    labels = torch.zeros(1, 16, 16, dtype=torch.int32)
    labels[:, :8] = 3
    inside = inputs(torch.zeros(16, 16), torch.zeros(1, 16, 16), labels, torch.zeros(1, 16, 16))[0, 3]
    torch.testing.assert_close(inside[[0, 4, 11, 15]], torch.ones(4, 16))
    assert (inside[7:9] < 1).all()


@pytest.mark.parametrize(("shape", "spacing"), [((30, 26, 22), 2.7), ((31, 40, 1), 3.0)])
def test_votes_in_boxes_are_votes_on_the_whole_grid(shape: tuple[int, int, int], spacing: float) -> None:
    """Against every label's share, upsampled over all of the native grid."""
    native = Grid(shape, np.diag([1.0, 1.2, 1.0, 1.0]))
    coarse = native.resampled(spacing)
    grid = coarse.cropped([slice(1 if n > 1 else 0, n) for n in coarse.shape])
    labels = RANDOM.choice([-3, 0, 4, 1000], size=(4, *grid.tensor_shape)).astype(np.int32)
    labels[:, :3] = 0
    weights = RANDOM.random(labels.shape).astype(np.float32)
    voxels = resampling_coordinates(grid, [], native)

    def upsampled(some: np.ndarray) -> np.ndarray:
        share = (np.where(some, weights, 0).sum(0) / weights.sum(0)).astype(np.float32)
        return sample(torch.from_numpy(share)[None, None], voxels)[0, 0].numpy()

    values = [0, -3, 4, 1000]
    maps = np.stack([1 - upsampled(labels != 0), *(upsampled(labels == value) for value in values[1:])])
    fused, confidence = on_native(shares(labels, weights), grid, native)
    np.testing.assert_array_equal(native.squeeze(fused), np.array(values)[maps.argmax(0)])
    np.testing.assert_allclose(native.squeeze(confidence), maps.max(0), atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 18), (10, 12, 9)])
def test_staple_is_simpleitks(shape: tuple[int, ...]) -> None:
    truth = RANDOM.choice([0, 1, 2], size=shape, p=[0.5, 0.3, 0.2])
    labels = np.stack(
        [
            np.where(RANDOM.random(shape) < p, truth, RANDOM.integers(0, 3, shape))
            for p in (0.95, 0.5, 0.4, 0.4, 0.3)
        ]
    ).astype(np.int32)
    theirs = sitk.MultiLabelSTAPLEImageFilter()
    theirs.SetLabelForUndecidedPixels(99)
    theirs.SetTerminationUpdateThreshold(1e-6)
    pictures = [sitk.GetImageFromArray(m.astype(np.uint8)) for m in labels]
    expected = sitk.GetArrayFromImage(theirs.Execute(pictures))
    fused, confidence = plurality(FUSERS["staple"](votes(labels)), shape)
    clear = expected != 99
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(fused[clear], expected[clear])
    # Better than counting heads, since it learns whom to believe.
    counted, _ = plurality(FUSERS["majority"](votes(labels)), shape)
    assert (fused == truth).mean() > (counted == truth).mean()
    assert ((confidence > 1 / 3) & (confidence <= 1)).all()


def test_staple_considers_what_has_votes_where_labels_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of its own: drawn after other tests' numbers, a voxel or two may be told by labels without votes.
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(20), 60).reshape(40, 30)
    labels = np.stack(
        [
            np.where(random.random(truth.shape) < p, truth, random.integers(0, 20, truth.shape))
            for p in (0.9, 0.8, 0.8, 0.7, 0.7)
        ]
    ).astype(np.int32)
    few = {value: share for value, _, share in FUSERS["staple"](votes(labels))}
    monkeypatch.setattr(staple, "FEW", 20)
    every = {value: share for value, _, share in FUSERS["staple"](votes(labels))}
    assert list(few) == list(every) == list(range(20))
    for value, share in few.items():
        assert np.abs(share - every[value]).mean() < 1e-3
        assert (share[(labels != value).all(axis=0)] == 0).all()


def test_staple_doesnt_underflow_with_many_atlases() -> None:
    labels = RANDOM.choice([0, 1], size=(2000, 6, 5), p=[0.45, 0.55]).astype(np.int32)
    fused, confidence = plurality(FUSERS["staple"](votes(labels)), (6, 5))
    assert np.isfinite(confidence).all() and set(np.unique(fused)) <= {0, 1}


@pytest.mark.parametrize(
    ("together", "alpha", "weights"),
    [
        ([[1, 0.5], [0.5, 2]], 0.1, [0.7273, 0.2727]),
        # Two atlases that err together share one vote.
        ([[1, 1, 0], [1, 1, 0], [0, 0, 1]], 0.1, [0.2558, 0.2558, 0.4884]),
        ([[1, 1, 0], [1, 1, 0], [0, 0, 1]], 0.01, [0.2506, 0.2506, 0.4988]),
        ([[1, 3], [3, 10]], 0.1, [1, 0]),
    ],
)
def test_joint_weights_of_known_systems(
    together: list[list[float]], alpha: float, weights: list[float]
) -> None:
    found = solved(torch.tensor([together], dtype=torch.float64), alpha)[0]
    np.testing.assert_allclose(found, weights, atol=5e-5)


def test_votenet_plus_solves_the_joint_system() -> None:
    trust = (0.2 + 0.8 * RANDOM.random((6, 4, 5))).astype(np.float32)
    found = methods.votenet_plus(votes(np.zeros(trust.shape, np.int32), trust)).reshape(6, -1).T
    wrong = torch.from_numpy(1 - trust).reshape(6, -1).T
    expected = solved(wrong[:, :, None] * wrong[:, None], methods.RIDGE)
    np.testing.assert_allclose(found / found.sum(1, keepdims=True), expected, atol=1e-5)


def scene(
    shape: tuple[int, ...], atlases: int, shift: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Target, truth, and atlases that are the target displaced by up to `shift` voxels, with some noise."""
    random = np.random.default_rng(2)
    smooth = gaussian_filter(random.normal(size=shape), 2.5)
    target = ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)
    truth = np.digitize(target, [0.4, 0.6]).astype(np.int32)
    moves = random.integers(-shift, shift + 1, (atlases, len(shape)))
    images, labels = (
        np.stack([np.roll(x, tuple(move), range(len(shape))) for move in moves]) for x in (target, truth)
    )
    return target, truth, (images + 0.02 * random.normal(size=images.shape)).astype(np.float32), labels


@pytest.mark.parametrize("shape", [(30, 28), (18, 20, 16)])
def test_joint_label_fusion_mends_what_is_displaced(shape: tuple[int, ...]) -> None:
    target, truth, images, labels = scene(shape, 5, 2)
    some = votes(labels, images=images, target=target)
    (joint, _), (counted, _) = (plurality(FUSERS[m](some), shape) for m in ("jlf", "majority"))
    inner = tuple(slice(5, -5) for _ in shape)
    assert (counted == truth)[inner].mean() < 0.9
    assert (joint == truth)[inner].mean() > 0.97
    order = RANDOM.permutation(5)
    again, _ = plurality(FUSERS["jlf"](votes(labels[order], images=images[order], target=target)), shape)
    assert (again == joint).mean() > 0.999


def test_joint_label_fusion_is_ants() -> None:
    ants = pytest.importorskip("ants", reason="antspyx isn't installed")
    shape = (18, 20, 16)
    target, _, images, labels = scene(shape, 5, 2)
    settings = JLFSection(alpha=0.01, beta=4.0)
    mine, _ = plurality(FUSERS["jlf"](votes(labels + 1, images=images, target=target, jlf=settings)), shape)
    # A label of 0 can't win a voxel there.
    theirs = ants.joint_label_fusion(
        ants.from_numpy(target),
        ants.from_numpy(np.ones(shape, np.float32)),
        atlas_list=[ants.from_numpy(image) for image in images],
        label_list=[ants.from_numpy((label + 1).astype(np.float32)) for label in labels],
        beta=4,
        rad=2,
        rho=0.01,
        r_search=3,
        nonnegative=False,
        verbose=False,
    )["segmentation"].numpy()
    inner = tuple(slice(6, -6) for _ in shape)
    assert (mine - 1 == np.rint(theirs) - 1)[inner].mean() > 0.97


def crowd(shape: tuple[int, ...], values: list[int], voters: int = 5) -> Stack:
    """Smooth blobs of some labels, as some voters see them, and an image in which they differ."""
    noise = gaussian_filter(RANDOM.normal(size=(voters + 1, *shape)), (0, *[2] * len(shape)))
    base = gaussian_filter(RANDOM.normal(size=shape), 4) * 6
    labels = np.digitize(base + 3 * noise, np.linspace(-0.3, 0.5, len(values) - 1))
    images = 0.2 + 0.6 * labels / len(values) + 0.02 * RANDOM.normal(size=labels.shape)
    labels = np.array(values)[labels].astype(np.int32)
    grid = Grid((*shape, 1, 1)[:3], np.eye(4))
    return Stack(labels[1:], images[1:].astype(np.float32), images[0].astype(np.float32), grid)


@pytest.mark.parametrize("shape", [(30, 26), (14, 12, 13)])
def test_evidence_for_a_few_voxels_is_that_for_all(shape: tuple[int, ...]) -> None:
    stack = crowd(shape, [0, 3, 9, 300])
    where = autocontext.disputed(stack)
    case = autocontext.find_candidates(stack, where)
    assert np.isfinite(case.evidence).all()
    shares = np.stack([(stack.labels == value).mean(0).ravel()[where] for value in (0, 3, 9, 300)], -1)
    for row in (0, 7, len(where) - 1):
        present = [label for label in case.labels[row] if label >= 0]
        assert sorted(present) == [v for v, s in zip((0, 3, 9, 300), shares[row], strict=True) if s > 0]
        votes = case.evidence[row, : len(present), 0]
        assert (np.diff(votes) <= 0).all() and votes.sum() == pytest.approx(1, abs=1e-6)
    some = autocontext.find_candidates(stack, where[5:40:3])
    np.testing.assert_array_equal(some.labels, case.labels[5:40:3])
    np.testing.assert_allclose(some.evidence, case.evidence[5:40:3], atol=1e-6)


@pytest.mark.parametrize("shape", [(30, 26), (14, 12, 13)])
def test_evidence_knows_neither_the_order_of_atlases_nor_names(shape: tuple[int, ...]) -> None:
    stack = crowd(shape, [0, 3, 9])
    where = autocontext.disputed(stack)
    case = autocontext.find_candidates(stack, where)
    order = RANDOM.permutation(len(stack.labels))
    renamed = np.where(stack.labels == 9, 1000, stack.labels)[order]
    other = autocontext.find_candidates(Stack(renamed, stack.images[order], stack.target, stack.grid), where)
    for value, new in ((0, 0), (3, 3), (9, 1000)):
        np.testing.assert_allclose(
            other.evidence[other.labels == new], case.evidence[case.labels == value], atol=1e-4
        )


def test_an_untrained_jury_decides_by_votes_and_shares_add_up() -> None:
    stack = crowd((30, 26), [0, 3, 9])
    case = autocontext.find_candidates(stack, autocontext.disputed(stack))
    jury = autocontext.CandidateClassifier(3, 8)
    labels = torch.from_numpy(positions(case.labels, np.array([0, 3, 9])))
    shares = jury(torch.from_numpy(case.evidence), labels).softmax(-1).detach().numpy()
    expected = np.where(case.labels >= 0, case.evidence[..., :2].mean(-1) + autocontext.NOISE, 0)
    np.testing.assert_allclose(shares, expected / expected.sum(-1, keepdims=True), rtol=1e-4)
    total = np.zeros((30, 26))
    for value, box, share in autocontext.said(stack, case, shares):
        total[box] += share
        agreed = (stack.labels == value).all(0)
        assert (share[agreed[box]] == 1).all() and (share[(stack.labels != value).all(0)[box]] == 0).all()
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_a_label_that_the_jury_never_met_has_no_say() -> None:
    np.testing.assert_array_equal(
        positions(np.array([[0, 7, 9, -1, 10]]), np.array([0, 7, 9])), [[0, 1, 2, -1, -1]]
    )


def test_the_jury_that_learned_without_an_atlas_judges_it() -> None:
    stack = crowd((30, 26), [0, 3, 9])
    case = autocontext.find_candidates(stack, autocontext.disputed(stack))
    juries = autocontext.AutoContext([0, 3, 9], 8, [["a"], ["b", "c"]]).requires_grad_(False).first
    for jury in juries.each:
        torch.nn.init.normal_(jury.decide.weight)
    told = torch.from_numpy(case.evidence), torch.from_numpy(positions(case.labels, np.array([0, 3, 9])))
    first, second = (autocontext.heard(jury, *told) for jury in juries.each)
    assert not np.allclose(first, second)
    for name, expected in (("a", first), ("c", second), ("new", (first + second) / 2)):
        found = np.mean([autocontext.heard(jury, *told) for jury in juries.for_subject(name)], axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_someone_new_is_judged_by_all_pairs_of_juries() -> None:
    stack = crowd((30, 26), [0, 3, 9])
    court = autocontext.AutoContext([0, 3, 9], 8, [["a"], ["b", "c"]]).requires_grad_(False)
    for jury in (*court.first.each, *court.second.each):
        torch.nn.init.normal_(jury.decide.weight)
    for one, two, both in zip(*(court.verdict(stack, name) for name in ("a", "b", "new")), strict=True):
        assert one[:2] == two[:2] == both[:2]
        np.testing.assert_allclose(both[2], (one[2] + two[2]) / 2, atol=1e-6)


@pytest.mark.parametrize("shape", [(30, 26), (14, 12, 13)])
def test_second_thoughts_are_of_the_first_verdict(shape: tuple[int, ...]) -> None:
    stack = crowd(shape, [0, 3, 9])
    case = autocontext.find_candidates(stack, autocontext.disputed(stack))
    shares = np.where(case.labels >= 0, RANDOM.random(case.labels.shape), 0).astype(np.float32)
    shares /= shares.sum(axis=1, keepdims=True)
    thoughts = autocontext.context_features(stack, case, shares)
    assert thoughts.shape == (*shares.shape, autocontext.CONTEXT_FEATURES) and np.isfinite(thoughts).all()
    np.testing.assert_allclose(thoughts[..., 0], shares)
    for value in (0, 3, 9):
        given = (stack.labels == value).all(axis=0).astype(np.float32)
        given.ravel()[case.where] = np.where(case.labels == value, shares, 0).sum(axis=1)
        around = uniform_filter(given, 3, mode="nearest").ravel()[case.where]
        rows, slots = np.nonzero(case.labels == value)
        np.testing.assert_allclose(thoughts[rows, slots, 1], around[rows], atol=1e-5)


def test_an_untrained_court_says_what_the_first_verdict_says_there_and_around() -> None:
    stack = crowd((30, 26), [0, 3, 9])
    court = autocontext.AutoContext([0, 3, 9], 8, [["a"], ["b"]]).requires_grad_(False)
    case = autocontext.find_candidates(stack, autocontext.disputed(stack))
    told = torch.from_numpy(case.evidence), torch.from_numpy(positions(case.labels, court.values))
    first = autocontext.heard(court.first.each[0], *told)
    thoughts = autocontext.context_features(stack, case, first)
    expected = np.where(case.labels >= 0, thoughts[..., :2].mean(-1) + autocontext.NOISE, 0)
    expected /= expected.sum(-1, keepdims=True)
    both = zip(court.verdict(stack, "new"), autocontext.said(stack, case, expected), strict=True)
    for found, known in both:
        assert found[:2] == known[:2]
        np.testing.assert_allclose(found[2], known[2], atol=1e-5)


def test_a_jury_learns_nothing_of_what_it_leaves_out(tmp_path: Path) -> None:
    config = phantom_library(tmp_path)
    config = trained_shortly(config)
    found = []
    for spoilt in (False, True):
        if spoilt:
            for name in ("00", "03", "06"):  # of three juries, the first leaves these out
                path = tmp_path / f"{name}_dseg.nii.gz"
                labels = read_labels(path)
                write_image(path, np.roll(labels.data, 9, axis=0), labels.grid)
        autocontext.train_autocontext(config)
        found.append(autocontext.read_autocontext(config))
    for hearing in ("first", "second"):
        sound, other = (getattr(court, hearing) for court in found)
        assert sound.without[0] == {"00", "03", "06"}
        before, after = (juries.each[0].state_dict() for juries in (sound, other))
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not torch.equal(sound.each[1].hear.weight, other.each[1].hear.weight)


def test_where_all_agree_there_is_no_case() -> None:
    labels = np.repeat(RANDOM.integers(0, 3, (1, 9, 8)).astype(np.int32), 4, axis=0)
    stack = Stack(labels, np.zeros(labels.shape, np.float32), np.zeros((9, 8)), Grid((9, 8, 1), np.eye(4)))
    case = autocontext.find_candidates(stack, autocontext.disputed(stack))
    assert case.evidence.shape == (0, autocontext.CANDIDATES, autocontext.FEATURES)
    fused, confidence = plurality(autocontext.said(stack, case, np.zeros(case.labels.shape)), (9, 8))
    np.testing.assert_array_equal(fused, labels[0])
    assert (confidence == 1).all()
