"""Query the template of a finished run: at some covariates, its labels, variability and change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlasmith import __version__
from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError, InputError
from atlasmith.core.grid import Array
from atlasmith.core.sampling import resize
from atlasmith.evaluation.statistics import bootstrap
from atlasmith.inference.conditional_labels import ConditionalLabels, segmentations_of
from atlasmith.inference.covariates import (
    Values,
    check_covariates,
    extrapolation_problems,
    numeric_values,
    warn_extrapolation,
)
from atlasmith.inference.finished_run import load_finished_run, read_run
from atlasmith.io.files import write_json
from atlasmith.io.images import read_grid, read_image, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.sidecars import is_skull_stripped, write_sidecar
from atlasmith.io.tables import Subject, positions_by_participant, read_tsv, write_tsv
from atlasmith.io.transforms import read_affine, read_composite
from atlasmith.networks import Groupwise
from atlasmith.training.dataset import AlignedImages
from atlasmith.training.device import cpu_if_memory_is_short, select_device

POINTS = 9  # values of a covariate, over the cohort's range, at which volumes are computed
COLUMNS = (
    "covariate",
    "value",
    "label",
    "name",
    "template_mm3",
    "cohort_mm3",
    "cohort_ci95_low",
    "cohort_ci95_high",
)


def query_template(
    results: Path,
    covariates: Mapping[str, str],
    out: Path,
    extrapolate: bool = False,
    device: str = "auto",
) -> None:
    """Write what the template of a finished run is at some covariates.

    Writes, on the template's grid, the image and the standard deviation of the subjects' normalized
    intensities about it, for each channel; labels and their probabilities; for each continuous
    covariate the rate at which local volume changes with it (log-Jacobian per unit); and `volumes.tsv`, each
    label's volume over each continuous covariate. In a template that wasn't refined, labels don't move with
    the covariates and rates are zero; a message says so.

    Args:
        results: Output folder of the run.
        covariates: Values as text, by name; others are at the mean.
        out: Folder to write to.
        extrapolate: Accept covariates far outside the cohort's range.
        device: Where to compute, `auto`, `cpu` or `cuda`, whatever the run was made on.

    Raises:
        InputError: With all problems of the covariates.
        AtlasmithError: When the run isn't finished or `out` has a query's files already.
    """
    config = load_finished_run(results, "template_weights", "template_probabilities", device=device)
    output = Layout(out, config.template.name, config.cohort.channels, config.cohort.bids)
    if output.template_image.exists():
        raise AtlasmithError(f"{output.template_image} exists already. Choose another folder, or remove it.")
    cohort = read_run(config, passed="propagate")
    values, problems = check_covariates(covariates, config.template.conditions, cohort)
    if not extrapolate:
        problems += extrapolation_problems(values, config.template.condition_on, cohort)
    if problems:
        raise InputError(problems)
    for name, value in values.items():
        warn_extrapolation("template query", name, value, cohort)
    model = Groupwise.load(config.layout.template_weights)
    if values and not model.has_covariate_velocity:
        print(
            "template query: this template wasn't refined (template.refinement), so only its intensities "
            "depend on the covariates."
        )
    _write(config, model, values, cohort, output)
    print(f"template query: {output.template_image.parent}", flush=True)


@cpu_if_memory_is_short
def _write(
    config: Config, model: Groupwise, values: Values, cohort: Sequence[Subject], output: Layout
) -> None:
    """Write all files, on the config's device."""
    model.to(select_device(config.device))
    with torch.inference_mode():
        _write_maps(config, model, values, cohort, output)


def _write_maps(
    config: Config, model: Groupwise, values: Values, cohort: Sequence[Subject], output: Layout
) -> None:
    """Write all files; the template's first channel last, so that its presence tells that all are there."""
    run, grid = config.layout, model.grid
    code = model.code.encode(values).to(model.base.device)
    table = read_tsv(run.template_label_table)
    labels = np.array([int(row["index"]) for row in table])
    segmentations = segmentations_of(config, cohort, config.fusion.pseudo_label_method)
    conditional = ConditionalLabels(run, model, cohort, labels, segmentations)
    rows = list(_volume_rows(config, model, values, cohort, conditional, table))
    probabilities = conditional(code)[0]
    highest, position = probabilities.max(dim=0)
    argmax = torch.where(highest > 1 - probabilities.sum(dim=0), position + 1, 0)
    deviation = _intensity_deviation(run, model, cohort).split(1, dim=1)
    maps = {output.query_spread(channel): x for channel, x in zip(run.channels, deviation, strict=True)}
    maps |= {output.query_rate(name): rate for name, rate in _volume_rates(model).items()}
    template = dict(zip(run.channels, model.template(code[None])[0], strict=True))
    written = {
        output.template_labels: torch.tensor([0, *labels], dtype=torch.int32, device=code.device)[argmax],
        output.template_probabilities: probabilities.movedim(0, -1),
        **{path: model.at_covariates(x, code[None])[0, 0] for path, x in maps.items()},
        **{output.template_channel(channel): template[channel] for channel in reversed(run.channels)},
    }
    write_tsv(output.template_label_table, table, list(table[0]))
    write_tsv(output.query_volumes, rows, COLUMNS if rows else COLUMNS[:3])
    write_json(
        output.query,
        {
            "covariates": values,
            "template": str(run.template_weights),
            "GeneratedBy": f"atlasmith {__version__}",
        },
    )
    for path, data in written.items():
        _describe(config, output, path, table)
        write_image(path, grid.unsqueeze(data.cpu().numpy()), grid)


def _describe(config: Config, output: Layout, path: Path, table: Sequence[Mapping[str, str]]) -> None:
    """Write the sidecar of an image of a query."""
    run = config.layout
    descriptions = {
        output.template_labels: "The most probable label",
        output.template_probabilities: "Probability of a label",
    }
    facts: dict[str, Any] = {}
    for channel in run.channels:
        intensities = {
            output.template_channel(channel): "Template at the covariates of query.json",
            output.query_spread(
                channel
            ): "Standard deviation of the subjects' intensities about the template",
        }
        if path in intensities:
            facts["skull_stripped"] = is_skull_stripped([run.template_channel(channel)])
            descriptions |= intensities
    if path == output.template_probabilities:
        facts["LabelMap"] = [row["name"] for row in table]
    write_sidecar(
        output,
        path,
        descriptions.get(path, "Change of the logarithm of local volume per unit of the covariate"),
        grid=read_grid(run.template_image),
        sources=[run.template_weights],
        reference=output.template_image,
        **facts,
    )


def _volume_rates(model: Groupwise) -> dict[str, Tensor]:
    """Compute the change of log local volume per unit of each continuous covariate, (1, 1, *shape).

    The covariate velocity is a pull-back: the template's points move against it, hence minus its divergence.
    """
    rates = {}
    for index, (name, (_, deviation)) in enumerate(model.code.continuous.items()):
        field = model.covariate_velocity[index]
        divergence = sum(torch.gradient(component, dim=axis)[0] for axis, component in enumerate(field))
        assert isinstance(divergence, Tensor)
        rates[name] = resize(-divergence[None, None] / deviation, model.grid.tensor_shape)
    return rates


def _intensity_deviation(layout: Layout, model: Groupwise, cohort: Sequence[Subject]) -> Tensor:
    """Compute the SD (1, C, *shape) of normalized intensities about the template, at the mean covariates."""
    device = model.base.device
    images = AlignedImages(layout, cohort, model.grid, device=device)
    total, count = (torch.zeros_like(model.base) for _ in range(2))
    for index, subject in enumerate(cohort):
        image, mask = images.resampled(index, read_composite(layout.forward(subject.id)))
        expected = model.intensities(model.code.encode(subject.covariates)[None].to(device))
        total += mask * (image - expected) ** 2
        count += mask
    return (total / count.clamp(min=1)).sqrt()


def _volume_rows(
    config: Config,
    model: Groupwise,
    values: Values,
    cohort: Sequence[Subject],
    conditional: ConditionalLabels,
    table: Sequence[Mapping[str, str]],
) -> Iterator[dict[str, Any]]:
    """Yield each label's volume in mm3 over each continuous covariate, the others at `values`.

    `template_mm3` is the template's, `cohort_mm3` the regression of the subjects' own volumes, with a 95 %
    interval by resampling the participants.
    """
    voxel = float(np.prod(model.grid.tensor_spacing))
    volumes = _cohort_volumes(config.layout, cohort, conditional(torch.zeros(model.code.size))[0])
    codes = torch.stack([model.code.encode(subject.covariates) for subject in cohort]).numpy()
    scans = positions_by_participant([subject.participant for subject in cohort])
    for index, name in enumerate(model.code.continuous):
        numbers = numeric_values(name, cohort)
        points = np.linspace(min(numbers), max(numbers), POINTS)
        at = torch.stack([model.code.encode({**values, name: float(point)}) for point in points])
        refit = partial(_resampled_volumes, scans, codes, volumes, at.numpy(), index)
        fitted = _predict_volumes(codes, volumes, at.numpy(), index)
        low, high = bootstrap(refit, len(scans), config.seed, config.score.bootstrap)
        for position, (point, code) in enumerate(zip(points, at, strict=True)):
            template = conditional(code)[0].flatten(1).sum(dim=1).cpu().numpy() * voxel
            for label, row in enumerate(table):
                found = (x[label] for x in (template, fitted[position], low[position], high[position]))
                keys = (name, float(point), row["index"], row.get("name", ""))
                yield dict(zip(COLUMNS, (*keys, *map(float, found)), strict=True))


def _predict_volumes(codes: Array, volumes: Array, at: Array, index: int) -> Array:
    """Predict volumes (P, L) at codes (P, K), by least squares on the codes and the square of one of them.

    codes: (N, K). volumes: (N, L). index: the code whose square is a regressor.
    """

    def design(values: Array) -> Array:
        return np.column_stack([np.ones(len(values)), values, values[:, index] ** 2])

    return design(at) @ np.linalg.lstsq(design(codes), volumes, rcond=None)[0]


def _resampled_volumes(
    scans: Sequence[Sequence[int]], codes: Array, volumes: Array, at: Array, index: int, positions: Array
) -> Array:
    """Predict volumes (P, L, R) as `_predict_volumes` from R resamples (R, S) of the participants' scans."""
    drawn = (np.concatenate([scans[k] for k in row]) for row in positions)
    return np.stack([_predict_volumes(codes[s], volumes[s], at, index) for s in drawn], axis=-1)


def _cohort_volumes(layout: Layout, cohort: Sequence[Subject], probabilities: Tensor) -> Array:
    """Compute the volumes (N, L), mm3, in the subjects of the template's labels (L, *shape)."""
    volumes = []
    for subject in cohort:
        log_jacobian = read_image(layout.log_jacobian(subject.id))
        grid, affine = log_jacobian.grid, read_affine(layout.affine(subject.id))
        weights = torch.from_numpy(grid.squeeze(log_jacobian.data)).to(probabilities.device).exp()
        size = float(np.prod(grid.spacing)) * abs(np.linalg.det(affine[:3, :3]))
        product = torch.empty_like(weights)  # one for all: a CPU's heap would keep a hole for each label
        sums = [torch.mul(one, weights, out=product).sum() for one in probabilities]
        volumes.append(torch.stack(sums).cpu().numpy() * size)
    return np.stack(volumes)
