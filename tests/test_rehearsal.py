"""What training will need of memory, told beforehand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from atlasmith.config import Config, parse_config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Grid
from atlasmith.losses import registration_objective
from atlasmith.networks import CovariateCode, Groupwise
from atlasmith.training import memory


def config(**template: object) -> Config:
    return parse_config({"cohort": {"bids": "d"}, "template": template})


def model(shape: tuple[int, ...], network: str = "unet_half") -> Groupwise:
    return Groupwise(Grid(shape, np.eye(4)), CovariateCode.of([], [{}]), network, None, 6)


def kept_by_a_step(settings: Config, whole: Groupwise) -> int:
    """All that a step on one image keeps, but for the network's weights."""
    sizes = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    image = torch.rand_like(whole.base)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        velocity = whole.velocity(whole.base, image)
        registration_objective(
            whole.base,
            image,
            torch.ones_like(image),
            velocity,
            integration_steps=settings.template.integration_steps,
            velocity_spacing=whole.grid.coarser_spacing(velocity.mean.shape[2:]),
            similarity=settings.template.similarity,
            regularization=settings.template.regularization,
            save_memory=settings.template.save_memory,
        )
    weights = {p.data_ptr() for p in whole.network.parameters()}
    return sum(size for place, size in sizes.items() if place not in weights)


@pytest.mark.parametrize("network", ["unet_half", "unet", "transmorph"])
@pytest.mark.parametrize("save_memory", [False, True])
def test_a_corner_tells_what_the_whole_keeps(network: str, save_memory: bool) -> None:
    settings, whole = config(save_memory=save_memory), model((64, 48, 56), network)
    foretold = memory.kept_bytes(settings, whole)
    assert foretold == pytest.approx(kept_by_a_step(settings, whole), rel=0.15)


def test_a_step_that_doesnt_fit_is_refused_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, whole = config(batch_size=8), model((64, 64, 64))
    needed = memory.OVERHEAD * memory.kept_bytes(settings, whole)
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(4.5 * needed))
    with pytest.raises(AtlasmithError, match=r"8 images on a grid of 64 x 64 x 64.*batch_size: [34],"):
        memory.check_memory(settings, whole)
    memory.check_memory(config(batch_size=2), whole)
    assert "2 images on a grid of 64 x 64 x 64" in capsys.readouterr().out


def test_what_is_free_is_what_a_job_may_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    group = tmp_path / "groups" / "slurm" / "job7"
    group.mkdir(parents=True)
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    (tmp_path / "own").write_text("0::/slurm/job7\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "groups")
    cpu = torch.device("cpu")
    assert memory.free_bytes(cpu) == 5000 * 1024
    (group.parent / "memory.max").write_text("2000000\n")
    (group.parent / "memory.current").write_text("800000\n")
    (group.parent / "memory.stat").write_text("anon 450000\nactive_file 100000\ninactive_file 200000\n")
    (group / "memory.max").write_text("max\n")
    assert memory.free_bytes(cpu) == 1_500_000
