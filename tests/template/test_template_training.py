"""Groupwise training of the template on the toy cohort."""

from pathlib import Path

import numpy as np
import pytest
import torch
from copied_run import linked

from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Grid
from atlasmith.evaluation.metrics import foreground, gradient_energy_per_mm2
from atlasmith.io.files import read_json
from atlasmith.io.images import read_image
from atlasmith.io.tables import read_cohort, read_tsv
from atlasmith.networks import CovariateCode, Groupwise
from atlasmith.registration import register_subjects
from atlasmith.template import refinement, stage, train
from atlasmith.template.refinement import initialize_template
from atlasmith.training.checkpoints import Checkpoint


def test_similarity_improves_and_the_table_has_each_term(toy: Config) -> None:
    rows = read_tsv(toy.layout.template_training)
    assert len(rows) == 150
    assert set(rows[0]) == {"step", "loss", "lncc", "mse", "diffusion", "magnitude", "centrality"}
    mse = [float(row["mse"]) for row in rows]
    assert np.mean(mse[-20:]) < 0.6 * np.mean(mse[:20])


def energies(config: Config, toy: Config) -> list[float]:
    """Gradient energies of the template and of the affine reference, within the latter's object."""
    template, mean = read_image(config.layout.template_image), read_image(toy.layout.affine_reference)
    grid = template.grid
    inside = grid.squeeze(foreground(mean.data))
    return [
        gradient_energy_per_mm2(grid.squeeze(image.data), inside, grid.tensor_spacing)
        for image in (template, mean)
    ]


def test_the_template_is_sharper_than_the_affine_reference(toy: Config) -> None:
    template, reference = energies(toy, toy)
    assert template > reference


def test_templates_follow_the_covariate(toy: Config) -> None:
    """The hole, darker than the ring, widens with age."""
    young, old = (read_image(toy.layout.template_at(k)).data for k in (1, 2))
    middle = (
        slice(young.shape[0] // 2 - 7, young.shape[0] // 2 + 7),
        slice(young.shape[1] // 2 - 7, young.shape[1] // 2 + 7),
    )
    assert old[middle].mean() < young[middle].mean() - 0.01
    cohorts = read_json(toy.layout.template_description)["cohort"]
    assert [c["covariates"]["age"] for c in cohorts.values()] == [30.0, 70.0]


@pytest.mark.parametrize("adversary", [False, True])
def test_an_interrupted_training_resumes_to_the_same_weights(
    adversary: bool, toy: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = toy.resolved()
    values["template"] |= {"steps": 12, "checkpoint_every": 5, "augment": True}
    if adversary:
        values["template"] |= {"adversary": {"weight": 0.1, "channels": [4, 8]}, "refinement": {"rounds": 0}}
    else:  # a network that draws random numbers
        values["template"]["network"] = {"name": "quicksilver", "settings": {"dropout": 0.1}}
    values["template"]["label_similarity"] = {"dice": {"weight": 0.5}}
    values["template"]["segmenter"] = {"channels": [4, 8], "steps": 3}

    def run(name: str, interrupt_at: int | None) -> Config:
        values["output"] = str(tmp_path / name)
        config = linked(toy, parse_config(values))
        calls = 0
        real = stage.training_objective

        def counted(*args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            if calls - 1 == interrupt_at:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(stage, "training_objective", counted)
            if interrupt_at is None:
                train(config)
            else:
                with pytest.raises(KeyboardInterrupt):
                    train(config)
        return config

    complete = run("complete", None)
    interrupted = run("interrupted", 8)
    assert (
        interrupted.layout.template_checkpoint.exists() and not interrupted.layout.template_weights.exists()
    )
    resumed = run("interrupted", None)
    assert resumed.layout.template_weights.read_bytes() == complete.layout.template_weights.read_bytes()
    assert resumed.layout.template_training.read_text() == complete.layout.template_training.read_text()
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


def test_the_model_gives_the_template_at_any_age(toy: Config) -> None:
    model = Groupwise.load(toy.layout.template_weights)
    assert model.template(model.code.encode({"age": 55.0})[None]).shape[2:] == model.grid.tensor_shape


class CroppedImages:
    """Three aligned images without data in the first rows; two of them have none in the last rows either."""

    def __init__(self) -> None:
        self.codes = torch.tensor([[-1.0], [0.0], [1.0]])
        self.images = 2.0 + 0.5 * self.codes[:, :, None, None] * torch.ones(3, 1, 20, 18)
        self.masks = torch.ones(3, 1, 20, 18)
        self.masks[:, :, :2] = 0
        self.masks[:2, :, 15:] = 0

    def batch(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[indices] * self.masks[indices], self.masks[indices]


def test_training_starts_from_the_regression_within_the_field_of_view() -> None:
    images = CroppedImages()
    code = CovariateCode({"age": (0.0, 1.0)}, {})
    model = Groupwise(Grid((20, 18, 1), np.eye(4)), code, "unet_half", [4, 8], 5)
    initialize_template(model, images, images.codes)
    torch.testing.assert_close(model.base[0, 0, 2:15], torch.full((13, 18), 2.0))
    assert (model.base[0, 0, :2] == 0).all()
    # Ridge of one subject: 2 / (2 + 1) of the planted slope.
    torch.testing.assert_close(model.slopes[0, 2:15], torch.full((13, 18), 0.5 * 2 / 3))
    # Most images have data in the neighborhood of the voxels 5 to 11 of the first axis.
    expected = torch.zeros(20, 18)
    expected[5:12] = 1
    torch.testing.assert_close(model.fov_mask[0, 0], expected)


def test_without_a_network_refinement_alone_builds_the_template(toy: Config, tmp_path: Path) -> None:
    values = toy.resolved() | {"output": str(tmp_path)}
    values["template"] |= {"steps": 0, "condition_on": [], "evaluate_at": {}}
    values["template"]["refinement"] = {"rounds": 4, "steps": 16}
    config = linked(toy, parse_config(values))
    train(config)
    template, reference = energies(config, toy)
    assert template > 1.05 * reference
    assert read_tsv(config.layout.template_training) == []
    moved = [float(row["moved_mm"]) for row in read_tsv(config.layout.template_refinement)]
    assert moved[-1] < 0.5 * moved[0]


@pytest.mark.parametrize("conditions", [["age"], []])
def test_a_network_is_trained_coarser_than_the_template(
    conditions: list[str], toy: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with labels in the objective; killed in the refinement, it ends at the same file."""
    values = toy.resolved()
    values["template"] |= {"training_spacing": 2.0, "steps": 40, "refinement": {"rounds": 2, "steps": 10}}
    values["template"] |= {"condition_on": conditions, "evaluate_at": {}}
    if conditions:
        values["template"] |= {"label_similarity": {"dice": {"weight": 0.5}}}
        values["template"]["segmenter"] = {"channels": [4, 8], "steps": 3}
    complete, killed = (
        linked(toy, parse_config(values | {"output": str(tmp_path / name)}))
        for name in ("complete", "killed")
    )
    train(complete)
    model = Groupwise.load(complete.layout.template_weights)
    assert model.levels == 2 and model.network_shape == model.grid.coarser(2.0).tensor_shape
    template, reference = energies(complete, toy)
    assert template > 1.05 * reference

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(refinement, "_center", interrupted)
        train(killed)
    train(killed)
    assert killed.layout.template_weights.read_bytes() == complete.layout.template_weights.read_bytes()

    (subject,) = [s for s in read_cohort(complete.layout.cohort) if s.id == "09"]
    register_subjects(complete, [subject.id])
    warped = read_image(complete.layout.warped(subject.id, complete.layout.suffix))
    aligned = read_image(complete.layout.affine_image(subject.id, complete.layout.suffix))
    fixed = read_image(complete.layout.template_image).data
    assert warped.data.shape == fixed.shape
    assert np.square(warped.data - fixed).mean() < 0.7 * np.square(aligned.data - fixed).mean()


def test_a_checkpoint_of_another_config_leaves_no_empty_template(toy: Config, tmp_path: Path) -> None:
    values = toy.resolved() | {"output": str(tmp_path)}
    values["template"] |= {"steps": 2, "condition_on": [], "evaluate_at": {}, "refinement": {"rounds": 0}}
    config = linked(toy, parse_config(values))
    Checkpoint(config.layout.template_checkpoint, "another").save({}, {"base": torch.zeros(1)})
    train(config)
    assert Groupwise.load(config.layout.template_weights).base.mean() > 0.05
