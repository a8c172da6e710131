"""What every training shares: loop, checkpoints, data, memory, augmentation."""
