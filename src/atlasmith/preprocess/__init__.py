"""Stage `preprocess`: the only form in which later stages read intensities."""
