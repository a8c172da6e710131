"""Templates of several channels, of incomplete scans, and of scans with excluded regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from channel_toy import build, scan, template

from atlasmith.core.grid import Array
from atlasmith.io.images import read_image
from atlasmith.networks import Groupwise


def difference(image: Array, reference: Array) -> float:
    """Root of the summed squared differences, relative to the reference's."""
    return float(np.linalg.norm(image - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("shape", [(30, 34), (20, 22, 18)])
def test_a_template_learns_nothing_from_an_excluded_lesion(shape: tuple[int, ...], tmp_path: Path) -> None:
    cohort = [scan(shape, seed=seed) for seed in range(8)]
    offsets = np.indices(shape) - (np.array(shape) * 0.6).reshape(-1, *[1] * len(shape))
    distance = np.sqrt((offsets**2).sum(axis=0))
    damaged = [dict(images) for images in cohort]
    damaged[3] = {name: np.where(distance < 3, 3.0, image) for name, image in cohort[3].items()}
    found = {}
    for name, images, exclude in (
        ("intact", cohort, None),
        ("excluded", damaged, {3: distance < 4}),
        ("included", damaged, None),
    ):
        config = build(tmp_path / name, images, exclude, refinement={"rounds": 2, "steps": 5})
        found[name] = np.stack([template(config, channel) for channel in ("T1w", "T2w")])
    assert difference(found["excluded"], found["intact"]) < 0.01
    assert difference(found["included"], found["intact"]) > 0.03


def test_a_channel_is_averaged_over_the_scans_that_have_it(tmp_path: Path) -> None:
    """All scans are the same, but half lack a channel, also the reference channel."""
    images = scan((32, 30))
    cohort = [images, {"T1w": images["T1w"]}, {"T2w": images["T2w"]}, images]
    config = build(tmp_path, cohort, ages=[20, 40, 60, 80], evaluate_at={"age": [30, 70]})
    for channel in ("T1w", "T2w"):
        wanted = read_image(config.layout.preprocessed("00", channel)).data
        assert difference(template(config, channel), wanted) < 0.01
        for index in (1, 2):
            at = read_image(config.layout.template_at(index, channel)).data
            assert difference(at, wanted) < 0.02
    model = Groupwise.load(config.layout.template_weights)
    assert model.image_channels == 2 and not config.layout.affine_image("01", "T2w").exists()


def test_only_the_channel_that_shows_a_structure_aligns_it(tmp_path: Path) -> None:
    """A nucleus lies elsewhere in each scan. In T2w it becomes sharp, and blurred where T1w alone is used."""
    cohort = [scan((32, 30), shift) for shift in (-2.0, -1.0, 1.0, 2.0)]
    settings = {"refinement": {"rounds": 2, "steps": 20}}
    both = build(tmp_path / "both", cohort, **settings)
    # With a similarity of weight 0 the second channel is averaged, but has no say.
    silent = {"channel_similarity": {"T2w": {"mse": {"weight": 0.0}}}}
    first = build(tmp_path / "first", cohort, **settings, **silent)
    mean = np.mean([read_image(both.layout.preprocessed(f"{i:02d}", "T2w")).data for i in range(4)], axis=0)
    sharp, blurred, unaligned = (x.var() for x in (template(both, "T2w"), template(first, "T2w"), mean))
    assert sharp > 1.05 * blurred and blurred == pytest.approx(unaligned, rel=0.02)


def test_the_order_of_the_channels_changes_nothing(tmp_path: Path) -> None:
    """But for the network's first guess, which is random, if near zero."""
    cohort = [scan((28, 26), seed=seed) for seed in range(3)]
    configs = [
        build(tmp_path / "-".join(order), cohort, channels=order, refinement={"rounds": 1, "steps": 6})
        for order in (("T1w", "T2w"), ("T2w", "T1w"))
    ]
    for channel in ("T1w", "T2w"):
        first, second = (template(config, channel) for config in configs)
        assert difference(first, second) < 5e-3


def test_training_with_two_channels_lowers_the_loss(tmp_path: Path) -> None:
    """The network, the decoder and the adversary take channels, of which one is missing once."""
    cohort = [scan((28, 26), seed=seed) for seed in range(4)]
    del cohort[2]["T2w"]
    config = build(
        tmp_path,
        cohort,
        ages=[20, 40, 60, 80],
        steps=40,
        learning_rate=3e-3,
        augment=True,
        pairwise={"mse": {"weight": 0.5}},
        channel_similarity={"T2w": {"mi": {"weight": 0.1}}},
        adversary={"weight": 0.05, "channels": [4, 8]},
        refinement={"rounds": 0},
    )
    rows = config.layout.template_training.read_text().splitlines()
    columns = rows[0].split("\t")
    assert {"lncc", "mse", "mi", "pairwise_mse", "adversarial"} <= {*columns}
    lncc = np.array([float(row.split("\t")[columns.index("lncc")]) for row in rows[1:]])
    assert lncc[-10:].mean() < lncc[:10].mean()
