"""Files: images, transforms, tables, weights, and all file names. RAS meets ITK's LPS here alone."""
