"""From coefficients to a map and its inverse."""
