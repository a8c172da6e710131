"""Stage `register`: every image to the template, by the trained network and instance optimization.

An image is registered to the template at its own covariates; the template there is registered to the template
at the mean covariates, the cohort's common space. Both are composed, so that one transform a subject is_main_process to
one space, whatever its covariates.
"""

from atlasmith.registration.stage import register_subjects

__all__ = ["register_subjects"]
