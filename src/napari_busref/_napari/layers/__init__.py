"""Planes, grids, lazy resampling and undo of layers. Nothing here imports Qt."""
