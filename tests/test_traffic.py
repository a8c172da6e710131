"""The count of memory traffic by shapes alone is that of a real step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from gpu import Setting
from traffic import Traffic, training_step


def test_bytes_are_those_of_inputs_and_outputs() -> None:
    x, total = torch.zeros(10, 100), torch.zeros(100)
    with Traffic() as traffic:
        y = x + 1
        y.mul_(2)
        y.view(100, 10).T  # noqa: B018
        torch.add(y[:, ::2], total[:50].expand(10, 50), out=torch.empty(10, 50))
        y.unfold(1, 3, 1).sum(-1)
    counts = {name: moved // 4 for (name, _), moved in traffic.moved.items()}
    assert counts == {"add": 2000 + (500 + 50 + 500), "mul_": 2000, "sum": 1000 + 980}


def test_a_step_of_shapes_counts_as_a_real_one() -> None:
    found = training_step((32, 32, 32), batch=2)
    setting = Setting((32, 32, 32), 2, torch.device("cpu"), precision="bfloat16")
    with Traffic() as traffic:
        setting.loss().backward()
        setting.optimizer.step()
    assert traffic.moved.total() == pytest.approx(found.moved.total(), rel=1e-4)
    assert traffic.launched.total() == found.launched.total()
