"""File › IO Utilities › Open pictures upright: this plugin's reader for any image file.

napari would ask for a reader, and scripts would fail, if the plugin claimed JPEG and TIFF.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_busref._napari.files.image_reader import read_images
from napari_busref.images.io import READABLE

if TYPE_CHECKING:
    import napari

__all__ = ["add_pictures", "open_pictures"]


def open_pictures() -> None:
    """Choose image files in a dialog and add them to the current viewer."""
    import napari
    from napari.utils.notifications import show_error
    from qtpy.QtWidgets import QFileDialog

    viewer = napari.current_viewer()
    accepted = " ".join(f"*{suffix}" for suffix in READABLE)
    paths, _ = QFileDialog.getOpenFileNames(
        None, "Open pictures upright", "", f"Images ({accepted})"
    )
    if viewer is None:
        return
    for path in paths:
        try:
            add_pictures(viewer, path)
        except (ValueError, OSError) as error:
            show_error(str(error))


def add_pictures(viewer: napari.Viewer, path: str) -> None:
    """Add the layers of a file: upright, with missing pixels, units and temperatures."""
    for data, options, _ in read_images(path):
        viewer.add_image(data, **options)
