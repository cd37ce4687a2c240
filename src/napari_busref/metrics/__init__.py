"""Metrics of the measuring protocol: registration and fusion. Loads neither torch nor napari."""
