"""The affine stage, against planted transforms of an image given in closed form."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.linalg import expm, logm
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from torch import Tensor

from atlasmith.affine import align, align_subject, build_reference, gauss_newton, reference, search, stage
from atlasmith.affine.engines import ENGINES, AffineEngine
from atlasmith.affine.working_image import WorkingImage, largest_overlap, similarity, translation
from atlasmith.config import Config, parse_config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, Grid
from atlasmith.core.intensity import antialias, normalize
from atlasmith.io.files import write_json
from atlasmith.io.images import Image, read_image, write_image
from atlasmith.io.tables import Subject, write_cohort
from atlasmith.io.transforms import read_affine
from atlasmith.preprocess import preprocess_subject
from atlasmith.preprocess.n4 import correct_bias

Function = Callable[[Array], Array]


def centered_grid(shape: tuple[int, int, int], spacing: float = 1.0) -> Grid:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(shape) - 1) / 2
    return Grid(shape, affine)


def world(grid: Grid) -> Array:
    """(X, Y, Z, 3)"""
    return np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def head(points: Array) -> Array:
    """An asymmetric soft ellipsoid of radius about 13 mm with spots inside; zero outside."""
    rng = np.random.default_rng(7)
    radius = np.linalg.norm(points / [12, 15, 11], axis=-1)
    value = 1 / (1 + np.exp(12 * (radius - 1)))
    for _ in range(24):
        center, size = rng.uniform(-9, 9, 3), rng.uniform(2, 3)
        spot = np.exp(-((points - center) ** 2).sum(-1) / (2 * size**2))
        value = value * (1 + rng.uniform(-0.9, 1.2) * spot)
    return np.where(value > 0.02, value, 0)


def slab(points: Array) -> Array:
    """A larger head with folds: in a slice there are few voxels to go by."""
    x, y, z = np.moveaxis(points, -1, 0)
    return head(points / 1.8) * (1 + 0.4 * np.cos(0.5 * x + 0.2 * y - 0.1 * z) * np.cos(0.4 * y + 0.5 * z))


def pulled(function: Function, matrix: Array) -> Function:
    """The image g with g(matrix x) = function(x)."""
    inverse = np.linalg.inv(matrix)
    return lambda points: function(points @ inverse[:3, :3].T + inverse[:3, 3])


def pose(
    degrees: tuple[float, float, float] = (0, 0, 0),
    scale: tuple[float, float, float] = (1, 1, 1),
    offset: tuple[float, float, float] = (0, 0, 0),
) -> Array:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag(scale)
    matrix[:3, 3] = offset
    return matrix


def make(folder: Path, grid: Grid, images: dict[str, Path], **affine: object) -> Config:
    """Write the cohort's table, its grid and the preprocessed images."""
    config = parse_config({"output": str(folder / "out"), "cohort": {"bids": str(folder)}, "affine": affine})
    write_cohort(config.layout.cohort, [Subject(key, "train", path) for key, path in images.items()], [])
    write_json(config.layout.grid, grid.to_dict())
    for key in images:
        preprocess_subject(config, key)
    return config


def save(path: Path, function: Function, header: Array, shape: tuple[int, ...]) -> Path:
    """`function` of the world in a file of that header, in arbitrary units."""
    data = function(world(Grid((*shape, 1, 1)[:3], header)))  # type: ignore[arg-type]
    nib.save(nib.Nifti1Image((900 * data).astype(np.float32).reshape(shape), header), path)
    return path


def assert_close(found: Array, planted: Array, points: Array, limit: float) -> None:
    """Within `limit` mm on average and twice that at most at `points` (..., 3), and within a degree."""
    gap = points @ (found - planted)[:3, :3].T + (found - planted)[:3, 3]
    distance = np.linalg.norm(gap, axis=-1)
    assert distance.mean() < limit and distance.max() < 2 * limit
    turn = Rotation.from_matrix(np.linalg.inv(planted[:3, :3]) @ found[:3, :3])
    assert np.degrees(turn.magnitude()) < 1


TEMPLATE = centered_grid((36, 40, 34))
COARSE = centered_grid((24, 27, 23), 1.5)
PART = centered_grid((18, 40, 34))
HEADERS = {
    "RAS": np.eye(3),
    "LPS": np.diag([-1, -1, 1]),
    "PIR": np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
    "oblique": Rotation.from_euler("xyz", [10, -8, 12], degrees=True).as_matrix(),
    "anisotropic": np.diag([-0.8, 1.1, 1.6]),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["LPS", "PIR", "oblique", "anisotropic"])
def test_planted_affine_is_found_in_3d(tmp_path: Path, name: str, engine: str) -> None:
    planted = pose((6, -8, 10), (1.1, 0.95, 1.05), (60, -40, 25))
    shape = np.ceil(44 / np.linalg.norm(HEADERS[name], axis=0)).astype(int)
    header = np.eye(4)
    header[:3, :3] = HEADERS[name]
    header[:3, 3] = planted[:3, 3] - header[:3, :3] @ ((shape - 1) / 2) + [2, -1, 1]
    path = save(tmp_path / "a.nii.gz", pulled(head, planted), header, tuple(shape))
    config = make(tmp_path, TEMPLATE, {"a": path}, engine=engine)
    write_image(config.layout.affine_reference, normalize(head(world(TEMPLATE))), TEMPLATE)
    align_subject(config, "a")
    points = world(TEMPLATE)
    assert_close(read_affine(config.layout.affine("a")), planted, points[head(points) > 0.3], 0.5)
    moved = read_image(config.layout.affine_image("a"))
    assert moved.grid.same_as(TEMPLATE)
    assert moved.data.min() >= 0 and moved.data.max() <= 1
    assert np.abs(moved.data - normalize(head(points))).mean() < 0.02


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(4))
def test_large_rotation_is_found(seed: int, engine: str) -> None:
    """45 degrees about any axis, beyond the capture range of an optimizer alone."""
    axis = np.random.default_rng(seed).normal(size=3)
    planted = np.eye(4)
    vector = np.deg2rad(45) * axis / np.linalg.norm(axis)
    planted[:3, :3] = Rotation.from_rotvec(vector).as_matrix()
    grid = centered_grid((44, 44, 44))
    points = world(grid)
    fixed = Image(head(points), grid)
    moving = Image(pulled(head, planted)(points), grid)
    assert_close(align(fixed, moving, engine), planted, points[head(points) > 0.3], 0.5)


def test_a_good_alignment_is_optimized_once() -> None:
    grid = centered_grid((36, 40, 34))
    image = WorkingImage.from_image(Image(normalize(head(world(grid))).astype(np.float32), grid), 1)
    seen: list[Array] = []

    def engine(fixed: Scan, moving: Scan, starts: Sequence[Array], kind: str) -> list[Array]:
        seen.extend(starts)
        return list(starts)

    np.testing.assert_array_equal(align.rigid(scan, scan, [np.eye(4)], engine), np.eye(4))
    assert len(seen) == 1


def newton_score(fixed: Scan, moving: Scan) -> tuple[newton._Score, Tensor]:
    """And the generators of its transforms."""
    basis = newton._basis("affine", fixed.grid.ndim, 10)
    points, values = newton._samples(fixed.picture, 1, 10**9)
    volume = newton._Volume(moving.picture)
    return newton._Score(values, points, volume, basis, largest_overlap(fixed, moving)), basis


@pytest.mark.parametrize("shape", [(40, 44, 38), (52, 56, 1)])
def test_slope_of_newton_is_that_of_its_score(shape: tuple[int, int, int]) -> None:
    grid = centered_grid(shape)
    wide = centered_grid(tuple(n + 12 if n > 1 else 1 for n in shape))  # type: ignore[arg-type]
    scans = [
        Scan.of(
            Image(gaussian_filter(head(world(g) / 1.4), np.minimum(shape, 3) - 1).astype(np.float32), g), 1
        )
        for g in (grid, wide)
    ]
    score, basis = newton_score(*scans)
    start = shift(scans[1].middle - scans[0].middle + [1.3, -0.6, 0])
    start[0, 1] = 0.05
    pose = newton._square(start, basis.shape[1] - 1)[None]
    steps = 0.05 * basis
    ahead, behind = (
        torch.cat([score(pose @ torch.linalg.matrix_exp(sign * step)[None])[0] for step in steps])
        for sign in (1, -1)
    )
    slope = score(pose)[2][0]
    assert float(slope.norm()) > 0.01
    torch.testing.assert_close(
        slope, ((ahead - behind) / 0.1).double(), rtol=0.05, atol=0.05 * float(slope.norm())
    )


def test_newton_scores_as_the_stage_does() -> None:
    """Also where the image holds a part of the object only, so that the overlap counts."""
    scans = [Scan.of(Image(normalize(head(world(g))).astype(np.float32), g), 1) for g in (TEMPLATE, PART)]
    score, _ = newton_score(*scans)
    for offset in (0, 6, 30):
        matrix = pose((3, 1, 0), (1, 1, 1.1), (offset, 1, 0))
        assert float(score(torch.from_numpy(matrix)[None])[0]) == pytest.approx(
            similarity(*scans, matrix), abs=2e-3
        )


@pytest.mark.parametrize("ndim", [2, 3])
def test_every_turn_has_its_opposite(ndim: int) -> None:
    turns = [turn[:3, :3] for turn in align.turns(ndim)]
    assert len(turns) == {2: 6, 3: 78}[ndim]
    for turn in turns:
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert min(np.abs(turn.T - other).max() for other in turns) < 1e-12
    apart = [np.abs(a - b).max() for a, b in itertools.combinations(turns, 2)]
    assert min(apart) > 0.05


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("axes", [(0, 1), (0, 2)])
@pytest.mark.parametrize("flip", [(-1, 1), (-1, -1)])
def test_planted_affine_is_found_in_2d(
    tmp_path: Path, axes: tuple[int, int], flip: tuple[int, int], engine: str
) -> None:
    """A slice in any plane, its header flipped, far from the template's world; 3 mm thick."""
    across = 3 - sum(axes)
    sizes = [64, 64, 64]
    sizes[across] = 1
    grid = centered_grid((sizes[0], sizes[1], sizes[2]))
    planted = np.eye(4)
    angle = np.radians(9)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([1.08, 0.94])
    planted[np.ix_(axes, axes)] = turn
    planted[list(axes), 3] = [30, -20]
    planted[across, across], planted[across, 3] = 3, 50
    function = pulled(slab, planted)
    header = np.zeros((4, 4))
    header[3, 3] = 1
    header[axes[0], 0], header[axes[1], 1], header[across, 2] = *(0.9 * np.array(flip)), 3
    header[:3, 3] = planted[:3, 3] - header[:3, :3] @ [34, 36, 0]
    path = save(tmp_path / "a.nii.gz", function, header, (70, 74))
    config = make(tmp_path, grid, {"a": path}, engine=engine)
    write_image(config.layout.affine_reference, normalize(slab(world(grid))), grid)
    align_subject(config, "a")
    points = world(grid)
    assert_close(read_affine(config.layout.affine("a")), planted, points[slab(points) > 0.3], 0.5)
    assert np.abs(read_image(config.layout.affine_image("a")).data - normalize(slab(points))).mean() < 0.02


def crop(points: Array) -> Array:
    """Texture everywhere: no background."""
    rng = np.random.default_rng(3)
    waves = [np.cos(points @ rng.uniform(-0.35, 0.35, 3) + rng.uniform(0, 6)) for _ in range(12)]
    return 3 + sum(waves)


@pytest.mark.parametrize("engine", ENGINES)
def test_small_crops_without_background(tmp_path: Path, engine: str) -> None:
    grid = centered_grid((40, 48, 32))
    planted = pose((3, -4, 5), (1.04, 0.97, 1), (17, 22, 13))
    header = np.eye(4)
    header[:3, 3] = 1.5
    path = save(tmp_path / "a.nii.gz", pulled(crop, planted), header, (31, 40, 24))
    config = make(tmp_path, grid, {"a": path}, engine=engine)
    write_image(config.layout.affine_reference, normalize(crop(world(grid))), grid)
    align_subject(config, "a")
    points = world(grid)[10:30, 12:36, 10:22]
    assert_close(read_affine(config.layout.affine("a")), planted, points, 0.5)


@pytest.fixture
def cohort(tmp_path: Path) -> tuple[dict[str, Path], list[Array]]:
    """Three heads in poses whose mean isn't the identity, with far-off and mixed headers."""
    poses = [
        pose((8, 0, 0), (1.1, 1, 1), (30, 0, 0)),
        pose((-6, 5, 0), (0.95, 1, 1.05), (-20, 50, 0)),
        pose((0, -7, 8), (1, 1.1, 1), (0, 0, 90)),
    ]
    images = {}
    for index, matrix in enumerate(poses):
        header = np.eye(4)
        header[:3, :3] = 1.5 * list(HEADERS.values())[index]
        header[:3, 3] = matrix[:3, 3] - header[:3, :3] @ [14.5, 14.5, 14.5]
        images[f"s{index}"] = save(tmp_path / f"{index}.nii.gz", pulled(head, matrix), header, (30, 30, 30))
    return images, poses


def test_reference_favours_nobody(
    tmp_path: Path, cohort: tuple[dict[str, Path], list[Array]], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, poses = cohort
    config = make(tmp_path, COARSE, images, iterations=2)
    build_reference(config)
    written = config.layout.affine_reference.read_bytes()

    # Neither the order of the rows nor the number of threads matters.
    write_cohort(config.layout.cohort, [Subject(k, "train", images[k]) for k in ("s2", "s0", "s1")], [])
    monkeypatch.setattr(reference, "_cores", lambda: 1)
    build_reference(config)
    assert config.layout.affine_reference.read_bytes() == written

    # All poses times one common matrix have the identity as their mean: the reference has that pose.
    mean = reference.centered([_linear(matrix) for matrix in poses])
    common = np.linalg.inv(_linear(poses[0])) @ mean[0]
    expected = normalize(pulled(head, np.linalg.inv(common))(world(COARSE)))
    found = read_image(config.layout.affine_reference).data
    inside = expected > 0.05
    assert np.corrcoef(found[inside], expected[inside])[0, 1] > 0.8
    sizes = [np.ptp(np.argwhere(data > 0.3), axis=0) for data in (found, expected)]
    assert np.abs(sizes[0] - sizes[1]).max() <= 1

    # Sharper than a mean that knows less.
    sharpness = {2: np.var(found[inside])}
    config = make(tmp_path, COARSE, images, iterations=1)
    build_reference(config)
    sharpness[1] = np.var(read_image(config.layout.affine_reference).data[inside])
    assert sharpness[2] > sharpness[1]


def _linear(matrix: Array) -> Array:
    matrix = matrix.copy()
    matrix[:3, 3] = 0
    return matrix


def test_mean_transform_is_the_identity() -> None:
    rng = np.random.default_rng(0)
    matrices = [expm(np.r_[rng.normal(0, 0.2, (3, 4)), np.zeros((1, 4))]) for _ in range(6)]
    centered = reference.centered(matrices)
    np.testing.assert_allclose(np.mean([logm(m) for m in centered], axis=0), 0, atol=1e-9)
    common = [np.linalg.inv(a) @ b for a, b in zip(matrices, centered, strict=True)]
    np.testing.assert_allclose(common, [common[0]] * 6, atol=1e-9)


def test_choice_of_subjects_stays() -> None:
    subjects = [Subject(f"{index:03d}", "train", Path()) for index in range(30)]
    chosen = reference.choose(subjects, 10)
    assert chosen == sorted(chosen, key=lambda subject: subject.id) and len(chosen) == 10
    assert reference.choose(subjects[::-1], 10) == chosen
    rest = [subject for subject in subjects if subject != chosen[0]]
    assert all(subject in reference.choose(rest, 10) for subject in chosen[1:])


def test_average_leaves_out_what_nobody_sees() -> None:
    a, b = np.array([1.0, np.nan, np.nan]), np.array([3.0, 5.0, np.nan])
    np.testing.assert_array_equal(reference.average(iter([a, b])), [2, 5, 0])


@pytest.mark.parametrize(
    "runaway",
    [
        pose(offset=(500, 0, 0)),
        pose(scale=(0.05, 0.05, 0.05)),
        pose(scale=(4, 4, 4)),
        pose((0, 0, 90)),
        pose(scale=(-1, 1, 1)),
        pose(scale=(1e-9, 1, 1)),
    ],
)
def test_runaway_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runaway: Array) -> None:
    """Whatever the optimizer returns, the result is no worse than the start."""
    planted = pose(offset=(5, -3, 2))
    path = save(tmp_path / "a.nii.gz", pulled(head, planted), TEMPLATE.affine, (44, 44, 44))
    config = make(tmp_path, TEMPLATE, {"a": path}, engine="lost")
    write_image(config.layout.affine_reference, normalize(head(world(TEMPLATE))), TEMPLATE)
    monkeypatch.setitem(
        ENGINES, "lost", lambda fixed, moving, starts, kind: [start @ runaway for start in starts]
    )
    align_subject(config, "a")
    found = read_affine(config.layout.affine("a"))
    np.testing.assert_allclose(found[:3, :3], np.eye(3), atol=1e-6)
    np.testing.assert_allclose(found[:3, 3], planted[:3, 3], atol=1)


@pytest.mark.parametrize("engine", ENGINES)
def test_same_bytes_twice(tmp_path: Path, cohort: tuple[dict[str, Path], list[Array]], engine: str) -> None:
    images, _ = cohort
    config = make(tmp_path, COARSE, images, engine=engine)
    write_image(config.layout.affine_reference, normalize(head(world(COARSE))), COARSE)
    written = []
    for _ in range(2):
        align_subject(config, "s2")
        written.append(
            [config.layout.affine("s2").read_bytes(), config.layout.affine_image("s2").read_bytes()]
        )
    assert written[0] == written[1]


def test_faults_name_the_remedy(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", head, centered_grid((30, 30, 1)).affine, (30, 30))
    config = make(tmp_path, TEMPLATE, {"abc": path})
    with pytest.raises(AtlasmithError, match="Did you mean 'abc'"):
        align_subject(config, "abd")
    with pytest.raises(AtlasmithError, match="is missing"):
        align_subject(config, "abc")
    with pytest.raises(AtlasmithError, match="2-D, but the template's grid is 3-D"):
        build_reference(config)


def test_normalize() -> None:
    rng = np.random.default_rng(0)
    texture = rng.uniform(50, 150, (20, 20, 20)).astype(np.float32)
    plain = normalize(texture)
    assert plain.dtype == np.float32 and plain.min() == 0 and plain.max() == 1
    np.testing.assert_allclose([np.mean(plain == 0), np.mean(plain == 1)], 0.01, atol=0.002)
    np.testing.assert_allclose(normalize(texture * 1000 + 7), plain, atol=1e-4)

    stripped = texture.copy()
    stripped[:5] = 0
    expected = np.clip(stripped / np.percentile(texture[5:], 99.5), 0, 1)
    np.testing.assert_allclose(normalize(stripped), expected, atol=1e-6)
    np.testing.assert_array_equal(normalize(np.full((3, 3, 1), 4.0)), 0)


def test_antialias_has_the_width_of_the_voxels() -> None:
    """A point's second moment is that of a Gaussian with FWHM^2 = 3^2 - 1^2 mm^2; the coarse axis stays."""
    grid = Grid((31, 31, 31), np.diag([1.0, 1.0, 4.0, 1.0]))
    point = np.zeros(grid.shape, dtype=np.float32)
    point[15, 15, 15] = 1
    smooth = antialias(point, grid, 3.0)
    place = np.arange(31) - 15
    variance = [(smooth.sum(axis=tuple({0, 1, 2} - {axis})) * place**2).sum() for axis in range(3)]
    np.testing.assert_allclose(variance, [8 / (8 * np.log(2))] * 2 + [0], rtol=0.02, atol=1e-9)
    assert antialias(point, grid, 1.0) is point


@pytest.mark.parametrize("shape", [(36, 40, 34), (64, 64, 1)])
def test_bias_is_corrected(shape: tuple[int, int, int]) -> None:
    grid = centered_grid(shape)
    points = world(grid)
    truth = np.where(np.linalg.norm(points / [15, 17, 14], axis=-1) < 1, 100.0, 0).astype(np.float32)
    truth[(points[..., 0] > 2) & (truth > 0)] = 150
    biased = truth * np.exp(0.02 * points[..., 1]).astype(np.float32)
    corrected = correct_bias(biased, grid)
    spread = [data[truth == 100].std() / data[truth == 100].mean() for data in (biased, corrected)]
    assert spread[1] < 0.3 * spread[0]
    assert corrected.dtype == np.float32 and (corrected[truth == 0] == 0).all()


def test_no_torch() -> None:
    """Hundreds of jobs start: torch's import would cost more than the registration."""
    code = "import atlasmith.affine, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
