"""The memory of a training step, estimated before training starts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from atlasmith.config import Config, parse_config
from atlasmith.core import machine
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Grid
from atlasmith.losses import registration_objective
from atlasmith.networks import CovariateCode, Groupwise
from atlasmith.training import memory
from atlasmith.workflow.resources import CHANNEL_BYTES, GIB, SAVED_BYTES, SPARE, STEP_OVERHEAD, memory_mb


def config(**template: object) -> Config:
    return parse_config({"cohort": {"bids": "d"}, "template": template})


def model_of(shape: tuple[int, int, int], network: str = "unet_half", channels: int = 1) -> Groupwise:
    grid, code = Grid(shape, np.eye(4)), CovariateCode.of([], [{}])
    return Groupwise(grid, code, network, None, 6, image_channels=channels)


def saved_bytes(settings: Config, model: Groupwise) -> int:
    """Bytes that autograd saves for a training step on one image, without the network's weights."""
    sizes = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    image = torch.rand_like(model.base)
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        velocity = model.coefficients(model.base, image)
        registration_objective(
            model.base,
            image,
            torch.ones_like(image),
            velocity,
            deformation=model.deformation,
            spacing=model.grid.coarser_spacing(velocity.mean.shape[2:]),
            similarity=settings.template.similarity,
            regularization=settings.template.regularization,
            save_memory=settings.template.save_memory,
        )
    weights = {p.data_ptr() for p in model.network.parameters()}
    return sum(size for place, size in sizes.items() if place not in weights)


def measured_per_voxel(settings: Config, model: Groupwise) -> float:
    template = settings.template
    return memory.saved_bytes_per_voxel(model, template.precision, template.save_memory, template.objective)


def check_memory(settings: Config, model: Groupwise) -> None:
    template = settings.template
    memory.check_memory(
        model, template.batch_size, template.precision, template.save_memory, template.objective
    )


@pytest.mark.parametrize("network", ["unet_half", "unet", "transmorph", "dualstream"])
@pytest.mark.parametrize("save_memory", [False, True])
def test_a_small_grid_predicts_the_memory_of_a_large_one(network: str, save_memory: bool) -> None:
    settings, model = config(save_memory=save_memory), model_of((64, 48, 56), network)
    predicted = measured_per_voxel(settings, model) * model.base.numel()
    assert predicted == pytest.approx(saved_bytes(settings, model), rel=0.15)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_constants_of_the_resources_are_what_the_default_network_saves(channels: int) -> None:
    wanted = SAVED_BYTES + CHANNEL_BYTES * (channels - 1)
    model = model_of((48, 48, 48), channels=channels)  # which needs no padding
    assert measured_per_voxel(config(), model) == pytest.approx(wanted, rel=0.15)


@pytest.mark.parametrize("batch_size", [2, 4, 16])
def test_the_scheduler_gives_what_training_checks(
    batch_size: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step fits into the memory that the scheduler gives, at most twice as much besides the process."""
    settings, model = config(batch_size=batch_size), model_of((96, 96, 96))
    voxels = model.base.numel()
    given = memory_mb("template", settings, voxels, 0) * 2**20
    monkeypatch.setattr(memory, "free_bytes", lambda device: given)
    check_memory(settings, model)
    assert "96 x 96 x 96" in capsys.readouterr().out
    measured = STEP_OVERHEAD * measured_per_voxel(settings, model) * batch_size * voxels
    assert measured < given < 2 * measured + 2 * SPARE * GIB


def test_a_step_that_does_not_fit_is_refused_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, model = config(batch_size=8), model_of((64, 64, 64))
    needed = STEP_OVERHEAD * measured_per_voxel(settings, model) * model.base.numel()
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(4.5 * needed))
    with pytest.raises(AtlasmithError, match=r"8 images on a grid of 64 x 64 x 64.*batch_size: [34],"):
        check_memory(settings, model)
    check_memory(config(batch_size=2), model)
    assert "2 images on a grid of 64 x 64 x 64" in capsys.readouterr().out


def test_free_memory_is_limited_by_the_control_groups_of_the_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    group = tmp_path / "groups" / "slurm" / "job7"
    group.mkdir(parents=True)
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    (tmp_path / "own").write_text("0::/slurm/job7\n")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "groups")
    cpu = torch.device("cpu")
    assert memory.free_bytes(cpu) == 5000 * 1024
    (group.parent / "memory.max").write_text("2000000\n")
    (group.parent / "memory.current").write_text("800000\n")
    (group.parent / "memory.stat").write_text("anon 450000\nactive_file 100000\ninactive_file 200000\n")
    (group / "memory.max").write_text("max\n")
    assert memory.free_bytes(cpu) == 1_500_000


def test_memory_that_torch_keeps_for_its_next_tensors_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"mem_get_info": (10, 80), "memory_reserved": 60, "memory_allocated": 25}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert memory.free_bytes(torch.device("cuda", 0)) == 10 + 60 - 25
