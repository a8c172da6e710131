"""File names of the networks and models of a run."""

from __future__ import annotations

from pathlib import Path


class ModelFiles:
    """Names of the files that trained networks and fitted models are kept in.

    Attributes:
        output: The folder of all results.
    """

    output: Path

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
    def template_modes(self) -> Path:
        """Principal components of the subjects' velocities, which refinement found."""
        return self.output / "model" / "template_modes.safetensors"

    @property
    def template_mode_table(self) -> Path:
        """Standard deviation and explained variance of the modes of `template_modes`."""
        return self.output / "model" / "template_modes.tsv"

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
        return self.output / "model" / "atlas_quality.tsv"

    @property
    def atlas_qc(self) -> Path:
        """Quality control of the atlases, each compared with the others."""
        return self.output / "model" / "atlas_qc.tsv"
