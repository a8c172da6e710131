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

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, create_model, model_validator

from atlasmith.io.layout import Layout
from atlasmith.io.tables import SUBPOPULATION

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Terms = dict[str, dict[str, Any]]  # weight and parameters of each loss, by name


class Section(BaseModel):
    """Base of all sections: read-only, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def complete(cls) -> type[Section]:
        """Return the model with all its keys, where tables of choices add some."""
        return cls


class CohortSection(Section):
    """The BIDS cohort: images, labels and the table of participants."""

    bids: Path = Field(description="BIDS folder with `participants.tsv` and `sub-X/anat/`; required")
    suffix: Label = Field(
        "T1w", description="suffix of the images: `T1w` reads `sub-X/anat/sub-X_*T1w.nii.gz`"
    )
    labels: str | None = Field(
        "derivatives/manual", description="folder of the label files (`dseg`), relative to `cohort.bids`"
    )
    role: str = Field(
        "role", description="column of `participants.tsv` with the role: `atlas`, `target` or `train`"
    )
    template_subjects: str | None = Field(
        None,
        description="column of `participants.tsv`, `yes` or `no`: whether a subject takes part in building "
        "the template; the others are registered to the finished template; null: all take part",
    )
    hold_out: list[str] = Field(
        default_factory=list,
        description="atlases (such as `[sub-01, sub-07]`) that are segmented and scored as targets, for "
        "cross-validation",
    )
    covariates: list[str] = Field(
        default_factory=list,
        description="columns of `participants.tsv` to read: numbers are continuous, texts categorical, "
        "`n/a` is missing",
    )


class PreprocessSection(Section):
    """Bias correction and intensity normalization, once per subject."""

    n4: bool = Field(False, description="correct the bias field by N4 first")
    window: Annotated[list[float], Field(min_length=2, max_length=2)] | None = Field(
        None,
        description="intensities that are mapped to 0 and 1, in the scanner's units, such as `[-160, 240]` "
        "for CT in Hounsfield units; null: from the image's percentiles",
    )


class AffineSection(Section):
    """The groupwise affine reference, and the alignment of every subject to it."""

    iterations: Count = Field(3, description="rounds of averaging for the groupwise reference")
    reference_subjects: Count = Field(60, description="largest number of subjects that build the reference")
    engine: str = Field(
        "torch",
        description="registration method: `torch` (correlation), or `simpleitk` (mutual information, for "
        "cohorts of mixed contrasts, several times slower)",
    )


class NetworkSection(Section):
    """The registration network."""

    name: str = Field("unet_half", description="name of the registration network")
    channels: Annotated[list[Count], Field(min_length=2)] | None = Field(
        None, description="feature channels of each level, finest first; null: the network's own default"
    )
    cascades: Count = Field(
        1, description="passes through the network; each pass gets the image as warped by those before"
    )


class SegmenterSection(Section):
    """The segmentation networks behind `template.label_similarity`."""

    count: Count = Field(
        3, description="folds of cross-fitting: each network segments the atlases it was not trained on"
    )
    channels: Annotated[list[Count], Field(min_length=2)] = Field(
        [16, 32, 64, 64], description="feature channels of each level, finest first"
    )
    steps: Count = Field(600, description="training steps")
    batch_size: Count = Field(4, description="atlases per training step")
    learning_rate: Positive = Field(3e-3, description="learning rate of AdamW")


class RefinementSection(Section):
    """Groupwise refinement of the template after training."""

    rounds: Annotated[int, Field(ge=0)] = Field(
        3, description="rounds of registering the subjects to the template and averaging them; 0: none"
    )
    steps: Count = Field(14, description="steps of instance optimization per subject and round")
    learning_rate: Positive = Field(0.15, description="learning rate of Adam in instance optimization")
    subjects: Count = Field(
        60, description="largest number of subjects per round; the last round takes all of them"
    )


class AdversarySection(Section):
    """A discriminator of warped templates and images, as in Atlas-GAN."""

    weight: NotNegative = Field(
        0.0,
        description="weight of the adversarial loss of the template (0.1 in Atlas-GAN); 0: none; needs "
        "`template.refinement.rounds: 0`",
    )
    r1: NotNegative = Field(
        1e-3, description="weight of the R1 penalty on the discriminator's gradient at real images"
    )
    channels: Annotated[list[Count], Field(min_length=1)] = Field(
        [32, 64, 64], description="feature channels of the discriminator, halving the resolution each time"
    )
    learning_rate: Positive = Field(3e-3, description="learning rate of the discriminator")


class TemplateSection(Section):
    """The template and the registration network, trained together."""

    name: Label = Field("Template", description="name of the template in file names: letters and digits")
    spacing: Positive = Field(1.0, description="voxel size of the template, mm")
    shape: list[Count] | None = Field(
        None, description="size of the template's grid, voxels; null: from the images"
    )
    margin: NotNegative = Field(4.0, description="margin around the largest object, mm")
    condition_on: list[str] = Field(
        default_factory=list, description="covariates that the template depends on; none: one template"
    )
    subpopulations: Annotated[int, Field(ge=1, le=26)] = Field(
        1,
        description="number of subpopulations, found by k-means on the aligned images: a covariate "
        "`subpopulation` of the template with the values A, B, ...; 1: none",
    )
    evaluate_at: dict[str, list[float | str]] = Field(
        default_factory=dict,
        description="values of each covariate at which template images are written, such as "
        "`{age: [60, 80]}`",
    )
    decoder: str = Field(
        "dense", description="how the template's intensities depend on covariates beyond a linear effect"
    )
    network: NetworkSection = NetworkSection()
    integration_steps: Annotated[int, Field(ge=1, le=12)] = Field(
        6, description="steps of scaling and squaring that integrate a velocity field"
    )
    steps: Annotated[int, Field(ge=0)] = Field(
        500,
        description="training steps; 0: no network is trained, and refinement builds the template from the "
        "affine mean",
    )
    batch_size: Annotated[int, Field(ge=2)] = Field(4, description="images per training step")
    learning_rate: Positive = Field(1e-3, description="learning rate of the registration network")
    template_learning_rate: Positive = Field(1e-3, description="learning rate of the template")
    similarity: Terms = Field(
        {"lncc": {"weight": 1.0, "window": 7}, "mse": {"weight": 1.0}},
        min_length=1,
        description="similarities of warped image and template, each with its `weight` and parameters; mse "
        "keeps the template on the images' intensity scale",
    )
    label_similarity: Terms = Field(
        default_factory=dict,
        description="similarities of the label probabilities of warped image and template, predicted by "
        "segmentation networks trained on the atlases; none: registration is label-free",
    )
    segmenter: SegmenterSection = SegmenterSection()
    pairwise: Terms = Field(
        default_factory=dict,
        description="similarities of pairs of images, each resampled onto the other through the template",
    )
    regularization: Terms = Field(
        {
            "diffusion": {"weight": 0.4},
            "magnitude": {"weight": 0.001},
            "centrality": {"weight": 0.02},
        },
        description="regularizers of the deformation, each with its `weight` and parameters",
    )
    refinement: RefinementSection = RefinementSection()
    adversary: AdversarySection = AdversarySection()
    augment: bool = Field(
        False, description="augment training images by random affine maps and intensity changes"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="floating-point type of the networks; `auto`: bfloat16 on GPUs, float32 on CPUs; losses "
        "and warps are always float32",
    )
    channels_last: bool = Field(
        False, description="keep the registration network's channels last in memory during training"
    )
    save_memory: bool = Field(
        False, description="recompute the integration of velocities in the backward pass: slower, less memory"
    )
    checkpoint_every: Count = Field(100, description="steps between checkpoints of the training")

    @property
    def objective(self) -> dict[str, Any]:
        """What `atlasmith.losses.registration_objective` needs of the config, in training and afterwards."""
        return {
            "similarity": self.similarity,
            "regularization": self.regularization,
            "label_similarity": self.label_similarity,
            "integration_steps": self.integration_steps,
        }

    @property
    def conditions(self) -> list[str]:
        """The covariates of the template, with the subpopulation where there are several."""
        return [*self.condition_on, *([SUBPOPULATION] if self.subpopulations > 1 else [])]


class InstanceOptimizationSection(Section):
    """Optimization of one image's deformation, from the network's prediction."""

    steps: Annotated[int, Field(ge=0)] = Field(
        40, description="steps on each image after the network's prediction; 0: none"
    )
    learning_rate: Positive = Field(0.15, description="learning rate of Adam")
    pairwise_steps: Annotated[int, Field(ge=0)] = Field(
        0,
        description="steps on each pair of atlas and subject, from the composition through the template; 0: "
        "none; costs one registration per pair",
    )


class RegisterSection(Section):
    """The registration of every subject to the template."""

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
    spacing: Positive | None = Field(
        None, description="voxel size of the fusion grid, mm; null: that of the subject's image"
    )
    margin: NotNegative = Field(6.0, description="margin around the propagated labels, mm")
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

    def _trained(self) -> list[Any]:
        return [f for name, f in _fusers().items() if name in self.methods and f.training is not None]


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

    subjects: Count = Field(4, description="number of subjects shown in pictures")


class Config(Section):
    """The whole config: paths are as in the file, and relative ones start at the working directory."""

    seed: int = Field(0, description="seed of all random numbers; equal seeds give equal files on a CPU")
    output: Path = Field(Path("results"), description="folder of all results")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where networks run: `auto` (a GPU if there is one), `cpu` or `cuda`"
    )
    subjects_per_job: Count = Field(8, description="subjects per job of the stages that run per subject")
    processes: Count = Field(
        1,
        description="processes that train the template together, each on its own GPU or share of the cores; "
        "a divisor of `template.batch_size`",
    )
    threads: Count = Field(
        2,
        description="threads of a training, over all its processes; results differ in the last digits "
        "between numbers of threads",
    )
    cohort: CohortSection
    preprocess: PreprocessSection = PreprocessSection()
    affine: AffineSection = AffineSection()
    template: TemplateSection = TemplateSection()
    register_: RegisterSection = Field(RegisterSection(), alias="register")
    fusion: SerializeAsAny[FusionSection] = Field(
        default_factory=lambda: FusionSection.model_validate({})
    )
    score: ScoreSection = ScoreSection()
    report: ReportSection = ReportSection()

    @property
    def layout(self) -> Layout:
        """The file names of this run."""
        return Layout(self.output, self.template.name, self.cohort.suffix)

    def resolved(self) -> dict[str, Any]:
        """Return every value, defaults included, as plain types."""
        return self.model_dump(mode="json", by_alias=True)

    def digest(self, *sections: str) -> str:
        """Hash the seed and some sections.

        Args:
            sections: Names of sections, such as `template`.

        Returns:
            Twelve hexadecimal digits. A workflow rule with it as a parameter reruns when it changes.
        """
        values = {name: self.resolved()[name] for name in ("seed", *sections)}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
