"""Atlases propagated to targets, made for the tests of fusion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Array, Grid
from atlasmith.core.intensity import normalize
from atlasmith.fusion import fuse_subject
from atlasmith.fusion.aligned import AlignedAtlases
from atlasmith.fusion.autocontext.candidates import candidate_probabilities, find_candidates, label_positions
from atlasmith.fusion.autocontext.features import candidate_features
from atlasmith.fusion.autocontext.model import CandidateClassifier
from atlasmith.fusion.fuser import FusionInputs, LabelProbabilities, LabelProbability
from atlasmith.fusion.probabilities import most_probable_labels, weighted_probabilities
from atlasmith.fusion.propagated import PropagatedAtlases
from atlasmith.fusion.table import FUSERS
from atlasmith.io.files import write_json
from atlasmith.io.images import read_labels, write_image
from atlasmith.io.tables import Subject, read_cohort, write_cohort, write_tsv


def tensors(labels: Any, images: Any, target: Any, **masks: Any) -> dict[str, Any]:
    """Arguments of atlases: arrays (N, *shape), (C, N, *shape), (C, *shape) and masks, made tensors."""
    maps = {"labels": labels, "images": images, "target": target, **masks}
    return {k: v if k == "present" else torch.as_tensor(np.asarray(v)) for k, v in maps.items()}


def aligned(*arrays: Any, **masks: Any) -> AlignedAtlases:
    """Atlases of arrays, see `tensors`."""
    return AlignedAtlases(**tensors(*arrays, **masks))


def decided(probabilities: Iterable[LabelProbability], shape: Sequence[int]) -> tuple[Array, Array]:
    """Labels and confidence of `most_probable_labels`, as arrays."""
    labels, confidence = most_probable_labels(probabilities, shape)
    return labels.numpy(), confidence.numpy()


def weighted(labels: Array, weights: Any) -> LabelProbabilities:
    """The `weighted_probabilities` of arrays."""
    return weighted_probabilities(torch.from_numpy(labels), torch.as_tensor(weights))


def untrained(atlases: PropagatedAtlases) -> Iterator[LabelProbability]:
    """What auto-context with an untrained classifier predicts."""
    candidates = find_candidates(atlases)
    features, values = candidate_features(atlases, candidates), atlases.labels.unique()
    labels = label_positions(candidates.labels, values)
    logits = CandidateClassifier(len(values), 8, features.shape[-1])(features, labels)
    return candidate_probabilities(candidates, logits.softmax(-1).detach())


def fusion_inputs(
    method: str,
    labels: np.ndarray,
    reliability: np.ndarray | None = None,
    images: np.ndarray | None = None,
    target: np.ndarray | None = None,
    correlation: np.ndarray | None = None,
    **settings: object,
) -> FusionInputs:
    """Inputs of a method for images of one channel, with the reliability in place of VoteNet's prediction."""
    images = np.zeros(labels.shape, np.float32) if images is None else images
    target = images[0] if target is None else target
    atlases = PropagatedAtlases(**tensors(labels, images[None], target[None]), grid=None)  # type: ignore[arg-type]
    if correlation is None:
        correlation = np.eye(len(labels), dtype=np.float32)

    def prediction() -> object:
        if FUSERS[method].section == "votenet":
            return SimpleNamespace(
                reliability=torch.as_tensor(reliability), correlation=torch.as_tensor(correlation)
            )
        members = FUSERS[method].members
        return [untrained(atlases) for _ in members] if members else untrained(atlases)

    return FusionInputs.of(atlases, FUSERS[method].settings_type(**settings), prediction)


def probabilities(method: str, *args: object, **kwargs: object) -> Iterator[LabelProbability]:
    """The label probabilities of a method, of the arguments of `fusion_inputs`."""
    return FUSERS[method](fusion_inputs(method, *args, **kwargs))  # type: ignore[arg-type]


def displaced_atlases(
    shape: tuple[int, ...], atlases: int, shift: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Target, truth, and atlases that are the target displaced by up to `shift` voxels, with some noise."""
    random = np.random.default_rng(2)
    smooth = gaussian_filter(random.normal(size=shape), 2.5)
    target = ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)
    truth = np.digitize(target, [0.4, 0.6]).astype(np.int32)
    moves = random.integers(-shift, shift + 1, (atlases, len(shape)))
    images, labels = (
        np.stack([np.roll(x, tuple(move), range(len(shape))) for move in moves]) for x in (target, truth)
    )
    return target, truth, (images + 0.02 * random.normal(size=images.shape)).astype(np.float32), labels


def random_atlases(
    random: np.random.Generator, shape: tuple[int, ...], values: list[int], atlases: int = 5
) -> PropagatedAtlases:
    """Smooth blobs of some labels, which differ between atlases, and an image in which labels differ."""
    noise = gaussian_filter(random.normal(size=(atlases + 1, *shape)), (0, *[2] * len(shape)))
    base = gaussian_filter(random.normal(size=shape), 4) * 6
    labels = np.digitize(base + 3 * noise, np.linspace(-0.3, 0.5, len(values) - 1))
    images = 0.2 + 0.6 * labels / len(values) + 0.02 * random.normal(size=labels.shape)
    labels = np.array(values)[labels].astype(np.int32)
    grid = Grid((*shape, 1, 1)[:3], np.eye(4))
    images = images[None].astype(np.float32)
    return PropagatedAtlases(**tensors(labels[1:], images[:, 1:], images[:, 0]), grid=grid)


def write_phantom_cohort(folder: Path, atlases: int = 8) -> Config:
    """Write a cohort in which each propagated atlas is misregistered in a random half of the image."""
    random = np.random.default_rng(1)
    config = parse_config(
        {
            "output": str(folder),
            "device": "cpu",
            "cohort": {"bids": str(folder)},
            "template": {"name": "Toy"},
            "fusion": {
                "methods": ["majority", "votenet", "votenet_hard", "autocontext"],
                "votenet": {"channels": [8, 16], "steps": 150, "patch": 32, "batch_size": 8},
                "autocontext": {"steps": 120, "voxels": 10_000, "width": 32},
            },
        }
    )
    layout, grid = config.layout, Grid((48, 48, 1), np.eye(4))
    x, y = np.mgrid[:48, :48] - 23.5

    def picture(dx: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        radius = np.hypot(x - dx, y - dy)
        labels = np.where(radius < 7, 2, np.where(radius < 14, 1, 0))
        return (np.select([labels == 2, labels == 1], [0.9, 0.5], 0.1)).astype(np.float32), labels

    subjects = []
    for index in range(atlases + 4):
        name, role = f"{index:02d}", "atlas" if index < atlases else "target"
        image, labels = picture(np.zeros_like(x), np.zeros_like(x))
        paths = folder / f"{name}_T1w.nii.gz", folder / f"{name}_dseg.nii.gz"
        image = (image + 0.02 * random.normal(size=image.shape))[..., None].astype(np.float32)
        write_image(paths[0], image, grid)
        write_image(layout.preprocessed(name), normalize(image), grid)
        write_image(paths[1], labels[..., None], grid)
        subjects.append(Subject(name, role, paths[0], paths[1]))
        others = [k for k in range(atlases) if k != index]
        propagated = []
        for _ in others:
            angle = random.uniform(0, 2 * np.pi)
            error = (np.cos(angle) * x + np.sin(angle) * y > 0) * 5.0
            direction = random.uniform(0, 2 * np.pi)
            propagated.append(picture(error * np.cos(direction), error * np.sin(direction)))
        images = np.stack([p[0] for p in propagated], -1) + 0.02 * random.normal(size=(48, 48, len(others)))
        write_image(layout.propagated_images(name), images[:, :, None].astype(np.float32), grid)
        maps = np.stack([p[1] for p in propagated], -1)[:, :, None]
        write_image(layout.propagated_labels(name), maps, grid)
        write_json(layout.propagated_sidecar(name), {"atlases": [f"{k:02d}" for k in others]})
    write_cohort(layout.cohort, subjects, [])
    write_tsv(layout.labels, [{"index": 1, "name": "ring"}, {"index": 2, "name": "core"}], ["index", "name"])
    return config


def fused_dice(config: Config) -> dict[str, float]:
    """Segment the phantom cohort's targets; each method's mean Dice over them and the labels."""
    dice: dict[str, list[float]] = {method: [] for method in config.fusion.methods}
    for subject in read_cohort(config.layout.cohort):
        if subject.role != "target":
            continue
        fuse_subject(config, subject.id)
        truth = read_labels(subject.labels).data
        for method, values in dice.items():
            found = read_labels(config.layout.segmentation(subject.id, method)).data
            for k in (1, 2):
                both = ((found == k) & (truth == k)).sum()
                values.append(2 * both / ((found == k).sum() + (truth == k).sum()))
    return {method: float(np.mean(values)) for method, values in dice.items()}


def with_fusion(config: Config, **values: object) -> Config:
    """The config with some keys of its fusion section changed."""
    return config.model_copy(update={"fusion": config.fusion.model_copy(update=values)})


def trained_shortly(config: Config) -> Config:
    """The config with few training steps."""
    sections = {name: config.fusion.section(name) for name in config.fusion.networks}
    short = {name: section.model_copy(update={"steps": 40}) for name, section in sections.items()}
    return with_fusion(config, **short)
