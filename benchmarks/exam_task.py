"""A task of the exam: the subjects and the template of a finished run, for any way to register them."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from exam_peers import PeerRegistration
from torch import Tensor

from atlasmith.config import load_config
from atlasmith.config.section import scaled_weights
from atlasmith.core.grid import Array, Grid, Step
from atlasmith.core.label_sampling import LabelSampler
from atlasmith.core.world import to_voxels, transform_points, world_points
from atlasmith.demo.generator import truth_layout
from atlasmith.demo.grading import points_in_brain
from atlasmith.evaluation import metrics
from atlasmith.io.files import read_json
from atlasmith.io.images import read_labels
from atlasmith.io.tables import Subject, read_cohort, read_label_values
from atlasmith.io.transforms import read_affine, read_composite
from atlasmith.networks import Groupwise
from atlasmith.registration.deformation import Deformation
from atlasmith.registration.template import TemplateRegistration
from atlasmith.training.batches import draw_batch, pair_dependence
from atlasmith.training.dataset import AlignedImages
from atlasmith.training.device import seeded_generator
from atlasmith.training.loop import one_cycle
from atlasmith.training.objective import training_objective, weighted_loss
from atlasmith.transforms import deformation_model

POINTS = 1000  # in the brain, of the demo cohort
HD95_ATLASES = 5  # whose surface distances are measured for each target: they take longer than all else

Scores = dict[str, Array]  # by metric, a value for each target, NaN where undefined


@dataclass(frozen=True, eq=False)
class Entry:
    """One way to register: a row of the table.

    Args:
        kind: `network`, `parametrization` or `optimizer`: which of the choices the row is about; or `peer`.
        name: The row's name.
        network: A name in NETWORKS.
        network_settings: Settings of the network.
        cascades: As in `template.network.cascades`.
        parametrization: A name in PARAMETRIZATIONS.
        parametrization_settings: Its settings.
        optimizer: A name in OPTIMIZERS.
        optimizer_settings: Its settings.
        regularization: Further regularizers, with their weights.
        factor: Of the weights of all regularizers, after training.
        trained: Whether the network is trained; otherwise registration starts from the affine alignment.
        peer: A name in ALIGNED: another tool, which registers in the place of network and optimizer.
    """

    kind: str
    name: str
    network: str = "unet_half"
    network_settings: Mapping[str, Any] = field(default_factory=dict)
    cascades: int = 1
    parametrization: str = "stationary_velocity"
    parametrization_settings: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = "adam"
    optimizer_settings: Mapping[str, Any] = field(default_factory=dict)
    regularization: Mapping[str, Any] = field(default_factory=dict)
    factor: float = 1.0
    trained: bool = True
    peer: str | None = None

    @property
    def file(self) -> str:
        """Its name in file names."""
        return file_name(f"{self.kind} {self.name}")

    @property
    def weights_file(self) -> str:
        """Name of the weights of its network: entries that train the same share them."""
        parts = [self.network, *(f"{k} {v}" for k, v in self.network_settings.items())]
        parts += [self.parametrization, *(f"{k} {v}" for k, v in self.parametrization_settings.items())]
        parts += [*self.regularization, f"{self.cascades}", "trained" if self.trained else "untrained"]
        return f"{file_name(' '.join(parts))}.safetensors"


class Task:
    """The template, the images and the labels of a finished run.

    Args:
        run: Its output folder.
        atlases: Number of atlases, whose labels are propagated; None: all.
        targets: Number of targets that they are propagated to; None: all that
            have labels, or known deformations.
    """

    def __init__(self, run: Path, atlases: int | None, targets: int | None) -> None:
        self.config = load_config(run / "config.yaml").model_copy(update={"output": run})
        if self.config.template.training_spacing is not None:
            raise SystemExit(f"{run}: the exam trains its networks at template.spacing; take another run")
        layout = self.config.layout
        self.cohort = read_cohort(layout.cohort)
        self.truth = truth_layout(self.config.cohort.bids)
        self.is_demo = self.truth.forward(self.cohort[0].id).exists()
        self.atlases = [s for s in self.cohort if s.role == "atlas"][:atlases]
        others = [s for s in self.cohort if s.role == "target" and (s.labels or self.is_demo)]
        self.targets = others[:targets]
        self.grid = Grid.from_dict(read_json(layout.grid))
        self.values = np.array(read_label_values(layout.labels))
        self.finished = Groupwise.load(layout.template_weights)
        trained_on = [subject for subject in self.cohort if subject.in_template]
        self.images = AlignedImages(layout, trained_on, self.grid)
        loaded = self.images.load(range(len(trained_on)))
        self.loaded = {s.id: (x, m) for s, x, m in zip(trained_on, *loaded, strict=True)}
        self.samplers = {s.id: self._sampler(s) for s in self.atlases if s.labels}
        self.codes = {s.id: self.finished.code.encode(s.covariates) for s in self.cohort}

    def batch(self, ids: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Stack images and masks (B, C, *shape), and codes (B, K), of subjects."""
        images, masks = (torch.stack(x).float() for x in zip(*(self.loaded[i] for i in ids), strict=True))
        return images, masks, torch.stack([self.codes[i] for i in ids])

    def build(self, entry: Entry) -> Groupwise:
        """Build the finished run's template with an untrained network."""
        settings = self.finished.settings
        torch.manual_seed(self.config.seed)
        model = Groupwise(
            self.grid,
            self.finished.code,
            entry.network,
            None,
            settings["integration_steps"],
            cascades=entry.cascades,
            decoder=settings["decoder"],
            image_channels=self.finished.image_channels,
            parametrization=entry.parametrization,
            network_settings=entry.network_settings,
            parametrization_settings=entry.parametrization_settings,
        )
        other = ("network.", "segmenters.", "mean_coefficients")
        template = {k: v for k, v in self.finished.state_dict().items() if not k.startswith(other)}
        model.load_state_dict(template, strict=False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("network."))
        return model

    def objective(self, entry: Entry) -> dict[str, Any]:
        """Return the terms of the run's objective, with the entry's further regularizers."""
        terms = self.config.objective
        return terms | {"regularization": terms["regularization"] | dict(entry.regularization)}

    def train(self, entry: Entry, steps: int, weights: Path) -> tuple[Groupwise, float]:
        """Train a network to the finished template, or load it where that was done; seconds of a step, NaN
        where nothing was trained."""
        if weights.exists() or not steps:
            return Groupwise.load(weights) if weights.exists() else self.build(entry).eval(), float("nan")
        model, settings, ids = self.build(entry).train(), self.config.template, list(self.loaded)
        optimizer = torch.optim.Adam(model.network.parameters(), settings.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, one_cycle(steps))
        objective = self.objective(entry) | {"deformation": model.deformation}
        regularization, start = objective["regularization"], time.process_time()
        for step in range(steps):
            drawn = draw_batch(self.config.seed, len(ids), settings.batch_size, step)
            image, mask, codes = self.batch([ids[i] for i in drawn])
            with torch.no_grad():
                template = model.template_features(codes)
            model.schedule(step / steps)
            factor = model.draw_factor(seeded_generator(self.config.seed, 8, step))
            objective["regularization"] = scaled_weights(regularization, factor)
            found = model.coefficients(template, image)
            dependence = pair_dependence(len(ids), settings.batch_size, step)
            terms = training_objective(
                self.grid, template, image, mask, found, pair_dependence=dependence, **objective
            ).terms | dict(model.network_terms)
            optimizer.zero_grad()
            weighted_loss(terms.values(), factor).backward()
            gradients = [p.grad for p in model.network.parameters() if p.grad is not None]
            if bool(torch.nn.utils.get_total_norm(gradients).isfinite()):
                optimizer.step()
            schedule.step()
        seconds = (time.process_time() - start) / steps
        model.set_factor(1.0)
        model.eval().save(weights)
        return model, seconds

    def register(self, entry: Entry, model: Groupwise, steps: int) -> tuple[dict[str, Deformation], float]:
        """Register atlases and targets; their deformations, and median seconds for one."""
        integration = self.finished.settings["integration_steps"]
        deformation = deformation_model(entry.parametrization, entry.parametrization_settings, integration)
        kind = partial(PeerRegistration, entry.peer) if entry.peer else TemplateRegistration
        objective = self.objective(entry) | {"deformation": deformation}
        objective["regularization"] = scaled_weights(objective["regularization"], entry.factor)
        registration = kind(
            model,
            objective,
            steps,
            self.config.register_.instance_optimization.learning_rate,
            self.config.template.precision,
            "cpu",
            entry.optimizer,
            entry.optimizer_settings,
        )
        found, seconds = {}, []
        for subject in (*self.atlases, *(s for s in self.targets if s not in self.atlases)):
            image, mask, code = self.batch([subject.id])
            start = time.process_time()
            maps = registration.to_template_space(code, mask, model.features(image, [subject.id]))[0]
            seconds.append(time.process_time() - start)
            affine = read_affine(self.config.layout.affine(subject.id))
            found[subject.id] = Deformation(*maps, affine, self.grid)
        return found, float(np.median(seconds))

    def score(self, found: Mapping[str, Deformation]) -> Scores:
        """Score each target: Dice and HD95 of single atlases on its own grid, folding, inverse consistency,
        and for the demo cohort the distance of points from where the planted warps map them."""
        template = self.finished.template_features(torch.zeros(1, self.finished.code.size))[:, :1].detach()
        rows = []
        for target in self.targets:
            deformation = found[target.id]
            row = {name: value for name, value, _ in deformation.metrics(template)}
            row.pop("displacement_mm"), row.pop("sd_log_jacobian")
            rows.append(row | (self._distances(target, found) if self.is_demo else {}))
            if target.labels is not None:
                rows[-1] |= self._overlaps(target, found)
        return {name: np.array([row.get(name, np.nan) for row in rows]) for name in rows[0]}

    def _overlaps(self, target: Subject, found: Mapping[str, Deformation]) -> dict[str, float]:
        assert target.labels is not None
        labels = read_labels(target.labels)
        truth = metrics.label_index(labels.grid.squeeze(labels.data), self.values)
        points = transform_points(found[target.id].inverse_steps, world_points(labels.grid))
        scores: dict[str, list[float]] = {"dice": [], "hd95_mm": []}
        for index, atlas in enumerate(self.atlases):
            sampler, grid = self.samplers[atlas.id]
            moved = sampler(
                to_voxels(
                    transform_points(found[atlas.id].forward_steps, points), grid, labels.grid.tensor_shape
                )
            ).numpy()
            names = ["dice", "hd95_mm"] if index < HD95_ATLASES else ["dice"]
            result = metrics.score_labels(truth, moved, len(self.values), labels.grid.tensor_spacing, names)
            for name, values in result.items():
                scores[name].append(float(np.nanmean(values)))
        return {name: float(np.mean(values)) for name, values in scores.items()}

    def _sampler(self, atlas: Subject) -> tuple[LabelSampler, Grid]:
        assert atlas.labels is not None
        labels = read_labels(atlas.labels)
        indices = metrics.label_index(labels.grid.squeeze(labels.data), self.values)
        return LabelSampler(torch.from_numpy(indices)), labels.grid

    def _distances(self, target: Subject, found: Mapping[str, Deformation]) -> dict[str, float]:
        base = points_in_brain(self.config.cohort.bids, POINTS, self.config.seed)
        points = transform_points(read_composite(self.truth.forward(target.id)), base)
        errors = []
        for atlas in self.atlases:
            steps: list[Step] = [*found[target.id].inverse_steps, *found[atlas.id].forward_steps]
            expected = transform_points(read_composite(self.truth.forward(atlas.id)), base)
            errors.append((transform_points(steps, points) - expected).norm(dim=1))
        return {"tre_median_mm": float(torch.cat(errors).median())}

    def run(self, entry: Entry, training_steps: int, steps: int, folder: Path) -> dict[str, Any]:
        """Train, register without and with instance optimization, and score.

        Returns:
            `alone` and `optimized`: the metrics' values for each target, and seconds for a subject; seconds
            of a training step, parameters and peak memory, GiB.
        """
        weights = folder / entry.weights_file
        model, seconds = self.train(entry, training_steps if entry.trained else 0, weights)
        result: dict[str, Any] = {"training_step_s": seconds}
        result["parameters"] = entry.trained * sum(p.numel() for p in model.network.parameters())
        for column, count in (("alone", 0), ("optimized", steps)):
            found, each = self.register(entry, model, count)
            scores = {name: values.tolist() for name, values in self.score(found).items()}
            result[column] = {"scores": scores, "subject_s": each}
        result["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return result


def file_name(text: str) -> str:
    """Replace what doesn't belong into a file's name."""
    return "".join(x if x.isalnum() else "-" for x in text)
