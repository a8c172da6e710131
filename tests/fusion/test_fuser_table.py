"""The table of fusion methods, their sections of the config, and a method added to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fusion_data import with_fusion, write_phantom_cohort

from atlasmith.config import Config, load_config, parse_config
from atlasmith.config.section import Count, Section
from atlasmith.core.errors import InputError
from atlasmith.fusion import fuse_subject
from atlasmith.fusion.fuser import Fuser, FusionInputs, LabelProbabilities, Training
from atlasmith.fusion.table import FUSERS
from atlasmith.io.files import write_json
from atlasmith.io.images import read_labels


def problems(fusion: dict[str, Any]) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_config({"cohort": {"bids": "data"}, "fusion": fusion})
    return [str(problem) for problem in caught.value.problems]


def test_a_config_is_checked_without_torch() -> None:
    code = (
        "import sys; from atlasmith.config import parse_config; parse_config({'cohort': {'bids': 'x'}}); "
        "assert not {'torch', 'SimpleITK', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_methods_that_share_a_section_share_settings_and_training() -> None:
    sections: dict[str, tuple[object, object]] = {}
    for fuser in FUSERS.values():
        assert fuser.text and (fuser.section or (fuser.settings == {} and fuser.training is None))
        if fuser.section:
            declared = fuser.settings_type, fuser.training
            assert sections.setdefault(fuser.section, declared) == declared
        if fuser.training:
            assert fuser.section in fuser.training.tables
            assert {"steps", "learning_rate", "checkpoint_every"} <= fuser.settings.keys()


def test_all_problems_of_the_methods_sections_are_found_at_once() -> None:
    found = problems(
        {"votenet": {"stesp": 3, "calibration": "plat"}, "jlf": {"alpha": -1}, "votente": {}, "methods": []}
    )
    assert len(found) == 5
    text = "\n".join(found)
    assert "fusion.votenet.stesp: unknown key 'stesp'. Did you mean 'steps'?" in text
    assert "fusion.votenet.calibration" in text and "'plat'" in text
    assert "fusion.jlf.alpha" in text and "-1" in text
    assert "fusion.votente: unknown key 'votente'. Did you mean 'votenet'?" in text
    assert "fusion.methods" in text


def test_networks_and_trainings_are_those_of_the_methods() -> None:
    fusion = parse_config({"cohort": {"bids": "data"}}).fusion
    assert fusion.model_copy(update={"methods": ["majority", "jlf"]}).networks == []
    methods = ["autocontext", "votenet_joint", "votenet", "majority"]
    fusion = fusion.model_copy(update={"methods": methods})
    assert fusion.networks == ["votenet", "autocontext"]
    assert list(fusion.trainings) == ["votenet", "autocontext", "autocontext_second"]


class ToySettings(Section):
    """Settings of the toy."""

    atlas: Count = 1


def toy(inputs: FusionInputs) -> LabelProbabilities:
    """The labels of one atlas, or of the one that training chose."""
    chosen = inputs.prediction() or inputs.settings.atlas
    for value in (0, 1, 2):
        probability = (inputs.labels[chosen] == value).float()
        yield value, tuple(slice(0, n) for n in probability.shape), probability


def test_a_method_is_added_by_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FUSERS, "toy", Fuser(toy, "One atlas.", section="toy", settings_type=ToySettings))
    plain = write_phantom_cohort(tmp_path)
    assert plain.resolved()["fusion"]["toy"] == {"atlas": 1}
    values = plain.resolved()
    values["fusion"] |= {"toy": {"atlas": 3}, "methods": ["toy"]}
    config = parse_config(values)
    assert config.fusion.section("toy").atlas == 3 and config.digest("fusion") != plain.digest("fusion")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.resolved()))
    assert load_config(path) == config
    assert (
        "fusion.toy.atals: unknown key 'atals'. Did you mean 'atlas'?" in problems({"toy": {"atals": 3}})[0]
    )
    fuse_subject(config, "09")
    fused = read_labels(config.layout.segmentation("09", "toy")).data[:, :, 0]
    propagated = read_labels(config.layout.propagated_labels("09")).data[:, :, 0]
    assert (fused == propagated[..., 3]).all()


def test_a_trained_method_is_added_by_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atlasmith.fusion import train_fusers

    def train(config: Config) -> None:
        write_json(config.layout.fuser_weights("toy"), 5)

    training = Training(
        train, lambda path, device: lambda atlases, subject: int(path.read_text()), {"toy": "Toy"}
    )
    fuser = Fuser(toy, "One atlas.", section="toy", settings_type=ToySettings, training=training)
    monkeypatch.setitem(FUSERS, "toy", fuser)
    config = with_fusion(write_phantom_cohort(tmp_path), methods=["toy"])
    assert config.fusion.networks == ["toy"] and config.fusion.trainings == {"toy": "Toy"}
    train_fusers(config)
    fuse_subject(config, "09")
    fused = read_labels(config.layout.segmentation("09", "toy")).data[:, :, 0]
    propagated = read_labels(config.layout.propagated_labels("09")).data[:, :, 0]
    assert (fused == propagated[..., 5]).all()
