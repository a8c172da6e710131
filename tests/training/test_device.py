"""Devices, precision and seeded random numbers."""

import pytest
import torch

from atlasmith.core.errors import AtlasmithError
from atlasmith.training import device
from atlasmith.training.device import autocast, draw_normal, seeded_generator, select_device, to_device


def test_random_numbers_depend_on_seed_and_stream_alone() -> None:
    def draw(*stream: int) -> list[float]:
        return torch.rand(3, generator=seeded_generator(0, *stream)).tolist()

    assert draw(1, 2) == draw(1, 2)
    assert len({tuple(draw(*stream)) for stream in [(1, 2), (2, 1), (12,), (0, 12), (1,)]}) == 5


def test_on_the_cpu_noise_is_the_generators_and_nothing_is_copied() -> None:
    cpu, values = torch.device("cpu"), torch.rand(3)
    drawn = draw_normal((4, 5), seeded_generator(0, 1), cpu)
    assert torch.equal(drawn, torch.randn(4, 5, generator=seeded_generator(0, 1)))
    assert to_device(values, cpu).data_ptr() == values.data_ptr()


def test_a_missing_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto") == select_device("cpu") == torch.device("cpu")
    with pytest.raises(AtlasmithError, match="device: cpu"):
        select_device("cuda")


@pytest.mark.parametrize(
    ("device", "precision", "half"),
    [
        ("cpu", "auto", False),
        ("cpu", "bfloat16", True),
        ("cuda", "auto", True),
        ("cuda", "float32", False),
    ],
)
def test_precision_by_device(device: str, precision: str, half: bool) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    layer = torch.nn.Linear(2, 2).to(device)
    with autocast(torch.device(device), precision):
        assert layer(torch.ones(1, 2, device=device)).dtype == (torch.bfloat16 if half else torch.float32)


@pytest.mark.parametrize("native", [False, True])
def test_segmentation_uses_half_precision_where_the_cpu_has_it(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_cpu_has_bfloat16", lambda: native)
    for precision, half in (("auto", native), ("float32", False), ("bfloat16", True)):
        with autocast(torch.device("cpu"), precision, segments=True):
            assert torch.is_autocast_enabled("cpu") == half


def test_what_the_cpu_tells_about_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, half in (({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": False}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", found.copy, raising=False)
        device._cpu_has_bfloat16.cache_clear()
        assert device._cpu_has_bfloat16() == half
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    device._cpu_has_bfloat16.cache_clear()
    assert not device._cpu_has_bfloat16()
    device._cpu_has_bfloat16.cache_clear()


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> list[torch.device]:
    """Let torch see GPUs; return the list of those that become the current one."""
    chosen: list[torch.device] = []
    values = {
        "is_available": lambda: count > 0,
        "device_count": lambda: count,
        "set_device": chosen.append,
        "mem_get_info": lambda device: (2**35, 80 * 2**30),
        "get_device_name": lambda device: f"Card {device.index}",
    }
    for name, value in values.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "set_deterministic_debug_mode", lambda mode: None)
    monkeypatch.setattr(device, "claim_gpu", device.claim_gpu.__wrapped__)
    device._log.cache_clear()
    return chosen


def test_each_process_has_the_gpu_of_its_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = pretend_gpus(monkeypatch, 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert select_device("auto") == select_device("cuda") == torch.device("cuda", 1)
    assert set(chosen) == {torch.device("cuda", 1)}
    assert capsys.readouterr().err == "device: cuda:1, Card 1, 80.0 GiB\n", "once in a process"
    device._log.cache_clear()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        with pytest.raises(AtlasmithError, match=r"processes: 3 .* 2 GPUs.*`processes: 2`"):
            select_device("auto")
    assert select_device("cpu") == torch.device("cpu")


def test_the_log_names_the_device_once(capsys: pytest.CaptureFixture[str]) -> None:
    device._log.cache_clear()
    for _ in range(2):
        select_device("cpu")
    threads = torch.get_num_threads()
    assert capsys.readouterr().err == f"device: cpu, {threads} thread{'s' if threads > 1 else ''}\n"
