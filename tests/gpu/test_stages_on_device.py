"""Every stage gives on a pretended GPU the files that it gives on the CPU, and waits no more than it must."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copied_run import linked
from second_device import DeviceTensor, Refused, SecondDevice, waits_per_step
from torch import Tensor

from atlasmith import propagate, register
from atlasmith.config import Config, parse_config
from atlasmith.core.errors import system_fault
from atlasmith.core.grid import Array, Grid
from atlasmith.fusion import assess_quality, fuse_subject, train_fusers
from atlasmith.fusion import stage as fusion_stage
from atlasmith.fusion.table import FUSERS
from atlasmith.inference import conditional_labels, predict, prediction
from atlasmith.inference.query import query_template
from atlasmith.io.files import write_json
from atlasmith.io.images import Image, read_image
from atlasmith.io.tables import read_cohort, read_tsv, write_tsv
from atlasmith.io.transforms import read_composite
from atlasmith.io.weights import read_weights
from atlasmith.losses import SIMILARITY
from atlasmith.losses.similarity import Similarity
from atlasmith.propagation import label_template, propagate_from_template, propagate_subject, template_labels
from atlasmith.propagation import stage as propagation_stage
from atlasmith.registration import register_subjects
from atlasmith.registration.template import TemplateRegistration
from atlasmith.template import stage, train
from atlasmith.training import augmentation
from atlasmith.training.device import to_device
from atlasmith.workflow.resources import GPU_STAGES

TEMPLATE = {
    "network": {"channels": [4, 8]},
    "steps": 2,
    "batch_size": 3,
    "similarity": {"lncc": {"weight": 1.0, "window": 7}, "mi": {"weight": 0.1}},
    "label_similarity": {"dice": {"weight": 1.0}},
    "pairwise": {"mse": {"weight": 0.1}},
    "regularization": {
        "diffusion": {"weight": 0.4},
        "kl": {"weight": 1e-3},
        "centrality": {"weight": 0.02},
        "cycle": {"weight": 0.1},
    },
    "segmenter": {"steps": 2, "channels": [4, 8], "count": 2},
    "refinement": {"rounds": 2, "steps": 2, "subjects": 4},
    "augment": True,
    "precision": "float32",
    "save_memory": True,
}
ITERATIVE = ("staple",)  # which waits once an iteration, of which it may take more on a finer grid
COHORT = {"atlas": 4, "target": 1, "train": 1}
FUSION = {
    "methods": list(FUSERS),
    "uncertainty": True,
    "atlas_selection": 3,
    "votenet": {"channels": [4, 8], "steps": 3, "patch": 16},
    "autocontext": {"steps": 5, "voxels": 1000, "width": 8},
    "student": {"channels": [4, 8], "steps": 5},
    "train_subjects": True,
}


def short(toy: Config, output: Path, **template: Any) -> Config:
    """The config of a short run of a part of the toy cohort, with every part that has a network."""
    values = toy.resolved()
    values |= {"output": str(output), "fusion": FUSION}
    values["template"] |= TEMPLATE | template
    values["register"] = {"instance_optimization": {"steps": 2, "pairwise_steps": 2}}
    config = linked(toy, parse_config(values))
    rows = read_tsv(config.layout.cohort)
    kept = [row for role, n in COHORT.items() for row in [row for row in rows if row["role"] == role][:n]]
    write_tsv(config.layout.cohort, kept, list(rows[0]))
    return config


def subjects_of(config: Config, role: str) -> list[str]:
    return [subject.id for subject in read_cohort(config.layout.cohort) if subject.role == role]


@pytest.fixture(scope="module", autouse=True)
def equal_noise() -> Iterator[None]:
    """Draw noise on the CPU, as a GPU doesn't, so that results are equal."""

    def draw(shape: Any, random: torch.Generator, device: torch.device) -> Tensor:
        return to_device(torch.randn(shape, generator=random), device)

    with pytest.MonkeyPatch.context() as patch:
        for module in (augmentation, stage):
            patch.setattr(module, "draw_normal", draw)
        yield


@pytest.fixture(scope="module")
def run(toy: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run that was finished on the CPU."""
    config = short(toy, tmp_path_factory.mktemp("device") / "results")
    train(config)
    shutil.copyfile(toy.layout.affine_reference, config.layout.affine_reference)
    atlases, (target,) = (subjects_of(config, role) for role in ("atlas", "target"))
    register_subjects(config, [subject.id for subject in read_cohort(config.layout.cohort)])
    label_template(config)
    for subject in (*atlases, target, *subjects_of(config, "train")):
        propagate_subject(config, subject)
    propagate_from_template(config, target)
    train_fusers(config)
    for subject in atlases:
        fuse_subject(config, subject)
    assess_quality(config)
    fuse_subject(config, target)
    query_one(config)
    predict_one(config)
    return config


@pytest.fixture
def copy(run: Config, tmp_path: Path) -> Config:
    """A copy of the run, of which stages are run again on the GPU."""
    ignore = shutil.ignore_patterns("query", "new")
    shutil.copytree(run.output, tmp_path / "results", symlinks=True, ignore=ignore)
    return run.model_copy(update={"output": tmp_path / "results", "device": "cuda"})


def numbers(path: Path) -> Any:
    """Read the numbers of a file; None for one that isn't compared."""
    if path.name.endswith(".nii.gz"):
        return read_image(path).data
    if path.suffix == ".h5":
        return [getattr(step, "vectors", step) for step in read_composite(path)]
    if path.suffix == ".safetensors":
        return read_weights(path)[1]
    if path.suffix == ".tsv":
        words = [word for row in read_tsv(path) for word in row.values()]
        return [float(word) for word in words if re.fullmatch(r"-?[\d.]+(e-?\d+)?", word)]
    return None


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def run_on_device(stage: Callable[[Config], object], copy: Config, run: Config) -> SecondDevice:
    """Run a stage on the GPU, assert that it writes what the run on the CPU has, and return the counts."""
    before = stamps(copy.output)
    with SecondDevice() as device:
        stage(copy)
    written = [path for path, stamp in stamps(copy.output).items() if stamp != before.get(path)]
    compared = [path for path in written if numbers(path) is not None]
    for path in compared:
        expected, name = numbers(run.output / path.relative_to(copy.output)), path.name
        torch.testing.assert_close(
            numbers(path), expected, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert compared and device.kernels.total() > 20
    return device


def register_two(config: Config) -> None:
    register_subjects(config, [subjects_of(config, role)[0] for role in ("atlas", "target")])


def propagate_one(config: Config) -> None:
    (target,) = subjects_of(config, "target")
    propagate_subject(config, target)
    propagate_from_template(config, target)


def fuse_one(config: Config) -> None:
    fuse_subject(config, *subjects_of(config, "target"))


def write_config(config: Config) -> Path:
    """Write the config into its output folder, where `predict` and `query` read it; return the folder."""
    write_json(config.output / "config.yaml", config.resolved())  # JSON is YAML
    return config.output


def query_one(config: Config) -> None:
    query_template(write_config(config), {"age": "45"}, config.output / "query")


def predict_one(config: Config) -> None:
    target = next(subject for subject in read_cohort(config.layout.cohort) if subject.role == "target")
    predict(write_config(config), target.image, {"age": 45}, config.output / "new")


STAGES: dict[str, Callable[[Config], object]] = {
    "template": train,
    "register": register_two,
    "template-labels": label_template,
    "propagate": propagate_one,
    "fuse-train": train_fusers,
    "fuse": fuse_one,
    "query": query_one,
    "predict": predict_one,
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_write_what_they_write_on_the_cpu(name: str, run: Config, copy: Config) -> None:
    run_on_device(STAGES[name], copy, run)


# A function of each stage that gets tensors on the device, or the device.
INNER: dict[str, tuple[Any, str]] = {
    "register": (TemplateRegistration, "to_template_space"),
    "template-labels": (template_labels, "resample_labels"),
    "propagate": (propagation_stage, "sample_atlas"),
    "fuse": (fusion_stage, "native_labels"),
    "query": (conditional_labels, "resample_labels"),
}
SHORT = "CUDA out of memory. GPU 0 has 80.00 GiB"


def fill_gpu(patch: pytest.MonkeyPatch, stage: str) -> None:
    """Let a function of a stage raise what torch does where a GPU's memory is too small."""
    place, name = INNER[stage]
    real = getattr(place, name)

    def limited(*args: Any) -> Any:
        if any(isinstance(x, DeviceTensor) or getattr(x, "type", None) == "cuda" for x in args):
            raise torch.OutOfMemoryError(f"{SHORT}.\nMore about it.")
        return real(*args)

    patch.setattr(place, name, limited)


@pytest.mark.parametrize("name", [*INNER, "predict"])
def test_with_auto_the_cpu_repeats_what_a_gpu_is_too_small_for(
    name: str,
    run: Config,
    copy: Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for stage_name in INNER if name == "predict" else [name]:
        fill_gpu(monkeypatch, stage_name)
    before = stamps(copy.output)
    with SecondDevice():
        STAGES[name](copy.model_copy(update={"device": "auto"}))
        assert torch.get_deterministic_debug_mode() == 0, "that of the GPU, for what follows"
    written = [path for path, stamp in stamps(copy.output).items() if stamp != before.get(path)]
    compared = [path for path in written if path.name.endswith((".nii.gz", ".h5", ".tsv"))]
    assert compared
    for path in compared:
        assert path.read_bytes() == (run.output / path.relative_to(copy.output)).read_bytes(), path.name
    assert f"{SHORT}. With `device: auto`, the CPU computes this again." in capsys.readouterr().err


@pytest.mark.parametrize("name", ["register", "template-labels", "propagate", "fuse"])
def test_with_cuda_a_gpu_that_is_too_small_is_an_error(
    name: str, copy: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_gpu(monkeypatch, name)
    with SecondDevice(), pytest.raises(torch.OutOfMemoryError) as caught:
        STAGES[name](copy)
    assert (system_fault(caught.value) or "").startswith(f"{SHORT}. Use `--device cpu`, or `gpu: 0`")


def test_scans_take_turns_on_a_gpu(
    copy: Config, monkeypatch: pytest.MonkeyPatch, second_device: SecondDevice
) -> None:
    """Two threads prepare scans, and make the GPU their own current one, but one computes on it at a time."""
    turns: list[int] = []
    chosen: set[int] = set()

    def recorded(real: Callable[..., Any]) -> Callable[..., Any]:
        def record(*args: Any) -> Any:
            turns.append(threading.get_ident())
            return real(*args)

        return record

    for name in ("register_subject", "fuse_subject"):
        monkeypatch.setattr(prediction, name, recorded(getattr(prediction, name)))
    both, align = threading.Barrier(2, timeout=60), prediction.align_subject
    monkeypatch.setattr(prediction, "align_subject", lambda *args: (both.wait(), align(*args)))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.add(threading.get_ident()))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    fusion = copy.fusion.model_copy(update={"methods": ["majority"]})
    image = next(subject.image for subject in read_cohort(copy.layout.cohort) if subject.role == "target")
    images = [copy.output / f"{name}.nii.gz" for name in ("one", "other")]
    for path in images:
        shutil.copyfile(image, path)
    results = write_config(copy.model_copy(update={"fusion": fusion}))
    assert all(found.error is None for found in predict(results, images, {"age": 45}, results / "new"))
    assert turns[0] == turns[1] != turns[2] == turns[3]
    assert {*turns} <= chosen


def test_the_workflow_gives_a_gpu_to_those_stages_that_use_it(copy: Config) -> None:
    assert set(GPU_STAGES) <= {name.replace("-", "_") for name in STAGES}
    assess_quality(copy)  # `device: cuda`, where there is none


@pytest.mark.parametrize("name", ["votenet", "autocontext"])
def test_a_step_of_a_fusion_network_waits_twice(name: str, copy: Config, second_device: SecondDevice) -> None:
    def run(steps: int) -> None:
        section = copy.fusion.section(name).model_copy(update={"steps": steps})
        fusion = copy.fusion.model_copy(update={name: section, "methods": [name]})
        train_fusers(copy.model_copy(update={"fusion": fusion}))

    found = waits_per_step(second_device, run)
    assert found.total() <= 2, found


@pytest.mark.parametrize("name", ["propagate", "fuse"])
def test_waits_dont_grow_with_the_number_of_voxels(name: str, copy: Config) -> None:
    waits = []
    for spacing in (1.5, 0.75):
        fine = {"spacing": spacing, "methods": [method for method in FUSERS if method not in ITERATIVE]}
        config = copy.model_copy(update={"fusion": copy.fusion.model_copy(update=fine)})
        with SecondDevice() as device:
            propagate_one(config)
            if name == "fuse":
                device.clear()
                fuse_one(config)
        waits.append(device.waits)
    assert waits[1].total() <= waits[0].total(), waits[1] - waits[0]


def test_arrays_in_three_dimensions() -> None:
    x, y, z = np.mgrid[:20, :18, :16] - 9
    fixed, moving = (np.maximum(0, 1 - (x**2 + y**2 + (z / a) ** 2) / 40) for a in (1.0, 1.3))
    grid = Grid(moving.shape, np.eye(4))
    labels = Image(np.digitize(moving, [0.3, 0.6]), grid)

    def results(name: str) -> list[Array]:
        pair = register(fixed, moving, steps=3, device=name)
        atlas = propagate([labels], [pair.forward], grid, [Image(moving, grid)], device=name)
        assert atlas.images is not None
        return [pair.warped, pair.log_jacobian, atlas.labels, atlas.images]

    expected = results("cpu")
    with SecondDevice() as device:
        found = results("cuda")
    assert device.kernels.total() > 1000
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_mistake_that_a_cpu_hides_is_found(copy: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that makes a tensor of its own without telling the device."""

    @Similarity.declare("Mean difference.")
    def wrong(fixed: Tensor, moved: Tensor, mask: Tensor | None = None) -> Tensor:
        return ((fixed - moved) * torch.ones(fixed.shape)).flatten(1).mean(1)

    monkeypatch.setitem(SIMILARITY, "mse", wrong)
    train(copy.model_copy(update={"device": "cpu"}))
    with SecondDevice(), pytest.raises(Refused, match=r"two devices: device .*, CPU"):
        train(copy)
