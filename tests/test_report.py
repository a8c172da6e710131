"""The report of synthetic output folders with known contents."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from atlasmith.config import Config, parse_config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Grid
from atlasmith.io.files import write_json
from atlasmith.io.images import write_image
from atlasmith.io.tables import Subject, write_cohort, write_tsv
from atlasmith.report import pictures, write_report
from atlasmith.report.markup import choose_examples, number_text
from atlasmith.report.sections.review import far_below

EVIL = "<script>alert('x')</script>$\\frac{&"
SCORES = ["subject", "stage", "method", "label", "metric", "value", "unit"]
SUMMARY = ["stage", "method", "label", "metric", "unit", "mean", "sd", "median", "n", "ci95_low", "ci95_high"]
SHAPES = {"2-D": (24, 20, 1), "2-D, thin first axis": (1, 24, 20), "3-D": (14, 16, 12)}


def _grid(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1.0, 1.0, 2.0)) -> Grid:
    return Grid(shape, np.diag([*spacing, 1.0]))


def _config(folder: Path) -> Config:
    return parse_config(
        {
            "output": str(folder / "out"),
            "cohort": {"bids": str(folder / "bids"), "covariates": ["age"]},
            "template": {"name": "Toy", "condition_on": ["age"], "evaluate_at": {"age": [20, 40]}},
            "fusion": {"methods": ["majority", "votenet"]},
            "report": {"subjects": 2},
        }
    )


def _write_cohort(config: Config, grid: Grid, truth: bool = True) -> list[Subject]:
    folder = config.output.parent / "bids"
    subjects = []
    for number in range(5):
        name = f"{number:02d}"
        role = "atlas" if number < 2 else "target"
        has_labels = role == "atlas" or truth
        subject = Subject(
            name,
            role,
            folder / f"{name}.nii.gz",
            folder / f"{name}_d.nii.gz" if has_labels else None,
            {"age": 30.0},
        )
        for path in (subject.image, config.layout.preprocessed(name)):
            write_image(path, _noise(grid, number), grid)
        if subject.labels:
            write_image(subject.labels, _labels(grid), grid)
        subjects.append(subject)
    write_cohort(config.layout.cohort, subjects, ["age"])
    write_json(config.layout.grid, grid.to_dict())
    return subjects


def _noise(grid: Grid, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(grid.shape, dtype=np.float32)


def _labels(grid: Grid) -> np.ndarray:
    labels = np.zeros(grid.shape, np.int32)
    low = [n // 4 for n in grid.shape]
    high = [n - n // 4 for n in grid.shape]
    labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = 1
    middle = (low[0] + high[0]) // 2
    labels[middle : high[0], low[1] : high[1], low[2] : high[2]] = 7
    return labels


def _write_results(config: Config, grid: Grid, subjects: list[Subject]) -> None:
    layout = config.layout
    names = {0: "background", 1: EVIL, 7: "b"}
    write_tsv(layout.labels, [{"index": i, "name": name} for i, name in names.items()], ["index", "name"])
    for path in (
        layout.template_image,
        layout.affine_reference,
        layout.template_at(1),
        layout.template_at(2),
    ):
        write_image(path, _noise(grid, len(str(path))), grid)
    cohorts = {"1": {"covariates": {"age": 20.0, "site": EVIL}}, "2": {"covariates": {"age": 40.0}}}
    write_json(layout.template_description, {"cohort": cohorts})
    write_tsv(
        layout.template_training,
        [{"step": i, "loss": 1 / i, EVIL: i % 3, "rare": i if i % 5 == 0 else None} for i in range(1, 700)],
        ["step", "loss", EVIL, "rare"],
    )
    scores, summary = [], []
    for subject in subjects:
        for path in (layout.affine_image(subject.id), layout.warped(subject.id)):
            write_image(path, _noise(grid, int(subject.id)), grid)
        write_image(layout.log_jacobian(subject.id), _noise(grid, int(subject.id)) - 0.5, grid)
        row = {"subject": subject.id, "stage": "register", "method": "warped", "unit": "1"}
        scores.append({**row, "metric": "ncc", "value": 0.5 + int(subject.id) / 10})
        scores.append(
            {**row, "metric": "nonpositive_jacobian_percent", "value": float(subject.id == "03"), "unit": "%"}
        )
        if subject.role != "target":
            continue
        for method in config.fusion.methods:
            write_image(layout.segmentation(subject.id, method), np.roll(_labels(grid), 1, axis=1), grid)
            write_image(layout.confidence(subject.id, method), _noise(grid, 1), grid)
            for label, value in (("1", 0.2), ("7", 0.4), ("mean", 0.3 + int(subject.id) / 100)):
                scores.append(
                    {
                        **row,
                        "stage": "fuse",
                        "method": method,
                        "label": label,
                        "metric": "dice",
                        "value": value,
                    }
                )
    write_tsv(layout.scores, scores, SCORES)
    dice = [("dice", label, value) for label, value in (("1", 0.2), ("7", 0.4), ("mean", 0.8125))]
    for metric, label, value in [*dice, ("generalized_dice", "all", 0.7531)]:
        summary.append(
            {
                **{"stage": "fuse", "method": "votenet", "label": label, "metric": metric, "unit": "1"},
                **{"mean": value, "sd": 0.1, "median": value, "n": 3, "ci95_low": 0.1, "ci95_high": 0.9},
            }
        )
    summary.append(
        {
            "stage": "template",
            "method": "template",
            "metric": "gradient_energy_ratio",
            "unit": "1",
            "mean": 1.37,
            "n": 1,
        }
    )
    write_tsv(layout.summary, summary, SUMMARY)


class _Page(HTMLParser):
    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.images: list[tuple[str, np.ndarray]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in values:
            self.ids.append(str(values["id"]))
        self.links += [
            str(v) for k, v in attrs if k in ("href", "src", "xlink:href", "srcset", "action", "data")
        ]
        if tag == "img":
            data = base64.b64decode(str(values["src"]).split(",")[1])
            self.images.append((str(values["alt"]), imread(io.BytesIO(data), format="png")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _page(config: Config) -> tuple[_Page, str]:
    write_report(config)
    text = config.layout.report.read_text(encoding="utf-8")
    return _Page(text), text


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_page_is_complete_self_contained_and_escaped(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    config, grid = _config(tmp_path), _grid(shape)
    _write_results(config, grid, _write_cohort(config, grid))
    page, text = _page(config)
    anchors = ["summary", "template", "covariates", "registration", "segmentation"]
    anchors += ["training", "distributions", "scores", "subjects", "provenance"]
    assert [name for name in page.ids if name in anchors] == anchors
    assert set(anchors) <= {link[1:] for link in page.links}
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert len(page.ids) == len(set(page.ids)) or {i for i in page.ids if page.ids.count(i) > 1}.isdisjoint(
        anchors
    )
    assert "url(http" not in text and "@import" not in text
    assert "script" not in page.tags
    assert "&lt;script&gt;" in text
    assert "0.812" in text and "0.753" in text and "1.37" in text and "0.100 to 0.900" in text

    captions = [caption for caption, _ in page.images]
    planes = 1 if 1 in shape else 3
    assert sum(c.startswith("template, ") for c in captions) == planes
    assert sum(c.startswith("affine mean, ") for c in captions) == planes
    assert captions.count("truth") == captions.count("votenet: disagreement") == 3
    assert "sub-02 · lowest Dice by votenet, 0.320" in text and "sub-04 · highest Dice by votenet" in text
    assert "sub-00 · lowest correlation" in text  # of all, by registration
    assert re.search(r"sub-03</td><td class=text>most folded voxels, %</td><td>1<", text)
    assert not re.search(r"sub-02</td><td class=text>most folded", text)


def test_same_files_same_bytes(tmp_path: Path) -> None:
    config, grid = _config(tmp_path), _grid(SHAPES["2-D"])
    _write_results(config, grid, _write_cohort(config, grid))
    assert _page(config)[1] == _page(config)[1]


def test_disagreement_shows_a_known_shift(tmp_path: Path) -> None:
    config, grid = _config(tmp_path), _grid(SHAPES["2-D"], (1, 1, 1))
    _write_results(config, grid, _write_cohort(config, grid))
    shown = next(pixels for caption, pixels in _page(config)[0].images if caption == "votenet: disagreement")
    colors = np.round(255 * shown[..., :3]).astype(int)

    def rows(color: tuple[int, int, int]) -> list[int]:
        return np.unique(np.argwhere((colors == color).all(axis=-1))[:, 0]).tolist()

    # Labels fill y 5 to 14, the segmentation 6 to 15; y points up, and the picture has 20 rows.
    assert rows(pictures.EXTRA) == [19 - 15]
    assert rows(pictures.MISSED) == [19 - 5]
    assert rows(pictures.AGREE) == list(range(19 - 14, 19 - 6 + 1))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_checked_cohort_alone_makes_a_page(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    config = _config(tmp_path)
    _write_cohort(config, _grid(shape))
    page, text = _page(config)
    assert page.ids == ["summary", "methods", "provenance"]
    assert "no scores yet" in text and "2 atlas, 3 target, 0 train" in text


def test_targets_without_truth(tmp_path: Path) -> None:
    config, grid = _config(tmp_path), _grid(SHAPES["3-D"])
    _write_results(config, grid, _write_cohort(config, grid, truth=False))
    config.layout.scores.unlink()
    config.layout.summary.unlink()
    page, text = _page(config)
    captions = [caption for caption, _ in page.images]
    assert captions.count("votenet") == 3
    assert "truth" not in captions and "votenet: disagreement" not in captions
    assert "no labels of their own" in text
    assert "scores" not in page.ids and "distributions" not in page.ids


def test_an_unchecked_cohort_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(AtlasmithError, match="atlasmith cohort"):
        write_report(_config(tmp_path))


def test_many_labels_show_both_ends_and_all(tmp_path: Path) -> None:
    config, grid = _config(tmp_path), _grid(SHAPES["2-D"])
    _write_cohort(config, grid)
    rows = [
        {
            "stage": "fuse",
            "method": "votenet",
            "label": n,
            "metric": "dice",
            "unit": "1",
            "mean": n / 200,
            "n": 3,
        }
        for n in range(1, 135)
    ]
    write_tsv(config.layout.summary, rows, SUMMARY)
    text = _page(config)[1]
    cells = [int(n) for n in re.findall(r"<tr><td class=text>(\d+) </td>", text)]
    assert cells == [*range(134, 119, -1), *range(15, 0, -1), *range(134, 0, -1)]


@pytest.mark.parametrize(
    ("axis", "row", "column"),
    [(2, 8 - 1 - 6, 1), (1, 2 * (5 - 1 - 3), 1), (0, 2 * (5 - 1 - 3), 6)],
    ids=["axial", "coronal", "sagittal"],
)
def test_plane_is_neurological_with_square_pixels(axis: int, row: int, column: int) -> None:
    grid = _grid((7, 8, 5))
    data = np.zeros(grid.shape)
    data[1, 6, 3] = 1  # left, front, top
    shown = pictures.plane(data, grid, axis, (1, 6, 3)[axis])
    tall = 1 if axis == 2 else 2  # z has 2 mm: each voxel gets two rows
    assert shown.shape == ((8, 7), (10, 7), (10, 8))[2 - axis]
    assert np.argwhere(shown).tolist() == [[row + i, column] for i in range(tall)]


def test_plane_of_a_file_stored_backwards(tmp_path: Path) -> None:
    """A file in LPI axis order shows the same picture as one in RAS."""
    import nibabel as nib

    from atlasmith.io.images import read_image

    grid, data = _grid((6, 7, 4)), np.random.default_rng(0).random((6, 7, 4)).astype(np.float32)
    ras = nib.Nifti1Image(data, grid.affine)
    ras.as_reoriented(np.array([[0, -1], [1, -1], [2, -1]])).to_filename(tmp_path / "lpi.nii.gz")
    image = read_image(tmp_path / "lpi.nii.gz")
    expected = pictures.plane(data, grid, 1, 3)
    np.testing.assert_array_equal(pictures.plane(image.data, image.grid, 1, 3), expected)


def test_plane_keeps_the_aspect_of_a_large_image() -> None:
    grid = _grid((1000, 500, 1), (0.5, 0.5, 5))
    shown = pictures.plane(np.arange(500000).reshape(grid.shape), grid, 2, 0)
    assert shown.shape == (pictures.LONGEST // 2, pictures.LONGEST)


def test_largest_plane_is_by_area_in_mm() -> None:
    labels = np.zeros((10, 10, 10), int)
    labels[4, 2:6, 2:6] = 3  # 16 voxels across x, of 1 x 5 mm
    labels[1:6, 1:6, 8] = 9  # 26 across z with the block's row, of 1 x 1 mm
    assert pictures.largest_plane(labels, _grid(labels.shape, (1, 1, 5))) == (0, 4)
    assert pictures.largest_plane(labels, _grid(labels.shape, (1, 1, 1))) == (2, 8)
    assert pictures.largest_plane(0 * labels, _grid(labels.shape)) == (2, 5)


def test_windows_and_colors() -> None:
    values = np.linspace(0, 100, 10001)
    low, high = pictures.window(values[:5000], values[5000:])
    assert low == pytest.approx(0.5, abs=0.02) and high == pytest.approx(99.5, abs=0.02)
    assert pictures.window(np.full(4, 3.0)) == (3.0, 4.0)
    sparse = np.zeros(10000)
    sparse[0] = 5
    assert pictures.window(sparse) == (0.0, 5.0)
    assert pictures.window(np.array([np.nan])) == (0.0, 1.0)
    assert pictures.gray(np.array([[-1.0, 0.5, 9.0, np.nan]]), (0, 1))[0, :, 0].tolist() == [0, 127, 255, 0]
    blue, white, red = (pictures.diverging(np.array([[v]]), 2.0)[0, 0].astype(int) for v in (-2, 0, 2))
    assert blue[2] > blue[0] and red[0] > red[2] and white.min() > 240


@pytest.mark.parametrize("count", [2, 12, 140])
def test_colors_of_labels_differ(count: int) -> None:
    colors = np.array(list(pictures.palette(range(1, count + 1)).values()))
    assert len(np.unique(colors, axis=0)) == count
    assert np.linalg.norm(np.diff(colors, axis=0), axis=1).min() > 90  # neighbors in number
    assert pictures.palette([5, 1000]) == pictures.palette([1000, 5])


def test_choice_of_subjects() -> None:
    values = {f"{i:02d}": (i * 7) % 10 / 10 for i in range(10)}
    chosen = choose_examples(values, list(values), 3, "Dice")
    assert [values[name] for name in chosen] == [0.0, 0.4, 0.9]
    assert list(chosen.values()) == ["lowest Dice, 0", "median Dice, 0.400", "highest Dice, 0.900"]
    assert choose_examples({}, ["b", "a", "c"], 2, "Dice") == {"b": "", "a": ""}
    assert list(choose_examples({"a": 1.0}, ["a"], 4, "Dice")) == ["a"]


def test_a_failed_affine_isfar_below_the_others() -> None:
    values = {f"{k:02d}": 0.9 + 0.001 * k for k in range(20)} | {"poor": 0.885, "failed": 0.4}
    assert far_below(values) == {"failed": 0.4}
    assert far_below({"one": 0.3}) == far_below({}) == {}


def test_numbers_are_short() -> None:
    shown = {"n/a": "–", 0.85312: "0.853", 12345.6: "12346", "7": "7", "0.5": "0.500", -0.0001: "-0.000100"}
    assert [number_text(value) for value in shown] == list(shown.values())


def test_charts_are_plain_svg_of_many_points() -> None:
    chart = pictures.strips({"a $_": np.random.default_rng(0).random(5000)}, "T")
    assert chart.startswith("<svg") and len(chart) < 200_000 and "currentColor" in chart
    assert "a $_" in chart and pictures.INK not in chart
    assert len(pictures.curve(np.arange(50_000.0), np.ones(50_000), "loss")) < 60_000
