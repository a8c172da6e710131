"""Two processes that train together, against one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from atlasmith.config import Config
from atlasmith.core import distributed
from atlasmith.core.errors import AtlasmithError
from atlasmith.io.images import read_image
from atlasmith.io.tables import read_tsv

SETTINGS = {
    "steps": 50,
    "learning_rate": 1e-3,  # the default: the toy's is so high that rounding soon tells
    # Not local correlation: by rounding, a window at the border of the view is counted or not, and of so few
    # one is more than the tolerance.
    "similarity": {"mse": {"weight": 5.0}},
    "checkpoint_every": 20,
    "refinement": {"rounds": 2, "steps": 4, "subjects": 9},
    "regularization": {"diffusion": {"weight": 0.4}, "centrality": {"weight": 0.5}},
}


def trained(config: Config, folder: Path, *launch: str) -> Config:
    """The template of a run whose affine stage is done, trained anew in a copy of its folder."""
    values = config.resolved() | {"output": str(folder)}
    values["template"] |= SETTINGS
    shutil.copytree(config.output, folder, ignore=shutil.ignore_patterns("model"))
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    command = [*launch, sys.executable, "-m", "atlasmith.cli", "template", "--config", path]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (result.stdout + result.stderr).count("refinement: round 2 of 2") == 1
    return config.model_copy(update={"output": folder})


def test_two_processes_come_to_what_one_comes_to(toy: Config, tmp_path: Path) -> None:
    torchrun = ["torchrun", "--standalone", "--nproc-per-node", "2", "--no-python"]
    one, two = trained(toy, tmp_path / "one").layout, trained(toy, tmp_path / "two", *torchrun).layout
    curves = [read_tsv(layout.template_training) for layout in (one, two)]
    assert len(curves[0]) == SETTINGS["steps"] and list(curves[0][0]) == list(curves[1][0])
    for name in list(curves[0][0])[1:]:
        mine, theirs = ([float(row[name]) for row in curve] for curve in curves)
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    moved = [[float(row["moved_mm"]) for row in read_tsv(x.template_refinement)] for x in (one, two)]
    np.testing.assert_allclose(*moved, atol=1e-2)
    mine, theirs = (read_image(layout.template_image).data for layout in (one, two))
    assert np.sqrt(np.mean((mine - theirs) ** 2)) < 0.01 * mine.std()


def test_a_batch_that_cant_be_shared_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *_: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "size", lambda: 2)
    with distributed.process_group(batch=4, people=2):
        pass
    for batch, people in ((3, 9), (4, 1)):
        with pytest.raises(AtlasmithError, match="2 processes"), distributed.process_group(batch, people):
            pass
