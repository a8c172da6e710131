"""Use a finished run: one new image, or the template at covariates."""
