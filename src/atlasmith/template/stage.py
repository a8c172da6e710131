"""Groupwise training of a template and its registration network (Dalca et al. 2019, arXiv:1908.02738)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.config.section import scaled_weights
from atlasmith.core import distributed
from atlasmith.core.fields import resize_displacement
from atlasmith.core.grid import Grid
from atlasmith.core.sampling import warp
from atlasmith.io.files import read_json, require
from atlasmith.io.tables import Subject, read_cohort, read_label_values
from atlasmith.losses import pairwise_terms, required_inputs
from atlasmith.networks import CovariateCode, Groupwise, held_out_folds, label_codes
from atlasmith.template.adversary import Adversary
from atlasmith.template.output import write_template
from atlasmith.template.refinement import initialize_template, refine_template
from atlasmith.template.segmenter import train_segmenters
from atlasmith.training.augmentation import augment
from atlasmith.training.batches import draw_batch, pair_dependence
from atlasmith.training.checkpoints import Checkpoint
from atlasmith.training.dataset import AlignedImages, Cache
from atlasmith.training.device import (
    autocast,
    draw_normal,
    seeded_generator,
    select_device,
    to_device,
)
from atlasmith.training.loop import fit
from atlasmith.training.memory import check_memory
from atlasmith.training.objective import training_objective, weighted_loss
from atlasmith.training.prefetch import Prefetch
from atlasmith.workflow.provenance import training_digest

# Of the template's learning rate. The decoder's weights act on many voxels at once: at the rate of a single
# voxel's intensity they change the template's contrast, which LNCC ignores, long before its shape.
DECODER_RATE = 0.02


def train(config: Config) -> None:
    """Train template and network on the aligned images; write weights, training tables and template images.

    A killed run resumes from its checkpoint and ends at the same weights. Under torchrun, processes share
    each batch and each round of refinement, and end at the same template but for rounding.

    Args:
        config: The run's config; `template` decides.

    Raises:
        AtlasmithError: When an earlier stage hasn't run, memory doesn't suffice, or training diverges.
    """
    checked = read_cohort(config.layout.cohort, passed="affine")
    subjects = [subject for subject in checked if subject.in_template]
    refinement = config.template.refinement
    fewest = min(len(subjects), refinement.subjects if refinement.rounds else len(subjects))
    if config.template.subpopulations > 1:
        require(config.layout.subpopulations, "subpopulations")
    device = select_device(config.device)
    with distributed.process_group(device, config.template.batch_size, fewest):
        TemplateTraining(config, subjects).run()


class TemplateTraining:
    """The state of one groupwise training.

    Args:
        config: The run's config.
        subjects: Those that take part in the template.
    """

    def __init__(self, config: Config, subjects: Sequence[Subject]) -> None:
        self.config, self.subjects = config, subjects
        self.settings, self.layout = config.template, config.layout
        self.finest_grid = Grid.from_dict(read_json(self.layout.grid))
        self.grid = self.finest_grid.coarser(self.settings.coarse_spacing)
        self.device = select_device(config.device)
        torch.manual_seed(config.seed)
        # Half of the free space is left to the other outputs.
        folder = self.layout.template_weights.parent
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        self.cache = Cache(folder, free // (2 * distributed.world_size()))
        self.images = self._images(self.grid)
        self.batches = Prefetch(self._load, self.settings.steps)
        covariates = [subject.covariates for subject in subjects]
        self.code = CovariateCode.of(self.settings.conditions, covariates)
        self.codes = torch.stack([self.code.encode(values) for values in covariates])
        self.model = self._build_model()
        self.adversary: Adversary | None = None
        # Streams of random numbers that differ between processes.
        self.stream = [distributed.rank()] if distributed.rank() else []

    def run(self) -> None:
        """Train, refine, and write the results."""
        config, layout, settings, model = self.config, self.layout, self.settings, self.model
        if model.segmenters is not None:
            train_segmenters(config, model.segmenters.to(self.device), self.images)
        sections = ("cohort", "preprocess", "affine", "template")
        digest = training_digest(config, sections, self.subjects)
        checkpoint = Checkpoint(layout.template_checkpoint, digest)
        model.to(self.device)
        if checkpoint.load() is None:
            checkpoint.remove()  # of another config
            initialize_template(model, self.images, self.codes)
        check_memory(model, settings.batch_size, settings.precision, settings.save_memory, config.objective)
        optimizer = self._build_optimizer()
        with self.batches:
            fit(
                module=model if self.adversary is None else torch.nn.ModuleList([model, self.adversary]),
                optimizer=optimizer,
                step=self.step,
                steps=settings.steps,
                checkpoint=checkpoint,
                table=layout.template_training,
                every=settings.checkpoint_every,
                description="template",
            )
        del optimizer
        if self.grid.shape != self.finest_grid.shape:
            torch.manual_seed(config.seed)
            self.model = model = model.at(self.finest_grid)
        model.set_factor(1.0)
        refine_template(config, model, self._images(self.finest_grid), self.codes, digest)
        if not distributed.is_main_process():
            return
        write_template(config, model.cpu(), self.subjects)
        # From the latest to the earliest, so that a resumed run never misses an earlier one.
        shutil.rmtree(layout.refinement_checkpoint, ignore_errors=True)
        checkpoint.remove()
        layout.segmenter_checkpoint.unlink(missing_ok=True)

    def step(self, index: int) -> dict[str, Tensor]:
        """Evaluate the objective of one training step on this process's share of the batch.

        Args:
            index: The step's.

        Returns:
            `loss`, with a gradient, and each term, weighted and detached.
        """
        settings = self.settings
        chosen, *loaded = self.batches(index)
        image, mask = (self.images.stacked(part).float() for part in loaded)
        codes = to_device(self.codes[chosen], self.device)
        if settings.augment:
            random = seeded_generator(self.config.seed, 4, index, *self.stream)
            image, mask, _ = augment(image, mask, random)
        # Layers such as dropout draw from torch's own generators.
        torch.manual_seed(seeded_generator(self.config.seed, 7, index, *self.stream).initial_seed())
        with autocast(self.device, settings.precision):
            image = self._features(image, chosen)
            template = self.model.template_features(codes)
            self.model.schedule(index / settings.steps)
            factor = self.model.draw_factor(seeded_generator(self.config.seed, 8, index, *self.stream))
            coefficients = self.model.coefficients(template, image)
            further = self.model.network_terms
        if coefficients.log_variance is not None:
            random = seeded_generator(self.config.seed, 3, index, *self.stream)
            noise = draw_normal(coefficients.mean.shape, random, self.device)
            coefficients = replace(coefficients, noise=noise)
        weighted = self.config.objective
        weighted["regularization"] = scaled_weights(weighted["regularization"], factor)
        objective = training_objective(
            self.grid,
            template,
            image,
            mask,
            coefficients,
            save_memory=settings.save_memory,
            pair_dependence=pair_dependence(len(self.subjects), settings.batch_size, index),
            **weighted,
        )
        intensities = image[:, : mask.shape[1]].float()
        pairwise = pairwise_terms(intensities, mask, objective, settings.pairwise)
        terms = objective.terms | pairwise | further
        if self.adversary is not None:
            inverse = resize_displacement(objective.inverse, image.shape[2:])
            moved = warp(template[:, : mask.shape[1]].float(), inverse) * mask
            random = seeded_generator(self.config.seed, 6, index, *self.stream)
            adversary = settings.adversary
            real = intensities * mask
            terms |= self.adversary.terms(moved, real, codes, adversary.weight, adversary.r1, random)
        return {"loss": weighted_loss(terms.values(), factor), **{n: t.detach() for n, t in terms.items()}}

    def _images(self, grid: Grid) -> AlignedImages:
        return AlignedImages(self.layout, self.subjects, grid, self.cache, self.device)

    def _load(self, index: int) -> tuple[list[int], list[Tensor], list[Tensor]]:
        """Load this process's subjects of a step, their images and masks, as `AlignedImages.load`."""
        drawn = draw_batch(self.config.seed, len(self.subjects), self.settings.batch_size, index)
        chosen = distributed.shard(drawn)
        return chosen, *self.images.load(chosen)

    def _features(self, image: Tensor, chosen: Sequence[int]) -> Tensor:
        """Compute the features (B, C + L, *shape) of the images (B, C, *shape) of subjects.

        On the CPU those of images that aren't augmented are kept, in half precision: they take a third of a
        step. A GPU computes them in less time than it takes to read so many channels.
        """
        ids = [self.subjects[i].id for i in chosen]
        if self.settings.augment or self.model.segmenters is None or self.device.type != "cpu":
            return self.model.features(image, ids)

        def compute(k: int) -> Tensor:
            return self.model.features(image[k : k + 1], ids[k : k + 1]).half()

        kept = [self.cache.get(("features", i), partial(compute, k)) for k, i in enumerate(chosen)]
        return torch.cat(kept).float()

    def _build_model(self) -> Groupwise:
        settings, segmenter = self.settings, None
        if settings.label_similarity:
            atlases = [subject.id for subject in self.subjects if subject.role == "atlas"]
            segmenter = {
                "outputs": len(label_codes(len(read_label_values(self.layout.labels)))),
                "channels": settings.segmenter.channels,
                "without": held_out_folds(atlases, settings.segmenter.count),
            }
        return Groupwise(
            self.grid,
            self.code,
            settings.network.name,
            settings.network.channels,
            settings.integration_steps,
            probabilistic="log_variance" in required_inputs(settings.regularization),
            cascades=settings.network.cascades,
            segmenter=segmenter,
            decoder=settings.decoder,
            image_channels=len(self.layout.channels),
            parametrization=settings.parametrization.name,
            network_settings=settings.network.settings,
            parametrization_settings=settings.parametrization.settings,
        )

    def _build_optimizer(self) -> torch.optim.Optimizer:
        """Give network, template, decoder and adversary their learning rates."""
        model, settings = self.model, self.settings
        if settings.channels_last:
            memory_format = {2: torch.channels_last, 3: torch.channels_last_3d}[self.grid.ndim]
            model.network.to(memory_format=memory_format)  # type: ignore[call-overload]
        # Where few images have data the template stays their mean: its gradient there is noise.
        model.base.register_hook(lambda gradient: gradient * model.fov_mask)
        groups: list[dict[str, Any]] = [
            {"params": list(model.network.parameters()), "lr": settings.learning_rate},
            {"params": [model.base], "lr": settings.template_learning_rate},
        ]
        if model.slopes is not None and model.decoder is not None:
            each = (self.code.size, model.image_channels)
            model.slopes.register_hook(
                lambda gradient: (gradient.unflatten(0, each) * model.fov_mask).flatten(0, 1)
            )
            rate = settings.template_learning_rate
            groups.append({"params": [model.slopes], "lr": rate})
            groups.append({"params": list(model.decoder.parameters()), "lr": DECODER_RATE * rate})
        if settings.adversary.weight:
            channels = settings.adversary.channels
            self.adversary = Adversary(self.grid.ndim, self.code.size, channels, model.image_channels).to(
                self.device
            )
            groups.append(
                {
                    "params": list(self.adversary.parameters()),
                    "lr": settings.adversary.learning_rate,
                    "betas": (0.0, 0.9),
                }
            )
        return torch.optim.Adam(groups)
