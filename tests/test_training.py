from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pytest
import torch

from atlasmith.core.errors import AtlasmithError
from atlasmith.io.tables import read_tsv
from atlasmith.training.device import seeded_generator
from atlasmith.training.loop import fit, one_cycle


class Stop(Exception):
    pass


def fit_in(
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
        checkpoint=folder / "checkpoint.safetensors",
        table=folder / "table.tsv",
        every=10,
        digest=digest,
        description="line",
        keep_best=keep_best,
    )


def run(
    folder: Path,
    stop_at: int | None = None,
    bad: Collection[int] = (),
    digest: str = "a",
    validations: Mapping[int, float] | None = None,
) -> torch.nn.Linear:
    """Fit a line to noisy data drawn by step number; `stop_at` plays a killed job, the loss isn't finite in
    steps `bad`, and with `validations`, by step, the best weights are kept."""
    torch.manual_seed(0)
    module = torch.nn.Linear(2, 1)
    seen: dict[int, torch.Tensor] = {}

    def step(index: int) -> dict[str, torch.Tensor]:
        if index == stop_at:
            raise Stop
        x = torch.randn(8, 2, generator=seeded_generator(7, index))
        loss = (module(x)[:, 0] - x @ torch.tensor([1.0, -2.0]) - 3).square().mean()
        terms = {"loss": loss * float("nan") if index in bad else loss}
        if validations and index in validations:
            seen[index] = module.weight.detach().clone()
            terms["validation"] = torch.tensor(validations[index])
        return terms | ({"extra": loss.detach()} if index % 2 else {})

    fit_in(folder, module, step, 40, 0.3, digest, keep_best=validations is not None)
    module.seen = seen
    return module


def test_a_killed_run_resumes_to_the_same_weights_and_table(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "killed", stop_at=27)
    assert (tmp_path / "killed" / "checkpoint.safetensors").exists()
    resumed = run(tmp_path / "killed")
    assert torch.equal(whole.weight, resumed.weight) and torch.equal(whole.bias, resumed.bias)
    tables = [(tmp_path / name / "table.tsv").read_text() for name in ("whole", "killed")]
    assert tables[0] == tables[1]
    rows = read_tsv(tmp_path / "whole" / "table.tsv")
    assert float(rows[-1]["loss"]) < 0.1 * float(rows[0]["loss"])


def test_table_has_a_row_a_step(tmp_path: Path) -> None:
    run(tmp_path)
    rows = read_tsv(tmp_path / "table.tsv")
    assert [int(row["step"]) for row in rows] == list(range(1, 41))
    assert rows[0]["extra"] == "n/a" and float(rows[1]["extra"]) > 0


def test_a_checkpoint_of_another_config_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run(tmp_path, stop_at=27, digest="other")
    assert torch.equal(run(tmp_path).weight, run(tmp_path / "fresh").weight)


def test_steps_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    """And training goes on more carefully, also after it was killed."""
    bad = {5, 6, 12}
    whole = run(tmp_path / "whole", bad=bad)
    with pytest.raises(Stop):
        run(tmp_path / "killed", bad=bad, stop_at=27)
    assert torch.equal(whole.weight, run(tmp_path / "killed", bad=bad).weight)
    rows = read_tsv(tmp_path / "whole" / "table.tsv")
    assert [int(row["step"]) - 1 for row in rows if row["loss"] == "n/a"] == sorted(bad)
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    assert not torch.equal(whole.weight, run(tmp_path / "sound").weight)


@pytest.mark.parametrize("stop_at", [18, 27, 38])
def test_the_best_weights_are_kept_also_after_a_kill(tmp_path: Path, stop_at: int) -> None:
    values = {5: 3.0, 15: 1.0, 25: float("nan"), 35: 2.0}
    whole = run(tmp_path / "whole", validations=values)
    assert torch.equal(whole.weight, whole.seen[15])
    with pytest.raises(Stop):
        run(tmp_path / "killed", validations=values, stop_at=stop_at)
    resumed = run(tmp_path / "killed", validations=values)
    assert torch.equal(resumed.weight, whole.weight) and torch.equal(resumed.bias, whole.bias)
    last = run(tmp_path / "none", validations={})  # nothing validates: the last weights
    assert torch.equal(last.weight, run(tmp_path / "plain").weight)


def test_a_step_left_out_leaves_running_means_alone(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))

    def step(index: int) -> dict[str, torch.Tensor]:
        x = torch.randn(8, 2, generator=seeded_generator(7, index)) * (float("inf") if index == 3 else 1)
        return {"loss": module(x).square().mean()}

    fit_in(tmp_path, module, step, 6, 0.01)
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    assert module.state_dict()["0.num_batches_tracked"] == 5


def test_a_loss_that_stays_not_finite_stops_with_its_terms(tmp_path: Path) -> None:
    with pytest.raises(AtlasmithError, match=r"in 4 steps up to step 23.*'loss': nan.*checkpoint"):
        run(tmp_path, bad=range(20, 40))
    assert torch.isfinite(run(tmp_path).weight).all(), "the last good state is taken up"


def test_random_numbers_depend_on_the_place_alone() -> None:
    draw = lambda *where: torch.rand(3, generator=seeded_generator(0, *where)).tolist()  # noqa: E731
    assert draw(1, 2) == draw(1, 2)
    assert len({tuple(draw(*where)) for where in [(1, 2), (2, 1), (12,), (0, 12), (1,)]}) == 5


def test_one_cycle_rises_and_ends_at_zero() -> None:
    rate = one_cycle(100)
    assert max(map(rate, range(100))) == pytest.approx(1, abs=0.01)
    assert rate(0) < 0.2 and rate(99) == pytest.approx(0, abs=1e-3)
