"""The fuse stage: train the networks of the fusion methods, and fuse the atlases' labels on one subject."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from atlasmith.config import Config
from atlasmith.core.errors import look_up
from atlasmith.core.grid import Array
from atlasmith.core.world import resample
from atlasmith.fusion.fuser import Fuser, FusionInputs, LabelProbabilities, Predictor
from atlasmith.fusion.native import native_labels
from atlasmith.fusion.probabilities import label_probabilities
from atlasmith.fusion.propagated import PropagatedAtlases, read_propagated
from atlasmith.fusion.quality import VOLUME_COLUMNS, predict_quality, record_sizes, volume_table
from atlasmith.fusion.table import FUSERS
from atlasmith.fusion.uncertainty import COMPONENTS, Uncertainty, registration_residual
from atlasmith.io.files import read_json, write_json
from atlasmith.io.images import read_grid, write_image
from atlasmith.io.tables import Subject, read_cohort, read_tsv, write_tsv


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
        predictors: Networks that were read already, by config section; those read now are added.
    """

    def __init__(
        self,
        config: Config,
        atlases: PropagatedAtlases,
        subject: str,
        predictors: dict[str, Predictor] | None = None,
    ) -> None:
        self.config, self.atlases, self.subject = config, atlases, subject
        self._predictors = {} if predictors is None else predictors
        self._predictions: dict[str, Any] = {}

    def probabilities(self, method: str) -> LabelProbabilities:
        """Compute the label probabilities of a method, with the prior that the config asks for.

        Args:
            method: A name of `atlasmith.fusion.table.FUSERS`.

        Returns:
            Each label, in rising order, a box of the fusion grid, and its probability there.
        """
        fusion, fuser = self.config.fusion, look_up(FUSERS, method, "fusion method")
        inputs = FusionInputs(
            self.atlases.labels,
            self.atlases.images,
            self.atlases.target,
            fusion.section(fuser.section) if fuser.section else fuser.settings_type(),
            partial(self.prediction, fuser),
        )
        return label_probabilities(fuser, inputs, fusion.prior, fusion.prior_fallback)

    def prediction(self, fuser: Fuser) -> Any:
        """Return what the network of a method predicts for the subject, or None where it has no network."""
        section, training = fuser.section, fuser.training
        if section is None or training is None:
            return None
        if section not in self._predictions:
            if section not in self._predictors:
                path = self.config.layout.fuser_weights(section)
                self._predictors[section] = training.predictor(path, self.config.device)
            self._predictions[section] = self._predictors[section](self.atlases, self.subject)
        return self._predictions[section]


def fuse_subject(config: Config, subject_id: str) -> None:
    """Write a subject's segmentation by each of the config's methods.

    For each method these are labels and confidence on the subject's own grid, volumes, and a sidecar, with
    the predicted quality where the quality model was fitted.

    Args:
        config: The run's config.
        subject_id: Participant id without `sub-`.
    """
    layout = config.layout
    subject = look_up({s.id: s for s in read_cohort(layout.cohort)}, subject_id, "subject")
    atlases = read_propagated(layout, subject)
    fusion = SubjectFusion(config, atlases, subject_id)
    quality = layout.quality_model
    models = read_json(quality)["Methods"] if subject.role != "atlas" and quality.exists() else {}
    residual = registration_residual(atlases) if config.fusion.uncertainty else None
    for method in config.fusion.methods:
        _write_fused(config, subject, method, fusion, models.get(method), residual)


def _write_fused(
    config: Config,
    subject: Subject,
    method: str,
    fusion: SubjectFusion,
    model: dict[str, Any] | None,
    residual: Array | None,
) -> None:
    """Write the results of one method; `residual` is the registration's, where uncertainty is asked for."""
    layout, grid, native = config.layout, fusion.atlases.grid, read_grid(subject.image)
    sizes: dict[int, float] = {}
    probabilities = record_sizes(fusion.probabilities(method), sizes)
    uncertainty = None if residual is None else Uncertainty(fusion.atlases.labels)
    if uncertainty:
        probabilities = uncertainty.accumulate(probabilities)
    labels, confidence = native_labels(probabilities, grid, native)
    write_image(layout.segmentation(subject.id, method), labels, native, like=subject.image)
    write_image(layout.confidence(subject.id, method), confidence, native, like=subject.image)
    names = {int(row["index"]): row["name"] for row in read_tsv(layout.labels)}
    expected = {value: size * grid.voxel_volume for value, size in sizes.items()}
    rows = volume_table(labels, confidence, expected, names, native.voxel_volume)
    sidecar: dict[str, Any] = {"SpatialReference": str(subject.image), "FusionMethod": method}
    if uncertainty and residual is not None:
        maps = resample(torch.from_numpy(uncertainty.maps(residual))[None], grid, [], native)[0].movedim(
            0, -1
        )
        path = layout.uncertainty(subject.id, method)
        write_image(path, native.unsqueeze(maps.numpy()), native, like=subject.image)
        sidecar["Uncertainty"] = COMPONENTS
    if model is not None:
        sidecar |= predict_quality(rows, model)
    write_tsv(layout.volumes(subject.id, method), rows, VOLUME_COLUMNS)
    write_json(layout.segmentation_sidecar(subject.id, method), sidecar)
