"""Training batches: stored pairs, crops, synthetic warps, augmentation."""
