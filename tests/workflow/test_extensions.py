"""A choice of each kind, added in a few lines, takes part in a whole run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_run import make_small_run
from torch import Tensor, nn

from atlasmith.affine.engines import ENGINES, AffineEngine
from atlasmith.cli import main
from atlasmith.config.section import Section
from atlasmith.core.grid import Array
from atlasmith.evaluation.metrics import METRICS, SEGMENTATION_METRICS, Metric
from atlasmith.fusion.fuser import Fuser, FusionInputs, LabelProbability
from atlasmith.fusion.probabilities import weighted_probabilities
from atlasmith.fusion.table import FUSERS
from atlasmith.io.tables import read_tsv
from atlasmith.losses import REGULARIZERS, SIMILARITY, Regularizer, Similarity
from atlasmith.networks import DECODERS, NETWORKS
from atlasmith.networks.decoders import CovariateDecoder, Decoder
from atlasmith.networks.registration.base import Network
from atlasmith.optimization import OPTIMIZERS, InstanceObjective, Optimizer
from atlasmith.transforms import DIRECTIONS, PARAMETRIZATIONS, DeformationModel, Parametrization


@Similarity.declare("Mean fourth power of the difference.")
def quartic(fixed: Tensor, moved: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
    difference = (fixed - moved) / scale
    return (difference if mask is None else difference * mask).pow(4).flatten(1).mean(1)


@Regularizer.declare("Mean absolute velocity.", needs=("velocity",))
def mean_absolute(velocity: Tensor, spacing: Sequence[float]) -> Tensor:
    return velocity.abs().mean()


@Network.declare("One strided convolution.")
class OneConvolution(nn.Module):
    def __init__(self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (4,)) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2 * inputs, outputs, 3, 2, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        result: Tensor = self.layer(torch.cat([fixed, moving], dim=1))
        return result


@Decoder.declare("A gradient image times the first covariate.")
class Ramp(CovariateDecoder):
    def __init__(self, size: int, shape: Sequence[int], channels: int = 1) -> None:
        super().__init__(shape, nn.Linear(1, channels, bias=False))

    def decode(self, code: Tensor) -> Tensor:
        ramp = torch.linspace(0, 1, self.half_shape[0])[:, None].expand(self.half_shape)
        return self.head(code[:, :1])[:, :, None, None] * ramp


@dataclass(frozen=True)
class Shift(DeformationModel):
    """A toy."""

    factor: float = 1.0

    def maps(
        self,
        coefficients: Tensor,
        spacing: Sequence[float],
        directions: Sequence[int] = DIRECTIONS,
        save_memory: bool = False,
    ) -> dict[int, Tensor]:
        mean = coefficients.mean(dim=tuple(range(2, coefficients.ndim)), keepdim=True)
        return {way: way * self.factor * mean.expand_as(coefficients) for way in directions}


SEEN: list[tuple[str, float, int]] = []  # by the optimizer: its deformation's class and factor, and its sign


@Optimizer.declare("Steps of equal length, against the gradient's sign.")
def sign_descent(
    objective: InstanceObjective, start: Tensor, steps: int, learning_rate: float, sign: int = 1
) -> list[Tensor]:
    assert isinstance(objective.deformation, Shift)
    SEEN.append((type(objective.deformation).__name__, objective.deformation.factor, sign))
    coefficients = start.clone().requires_grad_()
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(objective(coefficients).loss, coefficients)
        coefficients.data -= sign * learning_rate * gradient.sign()
    return [coefficients.detach()]


@AffineEngine.declare("Keep every start.")
def keep(fixed: object, moving: object, starts: Sequence[Array], kind: str) -> list[Array]:
    return list(starts)


class FirstSettings(Section):
    atlases: int = 2


@Fuser.declare("The first atlases, with equal weights.", section="first", settings_type=FirstSettings)
def first(inputs: FusionInputs) -> Iterator[LabelProbability]:
    count = inputs.settings.atlases
    return weighted_probabilities(inputs.labels[:count], torch.ones_like(inputs.images[0, :count]))


@Metric.declare("Voxels of the prediction.", kind="overlap", better="higher")
def predicted_voxels(counts: object) -> Array:
    return np.asarray(counts.predicted, dtype=float)  # type: ignore[attr-defined]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    for table, name, entry in (
        (SIMILARITY, "quartic", quartic),
        (REGULARIZERS, "mean_absolute", mean_absolute),
        (NETWORKS, "one_convolution", OneConvolution),
        (DECODERS, "ramp", Ramp),
        (PARAMETRIZATIONS, "shift", Parametrization(Shift, "A translation.", diffeomorphic=True)),
        (OPTIMIZERS, "sign_descent", sign_descent),
        (ENGINES, "keep", keep),
        (FUSERS, "first", first),
        (METRICS, "predicted_voxels", predicted_voxels),
        (SEGMENTATION_METRICS, "predicted_voxels", predicted_voxels),
    ):
        monkeypatch.setitem(table, name, entry)


def test_a_run_with_a_toy_of_each_kind(tables: None, tmp_path: Path) -> None:
    path = make_small_run(tmp_path)
    values = yaml.safe_load(path.read_text())
    values["output"] = str(tmp_path / "results")
    values["cohort"]["bids"] = str(tmp_path / "bids")
    values["affine"] |= {"engine": "keep"}
    values["template"] |= {
        "steps": 4,
        "network": {"name": "one_convolution"},
        "decoder": "ramp",
        "parametrization": {"name": "shift", "settings": {"factor": 0.5}},
        "similarity": {"quartic": {"weight": 1.0, "scale": 0.5}},
        "regularization": {"mean_absolute": {"weight": 0.1}},
    }
    optimizer = {"name": "sign_descent", "settings": {"sign": 1}}
    values["register"] = {"instance_optimization": {"steps": 2, "optimizer": optimizer}}
    values["fusion"] = {"methods": ["first"], "first": {"atlases": 1}, "quality": False}
    values["score"] |= {"metrics": ["dice", "predicted_voxels"]}
    path.write_text(yaml.safe_dump(values))
    ids = [f"{index:02d}" for index in range(6)]

    def run(verb: str, subjects: Sequence[str] = ()) -> None:
        chosen = ["--subjects", *subjects] if subjects else []
        assert main([verb, "--config", str(path), *chosen]) == 0

    run("cohort")
    run("preprocess", ids)
    run("affine-reference")
    run("affine", ids)
    run("template")
    run("register", ids)
    run("template-labels")
    for verb in ("propagate", "fuse"):
        run(verb, ["04"])
    run("score", ids)
    run("score-summary")
    run("report")
    output = tmp_path / "results"
    assert {"quartic", "mean_absolute"} <= set(read_tsv(output / "model" / "template_training.tsv")[0])
    assert (output / "sub-04" / "anat" / "sub-04_space-T1w_desc-first_dseg.nii.gz").exists()
    scored = {
        row["metric"] for row in read_tsv(output / "scores" / "summary.tsv") if row["method"] == "first"
    }
    assert scored == {"dice", "predicted_voxels"}
    report = (output / "report.html").read_text()
    assert all(name in report for name in ("first", "predicted_voxels", "shift", "sign_descent"))
    assert set(SEEN) == {("Shift", 0.5, 1)}


def test_an_unknown_setting_of_a_toy_is_named(
    tables: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_small_run(tmp_path)
    values = yaml.safe_load(path.read_text())
    values["cohort"]["bids"] = str(tmp_path / "bids")
    values["output"] = str(tmp_path / "results")
    values["template"]["similarity"] = {"quartic": {"weight": 1.0, "scal": 2}}
    values["template"]["parametrization"] = {"name": "shift", "settings": {"factr": 2}}
    values["register"]["instance_optimization"]["optimizer"] = {"name": "sign_descnt"}
    values["fusion"] = {"methods": ["first"]}
    path.write_text(yaml.safe_dump(values))
    assert main(["cohort", "--config", str(path)]) == 2
    found = capsys.readouterr().err
    assert all(f"Did you mean '{name}'?" in found for name in ("scale", "factor", "sign_descent"))
    values["fusion"] = {"methods": ["first"], "first": {"atlas": 1}}
    path.write_text(yaml.safe_dump(values))
    assert main(["cohort", "--config", str(path)]) == 2
    assert "Did you mean 'atlases'?" in capsys.readouterr().err
