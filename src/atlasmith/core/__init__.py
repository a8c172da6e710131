"""Arrays and tensors: grids, sampling, fields, label maps, intensities. Stateless; imports nothing above."""
