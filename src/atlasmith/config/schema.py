"""The config: one file, checked as a whole, from which a resolved plan is written and every stage runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from atlasmith.io.layout import Layout
from atlasmith.io.tables import SUBPOPULATION

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Terms = dict[str, dict[str, Any]]  # loss name: its weight and parameters


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CohortSection(Section):
    bids: Path
    suffix: Label = "T1w"
    labels: str | None = Field("derivatives/manual", description="folder of label files, relative to bids")
    role: str = Field("role", description="column of participants.tsv: atlas, target or train")
    template_subjects: str | None = Field(
        None, description="column of participants.tsv: yes or no, who makes the template; None: all do"
    )
    hold_out: list[str] = Field(
        default_factory=list, description="atlases (sub-X) to be segmented and scored as targets are"
    )
    covariates: list[str] = Field(default_factory=list)


class AffineSection(Section):
    iterations: Count = Field(3, description="rounds of averaging for the groupwise reference")
    reference_subjects: Count = Field(60, description="at most so many subjects make the reference")
    n4: bool = Field(False, description="correct the bias field first")
    engine: str = Field(
        "torch", description="`torch`: correlation; `simpleitk`: mutual information, for mixed contrasts"
    )


class NetworkSection(Section):
    name: str = "unet_half"
    channels: Annotated[list[Count], Field(min_length=2)] | None = Field(
        None, description="widths of the levels, finest first; None: the network's own default"
    )
    cascades: Count = Field(1, description="times that it sees the image, each time warped by what it knows")


class SegmenterSection(Section):
    count: Count = Field(3, description="segmenters, each of which learns without its share of the atlases")
    channels: Annotated[list[Count], Field(min_length=2)] = [16, 32, 64, 64]
    steps: Count = 600
    batch_size: Count = 4
    learning_rate: Positive = 3e-3


class RefinementSection(Section):
    rounds: Annotated[int, Field(ge=0)] = 3
    steps: Count = Field(14, description="of instance optimization, in each round")
    learning_rate: Positive = 0.15
    subjects: Count = Field(60, description="at most so many, but in the last round all")


class AdversarySection(Section):
    weight: NotNegative = Field(0.0, description="of the template's loss against the discriminator; 0: none")
    r1: NotNegative = Field(1e-3, description="weight of the penalty on its gradient at real images")
    channels: Annotated[list[Count], Field(min_length=1)] = [32, 64, 64]
    learning_rate: Positive = 3e-3


class TemplateSection(Section):
    name: Label = "Template"
    spacing: Positive = Field(1.0, description="voxel size, mm")
    shape: list[Count] | None = Field(None, description="grid, voxels; from the images where not given")
    margin: NotNegative = Field(4.0, description="mm around the largest object")
    condition_on: list[str] = Field(default_factory=list, description="covariates")
    subpopulations: Annotated[int, Field(ge=1, le=26)] = Field(
        1, description="sub-subpopulations that are told apart by their images, each with its template"
    )
    decoder: str = Field("dense", description="what makes covariates into more than a straight line")
    network: NetworkSection = NetworkSection()
    integration_steps: Annotated[int, Field(ge=1, le=12)] = 6
    steps: Annotated[int, Field(ge=0)] = Field(
        500, description="0: no network is trained, and refinement makes the template from the affine mean"
    )
    batch_size: Annotated[int, Field(ge=2)] = 4
    learning_rate: Positive = 1e-3
    template_learning_rate: Positive = 1e-3
    similarity: Terms = Field(
        {"lncc": {"weight": 1.0, "window": 7}, "mse": {"weight": 1.0}},
        min_length=1,
        description="a little mse keeps the template's intensities on the images' scale",
    )
    label_similarity: Terms = Field(
        default_factory=dict,
        description="similarity of the labels that a segmenter, which learns from the atlases, sees",
    )
    segmenter: SegmenterSection = SegmenterSection()
    refinement: RefinementSection = RefinementSection()
    adversary: AdversarySection = AdversarySection()
    pairwise: Terms = Field(
        default_factory=dict, description="similarity of images brought to each other through the template"
    )
    regularization: Terms = {
        "diffusion": {"weight": 0.4},
        "magnitude": {"weight": 0.001},
        "centrality": {"weight": 0.02},
    }
    augment: bool = Field(False, description="train on images in random poses, with random intensities")
    save_memory: bool = Field(False, description="less memory for integrating velocities, more time")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of networks, not of losses; auto: bfloat16 on CUDA, float32 on CPU"
    )
    channels_last: bool = Field(False, description="the memory format of networks in training")
    checkpoint_every: Count = 100
    evaluate_at: dict[str, list[float | str]] = Field(
        default_factory=dict, description="covariate: values at which template images are written"
    )

    @property
    def conditions(self) -> list[str]:
        """What the template depends on: covariates, and the subpopulation where several are told apart."""
        return [*self.condition_on, *([SUBPOPULATION] if self.subpopulations > 1 else [])]


class InstanceOptimizationSection(Section):
    steps: Annotated[int, Field(ge=0)] = Field(40, description="on each image, after the network; 0: none")
    learning_rate: Positive = 0.15
    pairwise_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="on each atlas and subject, from their maps through the template"
    )


class RegisterSection(Section):
    instance_optimization: InstanceOptimizationSection = InstanceOptimizationSection()


class VoteNetSection(Section):
    channels: list[Count] = Field([12, 24, 48], min_length=2)
    steps: Count = 600
    batch_size: Count = 4
    patch: Annotated[int, Field(ge=8)] = Field(32, description="voxels a side of a training patch")
    learning_rate: Positive = 3e-3
    sharpness: Positive = Field(4.0, description="soft votes are the trust to this power")
    boundary: bool = Field(False, description="it sees how far a voxel is from its label's boundary")
    scales: Literal[1, 2] = Field(1, description="2: it also sees images smoothed")
    calibration: str = Field("platt", description="how its probabilities are made to hold")
    checkpoint_every: Count = 100


class AutoContextSection(Section):
    count: Count = Field(3, description="networks, each of which learns without its share of the atlases")
    voxels: Count = Field(400_000, description="disputed voxels, of all atlases together, to learn from")
    width: Count = Field(64, description="of the network's layers")
    steps: Count = 1500
    learning_rate: Positive = 2e-3
    checkpoint_every: Count = 500


class JLFSection(Section):
    patch: Annotated[int, Field(ge=1)] = Field(2, description="radius of the patches, voxels")
    search: Annotated[int, Field(ge=0)] = Field(
        3, description="reach of the search for better patches, voxels"
    )
    alpha: Positive = Field(0.1, description="added to the diagonal of the atlases' joint errors")
    beta: Positive = Field(2.0, description="power of the errors")


TRAININGS = {
    "votenet": ["votenet"],
    "autocontext": ["autocontext", "autocontext_second"],
}  # of fusion's networks


class FusionSection(Section):
    methods: list[str] = Field(["majority", "local_weighted", "autocontext"], min_length=1)
    atlas_selection: Count | None = Field(
        None, description="so many atlases vote, those that look most like the subject; None: all"
    )
    prior: NotNegative = Field(0.0, description="power of the labels' prior probabilities in every verdict")
    prior_fallback: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="where no label has this share of the trust, the prior decides"
    )
    local_selection: Count = Field(10, description="so many atlases vote at a voxel in `local_selection`")
    spacing: Positive | None = Field(None, description="fuse at this voxel size, mm; None: the target's own")
    margin: NotNegative = Field(6.0, description="mm around the propagated labels")
    uncertainty: bool = Field(False, description="also write what each fused label is unsure of")
    quality: bool = Field(
        True, description="segment atlases too, each by the others: what all segmentations are worth"
    )
    jlf: JLFSection = JLFSection()
    votenet: VoteNetSection = VoteNetSection()
    autocontext: AutoContextSection = AutoContextSection()

    @property
    def networks(self) -> list[str]:
        """The networks that the methods ask for, and so for training on the atlases."""
        return [name for name in TRAININGS if any(method.startswith(name) for method in self.methods)]

    @property
    def trainings(self) -> list[str]:
        """Those of the networks: `evidence` is heard twice."""
        return [part for name in self.networks for part in TRAININGS[name]]


class ScoreSection(Section):
    metrics: list[str] = Field(["dice", "jaccard", "volume_similarity", "hd95_mm", "assd_mm"], min_length=1)
    bootstrap: Count = 1000


class ReportSection(Section):
    subjects: Count = Field(4, description="subjects shown in pictures")


class Config(Section):
    """The whole config. Paths are as in the file; relative ones start at the working directory."""

    seed: int = 0
    output: Path = Path("results")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    subjects_per_job: Count = Field(8, description="subjects a job")
    processes: Count = Field(1, description="that train the template together, each on its own GPU")
    threads: Count = Field(2, description="of a training, of all its processes together")
    cohort: CohortSection
    affine: AffineSection = AffineSection()
    template: TemplateSection = TemplateSection()
    register_: RegisterSection = Field(RegisterSection(), alias="register")
    fusion: FusionSection = FusionSection()
    score: ScoreSection = ScoreSection()
    report: ReportSection = ReportSection()

    @property
    def layout(self) -> Layout:
        return Layout(self.output, self.template.name, self.cohort.suffix)

    def resolved(self) -> dict[str, Any]:
        """Every value, defaults included, as plain types."""
        return self.model_dump(mode="json", by_alias=True)

    def digest(self, *sections: str) -> str:
        """A short hash of `sections`; a workflow rule that depends on them reruns when it changes."""
        values = {name: self.resolved()[name] for name in ("seed", *sections)}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
