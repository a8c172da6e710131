"""Stage `register`: every image to the template, by the trained network and instance optimization.

An image is registered to the template at its own covariates, and that template to the template at the mean
covariates, the space of the cohort. Both maps are composed, so that one transform leads from a subject to
the template space, whatever the covariates.
"""

from atlasmith.registration.pair import RegistrationResult, register
from atlasmith.registration.stage import register_subjects

__all__ = ["RegistrationResult", "register", "register_subjects"]
