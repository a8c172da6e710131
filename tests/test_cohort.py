"""The cohort: every kind of bad input is found, together with all others, before anything is written."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from tiny import ROWS, Tiny, only

from atlasmith.cohort import stage
from atlasmith.config import load_config, parse_config
from atlasmith.core.errors import InputError
from atlasmith.core.grid import Array, Grid
from atlasmith.io.files import read_json, write_json
from atlasmith.io.images import Image
from atlasmith.io.tables import read_cohort, read_tsv

SHARED = Path(__file__).parents[1].parent / "shared"

# A sound cohort


def test_a_sound_cohort_is_written_whole(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config()
    stage.run(config)
    layout = config.layout
    subjects = read_cohort(layout.cohort)
    assert [(s.id, s.role) for s in subjects] == [
        ("01", "atlas"),
        ("02", "atlas"),
        ("03", "target"),
        ("04", "train"),
    ]
    assert [s.image for s in subjects] == [tiny.image(f"sub-0{n}") for n in (1, 2, 3, 4)]
    assert [s.labels for s in subjects] == [*(tiny.labels(f"sub-0{n}") for n in (1, 2, 3)), None]
    assert subjects[0].covariates == {"age": 70.0, "sex": "M"}
    assert subjects[2].covariates == {"age": None, "sex": "M"}
    assert read_tsv(layout.labels) == [{"index": "1", "name": "left part"}, {"index": "7", "name": "label7"}]
    # Boxes of 12 x 12 x 10 mm, 4 mm of margin on each side: 20, 20, 18 mm, so 10, 10, 9 voxels.
    grid = Grid.from_dict(read_json(layout.grid))
    assert grid.shape == (16, 16, 16)
    assert np.allclose(grid.affine[:3, :3], 2 * np.eye(3)) and np.allclose(grid.center, 0)
    assert load_config(layout.config) == config
    description = read_json(config.output / "dataset_description.json")
    assert description["DatasetType"] == "derivative"
    made_with = {maker["Name"]: maker["Version"] for maker in description["GeneratedBy"]}
    assert next(iter(made_with)) == "atlasmith" and made_with["torch"] == torch.__version__
    hashes = dict(reversed(line.split("  ", 1)) for line in layout.inputs.read_text().splitlines())
    images = [subject.image for subject in subjects]
    assert set(map(str, images)) < set(hashes) and len(hashes) == 7  # four images, three of labels
    for path, found in hashes.items():
        assert found == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert "*_xfm.*" in (config.output / ".bidsignore").read_text()
    in_order_of_the_table = [
        (row["participant_id"][4:], row["role"], True, (row["age"], row["sex"])) for row in tiny.rows
    ]
    assert stage.read_participants(config) == in_order_of_the_table
    assert sorted(stage.checked_participants(config).values()) == sorted(in_order_of_the_table)
    monkeypatch.setattr(stage, "__version__", "another")
    assert stage.checked_participants(config) == {}


def test_paths_are_absolute_where_the_configs_are_not(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.bids)
    checked = stage.check_cohort(tiny.config(cohort={"bids": "../bids"}))
    assert checked.subjects[0].image == tiny.image("sub-01")


def test_the_same_cohort_gives_the_same_bytes(tiny: Tiny) -> None:
    config = tiny.config()
    files = ("config.yaml", "stage.tsv", "labels.tsv", "grid.json", "dataset_description.json")
    stage.run(config)
    before = [(config.output / name).read_bytes() for name in files]
    stage.run(config)
    assert [(config.output / name).read_bytes() for name in files] == before


def test_uncompressed_images_and_entities_are_found(tiny: Tiny) -> None:
    old = tiny.image("sub-04")
    new = old.with_name("sub-04_acq-mprage_T1w.nii")
    nib.load(old).to_filename(new)
    old.unlink()
    assert stage.check_cohort(tiny.config()).subjects[3].image == new


def test_the_labels_of_targets_are_not_read(tiny: Tiny) -> None:
    path = tiny.labels("sub-03")
    path.write_bytes(
        gzip.compress(gzip.decompress(path.read_bytes())[:400])
    )  # the header, and hardly a voxel
    assert list(stage.check_cohort(tiny.config()).label_names) == [1, 7]


# The table


def test_no_table(tiny: Tiny) -> None:
    tiny.table.unlink()
    only(tiny.faults(), tiny.table, "no such file", "stage.bids")


def test_an_empty_table(tiny: Tiny) -> None:
    tiny.table.write_text("participant_id\trole\n")
    only(tiny.faults(), tiny.table, "no rows")


def test_a_table_in_another_encoding(tiny: Tiny) -> None:
    tiny.table.write_bytes("participant_id\trole\nsub-01\tGrüße\n".encode("latin-1"))
    only(tiny.faults(), tiny.table, "UTF-8")


@pytest.mark.parametrize(
    ("column", "near"), [("participant_id", "participants_id"), ("role", "roles"), ("sex", "sxe")]
)
def test_a_missing_column(tiny: Tiny, column: str, near: str) -> None:
    tiny.table.write_text(tiny.table.read_text().replace(column, near, 1))
    only(tiny.faults(), tiny.table, f"no column '{column}'", f"Did you mean '{near}'?")


@pytest.mark.parametrize(
    "name", ["01", "sub-", "sub-0_1", "sub-../../etc", "sub-1;rm", "sub-1 ", "sub-ä", ""]
)
def test_a_malformed_id(tiny: Tiny, name: str) -> None:
    tiny.rows[3]["participant_id"] = name
    tiny.write_table()
    only(tiny.faults(), tiny.table, "row 4", repr(name), "letters and digits")


def test_a_duplicate_id(tiny: Tiny) -> None:
    tiny.rows.append(dict(tiny.rows[0]))
    tiny.write_table()
    only(tiny.faults(), tiny.table, "row 5", "sub-02")


def test_an_unknown_role(tiny: Tiny) -> None:
    tiny.rows[2]["role"] = "targt"
    tiny.write_table()
    only(tiny.faults(), tiny.table, "sub-03", "'targt'", "Did you mean 'target'?")


def test_no_target(tiny: Tiny) -> None:
    tiny.rows[2]["role"] = "train"
    tiny.write_table()
    only(tiny.faults(), tiny.table, "no subject has the role 'target'")


def test_no_atlas(tiny: Tiny) -> None:
    for row in tiny.rows[:2]:
        row["role"] = "train"
    tiny.write_table()
    only(tiny.faults(), tiny.table, "no subject has the role 'atlas'", "autocontext")


def test_learned_fusion_needs_atlases(tiny: Tiny) -> None:
    tiny.rows[0]["role"] = "train"
    tiny.write_table()
    only(tiny.faults(), tiny.table, "1 subject has the role 'atlas'", "autocontext")
    faults = tiny.faults(fusion={"methods": ["majority", "votenet"]})
    only(faults, tiny.table, "1 subject has the role 'atlas'", "votenet")
    stage.check_cohort(tiny.config(fusion={"methods": ["majority"]}))


def test_one_subject(tiny: Tiny) -> None:
    tiny.rows = tiny.rows[:1]
    tiny.write_table()
    assert any("only one subject" in fault for fault in tiny.faults(template={"condition_on": []}))


# Covariates


@pytest.mark.parametrize("value", ["old", "N/A", "6I"])
def test_a_covariate_that_is_no_number(tiny: Tiny, value: str) -> None:
    tiny.rows[1]["age"] = value
    tiny.write_table()
    only(tiny.faults(), tiny.table, "'age'", f"'{value}' (sub-01) is no number", "n/a")


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_covariate_that_is_not_finite(tiny: Tiny, value: str) -> None:
    tiny.rows[1]["age"] = value
    tiny.write_table()
    only(tiny.faults(), tiny.table, "'age'", "sub-01", "finite")


def test_a_covariate_that_is_all_missing(tiny: Tiny) -> None:
    for row in tiny.rows:
        row["age"] = "n/a"
    tiny.write_table()
    only(tiny.faults(), tiny.table, "'age'", "every value is missing")


def test_a_constant_covariate_matters_to_a_conditional_template_alone(tiny: Tiny) -> None:
    for row in tiny.rows:
        row["age"] = "70"
    tiny.write_table()
    only(tiny.faults(), tiny.table, "'age'", "every value is 70", "condition_on")
    stage.check_cohort(tiny.config(template={"condition_on": []}))


def test_a_covariate_with_a_name_of_ours(tiny: Tiny) -> None:
    only(tiny.faults(cohort={"covariates": ["age", "role"]}), "'role'", "Rename")


@pytest.mark.parametrize(("name", "value"), [("age", "old"), ("sex", "X"), ("sex", 1)])
def test_a_view_that_no_covariate_can_have(tiny: Tiny, name: str, value: str | int) -> None:
    views = {"condition_on": ["age", "sex"], "evaluate_at": {name: [value]}}
    only(tiny.faults(template=views), f"template.evaluate_at.{name}", str(value))


# Images


def test_a_missing_image(tiny: Tiny) -> None:
    tiny.image("sub-03").unlink()
    only(tiny.faults(), tiny.image("sub-03"), "no such image")


def test_a_wrong_suffix_is_told_once(tiny: Tiny) -> None:
    only(tiny.faults(cohort={"suffix": "T2w"}), tiny.bids, "no subject has an image", "stage.suffix")


def test_several_images(tiny: Tiny) -> None:
    path = tiny.image("sub-03")
    path.with_name("sub-03_run-2_T1w.nii.gz").write_bytes(path.read_bytes())
    only(tiny.faults(), path.parent, "sub-03_T1w.nii.gz", "sub-03_run-2_T1w.nii.gz")


def truncated(tiny: Tiny, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def truncated_before_packing(tiny: Tiny, path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-500]))


def empty(tiny: Tiny, path: Path) -> None:
    path.write_bytes(b"")


def no_nifti(tiny: Tiny, path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


def wrong_magic(tiny: Tiny, path: Path) -> None:
    tiny.patch(path, 344, b"abc\0")


@pytest.mark.parametrize("spoil", [truncated, truncated_before_packing, empty, no_nifti, wrong_magic])
@pytest.mark.parametrize("kind", ["image", "labels"])
def test_an_unreadable_file(tiny: Tiny, spoil: Callable[[Tiny, Path], None], kind: str) -> None:
    path = getattr(tiny, kind)("sub-01")
    if kind == "labels":  # compressed, they would be too small to lose 500 bytes
        tiny.change(path, lambda data: np.random.default_rng(0).integers(1, 60000, data.shape, np.uint16))
    spoil(tiny, path)
    only(tiny.faults(), path, "can't be read")


def with_nan(data: Array) -> None:
    data[0, 0, 0] = np.nan
    data[1, 0, 0] = np.inf


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (with_nan, "2 voxels are NaN or infinite"),
        (lambda data: np.full_like(data, 3), "every voxel is 3"),
        (lambda data: np.stack([data, data], axis=-1), "(12, 10, 9, 2)"),
        (lambda data: data[..., None], "(12, 10, 9, 1)"),
        (lambda data: data[:, :1, :1], "(12, 1, 1)"),
        (lambda data: data.astype(np.complex64), "complex64"),
    ],
    ids=["nan", "constant", "4-D", "4-D of one", "1-D", "complex"],
)
def test_bad_voxels(tiny: Tiny, edit: Callable[[Array], Array | None], found: str) -> None:
    tiny.change(tiny.image("sub-04"), edit)
    only(tiny.faults(), tiny.image("sub-04"), found)


@pytest.mark.parametrize(
    ("offset", "values", "found"),
    [
        (280, [0.0, 0.0, 0.0, 0.0], "can't be inverted"),
        (280, [np.nan, 0.0, 0.0, 0.0], "can't be inverted"),
        (280, [0.0, 2.0, 0.0, 0.0], "can't be inverted"),
        (80, [0.0], "voxel sizes are [0.0, 2.0, 2.0] mm"),
        (84, [np.nan], "voxel sizes are [2.0, nan, 2.0] mm"),
    ],
    ids=["zero row", "nan", "two rows alike", "zero zoom", "nan zoom"],
)
def test_bad_geometry(tiny: Tiny, offset: int, values: list[float], found: str) -> None:
    tiny.patch(tiny.image("sub-04"), offset, np.array(values, dtype="<f4").tobytes())
    only(tiny.faults(), tiny.image("sub-04"), found)


def test_two_and_three_dimensions_together(tiny: Tiny) -> None:
    tiny.change(tiny.image("sub-04"), lambda data: data[:, :, 4:5])
    only(tiny.faults(), tiny.bids, "sub-01, sub-02, sub-03", "one voxel along z: sub-04")


# Labels


def test_labels_missing_for_an_atlas(tiny: Tiny) -> None:
    tiny.labels("sub-02").unlink()
    only(tiny.faults(), tiny.labels("sub-02"), "the atlas has no labels")
    tiny.labels("sub-03").unlink()  # a target needs none
    only(tiny.faults(), tiny.labels("sub-02"))


@pytest.mark.parametrize("folder", ["derivatives/mannual", None])
def test_no_labels_at_all(tiny: Tiny, folder: str | None) -> None:
    only(tiny.faults(cohort={"labels": folder}), "stage.labels")


def test_several_label_files(tiny: Tiny) -> None:
    path = tiny.labels("sub-02")
    path.with_name("sub-02_desc-other_dseg.nii.gz").write_bytes(path.read_bytes())
    only(tiny.faults(), path.parent, "sub-02_desc-other_dseg.nii.gz")


@pytest.mark.parametrize("name", ["sub-01", "sub-03"], ids=["atlas", "target"])
@pytest.mark.parametrize("spoil", ["shape", "shift"])
def test_labels_on_another_grid(tiny: Tiny, name: str, spoil: str) -> None:
    path = tiny.labels(name)
    file = nib.load(path)
    data, affine = np.array(file.dataobj), file.affine.copy()
    if spoil == "shape":
        data = data[:-1]
    else:
        affine[0, 3] += 0.1
    tiny.save(path, data, affine)
    only(tiny.faults(), path, "another grid", "nearest neighbor")


def test_labels_within_a_thousandth_of_a_voxel_are_on_the_same_grid(tiny: Tiny) -> None:
    path = tiny.labels("sub-01")
    file = nib.load(path)
    affine = file.affine.copy()
    affine[0, 3] += 1e-4
    tiny.save(path, np.array(file.dataobj), affine)
    stage.check_cohort(tiny.config())


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda data: data * 0.5, "no integers, such as 0.5"),
        (lambda data: np.where(data == 7, np.nan, data), "no integers, such as nan"),
        (lambda data: data.astype(np.int16) - 1, "from -1 to 6"),
        (lambda data: data * 1e10, "from 0.0 to 70000000000.0"),
        (lambda data: data * 0, "background"),
    ],
    ids=["half", "nan", "negative", "huge", "empty"],
)
def test_bad_labels(tiny: Tiny, edit: Callable[[Array], Array], found: str) -> None:
    tiny.change(tiny.labels("sub-01"), edit)
    only(tiny.faults(), tiny.labels("sub-01"), found)


def test_labels_saved_as_whole_floats_are_fine(tiny: Tiny) -> None:
    tiny.change(tiny.labels("sub-01"), lambda data: data.astype(np.float32))
    assert list(stage.check_cohort(tiny.config()).label_names) == [1, 7]


@pytest.mark.parametrize("text", ["index\n1\n", "index\tname\none\tleft\n", "index\tname\n\t\n"])
def test_a_bad_table_of_label_names(tiny: Tiny, text: str) -> None:
    path = tiny.bids / "derivatives/manual/dseg.tsv"
    path.write_text(text)
    only(tiny.faults(), path, "no table of labels")


# The grid


def test_a_grid_too_large_for_memory(tiny: Tiny) -> None:
    (fault,) = tiny.faults(template={"spacing": 0.001})
    assert "GiB" in fault and "template.spacing" in fault
    fitting = float(fault.split("template.spacing to ")[1].split()[0])
    stage.check_cohort(tiny.config(template={"spacing": fitting}))
    only(tiny.faults(template={"shape": [40000, 40000, 40000]}), "40000 x 40000 x 40000", "template.shape")


def test_the_memory_estimate_is_closed_form() -> None:
    grid = Grid((10, 20, 30), np.eye(4))
    assert stage.training_bytes(grid, 4) == 4 * 6000 * (60 * 4 + 40)


@pytest.mark.parametrize("shape", [[16, 16], [16, 16, 1], [16, 16, 16, 1]])
def test_a_shape_of_other_dimension(tiny: Tiny, shape: list[int]) -> None:
    only(tiny.faults(template={"shape": shape}), "template.shape", shape)


def test_a_given_shape_is_taken(tiny: Tiny) -> None:
    grid = stage.check_cohort(tiny.config(template={"shape": [9, 10, 11]})).grid
    assert grid.shape == (9, 10, 11) and np.allclose(grid.center, 0)


@pytest.mark.parametrize("two_axes", [True, False])
def test_slices_keep_their_missing_axis(tiny: Tiny, two_axes: bool) -> None:
    for row in ROWS:
        for path in (tiny.image(row["participant_id"]), tiny.labels(row["participant_id"])):
            if path.exists():
                tiny.change(path, lambda data: data[:, :, 4] if two_axes else data[:, :, 4:5])
    for shape in (None, [16, 16], [16, 16, 1]):
        assert stage.check_cohort(tiny.config(template={"shape": shape})).grid.shape == (16, 16, 1)


def test_the_foreground_is_measured_in_millimetres() -> None:
    grid = Grid((20, 20, 20), np.diag([1.0, 2.0, 3.0, 1.0]))
    data = np.full((20, 20, 20), -5.0, dtype=np.float32)
    data[2:12, 3:9, 4:19] = 100
    assert np.allclose(stage.foreground_extent(Image(data, grid), 4), [10 + 8, 12 + 8, 45 + 8])
    crop = np.random.default_rng(0).uniform(size=(20, 20, 20)).astype(np.float32)
    assert np.allclose(stage.foreground_extent(Image(crop, grid), 4), [20, 40, 60])


@pytest.mark.parametrize(("millimetres", "voxels"), [(48.0, 48), (48.1, 56), (1.0, 8)])
def test_the_grid_is_a_multiple_of_eight(millimetres: float, voxels: int) -> None:
    template = parse_config({"cohort": {"bids": "."}}).template
    extents = [np.array([millimetres, 30.0, 20.0]), np.array([0.5, 40.0, 10.0])]
    assert stage.decide_grid(extents, None, template).shape == (voxels, 40, 24)


@pytest.mark.skipif(not (SHARED / "data/hippocampus").exists(), reason="the hippocampus cohort is not here")
def test_the_hippocampus_cohort(tmp_path: Path) -> None:
    config = parse_config(
        {"output": str(tmp_path / "out"), "cohort": {"bids": str(SHARED / "data/hippocampus")}}
    )
    checked = stage.check_cohort(config)
    assert checked.grid.shape == (48, 64, 48)
    assert checked.label_names == {1: "anterior hippocampus", 2: "posterior hippocampus"}
    assert len(checked.subjects) == 200


# The output folder


def test_the_results_of_another_config_are_kept(tiny: Tiny) -> None:
    stage.run(tiny.config())
    before = (tiny.output / "config.yaml").read_bytes()
    changes = {"seed": 3, "template": {"spacing": 3.0, "similarity": {"mse": {"weight": 2.0}}}}
    faults = tiny.faults(**changes)
    assert [fault.split(": ")[1] for fault in faults] == [
        "seed",
        "template.similarity.lncc.weight",
        "template.similarity.lncc.window",
        "template.similarity.mse.weight",
        "template.spacing",
    ]
    assert "2.0" in faults[-1] and "3.0" in faults[-1] and "another `output`" in faults[-1]
    assert (tiny.output / "config.yaml").read_bytes() == before


def test_later_stages_may_change(tiny: Tiny) -> None:
    stage.run(tiny.config())
    changed = tiny.config(fusion={"methods": ["majority"]}, device="cpu")
    stage.run(changed)
    assert load_config(changed.layout.config) == changed


@pytest.mark.parametrize("text", ["a: [", "learning_rate: 3\n", ""])
def test_a_config_that_is_not_ours(tiny: Tiny, text: str) -> None:
    tiny.output.mkdir()
    (tiny.output / "config.yaml").write_text(text)
    only(tiny.faults(), tiny.output / "config.yaml", "isn't ours")
    assert (tiny.output / "config.yaml").read_text() == text


def test_a_folder_that_is_not_ours(tiny: Tiny) -> None:
    tiny.output.mkdir()
    (tiny.output / "thesis.docx").write_text("x")
    only(tiny.faults(), tiny.output, "thesis.docx", "nothing was overwritten")
    write_json(tiny.output / "dataset_description.json", {"GeneratedBy": [{"Name": "fmriprep"}]})
    only(tiny.faults(), tiny.output, "thesis.docx")


def test_a_users_own_config_is_not_overwritten(tiny: Tiny) -> None:
    tiny.output.mkdir()
    (tiny.output / "config.yaml").write_text(yaml.safe_dump(tiny.config().resolved()))
    only(tiny.faults(), tiny.output, "config.yaml")


def test_an_output_that_is_a_file(tiny: Tiny) -> None:
    tiny.output.write_text("x")
    only(tiny.faults(), tiny.output, "this is a file")


def test_logs_and_hidden_files_are_no_hindrance(tiny: Tiny) -> None:
    for name in ("logs/cohort", ".snakemake"):
        (tiny.output / name).mkdir(parents=True)
    stage.run(tiny.config())
    # Snakemake deletes a rule's outputs before the rule runs again.
    (tiny.output / "config.yaml").unlink()
    stage.run(tiny.config())


# All at once


def test_all_problems_are_told_together_and_nothing_is_written(tiny: Tiny) -> None:
    tiny.image("sub-01").unlink()
    tiny.change(tiny.image("sub-02"), with_nan)
    tiny.change(tiny.labels("sub-02"), lambda data: data * 0.5)
    tiny.rows[2]["role"] = "targte"
    tiny.rows[3]["age"] = "old"
    tiny.write_table()
    faults = tiny.faults(score={"metrics": ["dcie"]})
    for part in ("'dice'", "'targte'", "'old' (sub-04)", "sub-01_T1w.nii.gz", "NaN", "no integers"):
        assert len([fault for fault in faults if part in fault]) == 1, (part, faults)
    assert len(faults) == 6
    assert not tiny.output.exists()


def test_an_atlas_held_out_is_a_target(tiny: Tiny) -> None:
    config = tiny.config(cohort={"hold_out": ["sub-02"]}, fusion={"methods": ["majority"]})
    stage.run(config)
    assert [(s.id, s.role) for s in read_cohort(config.layout.cohort)][:2] == [
        ("01", "atlas"),
        ("02", "target"),
    ]
    assert ("02", "target") in [person[:2] for person in stage.read_participants(config)]


class TestBuilders:
    @pytest.fixture
    def some(self, tiny: Tiny) -> Tiny:
        """A cohort of whom the last two, one of them a man, don't make the template."""
        for row, builder in zip(tiny.rows, ("yes", "yes", "no", "no"), strict=True):
            row["maker"] = builder
        tiny.write_table()
        return tiny

    def test_they_alone_settle_the_grid(self, some: Tiny) -> None:
        def grow(data: Array) -> Array:
            return np.pad(data, 20)

        some.change(some.image("sub-04"), grow)
        some.change(some.image("sub-04"), lambda data: data + np.arange(data.size).reshape(data.shape))
        config = some.config(cohort={"template_subjects": "maker"})
        stage.run(config)
        assert Grid.from_dict(read_json(config.layout.grid)).shape == (16, 16, 16)
        assert [s.id for s in read_cohort(config.layout.cohort) if s.in_template] == ["01", "02"]
        assert [p.id for p in stage.read_participants(config) if p.in_template] == ["02", "01"]

    @pytest.mark.parametrize(
        ("values", "parts"),
        [
            (["yes", "yes", "maybe", "no"], ["column 'maker'", "'maybe' (sub-03)", "yes or no"]),
            (["yes", "no", "no", "no"], ["column 'maker'", "1 rows say yes"]),
        ],
    )
    def test_the_column_says_yes_or_no(self, some: Tiny, values: list[str], parts: list[str]) -> None:
        for row, value in zip(some.rows, values, strict=True):
            row["maker"] = value
        some.write_table()
        only(some.faults(cohort={"template_subjects": "maker"}, template={"condition_on": []}), *parts)

    def test_the_template_can_know_everyones_kind(self, some: Tiny) -> None:
        some.rows[1]["sex"] = "F"
        some.rows[1]["age"], some.rows[0]["age"] = "60", "70"
        some.rows[3]["sex"] = "X"
        some.rows[2]["sex"] = "n/a"
        some.write_table()
        faults = some.faults(cohort={"template_subjects": "maker"}, template={"condition_on": ["age", "sex"]})
        only(faults, "column 'sex'", "every value is F")
        some.rows[1]["sex"] = "M"
        some.write_table()
        faults = some.faults(cohort={"template_subjects": "maker"}, template={"condition_on": ["age", "sex"]})
        only(faults, "column 'sex'", "'X' (sub-04)", "'maker'")

    def test_populations_are_of_those_who_make_the_template(self, some: Tiny) -> None:
        faults = some.faults(cohort={"template_subjects": "maker"}, template={"subpopulations": 2})
        only(faults, "template.subpopulations", "atlasmith segment")


def test_only_an_atlas_can_be_held_out(tiny: Tiny) -> None:
    faults = tiny.faults(cohort={"hold_out": ["sub-20"]})
    only(faults, "stage.hold_out", "'sub-20' is no atlas", "sub-02")


def test_the_quick_reading_of_the_table_finds_its_problems(tiny: Tiny) -> None:
    tiny.rows[2]["role"] = "targte"
    tiny.rows[3]["participant_id"] = "sub 4"
    tiny.write_table()
    with pytest.raises(InputError) as caught:
        stage.read_participants(tiny.config())
    assert len(caught.value.problems) == 2
