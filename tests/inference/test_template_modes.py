"""Modes of variation about the template of the toy cohort."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from atlasmith.cli.main import main
from atlasmith.config import Config, parse_config
from atlasmith.core.errors import AtlasmithError, InputError
from atlasmith.core.fields import resize_displacement
from atlasmith.core.sampling import warp
from atlasmith.io.files import read_json
from atlasmith.io.images import read_image
from atlasmith.io.layout import Layout, sidecar_path
from atlasmith.io.tables import read_tsv
from atlasmith.networks import Groupwise
from atlasmith.registration.stage import load_registration, read_modes, register_subjects
from atlasmith.transforms import FORWARD, INVERSE, LowRankVelocity, integrate_velocity


def write(results: Path, out: Path, *options: str) -> int:
    return main(["template", "modes", "--results", str(results), "--out", str(out), *options])


def test_images_along_the_modes(toy: Config, tmp_path: Path) -> None:
    assert write(toy.output, tmp_path, "--modes", "2") == 0
    layout = Layout(tmp_path, "Toy", ("T1w",))
    rows, run = read_tsv(layout.modes_table), toy.layout
    assert rows == read_tsv(run.template_mode_table)[:2]
    assert len(list(tmp_path.rglob("*.nii.gz"))) == 2 * 4 + 1
    template = read_image(layout.template_image).data
    np.testing.assert_allclose(template, read_image(run.template_image).data, atol=1e-6)
    model = Groupwise.load(run.template_weights)
    for number, mode in enumerate(read_modes(run, 2), start=1):
        changes = []
        for sd, name in ((-2, "minus2"), (-1, "minus1"), (1, "plus1"), (2, "plus2")):
            path = layout.modes_image(number, name)
            moved = torch.from_numpy(model.grid.squeeze(read_image(path).data))[None, None]
            # An image at s SD is registered to the template by the exponential of s times the mode.
            maps = integrate_velocity(sd * mode[None], 6)
            full = {key: resize_displacement(u, moved.shape[2:]) for key, u in maps.items()}
            back = {key: warp(moved, u, padding="border")[0, 0].numpy() for key, u in full.items()}
            before, right, wrong = (
                np.abs(x - template[..., 0]).mean()
                for x in (moved[0, 0].numpy(), back[FORWARD], back[INVERSE])
            )
            # Two interpolations blur about as much as one SD of a small mode changes.
            assert right < 0.5 * wrong and wrong > 1.4 * before
            assert abs(sd) == 1 or right < 0.7 * before
            changes.append(before)
            assert (
                f"at {sd} standard deviations of mode {number}"
                in read_json(sidecar_path(path))["Description"]
            )
        assert changes[0] > changes[1] > 0 and changes[3] > changes[2] > 0


def test_problems_are_printed(toy: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "results"
    shutil.copytree(toy.output, folder)
    assert write(folder, tmp_path / "out", "--modes", "99") == 2
    assert "99 modes were asked for" in capsys.readouterr().err
    assert write(folder, tmp_path / "out", "--modes", "1") == 0
    assert write(folder, tmp_path / "out", "--modes", "1") == 2
    assert "exists already" in capsys.readouterr().err
    toy.model_copy(update={"output": folder}).layout.template_modes.unlink()
    assert write(folder, tmp_path / "other") == 2
    assert "refinement finds the modes" in capsys.readouterr().err


def test_registrations_within_the_span_of_the_modes(toy: Config, tmp_path: Path) -> None:
    values = toy.resolved() | {"output": str(tmp_path / "results")}
    shutil.copytree(toy.output, tmp_path / "results")
    values["register"]["modes"] = 3
    config = parse_config(values)
    registration = load_registration(config)
    deformation = registration.objective["deformation"]
    assert isinstance(deformation, LowRankVelocity) and len(deformation.modes) == 3
    register_subjects(config, ["00"])
    assert read_image(config.layout.warped("00")).data.any()
    image = torch.rand(1, 1, *registration.model.grid.tensor_shape)
    template = registration.mean_template
    found = registration.coefficients(template, image, torch.ones_like(image))
    spacing = registration.model.grid.coarser_spacing(found.shape[2:])
    maps = deformation.maps(found, spacing, [FORWARD])[FORWARD]
    code = deformation.scores(found, spacing)
    expected = integrate_velocity(torch.tensordot(code, deformation.modes, dims=1), 6, [FORWARD])[FORWARD]
    torch.testing.assert_close(maps, expected, atol=1e-3, rtol=1e-3)
    with pytest.raises(AtlasmithError, match="99 modes were asked for"):
        read_modes(config.layout, 99)
    values["register"]["modes"] = 99
    with pytest.raises(InputError, match=r"register.modes: Input should be less than or equal to 10"):
        parse_config(values)
    values["register"]["modes"] = 3
    values["register"]["parametrization"] = {"name": "momentum"}
    values["template"]["refinement"]["rounds"] = 0
    with pytest.raises(InputError, match=r"(?s)register.parametrization is set.*refinement finds the modes"):
        parse_config(values)
