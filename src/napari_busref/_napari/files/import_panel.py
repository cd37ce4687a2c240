"""The panel "Import transform": a file of ITK, a table or our own, between two layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.types import FileDialogMode
from magicgui.widgets import CheckBox, FileEdit
from napari.utils.notifications import show_error
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFormLayout, QPushButton, QVBoxLayout, QWidget

from napari_busref._napari.files.transform_io import import_transform
from napari_busref._napari.layers.initial_transform import keep_initial_transform
from napari_busref._napari.layers.pair import METADATA_KEY, Plane, shown_plane
from napari_busref._napari.layers.undo import Undo
from napari_busref._napari.widgets.forms import label, row
from napari_busref._napari.widgets.pair_chooser import PairChooser
from napari_busref._napari.widgets.undo_button import UNDONE, UndoButton
from napari_busref._napari.widgets.words import error_text
from napari_busref._napari.widgets.worker import Stopper, serve_until, start_job
from napari_busref.runtime.progress import check
from napari_busref.transforms.formats import ngff
from napari_busref.transforms.formats.files import READABLE

if TYPE_CHECKING:
    import napari
    from napari.layers import Image, Vectors

__all__ = ["ImportTransform"]


class ImportTransform(QWidget):
    """Read a transform between two layers; its arrows are added as a layer that carries it.

    Other panels then offer it, to carry layers over or to save it in another format. Physical
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
        Whether the next registration of these layers starts from it.
    idle : Signal
        Emitted when a file has been read, or not.
    """

    idle = Signal()

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = napari_viewer
        self._request: tuple[Image, Plane, Plane] | None = None
        self._stopper = Stopper()
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
            "The layer that the transform brings to the other one",
            "The layer from whose pixels the transform starts, the reference",
        )
        self.moving, self.fixed = self.pair.moving, self.pair.fixed
        self.start = CheckBox(
            value=False,
            text="Start the next registration from it",
            tooltip="Register and fuse then refines this transform, until a layer is moved",
        )
        self.button = QPushButton("I&mport")
        self.button.setObjectName("import")
        self.button.setToolTip("Read the file and add the arrows of the transform as a layer")
        self.undo_button = UndoButton(
            napari_viewer.layers, "Remove the layer of the last import, and forget it as a start"
        )
        self.undo_button.undone.connect(self._on_undone)
        self.undo_button.failed.connect(self._failed)
        self.status = label("status")
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        form.addRow("Transform &file", self._labelled(self.path, "Transform file"))
        form.addRow(self.pair)
        form.addRow(self._labelled(self.start, "Start the next registration from it"))
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(row(self.button, self.undo_button))
        layout.addWidget(self.status)
        layout.addStretch()
        self.destroyed.connect(self._stopper.let_go)
        self.button.clicked.connect(self.run)
        self.reset_choices()

    @property
    def running(self) -> bool:
        """Whether a file is being read."""
        return self._stopper.job is not None

    def run(self) -> bool:
        """Read the file, as the button does.

        Returns
        -------
        bool
            False when it could not be started; a notification says why.
        """
        if self.running:
            return False
        path = Path(str(self.path.value))
        moving, fixed = self.pair.layers
        try:
            if moving is None or fixed is None:
                raise ValueError("open the two images that the transform is for, and choose them")
            if path.is_dir() and not path.name.lower().endswith(ngff.SUFFIX):
                raise ValueError("choose the transform file")  # an empty entry is a folder
            planes = shown_plane(fixed, self._viewer), shown_plane(moving, self._viewer)
        except ValueError as error:
            self._failed(error)
            return False
        self._request = (moving, *planes)
        self.status.setText(f"reading {path.name} …")
        self.button.setEnabled(False)
        self._stopper.job = start_job(
            _import,
            path,
            *planes,
            connect={
                "returned": self._read,
                "errored": self._failed,
                "finished": self._finished,
            },
        )
        return True

    def wait(self) -> None:
        """Serve the window until the file has been read."""
        if self.running:
            serve_until(self.idle, self.destroyed)

    def reset_choices(self, event: Any = None) -> None:
        """Offer the image layers that there are now; napari calls this when they change."""
        self.pair.reset_choices(keep=True)

    def _read(self, layer: Vectors) -> None:
        if self._request is None:
            return
        moving, fixed_plane, moving_plane = self._request
        transform = layer.metadata[METADATA_KEY]["transform"]
        undo = Undo(self._viewer.layers, touched=[moving])
        self._viewer.add_layer(layer)
        if self.start.value:
            keep_initial_transform(moving, fixed_plane, moving_plane, transform)
        undo.done(self._viewer.layers)
        self.undo_button.keep(undo)
        kind = "an affine" if transform.displacement is None else "a displacement field"
        self.status.setText(
            f"Read {kind} between {moving_plane.name} and {fixed_plane.name}: "
            f"it is in the layer {layer.name}"
        )

    def _on_undone(self) -> None:
        self.status.setText(UNDONE)

    def _failed(self, error: BaseException) -> None:
        message = error_text(error)
        self.status.setText(message)
        show_error(f"Import transform: {message}")

    def _finished(self) -> None:
        self._stopper.job = None
        self._request = None
        self.button.setEnabled(True)
        self.idle.emit()

    def _labelled(self, widget: Any, name: str) -> QWidget:
        native: QWidget = widget.native
        native.setAccessibleName(name)
        native.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        return native


def _import(path: Path, fixed: Plane, moving: Plane, *, progress: Any, cancel: Any) -> Vectors:
    """Read a file, for the worker thread; too short to report on."""
    layer = import_transform(path, fixed, moving)
    check(cancel)  # the window may be gone
    return layer
