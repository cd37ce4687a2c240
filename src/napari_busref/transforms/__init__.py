"""`Transform` between two images: apply, compose, invert, fit to landmarks, read and write."""
