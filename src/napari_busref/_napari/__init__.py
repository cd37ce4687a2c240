"""Everything that knows napari: layers, workers, widgets, file formats and samples.

Nothing else in the package imports napari, Qt or magicgui, and this package is imported only by
napari itself, through the commands in ``napari.yaml``.
"""
