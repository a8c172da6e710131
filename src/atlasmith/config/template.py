"""Section `template`: the template, its registration network, and their training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from atlasmith.config.section import (
    ChoiceSection,
    Count,
    Label,
    NotNegative,
    Positive,
    Section,
    Terms,
    VoxelSize,
)
from atlasmith.io.tables import SUBPOPULATION

MODES = 10  # of variation that refinement keeps


class NetworkSection(Section):
    """The registration network."""

    name: str = Field("unet_half", description="name of the registration network")
    channels: Annotated[list[Count], Field(min_length=2)] | None = Field(
        None, description="feature channels of each level, finest first; null: the network's own default"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="the network's own settings; none: their defaults"
    )
    cascades: Count = Field(
        1, description="passes through the network; each pass gets the image as warped by those before"
    )


class ParametrizationSection(ChoiceSection):
    """How the coefficients that a network predicts become a deformation."""

    name: str = Field("stationary_velocity", description="name of the parametrization")


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
        0.0, description="weight of the adversarial loss (0.1 in Atlas-GAN), without refinement; 0: none"
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
    spacing: VoxelSize = Field(1.0, description="voxel size of the template, mm")
    training_spacing: VoxelSize | None = Field(
        None,
        description="voxel size, about, at which the network is trained and applied, mm; refinement and "
        "instance optimization are at `spacing`; null: `spacing`",
    )
    shape: list[Count] | None = Field(
        None, description="size of the template's grid, voxels; null: from the images"
    )
    margin: NotNegative | None = Field(
        None, description="margin around the largest object, mm; null: 4 voxels of the image"
    )
    condition_on: list[str] = Field(
        default_factory=list, description="covariates that the template depends on; none: one template"
    )
    subpopulations: Annotated[int, Field(ge=1, le=26)] = Field(
        1, description="number of subpopulations (A, B, ...) found by k-means on the aligned images; 1: none"
    )
    evaluate_at: dict[str, list[float | str]] = Field(
        default_factory=dict,
        description="values of covariates at which template images are written: `{age: [60, 80]}`",
    )
    decoder: str = Field(
        "dense", description="how the template's intensities depend on covariates beyond a linear effect"
    )
    network: NetworkSection = NetworkSection()
    parametrization: ParametrizationSection = ParametrizationSection()
    integration_steps: Annotated[int, Field(ge=1, le=12)] = Field(
        6, description="steps of scaling and squaring that integrate a velocity field"
    )
    steps: Annotated[int, Field(ge=0)] = Field(
        500,
        description="training steps; 0: no network, and refinement builds the template from the affine mean",
    )
    batch_size: Annotated[int, Field(ge=2)] = Field(4, description="images per training step")
    learning_rate: Positive = Field(1e-3, description="learning rate of the registration network")
    template_learning_rate: Positive = Field(1e-3, description="learning rate of the template")
    similarity: Terms = Field(
        {"lncc": {"weight": 1.0, "window": 7}, "mse": {"weight": 1.0}},
        min_length=1,
        description="similarities of warped image and template, each with its `weight` and parameters",
    )
    channel_similarity: dict[Label, Terms] = Field(
        default_factory=dict,
        description="similarities of single channels of `cohort.suffix`, in the place of `similarity`: "
        "`{T2w: {mi: {weight: 1}}}`",
    )
    label_similarity: Terms = Field(
        default_factory=dict,
        description="similarities of the label probabilities that segmentation networks, trained on the "
        "atlases, predict for image and template; none: registration is label-free",
    )
    segmenter: SegmenterSection = SegmenterSection()
    pairwise: Terms = Field(
        default_factory=dict,
        description="similarities of pairs of images, each resampled onto the other through the template",
    )
    regularization: Terms = Field(
        {"diffusion": {"weight": 0.4}, "magnitude": {"weight": 0.001}, "centrality": {"weight": 0.02}},
        description="regularizers of the deformation, each with its `weight` and parameters",
    )
    refinement: RefinementSection = RefinementSection()
    adversary: AdversarySection = AdversarySection()
    augment: bool = Field(
        False, description="augment training images by random affine maps and intensity changes"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="floating-point type of the networks' layers, not of template, velocities and losses; "
        "`auto`: bfloat16 on GPUs, and of the student on CPUs that compute in it",
    )
    channels_last: bool = Field(
        False, description="keep the registration network's channels last in memory during training"
    )
    save_memory: bool = Field(
        False, description="recompute the integration of velocities in the backward pass: slower, less memory"
    )
    checkpoint_every: Count = Field(100, description="steps between checkpoints of the training")

    @property
    def coarse_spacing(self) -> float:
        """The voxel size of training, mm."""
        return self.training_spacing or self.spacing

    @property
    def objective(self) -> dict[str, Any]:
        """The terms of `Config.objective` that don't depend on the channels."""
        return {
            "similarity": self.similarity,
            "regularization": self.regularization,
            "label_similarity": self.label_similarity,
        }

    @property
    def conditions(self) -> list[str]:
        """The covariates of the template, with the subpopulation where there are several."""
        return [*self.condition_on, *([SUBPOPULATION] if self.subpopulations > 1 else [])]
