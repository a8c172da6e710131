"""A cohort with two channels and lesions, registered by known transforms, for propagation and fusion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Array, Grid
from atlasmith.io.images import write_image
from atlasmith.io.tables import Subject, write_cohort, write_tsv
from atlasmith.io.transforms import write_composite

CHANNELS = ("T1w", "T2w")
ATLASES = 6
LESIONS = {"00": (slice(8, 14), slice(9, 15)), "07": (slice(14, 19), slice(12, 18))}  # of an atlas, a target
ABSENT = {"01": "T1w", "02": "T2w", "08": "T2w"}  # the channel that a scan doesn't have


def write_channel_cohort(folder: Path, depth: int = 1, lesion_label: int = 2) -> Config:
    """Write six atlases and three targets, each displaced by up to three voxels along the first axis.

    An atlas whose id is even is registered by the right shift, and one whose id is odd isn't, which shows in
    T2w alone: T1w is the same everywhere. In the lesion of atlas 00 the manual label is `lesion_label`.

    Args:
        folder: Where to write.
        depth: Slices; 1 for 2-D.
        lesion_label: Of the excluded region of an atlas.
    """
    config = parse_config(
        {
            "output": str(folder),
            "device": "cpu",
            "cohort": {"bids": str(folder), "suffix": list(CHANNELS), "exclude": "lesions"},
            "template": {"name": "Toy"},
            "fusion": {
                "methods": ["majority", "local_weighted", "votenet", "autocontext"],
                "margin": 40.0,
                "votenet": {"channels": [8, 16], "steps": 6, "patch": 16},
                "autocontext": {"steps": 15, "voxels": 2000, "width": 16},
            },
        }
    )
    layout, random = config.layout, np.random.default_rng(0)
    grid = Grid((28, 26, depth), np.diag([1.0, 1.0, 2.0, 1.0]))
    smooth = gaussian_filter(random.normal(size=(28, 26)), 3)
    labels = np.digitize(smooth / np.abs(smooth).max(), [-0.2, 0.3])
    subjects = []
    for index in range(ATLASES + 3):
        name, shift = f"{index:02d}", index % 4
        atlas = index < ATLASES
        own = np.roll(labels, shift, axis=0)
        image = np.clip(0.2 + 0.3 * own + 0.01 * random.normal(size=own.shape), 0, 1)
        if name in LESIONS:
            image[LESIONS[name]] = 0.5
            if atlas:
                own[LESIONS[name]] = lesion_label
        maps = {"T1w": np.full_like(image, 0.5), "T2w": image}
        maps.pop(ABSENT.get(name, ""), None)
        paths = {}
        for channel, data in maps.items():
            write_image(layout.preprocessed(name, channel), _stacked(data.astype(np.float32), depth), grid)
            paths[channel] = layout.preprocessed(name, channel)
        valid = np.ones(own.shape, np.uint8)
        valid[LESIONS.get(name, slice(0, 0))] = 0
        write_image(layout.valid_mask(name), _stacked(valid, depth), grid)
        manual = folder / f"{name}_dseg.nii.gz"
        write_image(manual, _stacked(own, depth), grid)
        registered = shift if not atlas or index % 2 == 0 else shift + 4
        for path, voxels in ((layout.forward(name), registered), (layout.inverse(name), -shift)):
            affine = np.eye(4)
            affine[0, 3] = voxels
            write_composite(path, [affine])
        subjects.append(
            Subject(
                name,
                "atlas" if atlas else "target",
                next(iter(paths.values())),
                manual,
                channels=paths,
                exclude=layout.valid_mask(name) if name in LESIONS else None,
            )
        )
    write_cohort(layout.cohort, subjects, [])
    write_tsv(layout.labels, [{"index": k, "name": f"label-{k}"} for k in (1, 2)], ["index", "name"])
    return config


def _stacked(data: Array, depth: int) -> Array:
    """The same plane (X, Y) in all slices."""
    return np.repeat(data[..., None], depth, axis=2)
