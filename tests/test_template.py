"""Training on the toy cohort."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Grid
from atlasmith.evaluation.metrics import foreground, gradient_energy_per_mm2
from atlasmith.io.files import read_json
from atlasmith.io.images import read_image
from atlasmith.io.tables import read_cohort, read_tsv
from atlasmith.networks import CovariateCode, Groupwise, Segmenters, held_out_folds
from atlasmith.template import stage as stage
from atlasmith.template import train
from atlasmith.template.refinement import start_from_regression
from atlasmith.template.segmenter import train_segmenters
from atlasmith.training.dataset import AlignedImages, Cache


def test_similarity_improves_and_terms_are_named(toy: Config) -> None:
    rows = read_tsv(toy.layout.template_training)
    assert len(rows) == 150
    assert set(rows[0]) == {"step", "loss", "lncc", "mse", "diffusion", "magnitude", "centrality"}
    mse = [float(row["mse"]) for row in rows]
    assert np.mean(mse[-20:]) < 0.6 * np.mean(mse[:20])


def energies(config: Config, toy: Config) -> list[float]:
    """Gradient energies of the template and of the toy's affine mean, within the latter's object."""
    template, mean = read_image(config.layout.template_image), read_image(toy.layout.affine_reference)
    grid = template.grid
    inside = grid.squeeze(foreground(mean.data))
    return [
        gradient_energy_per_mm2(grid.squeeze(image.data), inside, grid.tensor_spacing)
        for image in (template, mean)
    ]


def test_template_is_sharper_than_the_affine_mean(toy: Config) -> None:
    ours, before = energies(toy, toy)
    assert ours > before


def test_views_follow_the_covariate(toy: Config) -> None:
    """The hole, darker than the ring, widens with age."""
    young, old = (read_image(toy.layout.template_at(k)).data for k in (1, 2))
    middle = (
        slice(young.shape[0] // 2 - 7, young.shape[0] // 2 + 7),
        slice(young.shape[1] // 2 - 7, young.shape[1] // 2 + 7),
    )
    assert old[middle].mean() < young[middle].mean() - 0.01
    cohorts = read_json(toy.layout.template_description)["cohort"]
    assert [c["covariates"]["age"] for c in cohorts.values()] == [30.0, 70.0]


def linked(toy: Config, config: Config) -> Config:
    """`config`, with the toy cohort's affine stage in its output folder."""
    for subject in read_cohort(toy.layout.cohort):
        for path in (toy.layout.affine(subject.id), toy.layout.affine_image(subject.id)):
            link = config.output / path.relative_to(toy.output)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(path)
    for path in (toy.layout.cohort, toy.layout.labels, toy.layout.grid):
        (config.output / path.name).write_bytes(path.read_bytes())
    return config


@pytest.mark.parametrize("adversary", [False, True])
def test_a_killed_training_resumes_to_the_same_weights(
    adversary: bool, toy: Config, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:

    values = toy.resolved()
    values["template"] |= {"steps": 12, "checkpoint_every": 5, "augment": True}
    if adversary:
        values["template"] |= {"adversary": {"weight": 0.1, "channels": [4, 8]}, "refinement": {"rounds": 0}}
    values["template"]["labels"] = {"dice": {"weight": 0.5}}
    values["template"]["segmenter"] = {"channels": [4, 8], "steps": 3}

    def run(name: str, stop_at: int | None) -> Config:
        values["output"] = str(tmp_path / name)
        config = linked(toy, parse_config(values))
        calls = 0
        real = stage.judged

        def counted(*args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            if calls - 1 == stop_at:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(stage, "judged", counted)
            if stop_at is None:
                train(config)
            else:
                with pytest.raises(KeyboardInterrupt):
                    train(config)
        return config

    whole = run("whole", None)
    killed = run("killed", 8)
    assert killed.layout.template_checkpoint.exists() and not killed.layout.template_weights.exists()
    resumed = run("killed", None)
    assert resumed.layout.template_weights.read_bytes() == whole.layout.template_weights.read_bytes()
    assert resumed.layout.template_training.read_text() == whole.layout.template_training.read_text()
    assert not resumed.layout.template_checkpoint.exists()
    assert not resumed.layout.segmenter_checkpoint.exists()
    assert len(read_tsv(resumed.layout.segmenter_training)) == 3


@pytest.mark.parametrize(
    ("setting", "within"), [({"precision": "bfloat16"}, 0.03), ({"channels_last": True}, 1e-4)]
)
def test_precision_and_memory_format_change_little(
    setting: dict[str, object], within: float, toy: Config, tmp_path: Path
) -> None:
    values = toy.resolved()
    values["template"] |= {"steps": 10, "learning_rate": 1e-3, "refinement": {"rounds": 0}}
    losses = []
    for name, more in (("plain", {}), ("other", setting)):
        config = linked(
            toy,
            parse_config(values | {"output": str(tmp_path / name), "template": values["template"] | more}),
        )
        train(config)
        losses.append([float(row["loss"]) for row in read_tsv(config.layout.template_training)])
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=within)


def segmenters(config: Config, images: AlignedImages, steps: int) -> Segmenters:
    values = config.resolved()
    values["template"]["segmenter"] = {"channels": [8, 16], "steps": steps}
    config = parse_config(values)
    torch.manual_seed(0)
    atlases = [subject.id for subject in images.subjects if subject.role == "atlas"]
    trained = Segmenters(2, 2, config.template.segmenter.channels, held_out_folds(atlases, 2))
    train_segmenters(config, trained, images, torch.device("cpu"))
    config.layout.segmenter_checkpoint.unlink()
    config.layout.segmenter_training.unlink()
    return trained


def test_a_segmenter_learns_nothing_of_what_it_leaves_out(toy: Config, tmp_path) -> None:
    subjects = read_cohort(toy.layout.cohort)
    grid = Grid.from_dict(read_json(toy.layout.grid))
    images, other = (
        AlignedImages(toy.layout, subjects, grid, cache=Cache(tmp_path, 10**9)) for _ in range(2)
    )
    without = held_out_folds([subject.id for subject in subjects if subject.role == "atlas"], 2)[0]
    for index, subject in enumerate(subjects):
        if subject.id in without:
            other.cache.get(("labels", index), lambda: torch.full(grid.tensor_shape, 4).int())
    expected, found = (segmenters(toy, x, 4) for x in (images, other))
    for name, value in expected.each[0].state_dict().items():
        assert torch.equal(found.each[0].state_dict()[name], value)
    assert not torch.equal(found.each[1].body.head.weight, expected.each[1].body.head.weight)


def test_the_segmenters_see_the_labels_of_others(toy: Config) -> None:
    subjects = read_cohort(toy.layout.cohort)
    images = AlignedImages(toy.layout, subjects, Grid.from_dict(read_json(toy.layout.grid)))
    seers = segmenters(toy, images, 80)
    for index, subject in enumerate(subjects):
        if subject.role != "target":
            continue
        truth = AlignedImages(toy.layout, [replace(subject, role="atlas")], images.grid).labels(0)
        seen = seers(images.batch([index])[0])[0] > 0.5
        for channel, value in enumerate((4, 1000)):
            mine, true = seen[channel], truth == value
            assert 2 * (mine & true).sum() / (mine.sum() + true.sum()) > 0.8, (subject.id, value)


def test_model_can_be_asked_at_any_age(toy: Config) -> None:
    model = Groupwise.load(toy.layout.template_weights)
    assert model.template(model.code.encode({"age": 55.0})[None]).shape[2:] == model.grid.tensor_shape


class Crops:
    """Three images of one grid; none has data in the first rows, and two have none in the last."""

    def __init__(self) -> None:
        self.codes = torch.tensor([[-1.0], [0.0], [1.0]])
        self.images = 2.0 + 0.5 * self.codes[:, :, None, None] * torch.ones(3, 1, 20, 18)
        self.masks = torch.ones(3, 1, 20, 18)
        self.masks[:, :, :2] = 0
        self.masks[:2, :, 15:] = 0

    def batch(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[indices] * self.masks[indices], self.masks[indices]


def test_start_is_the_regression_where_there_is_data() -> None:
    crops = Crops()
    code = CovariateCode({"age": (0.0, 1.0)}, {})
    model = Groupwise(Grid((20, 18, 1), np.eye(4)), code, "unet_half", [4, 8], 5)
    start_from_regression(model, crops, crops.codes)
    torch.testing.assert_close(model.base[0, 0, 2:15], torch.full((13, 18), 2.0))
    assert (model.base[0, 0, :2] == 0).all()
    # Ridge of one subject: 2 / (2 + 1) of the planted slope.
    torch.testing.assert_close(model.slopes[0, 2:15], torch.full((13, 18), 0.5 * 2 / 3))
    # Most images have data all around voxels 5 to 11 of the first axis.
    expected = torch.zeros(20, 18)
    expected[5:12] = 1
    torch.testing.assert_close(model.fov_mask[0, 0], expected)


def test_without_a_network_refinement_alone_makes_the_template(toy: Config, tmp_path) -> None:
    values = toy.resolved() | {"output": str(tmp_path)}
    values["template"] |= {"steps": 0, "condition_on": [], "evaluate_at": {}}
    values["template"]["refinement"] = {"rounds": 4, "steps": 16}
    config = linked(toy, parse_config(values))
    train(config)
    ours, before = energies(config, toy)
    assert ours > 1.05 * before
    assert read_tsv(config.layout.template_training) == []
    moved = [float(row["moved_mm"]) for row in read_tsv(config.layout.template_refinement)]
    assert moved[-1] < 0.5 * moved[0]
