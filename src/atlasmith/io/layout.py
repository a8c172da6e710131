"""Every file name of an output folder, after BIDS 1.11 derivatives and TemplateFlow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SUBPOPULATIONS = "subpopulations.tsv"  # in the folder of the cohort's table


def method_label(method: str) -> str:
    """Make a BIDS label, of letters and digits alone, of a method's name."""
    return method.replace("_", "")


@dataclass(frozen=True)
class Layout:
    """Names of the files of a run.

    Attributes:
        output: The folder of all results.
        template: The template's name.
        suffix: Suffix of the images, such as T1w.

    Example:
        >>> Layout(Path("results"), "Demo", "T1w").affine_image("01").name
        'sub-01_space-Demo_desc-affine_T1w.nii.gz'
    """

    output: Path
    template: str
    suffix: str

    # The cohort
    @property
    def description(self) -> Path:
        """What BIDS requires of a derivative; it names the software."""
        return self.output / "dataset_description.json"

    @property
    def bidsignore(self) -> Path:
        """Patterns of the outputs that the BIDS standard doesn't have."""
        return self.output / ".bidsignore"

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.output / "config.yaml"

    @property
    def inputs(self) -> Path:
        """Checksums of the input files."""
        return self.output / "inputs.sha256"

    @property
    def cohort(self) -> Path:
        """The checked cohort."""
        return self.output / "cohort.tsv"

    @property
    def subpopulations(self) -> Path:
        """Subpopulation of each subject, where there are several."""
        return self.output / SUBPOPULATIONS

    @property
    def labels(self) -> Path:
        """Indices and names of the atlases' labels."""
        return self.output / "labels.tsv"

    @property
    def grid(self) -> Path:
        """The template's grid."""
        return self.output / "grid.json"

    def log(self, stage: str, name: str = "all") -> Path:
        """The log of a job."""
        return self.output / "logs" / stage / f"{name}.log"

    @property
    def lock(self) -> Path:
        """Locked by the workflow that writes to the folder."""
        return self.output / ".lock"

    # The template
    def of_template(self, entities: str, suffix: str, extension: str = ".nii.gz") -> Path:
        """A file of the template.

        Args:
            entities: What stands between `tpl-X` and the suffix, such as `res-1_desc-affine`.
            suffix: Such as T1w or dseg.
            extension: With the leading dot.
        """
        return self.output / f"tpl-{self.template}" / f"tpl-{self.template}_{entities}_{suffix}{extension}"

    @property
    def affine_reference(self) -> Path:
        """The groupwise affine reference."""
        return self.of_template("res-1_desc-affine", self.suffix)

    @property
    def template_image(self) -> Path:
        """The template at the cohort's mean covariates: the common space of all subjects."""
        return self.of_template("res-1", self.suffix)

    def template_at(self, index: int) -> Path:
        """The template at the `index`-th (from 1) covariates of `template_description.json`."""
        folder = self.output / f"tpl-{self.template}" / f"cohort-{index}"
        return folder / f"tpl-{self.template}_cohort-{index}_res-1_{self.suffix}.nii.gz"

    @property
    def template_labels(self) -> Path:
        """The template's labels, fused from the registered atlases."""
        return self.of_template("res-1_desc-atlases", "dseg")

    @property
    def template_label_table(self) -> Path:
        """Indices and names of the template's labels."""
        return self.of_template("res-1_desc-atlases", "dseg", ".tsv")

    @property
    def template_probabilities(self) -> Path:
        """Probabilities of the labels of `template_label_table`, in its order, along the fourth axis."""
        return self.of_template("res-1_desc-atlases", "probseg")

    @property
    def template_description(self) -> Path:
        """TemplateFlow's description of the template."""
        return self.output / f"tpl-{self.template}" / "template_description.json"

    # The answer of `template query`
    @property
    def query(self) -> Path:
        """Covariates of the query."""
        return self.template_image.with_name("query.json")

    @property
    def query_spread(self) -> Path:
        """Standard deviation of the subjects' intensities about the template."""
        return self.of_template("res-1_desc-spread", self.suffix)

    def query_rate(self, covariate: str) -> Path:
        """Rate of change of local volume with a covariate."""
        label = "".join(character for character in covariate if character.isalnum())
        return self.of_template(f"res-1_desc-{label}rate", "jacobian")

    @property
    def query_volumes(self) -> Path:
        """Volume of each label over each covariate."""
        return self.template_image.with_name("volumes.tsv")

    # Networks and models
    @property
    def template_weights(self) -> Path:
        """The trained template and registration network."""
        return self.output / "model" / "template.safetensors"

    @property
    def template_training(self) -> Path:
        """Losses of the training, step by step."""
        return self.output / "model" / "template_training.tsv"

    @property
    def template_checkpoint(self) -> Path:
        """Last checkpoint of the training."""
        return self.output / "model" / "template_checkpoint.safetensors"

    @property
    def refinement_checkpoint(self) -> Path:
        """Folder with the template after the last finished round, and the subjects' velocities."""
        return self.output / "model" / "refinement_checkpoint"

    @property
    def template_refinement(self) -> Path:
        """Changes of the template in each round of refinement."""
        return self.output / "model" / "template_refinement.tsv"

    @property
    def segmenter_training(self) -> Path:
        """Losses of the segmentation networks, step by step."""
        return self.output / "model" / "segmenter_training.tsv"

    @property
    def segmenter_checkpoint(self) -> Path:
        """Last checkpoint of the segmentation networks."""
        return self.output / "model" / "segmenter_checkpoint.safetensors"

    def fuser_weights(self, network: str) -> Path:
        """Weights of a fusion method's network, such as votenet or autocontext."""
        return self.output / "model" / f"{network}.safetensors"

    def fuser_training(self, network: str) -> Path:
        """Losses of a fusion method's network, step by step."""
        return self.output / "model" / f"{network}_training.tsv"

    def fuser_checkpoint(self, network: str) -> Path:
        """Last checkpoint of a fusion method's network."""
        return self.output / "model" / f"{network}_checkpoint.safetensors"

    @property
    def quality_model(self) -> Path:
        """Model of a segmentation's quality, calibrated on the atlases."""
        return self.output / "model" / "quality.json"

    @property
    def quality_table(self) -> Path:
        """Quality of the atlases' segmentations, against their manual labels."""
        return self.output / "model" / "quality.tsv"

    @property
    def atlas_qc(self) -> Path:
        """Quality control of the atlases, each compared with the others."""
        return self.output / "model" / "atlas_qc.tsv"

    # One subject
    def of_subject(self, subject: str, entities: str, suffix: str, extension: str = ".nii.gz") -> Path:
        """A file of a subject.

        Args:
            subject: Id without `sub-`.
            entities: What stands between `sub-X` and the suffix, such as `desc-preproc`.
            suffix: Such as T1w or dseg.
            extension: With the leading dot.
        """
        return self.output / f"sub-{subject}" / "anat" / f"sub-{subject}_{entities}_{suffix}{extension}"

    def preprocessed(self, subject: str) -> Path:
        """The normalized image in native space: what every later stage reads."""
        return self.of_subject(subject, "desc-preproc", self.suffix)

    def preprocessed_sidecar(self, subject: str) -> Path:
        """How the image was preprocessed."""
        return self.of_subject(subject, "desc-preproc", self.suffix, ".json")

    def affine(self, subject: str) -> Path:
        """Affine transform that resamples the subject's image onto the template's grid."""
        return self.of_subject(
            subject, f"from-{self.suffix}_to-{self.template}_mode-image_desc-affine", "xfm", ".mat"
        )

    def affine_image(self, subject: str) -> Path:
        """Preprocessed image, affinely aligned, on the template's grid."""
        return self.of_subject(subject, f"space-{self.template}_desc-affine", self.suffix)

    def forward(self, subject: str) -> Path:
        """Transform that resamples the subject's image onto the template's grid."""
        return self.of_subject(subject, f"from-{self.suffix}_to-{self.template}_mode-image", "xfm", ".h5")

    def inverse(self, subject: str) -> Path:
        """Transform that resamples template images onto the subject's grid."""
        return self.of_subject(subject, f"from-{self.template}_to-{self.suffix}_mode-image", "xfm", ".h5")

    def inverse_label_free(self, atlas: str) -> Path:
        """As `inverse`, without the atlas's own labels in the objective, as for a target."""
        entities = f"from-{self.template}_to-{self.suffix}_mode-image_desc-labelfree"
        return self.of_subject(atlas, entities, "xfm", ".h5")

    def warped(self, subject: str) -> Path:
        """Preprocessed image, registered, on the template's grid."""
        return self.of_subject(subject, f"space-{self.template}_desc-warped", self.suffix)

    def log_jacobian(self, subject: str) -> Path:
        """Logarithm of the deformation's Jacobian determinant, on the template's grid."""
        return self.of_subject(subject, f"space-{self.template}_desc-log", "jacobian")

    def registration_table(self, subject: str) -> Path:
        """Folding, log-Jacobian, inverse consistency and displacement of the registration."""
        return self.of_subject(subject, f"space-{self.template}_desc-registration", "metrics", ".tsv")

    def propagated_labels(self, subject: str) -> Path:
        """Atlas labels in the subject's space, one atlas per volume of the fourth axis."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-propagated", "dseg")

    def propagated_images(self, subject: str) -> Path:
        """Atlas intensities in the subject's space, as `propagated_labels`."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-propagated", self.suffix)

    def propagated_sidecar(self, subject: str) -> Path:
        """Ids of the atlases in the order of the fourth axis, and how they were resampled."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-propagated", "dseg", ".json")

    def segmentation(self, subject: str, method: str) -> Path:
        """Labels fused by a method."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-{method_label(method)}", "dseg")

    def confidence(self, subject: str, method: str) -> Path:
        """Probability of the fused label, 0 to 1."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-{method_label(method)}", "confidence")

    def uncertainty(self, subject: str, method: str) -> Path:
        """Uncertainty of the fused label, its parts along the fourth axis."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-{method_label(method)}", "uncertainty")

    def volumes(self, subject: str, method: str) -> Path:
        """Volume of each fused label."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-{method_label(method)}", "volumes", ".tsv")

    def segmentation_sidecar(self, subject: str, method: str) -> Path:
        """Sources of a segmentation, and its predicted quality."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-{method_label(method)}", "dseg", ".json")

    # Scores
    def subject_scores(self, subject: str) -> Path:
        """Scores of one subject."""
        return self.output / "scores" / "subjects" / f"sub-{subject}_scores.tsv"

    @property
    def scores(self) -> Path:
        """Scores of all subjects."""
        return self.output / "scores" / "scores.tsv"

    @property
    def comparisons(self) -> Path:
        """Paired comparisons of fusion methods."""
        return self.output / "scores" / "comparisons.tsv"

    @property
    def summary(self) -> Path:
        """Means over subjects with confidence intervals."""
        return self.output / "scores" / "summary.tsv"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.output / "report.html"
