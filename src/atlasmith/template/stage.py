"""Groupwise training after Dalca et al. 2019 (arXiv:1908.02738), in both directions of the warp."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from atlasmith import __version__
from atlasmith.config import Config
from atlasmith.core import distributed
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.fields import resize_displacement
from atlasmith.core.grid import Grid
from atlasmith.core.sampling import warp
from atlasmith.io.files import read_json, write_json
from atlasmith.io.images import write_image
from atlasmith.io.tables import SUBPOPULATION, Subject, read_cohort, read_label_values
from atlasmith.losses import pairwise_terms
from atlasmith.networks import CovariateCode, Groupwise, held_out_folds, label_codes
from atlasmith.template.adversary import Adversary
from atlasmith.template.objective import template_objective
from atlasmith.template.refinement import refine_template, start_from_regression
from atlasmith.template.segmenter import train_segmenters
from atlasmith.training.augmentation import augmented
from atlasmith.training.dataset import AlignedImages, Cache
from atlasmith.training.device import autocast, seeded_generator, select_device
from atlasmith.training.loop import fit
from atlasmith.training.memory import check_memory
from atlasmith.workflow.provenance import fingerprint

# Of the template's learning rate. The decoder's weights act together: each as fast as a free voxel, they move
# the template's contrast, which a local correlation doesn't see, long before its shape.
DECODER_RATE = 0.02


def train(config: Config) -> None:
    """Train on the aligned images of all who build the template; write weights, training table and templates.

    A killed run goes on from its checkpoint to the same weights. Under torchrun the processes share each
    batch and each round of refinement, and come to the same template but for rounding.
    """
    subjects = [subject for subject in read_cohort(config.layout.cohort) if subject.in_template]
    refinement = config.template.refinement
    fewest = min(len(subjects), refinement.subjects if refinement.rounds else len(subjects))
    with distributed.process_group(config.template.batch_size, fewest):
        _train(config, subjects)


def _train(config: Config, subjects: Sequence[Subject]) -> None:
    layout, settings = config.layout, config.template
    grid = Grid.from_dict(read_json(layout.grid))
    if settings.subpopulations > 1 and not layout.subpopulations.exists():
        raise AtlasmithError(f"{layout.subpopulations} is missing. Run `atlasmith subpopulations` first.")
    device = select_device(config.device)
    torch.manual_seed(config.seed)

    # Half of what is free is left for what the others write.
    folder = layout.template_weights.parent
    folder.mkdir(parents=True, exist_ok=True)
    cache = Cache(folder, shutil.disk_usage(folder).free // (2 * distributed.world_size()))
    images = AlignedImages(layout, subjects, grid, config.affine.n4, cache)
    code = CovariateCode.of(settings.conditions, [subject.covariates for subject in subjects])
    codes = torch.stack([code.encode(subject.covariates) for subject in subjects])
    segmenter = None
    if settings.label_similarity:
        atlases = [subject.id for subject in subjects if subject.role == "atlas"]
        segmenter = {
            "outputs": len(label_codes(len(read_label_values(layout.labels)))),
            "channels": settings.segmenter.channels,
            "without": held_out_folds(atlases, settings.segmenter.count),
        }
    model = Groupwise(
        grid,
        code,
        settings.network.name,
        settings.network.channels,
        settings.integration_steps,
        probabilistic="kl" in settings.regularization,
        cascades=settings.network.cascades,
        segmenter=segmenter,
        decoder=settings.decoder,
    )
    if model.segmenters is not None:
        train_segmenters(config, model.segmenters.to(device), images, device)
    if not layout.template_checkpoint.exists():
        start_from_regression(model, images, codes)
    check_memory(config, model.to(device))
    if settings.channels_last:
        layout_of = {2: torch.channels_last, 3: torch.channels_last_3d}
        model.network.to(memory_format=layout_of[grid.ndim])  # type: ignore[call-overload]
    # Where few images have data the template stays their mean: there nothing but noise would move it.
    model.base.register_hook(lambda gradient: gradient * model.fov_mask)
    if model.slopes is not None:
        model.slopes.register_hook(lambda gradient: gradient * model.fov_mask[0])
    groups = [
        {"params": list(model.network.parameters()), "lr": settings.learning_rate},
        {"params": [model.base], "lr": settings.template_learning_rate},
    ]
    if model.slopes is not None and model.decoder is not None:
        groups += [
            {"params": [model.slopes], "lr": settings.template_learning_rate},
            {
                "params": list(model.decoder.parameters()),
                "lr": DECODER_RATE * settings.template_learning_rate,
            },
        ]
    adversary = None
    if settings.adversary.weight:
        adversary = Adversary(grid.ndim, code.size, settings.adversary.channels).to(device)
        groups += [
            {
                "params": list(adversary.parameters()),
                "lr": settings.adversary.learning_rate,
                "betas": (0.0, 0.9),
            }
        ]
    optimizer = torch.optim.Adam(groups)

    def draw(index: int) -> list[int]:
        """This process's subjects of one step: passes over the cohort in random order."""
        chosen = []
        for position in range(index * settings.batch_size, (index + 1) * settings.batch_size):
            order = torch.randperm(
                len(subjects), generator=seeded_generator(config.seed, 0, position // len(subjects))
            )
            chosen.append(int(order[position % len(subjects)]))
        return distributed.shard(chosen)

    def as_it_is(index: int) -> Tensor:
        """What is compared of an image (1, C, *shape), which the segmenters see once."""
        image, _ = images.batch([index])
        with autocast(device, settings.precision):
            return model.features(image.to(device), [subjects[index].id]).half().cpu()

    own = [distributed.rank()] if distributed.rank() else []  # random numbers of this process alone

    def step(index: int) -> dict[str, Tensor]:
        chosen = draw(index)
        image, mask = images.batch(chosen)
        if settings.augment:
            image, mask, _ = augmented(image, mask, seeded_generator(config.seed, 4, index, *own))
        elif model.segmenters is not None:
            seen = [cache.get(("features", index), partial(as_it_is, index)) for index in chosen]
            image = torch.cat(seen).float()
        image, mask = image.to(device), mask.to(device)
        with autocast(device, settings.precision):
            if settings.augment:
                image = model.features(image, [subjects[i].id for i in chosen])
            template = model.template_features(codes[chosen].to(device))
            velocity = model.velocity(template, image)
        if velocity.log_variance is not None:
            random = seeded_generator(config.seed, 3, index, *own)
            noise = torch.randn(velocity.mean.shape, generator=random).to(device)
            velocity = replace(velocity, noise=noise)
        objective_ = template_objective(settings, grid, template, image, mask, velocity)
        terms = objective_.terms | pairwise_terms(image[:, :1].float(), mask, objective_, settings.pairwise)
        if adversary is not None:
            there = resize_displacement(objective_.inverse, image.shape[2:])
            moved = warp(template[:, :1].float(), there) * mask
            terms |= adversary.terms(
                moved,
                image[:, :1].float(),
                codes[chosen].to(device),
                settings.adversary.weight,
                settings.adversary.r1,
                seeded_generator(config.seed, 6, index, *own),
            )
        return {"loss": torch.stack(list(terms.values())).sum(), **{n: t.detach() for n, t in terms.items()}}

    settled = config.digest("cohort", "affine", "template")
    digest = f"{settled}-{fingerprint(layout.inputs, subjects)}-{__version__}"
    fit(
        module=model if adversary is None else torch.nn.ModuleList([model, adversary]),
        optimizer=optimizer,
        step=step,
        steps=settings.steps,
        checkpoint=layout.template_checkpoint,
        table=layout.template_training,
        every=settings.checkpoint_every,
        digest=digest,
        description="template",
    )
    refine_template(config, model, images, codes, digest)
    if not distributed.is_main_process():
        return
    _write(config, model.cpu())
    # Who goes on from a later one never starts from an earlier one that is gone.
    shutil.rmtree(layout.refinement_checkpoint, ignore_errors=True)
    layout.template_checkpoint.unlink(missing_ok=True)
    layout.segmenter_checkpoint.unlink(missing_ok=True)


@torch.inference_mode()
def _write(config: Config, model: Groupwise) -> None:
    layout, grid = config.layout, model.grid
    subpopulations = model.code.categorical.get(SUBPOPULATION, {})
    views = ({SUBPOPULATION: [*subpopulations]} if subpopulations else {}) | config.template.evaluate_at
    for missing in [value for value in views.get(SUBPOPULATION, []) if value not in subpopulations]:
        print(f"template: no subpopulation {missing} was found, so there is no view of it", flush=True)
        views[SUBPOPULATION] = [value for value in views[SUBPOPULATION] if value != missing]
    model.save(layout.template_weights)

    def write(path, code: Tensor) -> None:  # type: ignore[no-untyped-def]
        write_image(path, grid.unsqueeze(model.template(code[None])[0, 0].numpy()), grid)

    write(layout.template_image, torch.zeros(model.code.size))
    cohorts = {}
    if views:
        for number, point in enumerate(itertools.product(*views.values()), start=1):
            covariates = {
                name: float(value) if isinstance(value, int | float) else value
                for name, value in zip(views, point, strict=True)
            }
            write(layout.template_at(number), model.code.encode(covariates))
            cohorts[str(number)] = {
                "covariates": covariates,
                "name": ", ".join(f"{n} {v}" for n, v in covariates.items()),
            }
    write_json(
        layout.template_description,
        {
            "Identifier": config.template.name,
            "Name": f"{config.template.name}: built by atlasmith {__version__}",
            "BIDSVersion": "1.11.1",
            "TemplateFlowVersion": "1.0.0",
            "cohort": cohorts,
            "res": {
                "1": {
                    "origin": np.round(grid.affine[:3, 3], 4).tolist(),
                    "shape": list(grid.shape),
                    "zooms": list(grid.spacing),
                }
            },
        },
    )
