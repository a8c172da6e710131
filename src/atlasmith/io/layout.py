"""Every file name of an output folder, after BIDS 1.11 derivatives and TemplateFlow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SUBPOPULATIONS = "subpopulations.tsv"  # beside the cohort's table


def method_label(method: str) -> str:
    """A method's name as a BIDS label, which may hold letters and digits alone."""
    return method.replace("_", "")


@dataclass(frozen=True)
class Layout:
    """Names of files under `output`, for template `template` of images with `suffix` (such as T1w)."""

    output: Path
    template: str
    suffix: str

    # The cohort
    @property
    def config(self) -> Path:
        return self.output / "config.yaml"

    @property
    def inputs(self) -> Path:
        return self.output / "inputs.sha256"

    @property
    def cohort(self) -> Path:
        return self.output / "cohort.tsv"

    @property
    def subpopulations(self) -> Path:
        """Who belongs to which sub-subpopulation, where they are told apart."""
        return self.output / SUBPOPULATIONS

    @property
    def labels(self) -> Path:
        return self.output / "labels.tsv"

    @property
    def grid(self) -> Path:
        return self.output / "grid.json"

    def log(self, stage: str, name: str = "all") -> Path:
        return self.output / "logs" / stage / f"{name}.log"

    @property
    def lock(self) -> Path:
        """Held by the workflow that writes here."""
        return self.output / ".lock"

    # The template
    def of_template(self, entities: str, suffix: str, extension: str = ".nii.gz") -> Path:
        """`entities`: what stands between `tpl-X` and the suffix, such as `cohort-1_res-1`."""
        return self.output / f"tpl-{self.template}" / f"tpl-{self.template}_{entities}_{suffix}{extension}"

    @property
    def affine_reference(self) -> Path:
        return self.of_template("res-1_desc-affine", self.suffix)

    @property
    def template_image(self) -> Path:
        """The template at the cohort's mean covariates: the common space of all subjects."""
        return self.of_template("res-1", self.suffix)

    def template_at(self, index: int) -> Path:
        """The template at the `index`-th (from 1) set of covariates of `template_description.json`."""
        folder = self.output / f"tpl-{self.template}" / f"cohort-{index}"
        return folder / f"tpl-{self.template}_cohort-{index}_res-1_{self.suffix}.nii.gz"

    @property
    def template_labels(self) -> Path:
        """The template's own labels, from the atlases."""
        return self.of_template("res-1_desc-atlases", "dseg")

    @property
    def template_label_table(self) -> Path:
        return self.of_template("res-1_desc-atlases", "dseg", ".tsv")

    @property
    def template_probabilities(self) -> Path:
        """Of the labels of `template_label_table`, in its order, along the fourth axis."""
        return self.of_template("res-1_desc-atlases", "probseg")

    @property
    def template_description(self) -> Path:
        return self.output / f"tpl-{self.template}" / "template_description.json"

    @property
    def template_weights(self) -> Path:
        return self.output / "model" / "template.safetensors"

    @property
    def template_training(self) -> Path:
        return self.output / "model" / "template_training.tsv"

    @property
    def template_checkpoint(self) -> Path:
        return self.output / "model" / "template_checkpoint.safetensors"

    @property
    def refinement_checkpoint(self) -> Path:
        """A folder: the template after its last whole round, and people's velocities."""
        return self.output / "model" / "refinement_checkpoint"

    @property
    def template_refinement(self) -> Path:
        """What each round of refinement changed."""
        return self.output / "model" / "template_refinement.tsv"

    @property
    def segmenter_training(self) -> Path:
        return self.output / "model" / "segmenter_training.tsv"

    @property
    def segmenter_checkpoint(self) -> Path:
        return self.output / "model" / "segmenter_checkpoint.safetensors"

    def fuser_weights(self, network: str) -> Path:
        """Of a network that fusion learns: votenet or evidence."""
        return self.output / "model" / f"{network}.safetensors"

    def fuser_training(self, network: str) -> Path:
        return self.output / "model" / f"{network}_training.tsv"

    def fuser_checkpoint(self, network: str) -> Path:
        return self.output / "model" / f"{network}_checkpoint.safetensors"

    @property
    def quality_model(self) -> Path:
        """What the atlases' segmentations teach about those of others."""
        return self.output / "model" / "quality.json"

    @property
    def quality_table(self) -> Path:
        """The atlases' segmentations against their manual labels."""
        return self.output / "model" / "quality.tsv"

    @property
    def atlas_qc(self) -> Path:
        """The atlases, judged by each other."""
        return self.output / "model" / "atlas_qc.tsv"

    # One subject
    def of_subject(self, subject: str, entities: str, suffix: str, extension: str = ".nii.gz") -> Path:
        return self.output / f"sub-{subject}" / "anat" / f"sub-{subject}_{entities}_{suffix}{extension}"

    def affine(self, subject: str) -> Path:
        return self.of_subject(
            subject, f"from-{self.suffix}_to-{self.template}_mode-image_desc-affine", "xfm", ".mat"
        )

    def affine_image(self, subject: str) -> Path:
        """Affinely aligned, intensity-normalized, on the template's grid."""
        return self.of_subject(subject, f"space-{self.template}_desc-affine", self.suffix)

    def forward(self, subject: str) -> Path:
        """Resamples the subject's image onto the template's grid."""
        return self.of_subject(subject, f"from-{self.suffix}_to-{self.template}_mode-image", "xfm", ".h5")

    def inverse(self, subject: str) -> Path:
        """Resamples template images onto the subject's grid."""
        return self.of_subject(subject, f"from-{self.template}_to-{self.suffix}_mode-image", "xfm", ".h5")

    def inverse_label_free(self, atlas: str) -> Path:
        """As `inverse`, found without the atlas's own labels, as that of a target is."""
        entities = f"from-{self.template}_to-{self.suffix}_mode-image_desc-labelfree"
        return self.of_subject(atlas, entities, "xfm", ".h5")

    def warped(self, subject: str) -> Path:
        return self.of_subject(subject, f"space-{self.template}_desc-warped", self.suffix)

    def log_jacobian(self, subject: str) -> Path:
        return self.of_subject(subject, f"space-{self.template}_desc-log", "jacobian")

    def registration_table(self, subject: str) -> Path:
        """What the registration itself knows: folding, log-Jacobian, inverse consistency, displacement."""
        return self.of_subject(subject, f"space-{self.template}_desc-registration", "metrics", ".tsv")

    def propagated_labels(self, subject: str) -> Path:
        """Atlas labels in the subject's space, one atlas a volume of the fourth axis."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-propagated", "dseg")

    def propagated_images(self, subject: str) -> Path:
        return self.of_subject(subject, f"space-{self.suffix}_desc-propagated", self.suffix)

    def propagated_sidecar(self, subject: str) -> Path:
        """The atlases in the order of the fourth axis, and how they were resampled."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-propagated", "dseg", ".json")

    def segmentation(self, subject: str, method: str) -> Path:
        return self.of_subject(subject, f"space-{self.suffix}_desc-{method_label(method)}", "dseg")

    def confidence(self, subject: str, method: str) -> Path:
        """The share of trust behind the fused label, 0 to 1."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-{method_label(method)}", "confidence")

    def uncertainty(self, subject: str, method: str) -> Path:
        """Of the fused label, its parts along the fourth axis."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-{method_label(method)}", "uncertainty")

    def volumes(self, subject: str, method: str) -> Path:
        return self.of_subject(subject, f"space-{self.suffix}_desc-{method_label(method)}", "volumes", ".tsv")

    def segmentation_sidecar(self, subject: str, method: str) -> Path:
        """How it was made, and what it seems to be worth."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-{method_label(method)}", "dseg", ".json")

    # Scores
    def subject_scores(self, subject: str) -> Path:
        return self.output / "scores" / "subjects" / f"sub-{subject}_scores.tsv"

    @property
    def scores(self) -> Path:
        return self.output / "scores" / "scores.tsv"

    @property
    def comparisons(self) -> Path:
        return self.output / "scores" / "comparisons.tsv"

    @property
    def summary(self) -> Path:
        return self.output / "scores" / "summary.tsv"

    @property
    def report(self) -> Path:
        return self.output / "report.html"
