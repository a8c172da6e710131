"""The pretended GPU itself: it refuses what CUDA refuses, and counts launches, bytes and waits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from second_device import DEVICE, Refused, SecondDevice, to_device

REFUSED: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "add": lambda a, b: a + b,
    "in place": lambda a, b: b.add_(a),
    "where": lambda a, b: torch.where(a > 2, a, b),
    "cat": lambda a, b: torch.cat([a, b]),
    "stack with a scalar": lambda a, b: torch.stack([a.sum(), torch.tensor(2.0)]),
    "index of the other device": lambda a, b: b[a > 2],
    "grid_sample": lambda a, b: F.grid_sample(a[None, None], torch.zeros(1, 2, 2, 2), align_corners=True),
    "numpy": lambda a, b: a.numpy(),
    "asarray": lambda a, b: np.asarray(a),
    "CPU generator": lambda a, b: torch.randn(3, device=DEVICE, generator=torch.Generator()),
    "GPU generator": lambda a, b: torch.randn(3, generator=torch.Generator("cuda")),
    "product of integers": lambda a, b: a.int() @ a.int().T,
    "pooling of integers": lambda a, b: F.max_pool2d(a.int()[None], 2),
    "too early": lambda a, b: a.to("cpu", non_blocking=True) + 1,
    "too early in NumPy": lambda a, b: a.to("cpu", non_blocking=True).numpy(),
}


@pytest.mark.parametrize("operation", REFUSED.values(), ids=REFUSED)
def test_what_cuda_refuses_is_refused(operation: Callable[..., object], second_device: SecondDevice) -> None:
    a, b = torch.arange(6.0, device=DEVICE).view(2, 3), torch.zeros(2, 3)
    with pytest.raises(Refused):
        operation(a, b)
    assert not second_device.waits


def test_the_device_is_cuda_and_computes_what_the_cpu_computes(second_device: SecondDevice) -> None:
    a = torch.arange(6.0, device="cuda").view(2, 3)
    assert a.is_cuda and a.device == DEVICE and torch.zeros_like(a).device == DEVICE
    assert torch.cuda.is_available() and not torch.ones(2).is_cuda
    assert (a * torch.tensor(2.0) + 1).tolist() == [[1, 3, 5], [7, 9, 11]]
    assert a.new_tensor([1, 2]).device == torch.as_tensor(np.ones(2), device=DEVICE).device == DEVICE
    assert torch.randn(3, device=DEVICE, generator=torch.Generator(DEVICE)).device == DEVICE
    a[0, 1], a[:, [2]] = 7.0, -1.0
    assert f"{a[0, 1]:.1f} {a.cpu().tolist()}" == "7.0 [[0.0, 7.0, -1.0], [3.0, 4.0, -1.0]]"


def test_autocast_halves_products_alone(second_device: SecondDevice) -> None:
    layer, x = torch.nn.Linear(3, 3).to(DEVICE), torch.ones(2, 3, device=DEVICE)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16 and (x + x).dtype == torch.float32
        with torch.autocast("cuda", enabled=False):
            assert layer(x).dtype == torch.float32
    layer(x).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.device == DEVICE


def test_waits_are_counted_by_kind_and_line(second_device: SecondDevice) -> None:
    a = torch.arange(6.0, device=DEVICE).view(2, 3)
    for question, kind in (
        (lambda: bool((a > 2).any()), "item"),
        (lambda: float(a.sum()), "item"),
        (lambda: a.tolist(), "tolist"),
        (lambda: a[a > 2], "boolean index"),
        (lambda: torch.nonzero(a), "nonzero"),
        (lambda: a.unique(), "unique"),
        (lambda: a[[0]], "copy of indices"),
        (lambda: a.cpu(), "copy to the host"),
        (lambda: a.new_tensor([1.0, 2.0]), "copy to the device"),
        (lambda: torch.ones(2).to(DEVICE), "copy to the device"),
        (lambda: torch.ones(2).to(DEVICE, non_blocking=True), "copy to the device"),
        (lambda: torch.cuda.synchronize(), "synchronize"),
    ):
        second_device.clear()
        question()
        ((found, line),) = second_device.waits.elements()
        assert found == kind and line.startswith(f"{__file__}:"), line


def test_asynchronous_copies_of_pinned_memory_dont_wait(second_device: SecondDevice) -> None:
    pinned = torch.arange(3.0).pin_memory()
    assert (
        pinned.is_pinned() and torch.empty(2, pin_memory=True).is_pinned() and not torch.ones(2).is_pinned()
    )
    there = pinned[1:].to(DEVICE, non_blocking=True)
    back = torch.empty(2, pin_memory=True).copy_(there, non_blocking=True)
    assert not second_device.waits
    torch.cuda.synchronize()
    assert back.tolist() == [1, 2]


def test_launches_and_bytes_are_counted() -> None:
    with SecondDevice(count_bytes=True) as device:
        a, b = to_device((torch.ones(10, 20), torch.ones(20)))
        device.clear()
        (a.T[:5] * 2 + b[:5, None]).sum()
    assert device.kernels.total() == 3
    # 5 x 10 floats are read and written by each of the first two, and 5 more read; the sum reads 50.
    assert device.moved.total() == 4 * ((50 + 50) + (50 + 5 + 50) + (50 + 1))


def test_other_threads_see_the_device(second_device: SecondDevice) -> None:
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: torch.ones(2, device="cuda") + to_device(torch.ones(2))).result()
    assert found.tolist() == [2, 2] and second_device.kernels["aten::add.Tensor"] == 1
