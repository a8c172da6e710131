"""Measure the GPU path: agreement with the CPU, step times, memory, instance optimization, a whole cohort.

    python benchmarks/gpu.py                                  # on a GPU, about five minutes
    python benchmarks/gpu.py --device cpu --shape 16 16 16    # a dry run of this script
    python benchmarks/gpu.py --cohort examples/brain_1mm.yaml --minutes 10

Images are noise: times and memory don't depend on them. With `--cohort` the stages of a config follow, as far
as `--minutes` go. Finished figures are kept in `--out`, and skipped when the script is started again; a
training goes on from its checkpoint. On a GPU all figures go to `benchmarks/results/gpu.csv` at the end; with
`--record FILE` those of a FILE that was measured on another machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlasmith import __version__
from atlasmith.config import Config, load_config
from atlasmith.config.template import TemplateSection
from atlasmith.core.grid import Grid
from atlasmith.io.tables import read_cohort
from atlasmith.losses import SIMILARITY
from atlasmith.networks import NETWORKS, CovariateCode, Groupwise
from atlasmith.optimization import instance_objective, optimize
from atlasmith.training import memory
from atlasmith.training.device import autocast, pinned_for, select_device, to_device
from atlasmith.training.objective import training_objective
from atlasmith.workflow.resources import GIB, training_bytes


class Figures:
    """Named figures with units, printed and kept as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, name: str, measure: Callable[[], Any]) -> None:
        """Measure a figure, unless it is known; an error is kept as text, so that the others follow."""
        if name in self.found:
            return
        try:
            self.found[name] = measure()
        except (RuntimeError, ValueError, TypeError) as error:
            self.found[name] = f"{type(error).__name__}: {str(error)[:300]}"
        self.keep(name, self.found[name])
        print(f"{name}: {self.found[name]}", flush=True)

    def describe(self, **facts: Any) -> None:
        """Keep what the figures are of; earlier figures of anything else are refused."""
        for name, value in facts.items():
            if self.found.setdefault(name, value) != value:
                raise SystemExit(
                    f"{self.path}: measured with {name} {self.found[name]}, not {value}. Name another --out."
                )

    def keep(self, name: str, value: Any) -> None:
        """Keep a value, without a figure of its own."""
        self.found[name] = value
        self.path.write_text(json.dumps(self.found, indent=1))


def milliseconds(device: torch.device, function: Callable[[], object], repeats: int = 5) -> float:
    """Time a function: the median of several runs after two to warm up."""
    seconds = []
    for index in range(repeats + 2):
        _wait(device)
        start = time.perf_counter()
        function()
        _wait(device)
        if index > 1:
            seconds.append(time.perf_counter() - start)
    return round(1e3 * float(np.median(seconds)), 2)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def disagreement(name: str, device: torch.device) -> float:
    """Compare a similarity with the CPU's: the larger one of the absolute difference of its values and the
    relative one of its gradients."""
    random = torch.Generator().manual_seed(0)
    fixed, moved = (torch.rand(1, 1, 20, 21, 22, generator=random) for _ in range(2))
    found = []
    for place in (torch.device("cpu"), device):
        image = moved.detach().clone().to(place).requires_grad_()
        value = SIMILARITY[name](fixed.to(place), image, torch.ones_like(fixed).to(place))
        (gradient,) = torch.autograd.grad(value, image)
        found.append((value.item(), gradient.cpu()))
    (a, da), (b, db) = found
    return float(f"{max(abs(a - b), float((da - db).norm() / da.norm())):.2g}")


class Setting:
    """A model with a batch on the device, as training has it."""

    def __init__(self, shape: tuple[int, ...], batch: int, device: torch.device, **template: Any) -> None:
        self.settings = TemplateSection(**{"condition_on": ["age"], **template})
        self.batch, self.device = batch, device
        torch.manual_seed(0)
        code, network = CovariateCode({"age": (50.0, 10.0)}, {}), self.settings.network.name
        grid = Grid((shape[0], shape[1], shape[2]), np.eye(4))
        self.model = Groupwise(
            grid, code, network, None, self.settings.integration_steps, decoder=self.settings.decoder
        ).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        random = torch.Generator().manual_seed(1)
        host = torch.rand(batch, 1, *shape, generator=random).half(), torch.ones(batch, 1, *shape).bool()
        self.host = [pinned_for(x, device) for x in host]
        self.image, self.mask = (x.to(device).float() for x in self.host)
        self.codes = torch.linspace(-1, 1, batch)[:, None].to(device)

    def loss(self, image: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Evaluate the objective of one training step."""
        image, mask = (self.image, self.mask) if image is None or mask is None else (image, mask)
        with autocast(self.device, self.settings.precision):
            template = self.model.template_features(self.codes)
            velocity = self.model.coefficients(template, image)
        return training_objective(
            self.model.grid,
            template,
            image,
            mask,
            velocity,
            save_memory=self.settings.save_memory,
            deformation=self.model.deformation,
            **self.settings.objective,
        ).loss

    def step(self, image: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Take one training step."""
        loss = self.loss(image, mask)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def host_fed_step(self) -> Tensor:
        """Take one step on a batch that comes from the host, as in training."""
        return self.step(*(to_device(x, self.device).float() for x in self.host))


def measure_steps(figures: Figures, shape: tuple[int, ...], batch: int, device: torch.device) -> None:
    """Measure training steps of the default settings."""
    setting = Setting(shape, batch, device)
    figures.add(
        "memory estimated, GiB",
        lambda: round(
            training_bytes(
                int(np.prod(shape)),
                batch,
                memory.saved_bytes_per_voxel(setting.model, "auto", False, setting.settings.objective),
                sum(p.numel() for p in setting.model.parameters()),
            )
            / GIB,
            2,
        ),
    )
    figures.add("step, device alone, ms", lambda: milliseconds(device, setting.step))
    if device.type == "cuda":
        figures.add("memory taken, GiB", lambda: peak_gib(setting.step))
        figures.add("synchronizing calls in a step", lambda: synchronizing_calls(setting.step))
    figures.add("step, host-fed, ms", lambda: milliseconds(device, setting.host_fed_step, 3))
    figures.add("operators of a step", lambda: profile(setting.step, device))
    figures.add("equal losses in two runs", lambda: repeatable(shape, batch, device))


def measure_other_steps(figures: Figures, shape: tuple[int, ...], batch: int, device: torch.device) -> None:
    """Measure training steps of other settings."""
    for name, more in {
        "float32": {"precision": "float32"},
        "save_memory": {"save_memory": True},
        "channels_last": {"channels_last": True},
        "mi": {"similarity": {"mi": {"weight": 1.0}}},
        "lncc alone": {"similarity": {"lncc": {"weight": 1.0}}},
        "mse alone": {"similarity": {"mse": {"weight": 1.0}}},
        **{network: {"network": {"name": network}} for network in NETWORKS if network != "unet_half"},
    }.items():
        figures.add(f"step, {name}, ms", lambda more=more: _other(shape, batch, device, more))  # type: ignore[misc]


def _other(shape: tuple[int, ...], batch: int, device: torch.device, more: dict[str, Any]) -> float:
    setting = Setting(shape, batch, device, **more)
    if more.get("channels_last"):
        setting.model.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return milliseconds(device, setting.step, 2)


def peak_gib(step: Callable[[], object]) -> float:
    """Measure the peak memory of a step on the GPU, with what was there before."""
    torch.cuda.reset_peak_memory_stats()
    step()
    return round(torch.cuda.max_memory_allocated() / GIB, 2)


def synchronizing_calls(step: Callable[[], object]) -> int:
    """Count the calls of a step in which the host waits for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return len([warning for warning in found if "synchron" in str(warning.message)])


def profile(step: Callable[[], object], device: torch.device) -> str:
    """List the operators that take most of a step's time."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as recorded:
        step()
        _wait(device)
    key = "device_time_total" if device.type == "cuda" else "cpu_time_total"
    rows = sorted(recorded.key_averages(), key=lambda event: -getattr(event, "self_" + key, 0))[:14]
    return "; ".join(f"{e.key} x{e.count} {getattr(e, 'self_' + key) / 1e3:.1f} ms" for e in rows)


def repeatable(shape: tuple[int, ...], batch: int, device: torch.device) -> bool:
    """Tell whether two trainings from one seed have the same losses."""
    losses = []
    for _ in range(2):
        setting = Setting(shape, batch, device)
        losses.append([setting.step().item() for _ in range(3)])
    return losses[0] == losses[1]


def measure_instance(figures: Figures, shape: tuple[int, ...], device: torch.device) -> None:
    """Measure instance optimization of one image, by the difference of 50 and 10 steps."""
    setting = Setting(shape, 1, device)
    settings = setting.settings

    def run(steps: int) -> Tensor:
        objective = instance_objective(
            setting.image,
            setting.image.flip(2),
            setting.mask,
            setting.model.grid,
            deformation=setting.model.deformation,
            **settings.objective,
        )
        return optimize(objective, torch.zeros_like(setting.model.mean_coefficients), steps, 0.1)

    def per_step() -> float:
        ten, fifty = (milliseconds(device, lambda n=n: run(n), 1) for n in (10, 50))  # type: ignore[misc]
        return round((fifty - ten) / 40, 2)

    figures.add("step of instance optimization, ms", per_step)
    figures.add("registration with 40 steps, ms", lambda: milliseconds(device, lambda: run(40), 1))


# In the order of the workflow, and whether a stage takes the subjects.
STAGES = {
    "cohort": False,
    "preprocess": True,
    "affine-reference": False,
    "affine": True,
    "template": False,
    "register": True,
    "template-labels": False,
    "propagate": True,
    "fuse-train": False,
    "fuse": True,
}


def measure_cohort(figures: Figures, config_path: Path, device: torch.device, end: float) -> None:
    """Run the stages of a config, each in a process of its own, until `end` (of `time.monotonic`).

    A stage that is cut off is counted when it is finished by a later call, with the time of all calls.
    """
    gc.collect()
    torch.cuda.empty_cache()  # the stages are processes of their own
    config = load_config(config_path)
    figures.add("cohort", lambda: config_path.stem)
    for stage, takes_subjects in STAGES.items():
        verb, name = [sys.executable, "-m", "atlasmith.cli", stage], f"stage {stage}, s"
        if name in figures.found:
            continue
        path = config_path if stage == "cohort" else config.layout.config
        verb += ["--config", str(path)]
        if takes_subjects:
            verb += ["--subjects", *_subjects(config, stage)]
        if stage in ("template", "register", "template-labels", "propagate", "fuse-train", "fuse"):
            verb += ["--device", device.type]
        start, spent = time.monotonic(), figures.found.get(f"spent in {stage}", 0.0)
        finished = _run_until(verb, end)
        seconds = round(spent + time.monotonic() - start, 1)
        if not finished:
            figures.keep(f"spent in {stage}", seconds)
            print(f"{stage}: not finished; start again to go on", flush=True)
            return
        figures.add(name, lambda seconds=seconds: seconds)  # type: ignore[misc]


def _run_until(command: list[str], end: float) -> bool:
    """Run a command and the processes that it starts; tell whether it succeeded before `end`."""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(max(end - time.monotonic(), 1)) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False


def _subjects(config: Config, stage: str) -> list[str]:
    """The subjects of a stage: of those that are segmented, the atlases for training, and one target."""
    subjects = read_cohort(config.layout.cohort)
    if stage not in ("propagate", "fuse"):
        return [subject.id for subject in subjects]
    targets = [subject.id for subject in subjects if subject.role == "target"][:1]
    atlases = [subject.id for subject in subjects if subject.role == "atlas"]
    return targets if stage == "fuse" else [*atlases, *targets]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", type=int, nargs=3, default=(160, 192, 224))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="figures so far")
    parser.add_argument("--cohort", type=Path, help="config of a cohort whose stages follow")
    parser.add_argument("--minutes", type=float, default=60.0, help="for all, after which no stage goes on")
    parser.add_argument("--record", type=Path, help="add the figures of this file to the results, and stop")
    options = parser.parse_args()
    if options.record:
        record(json.loads(options.record.read_text()))
        return
    end = time.monotonic() + 60 * options.minutes
    device, shape = select_device(options.device), tuple(options.shape)
    figures = Figures(options.out)
    figures.describe(
        device=torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        torch=torch.__version__,
        atlasmith=__version__,
        shape=list(shape),
        batch=options.batch,
    )
    for name in SIMILARITY:
        figures.add(f"difference to the CPU, {name}, 1", lambda name=name: disagreement(name, device))  # type: ignore[misc]
    measure_instance(figures, shape, device)
    measure_steps(figures, shape, options.batch, device)
    measure_other_steps(figures, shape, options.batch, device)
    if options.cohort:
        measure_cohort(figures, options.cohort, device, end)
    if device.type == "cuda":
        record(figures.found)


def record(found: dict[str, Any]) -> None:
    """Add the figures that are numbers to the results table."""
    from results import append_rows

    shape, rows = " x ".join(map(str, found["shape"])), []
    for name, value in found.items():
        kept = name == "batch" or name.startswith("spent in")
        if not isinstance(value, int | float) or isinstance(value, bool) or kept:
            continue
        quantity, unit = name.rsplit(", ", 1) if ", " in name else (name, "1")
        metric, _, method = quantity.replace("-", "_").partition(", ")
        if unit == "ms":
            value, unit = round(value / 1e3, 5), "s"
        rows.append(
            {
                "dataset": found["cohort"] if name.startswith("stage ") else f"noise {shape}",
                "method": method or "default",
                "metric": metric.replace(" ", "_").replace("-", "_")
                + (f"_{unit.lower()}" if unit != "1" else ""),
                "value": value,
                "unit": unit,
                "hardware": found["device"],
                "command": "python benchmarks/gpu.py",
                "note": f"batch of {found['batch']}, torch {found['torch']}",
            }
        )
    append_rows(Path(__file__).parent / "results" / "gpu.csv", rows)


if __name__ == "__main__":
    main()
