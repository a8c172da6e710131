"""The training loop: seeded, resumable to the same weights, with a progress bar and a table."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import safe_open, save_file
from torch import Tensor, nn
from tqdm import tqdm

from atlasmith.core import distributed
from atlasmith.core.errors import AtlasmithError
from atlasmith.io.files import atomic_write
from atlasmith.io.tables import write_tsv

PATIENCE = 4  # steps in a row that may fail


def one_cycle(steps: int, warm_up: float = 0.1) -> Callable[[int], float]:
    """Multiplier of the learning rate: linear rise, then a cosine to zero."""

    def schedule(step: int) -> float:
        position = (step + 1) / steps
        if position < warm_up:
            return position / warm_up
        return 0.5 * (1 + math.cos(math.pi * (position - warm_up) / (1 - warm_up)))

    return schedule


def _finite(loss: float, module: nn.Module) -> bool:
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return math.isfinite(loss) and bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients)))


def _say(text: str) -> None:
    if distributed.is_main_process():
        print(text, flush=True)


def fit(
    *,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Callable[[int], dict[str, Tensor]],
    steps: int,
    checkpoint: Path,
    table: Path,
    every: int,
    digest: str,
    description: str,
    keep_best: bool = False,
) -> None:
    """Minimize `step(index)["loss"]`, at the optimizer's rates times `one_cycle`; the other entries of `step`
    are logged under their names.

    Every `every` steps the state goes to `checkpoint`, whole; a later call with the same `digest` goes on
    from there to the same weights, since `step` draws its random numbers from its index alone. An entry that
    is missing in some steps is written as n/a. The caller removes the checkpoint once its results are safe.

    keep_best: the weights at the end are those with the least `validation`, where steps gave any.

    A step whose loss or gradient isn't finite is left out, and the rates are halved from then on; after
    `PATIENCE` such steps in a row, raises `AtlasmithError`.

    Where several processes work together, `step` gives the loss of this one's share, and what is minimized
    and logged is the mean.
    """
    schedule = one_cycle(steps)
    first, slowed, rows, best = (
        _load(checkpoint, module, optimizer, digest) if checkpoint.exists() else (0, 1.0, [], {})
    )
    validated = [row["validation"] for row in rows if "validation" in row]
    lowest = min(filter(math.isfinite, validated), default=math.inf)
    distributed.barrier()  # nobody writes what another still reads
    failed = 0
    rates = [group["lr"] for group in optimizer.param_groups]
    progress = tqdm(
        range(first, steps),
        desc=description,
        initial=first,
        total=steps,
        disable=None if distributed.is_main_process() and os.environ.get("TQDM_DISABLE") is None else True,
    )
    module.train()
    for index in progress:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = slowed * rate * schedule(index)
        before = [buffer.clone() for buffer in module.buffers()]
        terms = step(index)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        distributed.average_gradients(module)
        means = (
            distributed.all_reduce_sum(torch.stack([value.detach() for value in terms.values()]))
            / distributed.world_size()
        )
        values = dict(zip(terms, means.tolist(), strict=True))
        rows.append({"step": index + 1, **values})
        if keep_best and values.get("validation", math.inf) < lowest:
            lowest = values["validation"]
            best = {name: value.detach().clone() for name, value in module.state_dict().items()}
        if _finite(values["loss"], module):
            failed = 0
            optimizer.step()
        else:
            failed, slowed = failed + 1, slowed / 2
            for buffer, value in zip(module.buffers(), before, strict=True):  # as running means
                buffer.copy_(value)
            if failed == PATIENCE:
                raise AtlasmithError(
                    f"{description}: loss or gradient isn't finite in {failed} steps up to step {index}: "
                    f"{values}. Lower the learning rate; the last good state is in {checkpoint}."
                )
            _say(f"{description}: left out step {index + 1}, which isn't finite; rates are halved")
        progress.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
        done = index + 1
        if distributed.is_main_process() and (done % every == 0 or done == steps):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            _save(checkpoint, module, optimizer, digest, done, slowed, rows, best)
            if progress.disable:
                print(f"{description}: step {done} of {steps}, loss {rows[-1]['loss']:.4f}", flush=True)
    columns = list(dict.fromkeys(["step", "loss", *(name for row in rows for name in row)]))
    if distributed.is_main_process():
        write_tsv(table, rows, columns)
    if best:
        module.load_state_dict(best)
    module.eval()


def _save(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    digest: str,
    step: int,
    slowed: float,
    rows: list[dict[str, Any]],
    best: dict[str, Tensor],
) -> None:
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    with atomic_write(path) as partial:
        about = {"digest": digest, "step": str(step), "slowed": str(slowed), "rows": json.dumps(rows)}
        save_file(tensors, partial, metadata=about)


def _load(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, digest: str
) -> tuple[int, float, list[dict[str, Any]], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if metadata["digest"] != digest:
            _say(f"{path} is of another config: starting anew")
            return 0, 1.0, [], {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights, best = (
        {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
        for part in ("module.", "best.")
    )
    module.load_state_dict(weights)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    _say(f"resuming at step {metadata['step']} from {path}")
    return int(metadata["step"]), float(metadata["slowed"]), json.loads(metadata["rows"]), best
