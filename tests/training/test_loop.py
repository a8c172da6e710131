"""The training loop: schedule, table of steps, resumption, steps that aren't finite."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Grid
from atlasmith.io.tables import read_tsv
from atlasmith.networks import CovariateCode, Groupwise
from atlasmith.template.adversary import Adversary
from atlasmith.training.checkpoints import Checkpoint
from atlasmith.training.device import seeded_generator
from atlasmith.training.loop import fit, one_cycle, running_statistics


class Interruption(Exception):
    pass


def fit_module(
    folder: Path,
    module: torch.nn.Module,
    step: Callable[[int], dict[str, torch.Tensor]],
    steps: int,
    rate: float,
    digest: str = "a",
    keep_best: bool = False,
) -> None:
    fit(
        module=module,
        optimizer=torch.optim.Adam(module.parameters(), lr=rate),
        step=step,
        steps=steps,
        checkpoint=Checkpoint(folder / "checkpoint.safetensors", digest),
        table=folder / "table.tsv",
        every=10,
        description="line",
        keep_best=keep_best,
    )


def fit_line(
    folder: Path,
    interrupt_at: int | None = None,
    not_finite: Collection[int] = (),
    digest: str = "a",
    validations: Mapping[int, float] | None = None,
) -> torch.nn.Linear:
    """Fit a line to noisy data drawn by the step's index.

    Args:
        folder: For checkpoint and table.
        interrupt_at: Step at which the training is interrupted.
        not_finite: Steps whose loss is NaN.
        digest: Of the checkpoint.
        validations: Validation losses by step; with them the best weights are kept.

    Returns:
        The line; `validated` has its weights at each validation.
    """
    torch.manual_seed(0)
    module = torch.nn.Linear(2, 1)
    validated: dict[int, torch.Tensor] = {}

    def step(index: int) -> dict[str, torch.Tensor]:
        if index == interrupt_at:
            raise Interruption
        x = torch.randn(8, 2, generator=seeded_generator(7, index))
        loss = (module(x)[:, 0] - x @ torch.tensor([1.0, -2.0]) - 3).square().mean()
        terms = {"loss": loss * float("nan") if index in not_finite else loss}
        if validations and index in validations:
            validated[index] = module.weight.detach().clone()
            terms["validation"] = torch.tensor(validations[index])
        return terms | ({"extra": loss.detach()} if index % 2 else {})

    fit_module(folder, module, step, 40, 0.3, digest, keep_best=validations is not None)
    module.validated = validated
    return module


def test_an_interrupted_training_resumes_to_the_same_weights_and_table(tmp_path: Path) -> None:
    complete = fit_line(tmp_path / "complete")
    with pytest.raises(Interruption):
        fit_line(tmp_path / "interrupted", interrupt_at=27)
    assert (tmp_path / "interrupted" / "checkpoint.safetensors").exists()
    resumed = fit_line(tmp_path / "interrupted")
    assert torch.equal(complete.weight, resumed.weight) and torch.equal(complete.bias, resumed.bias)
    tables = [(tmp_path / name / "table.tsv").read_text() for name in ("complete", "interrupted")]
    assert tables[0] == tables[1]
    rows = read_tsv(tmp_path / "complete" / "table.tsv")
    assert float(rows[-1]["loss"]) < 0.1 * float(rows[0]["loss"])


def test_the_table_has_a_row_for_each_step(tmp_path: Path) -> None:
    fit_line(tmp_path)
    rows = read_tsv(tmp_path / "table.tsv")
    assert [int(row["step"]) for row in rows] == list(range(1, 41))
    assert rows[0]["extra"] == "n/a" and float(rows[1]["extra"]) > 0


def test_a_checkpoint_of_another_config_is_ignored(tmp_path: Path) -> None:
    with pytest.raises(Interruption):
        fit_line(tmp_path, interrupt_at=27, digest="other")
    assert torch.equal(fit_line(tmp_path).weight, fit_line(tmp_path / "fresh").weight)


def test_steps_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    """Training continues at a lower learning rate, also after an interruption."""
    not_finite = {5, 6, 12}
    complete = fit_line(tmp_path / "complete", not_finite=not_finite)
    with pytest.raises(Interruption):
        fit_line(tmp_path / "interrupted", not_finite=not_finite, interrupt_at=27)
    resumed = fit_line(tmp_path / "interrupted", not_finite=not_finite)
    assert torch.equal(complete.weight, resumed.weight)
    rows = read_tsv(tmp_path / "complete" / "table.tsv")
    assert [int(row["step"]) - 1 for row in rows if row["loss"] == "n/a"] == sorted(not_finite)
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    assert not torch.equal(complete.weight, fit_line(tmp_path / "all_finite").weight)


@pytest.mark.parametrize("interrupt_at", [18, 27, 38])
def test_the_best_weights_are_kept_also_after_an_interruption(tmp_path: Path, interrupt_at: int) -> None:
    losses = {5: 3.0, 15: 1.0, 25: float("nan"), 35: 2.0}
    complete = fit_line(tmp_path / "complete", validations=losses)
    assert torch.equal(complete.weight, complete.validated[15])
    with pytest.raises(Interruption):
        fit_line(tmp_path / "interrupted", validations=losses, interrupt_at=interrupt_at)
    resumed = fit_line(tmp_path / "interrupted", validations=losses)
    assert torch.equal(resumed.weight, complete.weight) and torch.equal(resumed.bias, complete.bias)
    last = fit_line(tmp_path / "none", validations={})  # without validation losses: the last weights
    assert torch.equal(last.weight, fit_line(tmp_path / "plain").weight)


def test_a_step_that_is_left_out_does_not_change_running_means(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))

    def step(index: int) -> dict[str, torch.Tensor]:
        x = torch.randn(8, 2, generator=seeded_generator(7, index)) * (float("inf") if index == 3 else 1)
        return {"loss": module(x).square().mean()}

    fit_module(tmp_path, module, step, 6, 0.01)
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    assert module.state_dict()["0.num_batches_tracked"] == 5


def test_a_loss_that_stays_not_finite_is_an_error_that_names_its_terms(tmp_path: Path) -> None:
    with pytest.raises(AtlasmithError, match=r"in 4 steps up to step 23.*'loss': nan.*checkpoint"):
        fit_line(tmp_path, not_finite=range(20, 40))
    assert torch.isfinite(fit_line(tmp_path).weight).all(), "resumes from the last finite state"


def test_one_cycle_rises_and_ends_at_zero() -> None:
    rate = one_cycle(100)
    assert max(map(rate, range(100))) == pytest.approx(1, abs=0.01)
    assert rate(0) < 0.2 and rate(99) == pytest.approx(0, abs=1e-3)


def test_a_step_whose_gradient_is_not_finite_is_left_out(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 1)

    def step(index: int) -> dict[str, torch.Tensor]:
        loss = module(torch.ones(1, 2)).square().mean()
        if index == 1:
            loss = loss + (0 * module.weight).square().sum().sqrt()  # 0, of an infinite slope
            step.before = module.weight.detach().clone()
        if index == 2:
            assert torch.equal(module.weight, step.before)
        return {"loss": loss}

    fit_module(tmp_path, module, step, 4, 0.1)
    rows = read_tsv(tmp_path / "table.tsv")
    assert all(float(row["loss"]) < 100 for row in rows) and torch.isfinite(module.weight).all()
    assert not torch.equal(module.weight, step.before)


def test_running_statistics_are_those_of_layers() -> None:
    """The masks and mean fields of a model are large, and no step changes them."""
    grid, code = Grid((16, 16, 16), np.eye(4)), CovariateCode({"age": (0.0, 1.0)}, {})
    model = Groupwise(grid, code, "transmorph", [4, 8], 5, decoder="coordinates")
    assert not running_statistics(model)
    discriminator = torch.nn.ModuleList([model, Adversary(3, 1, [4, 8])])
    assert {statistic.ndim for statistic in running_statistics(discriminator)} == {1}
    assert len(running_statistics(discriminator)) == 2 * 4  # two vectors of each spectral norm
    assert len(running_statistics(torch.nn.Sequential(torch.nn.BatchNorm1d(2)))) == 3
