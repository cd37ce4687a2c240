"""Transforms between two images: apply, compose, invert, resample, read and write."""
