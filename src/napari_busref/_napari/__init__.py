"""The napari plugin: layers, workers, panels, file formats and samples.

No other room of the package imports napari, Qt or magicgui.
"""
