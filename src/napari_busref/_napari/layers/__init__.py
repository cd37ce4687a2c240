"""Layers as images: planes, grids, lazy resampling, undo. Nothing here imports Qt."""
