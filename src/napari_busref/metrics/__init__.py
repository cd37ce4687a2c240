"""Metrics of registration and fusion. Imports neither torch nor napari."""
