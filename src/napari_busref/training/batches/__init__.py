"""Batches to train on: pairs, crops, synthetic warps, augmentation."""
