"""The training loop: seeded, resumable to the same weights, with a progress bar and a table of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from atlasmith.core import distributed
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.progress import Progress
from atlasmith.io.tables import write_tsv
from atlasmith.training.checkpoints import Checkpoint

PATIENCE = 4  # consecutive steps that may fail


def one_cycle(steps: int, warm_up: float = 0.1) -> Callable[[int], float]:
    """Give the multiplier of the learning rate at each step: a linear rise, then a cosine to zero."""

    def schedule(step: int) -> float:
        position = (step + 1) / max(steps, 1)
        if position < warm_up:
            return position / warm_up
        return 0.5 * (1 + math.cos(math.pi * (position - warm_up) / (1 - warm_up)))

    return schedule


@dataclass
class _State:
    """What a resumed training needs beside weights and the optimizer's moments."""

    step: int = 0
    rate_factor: float = 1.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    failed: int = 0

    @property
    def lowest(self) -> float:
        """The least finite validation loss so far."""
        found = [row["validation"] for row in self.rows if "validation" in row]
        return min(filter(math.isfinite, found), default=math.inf)


def fit(
    *,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Callable[[int], dict[str, Tensor]],
    steps: int,
    checkpoint: Checkpoint,
    table: Path,
    every: int,
    description: str,
    keep_best: bool = False,
) -> None:
    """Minimize `step(index)["loss"]` at the optimizer's learning rates times `one_cycle`.

    A step whose loss or gradient isn't finite is left out, and the learning rates are halved from then on.
    Under torchrun, `step` gives the loss of this process's share of the batch; the mean over processes is
    minimized and recorded.

    Args:
        module: Weights and buffers to be saved; in evaluation mode afterwards.
        optimizer: Over the module's parameters.
        step: From a step's index to `loss` and further terms, which are recorded under their names. It draws
            its random numbers from the index alone, so that a resumed run ends at the same weights.
        steps: Number of steps.
        checkpoint: Where the state goes every `every` steps. The caller removes it.
        table: TSV of all steps, n/a where a term is missing.
        every: Steps between checkpoints.
        description: Names the training in progress and messages.
        keep_best: End with the weights of the least `validation` term, where steps gave any.

    Raises:
        AtlasmithError: After `PATIENCE` consecutive steps that aren't finite.
    """
    cycle, state = one_cycle(steps), _resume(checkpoint, module, optimizer)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]  # which a schedule that starts in the middle needs
    schedule = LambdaLR(optimizer, lambda index: state.rate_factor * cycle(index), state.step - 1)
    distributed.barrier()  # no process writes what another still reads
    module.train()
    with Progress(description, steps, state.step, distributed.is_main_process()) as progress:
        for index in range(state.step, steps):
            _step(state, index, module, optimizer, step, keep_best)
            schedule.step()
            if state.failed == PATIENCE:
                raise AtlasmithError(
                    f"{description}: loss or gradient isn't finite in {PATIENCE} steps up to step {index}: "
                    f"{state.rows[-1]}. Lower the learning rate; the last good state is in {checkpoint.path}."
                )
            if state.failed:
                distributed.log(
                    f"{description}: step {index + 1} isn't finite and was left out; rates are halved"
                )
            if (index + 1) % every == 0 or index + 1 == steps:
                _save(checkpoint, module, optimizer, state)
            last = state.rows[-1]
            progress.update(**{name: last[name] for name in ("loss", "validation") if name in last})
    columns = list(dict.fromkeys(["step", "loss", *(name for row in state.rows for name in row)]))
    if distributed.is_main_process():
        write_tsv(table, state.rows, columns)
    if state.best:
        module.load_state_dict(state.best)
    module.eval()


def _step(
    state: _State,
    index: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Callable[[int], dict[str, Tensor]],
    keep_best: bool,
) -> None:
    """Take one step, record its terms, and restore the running statistics where it isn't finite."""
    statistics = running_statistics(module)
    before = [statistic.clone() for statistic in statistics]
    terms = step(index)
    optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()
    distributed.average_gradients(module)
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    sums = distributed.all_reduce_sum(torch.stack([*(value.detach() for value in terms.values()), norm]))
    # All at once: a GPU has nothing to do while it is asked.
    *means, norm_value = (sums / distributed.world_size()).tolist()
    values = dict(zip(terms, means, strict=True))
    if keep_best and "validation" in values and values["validation"] < state.lowest:
        state.best = {name: value.detach().clone() for name, value in module.state_dict().items()}
    state.rows.append({"step": index + 1, **values})
    state.step = index + 1
    if math.isfinite(values["loss"]) and math.isfinite(norm_value):
        state.failed = 0
        optimizer.step()
        return
    state.failed, state.rate_factor = state.failed + 1, state.rate_factor / 2
    for statistic, value in zip(statistics, before, strict=True):
        statistic.copy_(value)


def running_statistics(module: nn.Module) -> list[Tensor]:
    """List the buffers that a training step changes, such as the means of batch norms.

    They belong to modules without children; the buffers of a whole model, such as masks, are constants.
    """
    layers = (layer for layer in module.modules() if not list(layer.children()))
    return [buffer for layer in layers for buffer in layer.buffers()]


def _save(checkpoint: Checkpoint, module: nn.Module, optimizer: torch.optim.Optimizer, state: _State) -> None:
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in state.best.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    values = {"step": state.step, "rate_factor": state.rate_factor, "rows": state.rows}
    checkpoint.save(values, tensors)


def _resume(checkpoint: Checkpoint, module: nn.Module, optimizer: torch.optim.Optimizer) -> _State:
    """Restore module and optimizer from a checkpoint, if there is one; give the state to go on from."""
    found = checkpoint.load()
    if found is None:
        return _State()
    values, tensors = found
    weights, best = (
        {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
        for part in ("module.", "best.")
    )
    module.load_state_dict(weights)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    distributed.log(f"resuming at step {values['step']} from {checkpoint.path}")
    return _State(best=best, **values)
