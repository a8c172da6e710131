"""Sections and keys of the config, with defaults, ranges and descriptions.

The reference in the docs and the JSON schema (`atlasmith schema`) are generated from the descriptions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, create_model, model_validator

from atlasmith.config.section import (
    ChoiceSection,
    Count,
    Folder,
    FolderName,
    Label,
    NotNegative,
    Positive,
    Section,
    VoxelSize,
    scaled_weights,
)
from atlasmith.config.template import MODES, ParametrizationSection, TemplateSection
from atlasmith.io.layout import Layout

EntityValue = str | int | None
Entities = dict[str, EntityValue | list[EntityValue]]
Window = Annotated[list[float], Field(min_length=2, max_length=2)]


class CohortSection(Section):
    """The BIDS cohort: images, labels and the table of participants."""

    bids: Folder = Field(
        description="BIDS folder with `participants.tsv`, and `sub-X/anat/` or `sub-X/ses-Y/anat/`; required"
    )
    suffix: Label | Annotated[list[Label], Field(min_length=1)] = Field(
        "T1w",
        description="suffix of the images: `T1w` reads `sub-X/anat/sub-X_*T1w.nii.gz`; several, such as "
        "`[T1w, T2w]`, are channels, of which the first is the reference and any may be absent in a subject",
    )
    entities: Entities = Field(
        default_factory=dict,
        description="BIDS entities that choose among several images of a scan, and among sessions, such as "
        "`{acq: mprage, run: 1}`; a list lets several values through, null those without the entity",
    )
    label_entities: Entities = Field(
        default_factory=dict, description="BIDS entities that choose among several label files of a scan"
    )
    labels: FolderName | None = Field(
        "derivatives/manual", description="folder of the label files (`dseg`), relative to `cohort.bids`"
    )
    role: str | None = Field(
        "role",
        description="column of `participants.tsv` with the role: `atlas`, `target` or `train`; null: images "
        "with labels are atlases and the others targets, and `participants.tsv` may be missing",
    )
    template_subjects: str | None = Field(
        None,
        description="column of `participants.tsv`, `yes` or `no`: which subjects build the template; the "
        "others are registered to it once it is finished; null: all build it",
    )
    hold_out: list[str] = Field(
        default_factory=list,
        description="atlases, such as `[sub-01, sub-07]`, that are segmented and scored as targets; all "
        "scans of a subject together",
    )
    covariates: list[str] = Field(
        default_factory=list,
        description="columns of `participants.tsv`, or of `sub-X/sub-X_sessions.tsv`: numbers are "
        "continuous, texts categorical, `n/a` missing",
    )
    masks: FolderName | None = Field(
        None,
        description="folder of masks (`sub-X/anat/sub-X_mask.nii.gz`), relative to `cohort.bids`: voxels "
        "outside a subject's mask become background; null: none",
    )
    exclude: FolderName | None = Field(
        None,
        description="folder of masks of lesions or devices, relative to `cohort.bids`: no similarity, "
        "template or fusion learns from their voxels; a subject without a file excludes nothing; null: none",
    )

    @property
    def role_column(self) -> str:
        """The column of the role, which is made where the config names none."""
        return self.role or "role"

    @property
    def channels(self) -> tuple[str, ...]:
        """The suffixes of the channels, the reference first."""
        return (self.suffix,) if isinstance(self.suffix, str) else tuple(self.suffix)


class PreprocessSection(Section):
    """Bias correction and intensity normalization, once per subject."""

    n4: bool = Field(False, description="correct the bias field by N4 first")
    window: Window | dict[Label, Window] | None = Field(
        None,
        description="intensities that are mapped to 0 and 1, in the scanner's units, such as `[-160, 240]` "
        "for CT in Hounsfield units, or `{CT: [-160, 240]}` for one of several channels; null, and channels "
        "that aren't named: from the image's percentiles",
    )

    def window_of(self, channel: str) -> list[float] | None:
        """Return the window of a channel, or None."""
        return self.window.get(channel) if isinstance(self.window, dict) else self.window


class AffineSection(Section):
    """The groupwise affine reference, and the alignment of every subject to it."""

    iterations: Count = Field(3, description="rounds of averaging for the groupwise reference")
    reference_subjects: Count = Field(60, description="largest number of subjects that build the reference")
    engine: str = Field(
        "torch",
        description="`torch`: correlation; `simpleitk`: mutual information, for mixed contrasts, slower",
    )


class OptimizerSection(ChoiceSection):
    """The optimizer of one image's deformation."""

    name: str = Field("adam", description="name of the optimizer")


class InstanceOptimizationSection(Section):
    """Optimization of one image's deformation, from the network's prediction."""

    steps: Annotated[int, Field(ge=0)] = Field(
        40, description="steps on each image after the network's prediction; 0: none"
    )
    learning_rate: Positive = Field(
        0.2, description="initial learning rate, voxels of the coefficients' grid"
    )
    optimizer: OptimizerSection = OptimizerSection()
    pairwise_steps: Annotated[int, Field(ge=0)] = Field(
        0,
        description="steps on each pair of atlas and subject, from their maps through the template; one "
        "registration per pair; 0: none",
    )


class RegisterSection(Section):
    """The registration of every subject to the template."""

    parametrization: ParametrizationSection | None = Field(
        None,
        description="parametrization of the deformations to the template, as `template.parametrization`; "
        "null: that one",
    )
    modes: Annotated[int, Field(ge=1, le=MODES)] | None = Field(
        None,
        description="number of modes of variation to whose span velocities are restricted, in the place of a "
        "parametrization: those that refinement of the template found, fewer than subjects; null: no "
        "restriction",
    )
    regularization_factor: Positive = Field(
        1.0,
        description="factor of the weights of `template.regularization`; the networks `hypermorph` and "
        "`clapirn` predict for it, too",
    )
    instance_optimization: InstanceOptimizationSection = InstanceOptimizationSection()


def _fusers() -> Mapping[str, Any]:
    """The table of fusion methods; looked up by name, since the config comes before the stages."""
    table: Mapping[str, Any] = import_module("atlasmith.fusion.table").FUSERS
    return table


class FusionSection(Section):
    """The fusion of the atlases' labels; each method declares a section of its own settings."""

    methods: list[str] = Field(
        ["majority", "local_weighted", "autocontext"],
        min_length=1,
        description="fusion methods; each gives a segmentation",
    )
    atlas_selection: Count | None = Field(
        None,
        description="number of atlases that are propagated to each subject, those whose warped images "
        "correlate most with its own; null: all",
    )
    prior: NotNegative = Field(
        0.0,
        description="power of the labels' prior probability, the share of the atlases that have the label, "
        "by which label probabilities are multiplied; 0: no prior",
    )
    prior_fallback: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="where no label has this probability, the prior alone decides; 0: nowhere"
    )
    spacing: VoxelSize | None = Field(
        None, description="voxel size of the fusion grid, mm; null: that of the subject's image"
    )
    margin: NotNegative | None = Field(
        None, description="margin around the propagated labels, mm; null: 6 voxels of the fusion grid"
    )
    train_subjects: bool = Field(
        False,
        description="segment the subjects with the role `train`, too: the student learns from them, and the "
        "labels of a conditional template follow them",
    )
    uncertainty: bool = Field(False, description="write maps of the fused labels' uncertainty")
    quality: bool = Field(
        True,
        description="segment the atlases too, each by all others, to predict the quality of segmentations",
    )

    @classmethod
    def complete(cls) -> type[Section]:
        """Return the model with the sections of all fusion methods."""
        sections = {fuser.section: fuser.settings_type for fuser in _fusers().values() if fuser.section}
        return _with_sections(cls, tuple(sorted(sections.items())))

    @model_validator(mode="wrap")
    @classmethod
    def _check_method_sections(cls, values: Any, handler: Callable[[Any], FusionSection]) -> Any:
        if cls is not FusionSection or isinstance(values, FusionSection):
            return handler(values)
        return cls.complete().model_validate(values)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        """Describe the sections of the fusion methods, too."""
        return handler(cls.complete().__pydantic_core_schema__ if cls is FusionSection else schema)

    def section(self, name: str) -> Any:
        """Return the settings of a fusion method's section, such as `votenet`."""
        return getattr(self, name)

    @property
    def networks(self) -> list[str]:
        """The sections of those methods that need a trained network, which name its weights, too."""
        return list(dict.fromkeys(fuser.section for fuser in self._trained()))

    @property
    def trainings(self) -> dict[str, str]:
        """The training tables of the networks, and their titles in the report."""
        return {name: title for fuser in self._trained() for name, title in fuser.training.tables.items()}

    @property
    def without_atlases(self) -> str | None:
        """The method that segments an image without atlases; None where there is none."""
        return next((name for name, fuser in self._used().items() if not fuser.needs_atlases), None)

    @property
    def pseudo_label_method(self) -> str:
        """The method whose labels stand in for manual ones: the last in the order of the table that needs
        atlases and is no ensemble."""
        others = [name for name, fuser in self._used().items() if fuser.needs_atlases and not fuser.members]
        return others[-1] if others else "majority"

    @property
    def pseudo_label_settings(self) -> list[Any]:
        """What these labels depend on, besides the propagated atlases."""
        section = _fusers()[self.pseudo_label_method].section
        settings = self.section(section).model_dump(mode="json") if section else {}
        return [self.pseudo_label_method, settings, self.prior, self.prior_fallback]

    @property
    def learns_from_unlabelled(self) -> bool:
        """Whether a student learns from scans without manual labels."""
        return (
            self.train_subjects and "student" in self._used() and bool(self.section("student").pseudo_labels)
        )

    def _trained(self) -> list[Any]:
        return [fuser for fuser in self._used().values() if fuser.training is not None]

    def _used(self) -> dict[str, Any]:
        """The config's methods, and the members of ensembles, in the order of the table."""
        table = _fusers()
        members = {name for method in self.methods if method in table for name in table[method].members}
        return {name: fuser for name, fuser in table.items() if name in members | {*self.methods}}


@cache
def _with_sections(base: type[Section], sections: tuple[tuple[str, type[Section]], ...]) -> type[Section]:
    """Extend a model by sections, each with its defaults."""
    fields: dict[str, Any] = {name: (section, section()) for name, section in sections}
    return create_model(base.__name__, __base__=base, __doc__=base.__doc__, **fields)


class ScoreSection(Section):
    """The evaluation of segmentations against manual labels."""

    metrics: list[str] = Field(
        ["dice", "jaccard", "volume_similarity", "hd95_mm", "assd_mm"],
        min_length=1,
        description="metrics of segmentations against the manual labels",
    )
    bootstrap: Count = Field(1000, description="bootstrap resamples for the 95 % intervals")


class ReportSection(Section):
    """The HTML report."""

    subjects: Count = Field(
        20,
        description="number of subjects with a page of their own: those that need review first, then others, "
        "evenly by rank",
    )


class Config(Section):
    """The whole config.

    Paths may have `~` and environment variables; relative ones start at the working directory.
    """

    seed: int = Field(0, description="seed of all random numbers; equal seeds give equal files on a CPU")
    output: Folder = Field(Path("results"), description="folder of all results")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to compute: `auto` (a GPU if there is one), `cpu` or `cuda`"
    )
    subjects_per_job: Count = Field(8, description="subjects per job of the stages that run per subject")
    processes: Count = Field(
        1, description="processes that train the template, each on its own GPU; divides `template.batch_size`"
    )
    threads: Count = Field(
        2, description="threads of a training, over all its processes; they change the last digits of results"
    )
    cohort: CohortSection
    preprocess: PreprocessSection = PreprocessSection()
    affine: AffineSection = AffineSection()
    template: TemplateSection = TemplateSection()
    register_: RegisterSection = Field(RegisterSection(), alias="register")
    fusion: SerializeAsAny[FusionSection] = Field(default_factory=lambda: FusionSection.model_validate({}))
    score: ScoreSection = ScoreSection()
    report: ReportSection = ReportSection()

    @property
    def layout(self) -> Layout:
        """The file names of this run."""
        return Layout(self.output, self.template.name, self.cohort.channels, self.cohort.bids)

    @property
    def objective(self) -> dict[str, Any]:
        """What `atlasmith.losses.registration_objective` needs of the config in training."""
        return self._objective(self.template.parametrization)

    @property
    def register_objective(self) -> dict[str, Any]:
        """What it needs afterwards, in instance optimization."""
        objective = self._objective(self.register_.parametrization or self.template.parametrization)
        scaled = scaled_weights(objective["regularization"], self.register_.regularization_factor)
        return objective | {"regularization": scaled}

    def _objective(self, parametrization: ParametrizationSection) -> dict[str, Any]:
        # Imported here, since most readers of a config don't need torch.
        deformation_model = import_module("atlasmith.transforms").deformation_model
        own = self.template.channel_similarity
        channels = enumerate(self.cohort.channels)
        return self.template.objective | {
            "channel_similarity": {i: own[c] for i, c in channels if c in own},
            "deformation": deformation_model(
                parametrization.name, parametrization.settings, self.template.integration_steps
            ),
        }

    def resolved(self) -> dict[str, Any]:
        """Return every value, defaults included, as plain types."""
        return self.model_dump(mode="json", by_alias=True)

    def digest(self, *sections: str) -> str:
        """Hash the seed and some sections, but for where the cohort lies.

        Args:
            sections: Names of sections, such as `template`.

        Returns:
            Twelve hexadecimal digits. A workflow rule with it as a parameter reruns when it changes.
        """
        resolved = self.resolved()
        del resolved["cohort"]["bids"]
        values = {name: resolved[name] for name in ("seed", *sections)}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
