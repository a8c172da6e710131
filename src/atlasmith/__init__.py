"""atlasmith: from a cohort of medical images to a template, registrations and segmentations."""

__version__ = "0.8.0"
