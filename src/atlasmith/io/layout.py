"""Every file name of an output folder, after BIDS 1.11 derivatives and TemplateFlow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from atlasmith.io.model_files import ModelFiles

SUBPOPULATIONS = "subpopulations.tsv"  # in the folder of the cohort's table
FAILURES = "failures"  # the same


def method_label(method: str) -> str:
    """Make a BIDS label, of letters and digits alone, of a method's name."""
    return method.replace("_", "")


def sidecar_path(path: Path) -> Path:
    """Name the sidecar of an image or table.

    Example:
        >>> sidecar_path(Path("sub-01_T1w.nii.gz")).name
        'sub-01_T1w.json'
    """
    return path.with_name(path.name.removesuffix(".gz")).with_suffix(".json")


@dataclass(frozen=True)
class Layout(ModelFiles):
    """Names of the files of a run.

    Attributes:
        output: The folder of all results.
        template: The template's name.
        channels: Suffixes of the images, such as T1w; the first is that of the reference channel.
        bids: The cohort's BIDS folder, to which sidecars refer.

    A scan's id is that of its subject, such as `01`, or with a session `01_ses-02`.

    Example:
        >>> Layout(Path("results"), "Demo", ("T1w",)).affine_image("01_ses-02").as_posix()
        'results/sub-01/ses-02/anat/sub-01_ses-02_space-Demo_desc-affine_T1w.nii.gz'
    """

    output: Path
    template: str
    channels: tuple[str, ...]
    bids: Path | None = None

    @property
    def suffix(self) -> str:
        """The suffix of the reference channel."""
        return self.channels[0]

    # The cohort
    @property
    def description(self) -> Path:
        """What BIDS requires of a derivative; it names the software."""
        return self.output / "dataset_description.json"

    @property
    def readme(self) -> Path:
        """What the folder holds."""
        return self.output / "README.md"

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
        """Indices, names and colors of the atlases' labels."""
        return self.output / "dseg.tsv"

    @property
    def grid(self) -> Path:
        """The template's grid."""
        return self.output / "grid.json"

    def log(self, stage: str, name: str = "all") -> Path:
        """The log of a job."""
        return self.output / "logs" / stage / f"{name}.log"

    @property
    def failures(self) -> Path:
        """A file for each subject that failed, with the stage and the message."""
        return self.output / FAILURES

    @property
    def snakemake_log(self) -> Path:
        """What Snakemake wrote during each `atlasmith run`."""
        return self.output / "logs" / "snakemake.log"

    @property
    def run_config(self) -> Path:
        """The config as `atlasmith run` gave it to Snakemake."""
        return self.output / "logs" / "run.yaml"

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
        return self.affine_reference_channel(self.suffix)

    def affine_reference_channel(self, channel: str) -> Path:
        """A channel of the groupwise affine reference."""
        return self.of_template("res-1_desc-affine", channel)

    @property
    def template_image(self) -> Path:
        """The template at the cohort's mean covariates: the common space of all subjects."""
        return self.template_channel(self.suffix)

    def template_channel(self, channel: str) -> Path:
        """A channel of the template at the cohort's mean covariates."""
        return self.of_template("res-1", channel)

    def template_at(self, index: int, channel: str | None = None) -> Path:
        """The template at the `index`-th (from 1) covariates of `template_description.json`."""
        folder = self.output / f"tpl-{self.template}" / f"cohort-{index}"
        return folder / f"tpl-{self.template}_cohort-{index}_res-1_{channel or self.suffix}.nii.gz"

    @property
    def template_mask(self) -> Path:
        """Mask of the template's object."""
        return self.of_template("res-1_desc-brain", "mask")

    @property
    def template_labels(self) -> Path:
        """The template's labels, fused from the registered atlases."""
        return self.of_template("res-1_desc-atlases", "dseg")

    @property
    def template_label_table(self) -> Path:
        """Indices, names and colors of the template's labels."""
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

    def query_spread(self, channel: str | None = None) -> Path:
        """Standard deviation of the subjects' intensities about the template."""
        return self.of_template("res-1_desc-spread", channel or self.suffix)

    def query_rate(self, covariate: str) -> Path:
        """Rate of change of local volume with a covariate."""
        label = "".join(character for character in covariate if character.isalnum())
        return self.of_template(f"res-1_desc-{label}rate", "jacobian")

    @property
    def query_volumes(self) -> Path:
        """Volume of each label over each covariate."""
        return self.template_image.with_name("volumes.tsv")

    # The modes of `template modes`
    def modes_image(self, mode: int, deviation: str, channel: str | None = None) -> Path:
        """The template at some standard deviations, from `minus2` to `plus2`, of a mode of variation."""
        return self.of_template(f"res-1_desc-mode{mode}{deviation}", channel or self.suffix)

    @property
    def modes_table(self) -> Path:
        """Standard deviation and explained variance of the modes."""
        return self.template_image.with_name("modes.tsv")

    # New images that a finished run was applied to
    @property
    def predictions(self) -> Path:
        """Volumes and quality of all new images."""
        return self.output / "predictions.tsv"

    # One subject
    def of_subject(self, subject: str, entities: str, suffix: str, extension: str = ".nii.gz") -> Path:
        """A file of a subject.

        Args:
            subject: The scan's id without `sub-`.
            entities: What stands between `sub-X[_ses-Y]` and the suffix, such as `desc-preproc`.
            suffix: Such as T1w or dseg.
            extension: With the leading dot.
        """
        return self.subject_folder(subject) / f"sub-{subject}_{entities}_{suffix}{extension}"

    def subject_folder(self, subject: str) -> Path:
        """The folder of a scan's files: `sub-X/anat` or `sub-X/ses-Y/anat`."""
        return self.output.joinpath(*f"sub-{subject}".split("_"), "anat")

    def preprocessed(self, subject: str, channel: str | None = None) -> Path:
        """The normalized image in native space: what every later stage reads."""
        return self.of_subject(subject, "desc-preproc", channel or self.suffix)

    def preprocessed_sidecar(self, subject: str, channel: str | None = None) -> Path:
        """How the image was preprocessed."""
        return self.of_subject(subject, "desc-preproc", channel or self.suffix, ".json")

    def valid_mask(self, subject: str) -> Path:
        """Where the image may be learned from (1), on its own grid, if the config excludes regions."""
        return self.of_subject(subject, "desc-valid", "mask")

    def affine(self, subject: str) -> Path:
        """Affine transform that resamples the subject's image onto the template's grid."""
        return self.of_subject(
            subject, f"from-{self.suffix}_to-{self.template}_mode-image_desc-affine", "xfm", ".mat"
        )

    def affine_image(self, subject: str, channel: str | None = None) -> Path:
        """Preprocessed image, affinely aligned, on the template's grid."""
        return self.of_subject(subject, f"space-{self.template}_desc-affine", channel or self.suffix)

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

    def warped(self, subject: str, channel: str | None = None) -> Path:
        """Preprocessed image, registered, on the template's grid."""
        return self.of_subject(subject, f"space-{self.template}_desc-warped", channel or self.suffix)

    def log_jacobian(self, subject: str) -> Path:
        """Logarithm of the deformation's Jacobian determinant, on the template's grid."""
        return self.of_subject(subject, f"space-{self.template}_desc-log", "jacobian")

    def registration_table(self, subject: str) -> Path:
        """Folding, log-Jacobian, inverse consistency and displacement of the registration."""
        return self.of_subject(subject, f"space-{self.template}_desc-registration", "metrics", ".tsv")

    def atlas_labels(self, atlas: str) -> Path:
        """An atlas's manual labels, as in the cohort: a run is applied without files outside its folder."""
        return self.of_subject(atlas, "desc-manual", "dseg")

    def propagated_labels(self, subject: str) -> Path:
        """Atlas labels in the subject's space, one atlas per volume of the fourth axis."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-propagated", "dseg")

    def propagated_images(self, subject: str, channel: str | None = None) -> Path:
        """Atlas intensities in the subject's space, as `propagated_labels`."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-propagated", channel or self.suffix)

    def propagated_valid(self, subject: str) -> Path:
        """Where the propagated atlases may be learned from (1), as `propagated_labels`."""
        return self.of_subject(subject, f"space-{self.suffix}_desc-propagated", "mask")

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

    @property
    def report_folder(self) -> Path:
        """The report's pages of the template and of single subjects, and what they share."""
        return self.output / "report"

    @property
    def template_page(self) -> Path:
        """The template in a viewer."""
        return self.report_folder / "template.html"

    def subject_page(self, subject: str) -> Path:
        """A subject in a viewer: its labels, before and after registration, and its volumes."""
        return self.report_folder / f"sub-{subject}.html"

    @property
    def report_volumes(self) -> Path:
        """Volumes of all subjects' labels by the last fusion method."""
        return self.report_folder / "volumes.tsv"
