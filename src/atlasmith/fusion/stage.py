"""The fuse stage: train the networks of the fusion methods, and fuse the atlases' labels on one subject."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.errors import look_up
from atlasmith.core.world import resample
from atlasmith.fusion.fuser import Fuser, FusionInputs, LabelProbabilities, Predictor
from atlasmith.fusion.native import native_labels
from atlasmith.fusion.probabilities import label_probabilities
from atlasmith.fusion.propagated import PropagatedAtlases, read_propagated, without_atlases
from atlasmith.fusion.quality import VOLUME_COLUMNS, predict_quality, record_sizes, volume_table
from atlasmith.fusion.suitability import review_reasons
from atlasmith.fusion.table import FUSERS
from atlasmith.fusion.uncertainty import COMPONENTS, Uncertainty, registration_residual
from atlasmith.io.channels import channel_paths
from atlasmith.io.files import read_json
from atlasmith.io.images import read_grid, write_image
from atlasmith.io.sidecars import write_sidecar
from atlasmith.io.tables import Subject, read_cohort, read_tsv, write_tsv
from atlasmith.training.device import cpu_if_memory_is_short, select_device


def train_fusers(config: Config) -> None:
    """Train the networks of the config's fusion methods.

    Args:
        config: The run's config; `fusion.methods` decides.
    """
    trainings = {fuser.section: fuser.training for fuser in FUSERS.values() if fuser.training}
    for section in config.fusion.networks:
        trainings[section].train(config)


class SubjectFusion:
    """The fusion methods of a run, applied to one subject.

    Weights are read, and networks applied, when a method first needs them; methods with the same network
    share its prediction.

    Args:
        config: The run's config.
        atlases: The atlases propagated to the subject.
        subject: Its id.
        predictors: Networks that were read already, by config section and `device`; those read now are added.
    """

    def __init__(
        self,
        config: Config,
        atlases: PropagatedAtlases,
        subject: str,
        predictors: dict[tuple[str, str], Predictor] | None = None,
    ) -> None:
        self.config, self.atlases, self.subject = config, atlases, subject
        self.predictors = {} if predictors is None else predictors
        self._predictions: dict[str, Any] = {}

    def probabilities(self, method: str) -> LabelProbabilities:
        """Compute the label probabilities of a method, with the prior that the config asks for.

        Args:
            method: A name of `atlasmith.fusion.table.FUSERS`.

        Returns:
            Each label, in rising order, a box of the fusion grid, and its probability there.
        """
        fusion, fuser = self.config.fusion, look_up(FUSERS, method, "fusion method")
        return label_probabilities(fuser, self._inputs(fuser), fusion.prior, fusion.prior_fallback)

    def _inputs(self, fuser: Fuser) -> FusionInputs:
        settings = self.config.fusion.section(fuser.section) if fuser.section else fuser.settings_type()
        return FusionInputs.of(self.atlases, settings, partial(self.prediction, fuser))

    def prediction(self, fuser: Fuser) -> Any:
        """Return what the network of a method predicts for the subject, or None where it has no network.

        Of an ensemble, the members' label probabilities.
        """
        if fuser.members:
            return [FUSERS[name](self._inputs(FUSERS[name])) for name in fuser.members]
        section, training = fuser.section, fuser.training
        if section is None or training is None:
            return None
        if section not in self._predictions:
            key = section, self.config.device
            if key not in self.predictors:
                self.predictors[key] = training.predictor(self.config.layout.fuser_weights(section), key[1])
            found = self.predictors[key](self.atlases, self.subject)
            # Label probabilities that an ensemble uses, too, are kept; else they stream, for less memory.
            kept = isinstance(found, Iterator) and self._in_ensemble(section)
            self._predictions[section] = list(found) if kept else found
        found = self._predictions[section]
        return iter(found) if isinstance(found, list) else found

    def _in_ensemble(self, section: str) -> bool:
        """Whether a method of a config section is a member of one of the run's ensembles."""
        members = {name for method in self.config.fusion.methods for name in FUSERS[method].members}
        return any(FUSERS[name].section == section for name in members)


@cpu_if_memory_is_short
def fuse_subject(
    config: Config,
    subject_id: str,
    predictors: dict[tuple[str, str], Predictor] | None = None,
    stacks: Mapping[Path, Tensor] | None = None,
) -> None:
    """Write a subject's segmentation by each of the config's methods.

    For each method these are labels and confidence on the subject's own grid, volumes, and a sidecar, with
    the predicted quality, or why the subject needs review, where the quality model was fitted.

    Args:
        config: The run's config.
        subject_id: Participant id without `sub-`.
        predictors: Networks that were read already, see `SubjectFusion`.
        stacks: What the propagate stage returned, where that was in the same process.
    """
    layout = config.layout
    subject = look_up({s.id: s for s in read_cohort(layout.cohort)}, subject_id, "subject")
    atlases = read_propagated(layout, subject, select_device(config.device), stacks)
    fusion = SubjectFusion(config, atlases, subject_id, predictors)
    quality = layout.quality_model
    known = read_json(quality) if subject.role != "atlas" and quality.exists() else {}
    unusual = review_reasons(layout, subject, known, atlases.labels.device)
    residual = registration_residual(atlases) if config.fusion.uncertainty else None
    for method in config.fusion.methods:
        model = known.get("Methods", {}).get(method)
        predict = partial(predict_quality, model=model, unusual=unusual) if model else None
        _write_fused(config, subject, method, fusion, predict, residual)


@cpu_if_memory_is_short
def segment_subject(
    config: Config, subject_id: str, predictors: dict[tuple[str, str], Predictor] | None = None
) -> None:
    """Write a subject's segmentation by the method that does without atlases, and so without registration.

    Args:
        config: The run's config, with such a method: see `FusionSection.without_atlases`.
        subject_id: Participant id without `sub-`.
        predictors: Networks that were read already, see `SubjectFusion`.
    """
    layout, device = config.layout, select_device(config.device)
    subject = look_up({s.id: s for s in read_cohort(layout.cohort)}, subject_id, "subject")
    grid = read_grid(subject.image).resampled(config.fusion.spacing)
    atlases = without_atlases(layout, subject, grid, device)
    method = config.fusion.without_atlases
    assert method is not None  # checked where the run is opened
    _write_fused(config, subject, method, SubjectFusion(config, atlases, subject_id, predictors))


def _write_fused(
    config: Config,
    subject: Subject,
    method: str,
    fusion: SubjectFusion,
    predict: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
    residual: Tensor | None = None,
) -> None:
    """Write the results of one method.

    predict: `predict_quality` by the method's model, if there is one. residual: of the registration, where
    uncertainty is asked for.
    """
    layout, grid, native = config.layout, fusion.atlases.grid, read_grid(subject.image)
    sizes: dict[int, Tensor] = {}
    probabilities = record_sizes(fusion.probabilities(method), sizes)
    uncertainty = None if residual is None else Uncertainty(fusion.atlases)
    if uncertainty:
        probabilities = uncertainty.accumulate(probabilities)
    device = fusion.atlases.labels.device
    fused = native_labels(probabilities, grid, native, device)
    labels, confidence = (maps.cpu().numpy() for maps in fused)
    write_image(layout.segmentation(subject.id, method), labels, native, like=subject.image)
    write_image(layout.confidence(subject.id, method), confidence, native, like=subject.image)
    names = {int(row["index"]): row["name"] for row in read_tsv(layout.labels)}
    volumes = (torch.stack(list(sizes.values())).double() * grid.voxel_volume).tolist()
    expected = dict(zip(sizes, volumes, strict=True))
    rows = volume_table(labels, confidence, expected, names, native.voxel_volume)
    images = channel_paths(layout, subject, layout.preprocessed)
    sources = [*images, *([layout.propagated_labels(subject.id)] if fusion.atlases.ids else [])]
    describe = partial(write_sidecar, layout, grid=native, sources=sources, reference=subject.image)
    describe(layout.confidence(subject.id, method), "Probability of the fused label", FusionMethod=method)
    facts: dict[str, Any] = {"FusionMethod": method, "Manual": False}
    if uncertainty and residual is not None:
        maps = resample(uncertainty.maps(residual)[None], grid, [], native)[0].movedim(0, -1).cpu()
        path = layout.uncertainty(subject.id, method)
        write_image(path, native.unsqueeze(maps.numpy()), native, like=subject.image)
        describe(path, "Uncertainty of the fused label, a component per volume", Components=COMPONENTS)
        facts["Uncertainty"] = COMPONENTS
    if predict is not None:
        facts |= predict(rows)
    write_tsv(layout.volumes(subject.id, method), rows, VOLUME_COLUMNS)
    describe(layout.segmentation(subject.id, method), "Labels fused from the atlases", **facts)
