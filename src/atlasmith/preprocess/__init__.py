"""Stage `preprocess`: write each image once in the only form in which later stages read intensities."""

from atlasmith.preprocess.stage import preprocess, preprocess_subject

__all__ = ["preprocess", "preprocess_subject"]
