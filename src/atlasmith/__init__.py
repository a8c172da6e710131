"""atlasmith: from a cohort of medical images to a template, registrations and segmentations.

The functions below take arrays or images and need neither a config nor a workflow:

- `align(fixed, moving)`: an affine registration of two images.
- `register(fixed, moving)`: a diffeomorphic registration of two images.
- `build_template(images, covariates=...)`: a template of a cohort, perhaps as a function of covariates.
- `propagate(labels, transforms, grid)`: atlas labels in a target's space.
- `fuse(labels, images, target, method=...)`: one segmentation from those of several atlases.
- `evaluate(predicted, truth, spacing_mm)`: overlap and surface metrics of a segmentation.
- `predict(results, image, covariates, out)`: new images through a finished run of the workflow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.19.0"

if TYPE_CHECKING:
    from atlasmith.affine import align
    from atlasmith.evaluation import evaluate
    from atlasmith.fusion import fuse
    from atlasmith.inference import build_template, predict
    from atlasmith.propagation import propagate
    from atlasmith.registration import register

__all__ = ["__version__", "align", "build_template", "evaluate", "fuse", "predict", "propagate", "register"]

# Imported on first use: torch and SimpleITK take seconds to load.
_PLACES = {
    "align": "atlasmith.affine",
    "build_template": "atlasmith.inference",
    "evaluate": "atlasmith.evaluation",
    "fuse": "atlasmith.fusion",
    "predict": "atlasmith.inference",
    "propagate": "atlasmith.propagation",
    "register": "atlasmith.registration",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
