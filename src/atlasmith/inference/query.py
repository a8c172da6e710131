"""Asking a finished run's template: how it is at some covariates, how people vary, what has_covariate_velocity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlasmith import __version__
from atlasmith.config import Config, load_config
from atlasmith.core.errors import AtlasmithError, InputError
from atlasmith.core.grid import Array
from atlasmith.core.sampling import resize
from atlasmith.inference.conditional_labels import ConditionalLabels
from atlasmith.inference.covariates import Values, check_covariates, numeric_values, warn_extrapolation
from atlasmith.io.files import write_json
from atlasmith.io.images import read_image, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject, read_cohort, read_tsv, write_tsv
from atlasmith.io.transforms import read_affine, read_composite
from atlasmith.networks import Groupwise
from atlasmith.training.dataset import AlignedImages

POINTS = 9  # of a growth chart, over the cohort's range


def query_template(results: Path, covariates: Mapping[str, str], out: Path) -> None:
    """Write what the template of a finished run shows at `covariates`, given as text; others are at the mean.

    Into `out`, on the template's grid: the image, the atlases' labels and their probabilities there, the
    spread of people's intensities about the template (SD of normalized intensities), for each number among
    the covariates the rate at which local volume changes with it (log-Jacobian a unit), and `volumes.tsv`,
    each label's volume over each of them. A template that wasn't refined has no growth, so labels don't move
    with the covariates and rates are zero; that is said.

    Raises `InputError` with all that is wrong with the covariates, and `AtlasmithError` when the run isn't
    finished or `out` has such an answer already.
    """
    config = load_config(results / "config.yaml")
    config = config.model_copy(update={"output": results})
    run = config.layout
    for path in (run.template_weights, run.template_probabilities):
        if not path.exists():
            raise AtlasmithError(f"{path} is missing. Finish the workflow in {results} first.")
    answer = Layout(out, config.template.name, config.cohort.suffix)
    if answer.template_image.exists():
        raise AtlasmithError(f"{answer.template_image} exists already. Choose another folder, or remove it.")
    cohort = read_cohort(run.cohort)
    values, problems = check_covariates(covariates, config.template.conditions, cohort)
    if problems:
        raise InputError(problems)
    for name, value in values.items():
        warn_extrapolation("template query", name, value, cohort)
    model = Groupwise.load(run.template_weights)
    if values and not model.has_covariate_velocity:
        print("template query: this template wasn't refined (template.refinement), so it knows no growth.")
    _write(config, model, values, cohort, answer)
    print(f"template query: {answer.template_image.parent}", flush=True)


@torch.inference_mode()
def _write(
    config: Config, model: Groupwise, values: Values, cohort: Sequence[Subject], answer: Layout
) -> None:
    run, grid = config.layout, model.grid
    code = model.code.encode(values)
    table = read_tsv(run.template_label_table)
    labels = np.array([int(row["index"]) for row in table])
    shares = ConditionalLabels(config, model, cohort, labels)
    here = shares(code)[0].numpy()
    most = np.where(here.max(axis=0) > 1 - here.sum(axis=0), labels[here.argmax(axis=0)], 0)

    image = model.template(code[None])[0, 0]
    rows = _chart(config, model, values, cohort, shares, table)
    written: dict[Path, Array] = {
        answer.template_labels: grid.unsqueeze(most.astype(np.int32)),
        answer.template_probabilities: grid.unsqueeze(np.moveaxis(here, 0, -1)),
        answer.of_template("res-1_desc-spread", config.cohort.suffix): grid.unsqueeze(
            model.at_covariates(_spread(config, model, cohort), code[None])[0, 0].numpy()
        ),
    }
    for name, rate in _rates(model).items():
        path = answer.of_template(f"res-1_desc-{_word(name)}rate", "jacobian")
        written[path] = grid.unsqueeze(model.at_covariates(rate, code[None])[0, 0].numpy())
    for path, data in written.items():
        write_image(path, data, grid)
    write_tsv(answer.template_label_table, table, list(table[0]))
    folder = answer.template_image.parent
    write_tsv(folder / "volumes.tsv", rows, list(rows[0]) if rows else ["covariate", "value", "label"])
    write_json(
        folder / "query.json",
        {
            "covariates": values,
            "template": str(run.template_weights),
            "GeneratedBy": f"atlasmith {__version__}",
        },
    )
    # Last: where it is, the answer is whole.
    write_image(answer.template_image, grid.unsqueeze(image.numpy()), grid)


def _word(name: str) -> str:
    return "".join(character for character in name if character.isalnum())


def _rates(model: Groupwise) -> dict[str, Tensor]:
    """The log of the local volume's change a unit of each number among the covariates, at the mean: the
    template's points go against growth, so minus its divergence. Maps (1, 1, *shape)."""
    rates = {}
    for index, (name, (_, deviation)) in enumerate(model.code.continuous.items()):
        field = model.covariate_velocity[index]
        divergence = sum(torch.gradient(component, dim=axis)[0] for axis, component in enumerate(field))
        assert isinstance(divergence, Tensor)
        rates[name] = resize(-divergence[None, None] / deviation, model.grid.tensor_shape)
    return rates


def _spread(config: Config, model: Groupwise, cohort: Sequence[Subject]) -> Tensor:
    """SD (1, 1, *shape) of people's normalized intensities about the template, at the mean covariates."""
    images = AlignedImages(config.layout, cohort, model.grid)
    total, count = (torch.zeros(1, 1, *model.grid.tensor_shape) for _ in range(2))
    for index, subject in enumerate(cohort):
        image, seen = images.resampled(index, read_composite(config.layout.forward(subject.id)))
        shown = model.intensities(model.code.encode(subject.covariates)[None])
        total += seen * (image - shown) ** 2
        count += seen
    return (total / count.clamp(min=1)).sqrt()


def _chart(
    config: Config,
    model: Groupwise,
    values: Values,
    cohort: Sequence[Subject],
    shares: ConditionalLabels,
    table: Sequence[Mapping[str, str]],
) -> list[dict[str, Any]]:
    """Volumes in mm3 of each label over each number among the covariates, the others as asked.

    `template_mm3` of the template; `people_mm3` the regression of the people's own volumes, with a 95 %
    interval by resampling the people.
    """
    voxel = float(np.prod(model.grid.tensor_spacing))
    usual = shares(torch.zeros(model.code.size))[0]
    volumes = np.stack([_volumes(config, subject, usual) for subject in cohort])
    codes = torch.stack([model.code.encode(subject.covariates) for subject in cohort]).numpy()
    drawn = np.random.default_rng(config.seed).integers(
        len(cohort), size=(config.score.bootstrap, len(cohort))
    )
    rows = []
    for index, name in enumerate(model.code.continuous):
        numbers = numeric_values(name, cohort)
        points = np.linspace(min(numbers), max(numbers), POINTS)
        asked = torch.stack([model.code.encode({**values, name: float(point)}) for point in points])
        fits = np.stack(
            [_fit(codes[d], volumes[d], asked.numpy(), index) for d in (np.arange(len(cohort)), *drawn)]
        )
        low, high = np.percentile(fits[1:], (2.5, 97.5), axis=0)
        for position, (point, code) in enumerate(zip(points, asked, strict=True)):
            template = shares(code)[0].flatten(1).sum(dim=1).numpy() * voxel
            for label, row in enumerate(table):
                rows.append(
                    {
                        "covariate": name,
                        "value": float(point),
                        "label": row["index"],
                        "name": row.get("name", ""),
                        "template_mm3": float(template[label]),
                        "people_mm3": float(fits[0, position, label]),
                        "people_low": float(low[position, label]),
                        "people_high": float(high[position, label]),
                    }
                )
    return rows


def _fit(codes: Array, volumes: Array, asked: Array, index: int) -> Array:
    """Least squares of volumes (N, L) on codes (N, K) and the square of the `index`-th, at codes (P, K)."""

    def design(values: Array) -> Array:
        return np.column_stack([np.ones(len(values)), values, values[:, index] ** 2])

    return design(asked) @ np.linalg.lstsq(design(codes), volumes, rcond=None)[0]


def _volumes(config: Config, subject: Subject, probabilities: Tensor) -> Array:
    """The volume, mm3, of what each of the template's labels (L, *shape) is in a person."""
    log_jacobian = read_image(config.layout.log_jacobian(subject.id))
    grid = log_jacobian.grid
    weights = torch.from_numpy(grid.squeeze(log_jacobian.data)).exp()
    scale = abs(np.linalg.det(read_affine(config.layout.affine(subject.id))[:3, :3]))
    size = float(np.prod(grid.spacing)) * scale
    return (probabilities * weights).flatten(1).sum(dim=1).numpy() * size
