"""The panel "Import transform": read a transform file between two layers."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.types import FileDialogMode
from magicgui.widgets import CheckBox, FileEdit
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QWidget

from napari_busref._napari.files.transform_io import import_transform
from napari_busref._napari.layers.initial_transform import keep_initial_transform
from napari_busref._napari.layers.pair import METADATA_KEY, Plane, shown_plane
from napari_busref._napari.widgets.forms import form, row, scrolled
from napari_busref._napari.widgets.job_panel import RunPanel
from napari_busref._napari.widgets.pair_chooser import PairChooser
from napari_busref.runtime.progress import check
from napari_busref.transforms.formats import ngff
from napari_busref.transforms.formats.files import READABLE

if TYPE_CHECKING:
    import napari
    from napari.layers import Image, Vectors

    from napari_busref.runtime.progress import Progress

__all__ = ["ImportTransform"]


class ImportTransform(RunPanel):
    """Read a transform between two layers; its arrows are added as a layer that carries it.

    Other panels then offer it: to apply it to layers, or to save it in another format. Physical
    coordinates in the file are those of the viewer, so both layers need their pixel sizes.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari.
    parent : QWidget, optional

    Attributes
    ----------
    path : magicgui.widgets.FileEdit
    moving, fixed : magicgui.widgets.ComboBox
        The two layers, never the same.
    start : magicgui.widgets.CheckBox
        Whether the transform becomes the initial transform of these layers.
    idle : Signal
        Emitted at the end of every import.
    """

    TITLE = "Import transform"
    TAB = "Import"
    RUN = "I&mport"
    RUN_TOOLTIP = "Read the file and add the arrows of the transform as a layer"

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(napari_viewer, parent)
        self.path = FileEdit(
            name="transform_file",
            mode=FileDialogMode.EXISTING_FILE,
            filter=f"Transforms ({' '.join('*' + suffix for suffix in READABLE)})",
            tooltip="A transform of ITK (SimpleITK, ANTs, elastix), a displacement field, a\n"
            "table (.csv) of an affine, a .busref.h5, or the path of an .ome.zarr folder",
        )
        self.path.line_edit.tooltip = self.path.tooltip
        self.path.choose_btn.tooltip = "Choose the transform file"
        self.pair = PairChooser(
            napari_viewer,
            "The layer that the transform warps",
            "The reference: the transform maps its pixels to those of the other layer",
        )
        self.moving, self.fixed = self.pair.moving, self.pair.fixed
        self.start = CheckBox(
            value=False,
            text="Start the next registration from it",
            tooltip="Register and fuse then refines this transform, until a layer is moved",
        )
        for chooser, name in ((self.path, "Transform file"), (self.start, self.start.text)):
            chooser.native.setAccessibleName(name)
            chooser.native.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        scrolled(
            self,
            form(
                ("T&ransform file", self.path.native),
                ("", self.pair),
                ("", self.start.native),
            ),
            row(self.button, self.undo_button, self.redo_button),
            self.bar,
            self.stage,
        )
        self._show_state()
        self.reset_choices()

    def reset_choices(self, event: Any = None) -> None:
        """Offer the current image layers; napari calls this when layers change."""
        self.pair.reset_choices(keep=True)

    def _begin(self) -> None:
        path = Path(str(self.path.value))
        moving, fixed = self.pair.layers
        if moving is None or fixed is None:
            raise ValueError("open the two images that the transform is for, and choose them")
        if path.is_dir() and not path.name.lower().endswith(ngff.SUFFIX):
            raise ValueError("choose the transform file")  # an empty entry is a folder
        planes = shown_plane(fixed, self._viewer), shown_plane(moving, self._viewer)
        self._start(_import, path, *planes, returned=partial(self._add_layer, moving, *planes))

    def _add_layer(
        self, moving: Image, fixed_plane: Plane, moving_plane: Plane, layer: Vectors
    ) -> None:
        transform = layer.metadata[METADATA_KEY]["transform"]
        with self._undoable(touched=[moving]):
            self._viewer.add_layer(layer)
            if self.start.value:
                keep_initial_transform(moving, fixed_plane, moving_plane, transform)
        kind = "an affine" if transform.displacement is None else "a displacement field"
        self.stage.say(
            f"Read {kind} between {moving_plane.name} and {fixed_plane.name}: "
            f"it is in the layer {layer.name}"
        )


def _import(
    path: Path, fixed: Plane, moving: Plane, *, progress: Progress, cancel: threading.Event
) -> Vectors:
    """Read a file, in the worker thread."""
    progress(f"reading {path.name}", 0.0)
    layer = import_transform(path, fixed, moving)
    check(cancel)
    return layer
