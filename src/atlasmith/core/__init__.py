"""Grids, sampling, velocity fields, label maps and intensities, as functions of arrays."""
