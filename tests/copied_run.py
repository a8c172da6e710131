"""A run that continues after the affine stage of the toy cohort."""

from atlasmith.config import Config
from atlasmith.io.tables import read_cohort


def linked(toy: Config, config: Config) -> Config:
    """Link the outputs of the toy cohort's stages up to `affine` into the output folder of `config`."""
    for subject in read_cohort(toy.layout.cohort):
        for path in (
            toy.layout.preprocessed(subject.id),
            toy.layout.affine(subject.id),
            toy.layout.affine_image(subject.id),
        ):
            link = config.output / path.relative_to(toy.output)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(path)
    for path in (toy.layout.cohort, toy.layout.labels, toy.layout.grid):
        (config.output / path.name).write_bytes(path.read_bytes())
    return config
