"""The panel "Apply transform": take any layers along a transform that was found."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox
from napari.layers import Image
from napari.utils.notifications import show_error
from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QVBoxLayout,
    QWidget,
)

from napari_busref._napari.apply_transform.api import apply_transform
from napari_busref._napari.apply_transform.known_transforms import (
    KnownTransform,
    known_transforms,
    put_layers,
)
from napari_busref._napari.apply_transform.placing import place_on
from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.undo import Undo
from napari_busref._napari.widgets.forms import (
    caption,
    label,
    named_button,
    narrow,
    row,
    tab_order,
)
from napari_busref._napari.widgets.undo_button import UNDONE, UndoButton
from napari_busref._napari.widgets.words import error_text
from napari_busref._napari.widgets.worker import Stopper, serve_until, start_job
from napari_busref.transforms.transform import EXTENSION

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

    from napari_busref.runtime.progress import Progress

__all__ = ["ApplyTransform"]

_log = logging.getLogger(__name__)

_NAMES_SHOWN = 6


class ApplyTransform(QWidget):
    """Apply a transform to all selected layers: resample them, move them, or place them.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari.
    parent : QWidget, optional

    Attributes
    ----------
    transform : magicgui.widgets.ComboBox
        Its ``value`` is a layer that carries a transform.
    direction : magicgui.widgets.ComboBox
        ``value`` False: from the infrared to the visible image; True: back.
    moving : magicgui.widgets.ComboBox
        The infrared layer that the transform is for, or None where it is not open.
    idle : Signal
        Emitted when carrying over has come to its end.

    Examples
    --------
    >>> _, panel = viewer.window.add_plugin_dock_widget(
    ...     "napari-busref", "Apply transform"
    ... )  # doctest: +SKIP
    >>> viewer.layers.selection = {labels, points}  # doctest: +SKIP
    >>> panel.carry()  # doctest: +SKIP
    >>> panel.wait()  # doctest: +SKIP
    """

    idle = Signal()

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = napari_viewer
        self._known: list[KnownTransform] = []
        self._filling = False
        self._stopper = Stopper()
        self._make_controls()
        self._lay_out()
        self.destroyed.connect(self._stopper.let_go)
        # a method, which napari holds weakly
        self._viewer.layers.selection.events.changed.connect(self._selection_changed)
        self.reset_choices()

    # -- for scripts ----------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether layers are being carried over."""
        return self._stopper.job is not None

    def carry(self) -> bool:
        """Carry the selected layers over; new layers are added, or those of before replaced.

        Returns
        -------
        bool
            False when it could not be started; a notification says why.
        """
        if self.running:
            show_error("Apply transform: wait for the end of what is going on, or cancel it")
            return False
        try:
            known, layers = self._chosen()
        except ValueError as error:
            self._fail(error)
            return False
        self._stopper.job = start_job(
            _carry,
            layers,
            known,
            self.moving.value,
            self.direction.value,
            connect={
                "yielded": self._on_progress,
                "returned": self._on_carried,
                "errored": self._fail,
                "aborted": self._on_cancelled,
                "finished": self._on_finished,
            },
        )
        self._update()
        return True

    def cancel(self) -> None:
        """Stop; no layer is added."""
        if self._stopper.job is not None:
            self._stopper.job.quit()

    def place(self) -> bool:
        """Set the ``affine`` of the selected layers, so that they lie on the other image.

        Returns
        -------
        bool
            False when that could not be done; a notification says why.
        """
        try:
            known, layers = self._chosen()
            undo = Undo(self._viewer.layers, touched=layers)
            left = place_on(
                layers,
                known.transform,
                known.layer,
                self.moving.value,
                inverse=self.direction.value,
                axes=known.axes,
            )
        except ValueError as error:
            self._fail(error)
            return False
        undo.done(self._viewer.layers)
        self.undo_button.keep(undo)
        text = f"placed {_count(layers)} without resampling"
        if left > 0:
            text += f"; the transform bends, so pixels are off by up to {left:.1f} px"
        self._say(text)
        return True

    def undo(self) -> bool:
        """Take back what `carry` or `place` did last; False when there is nothing."""
        return self.undo_button.restore()

    def wait(self) -> None:
        """Serve the window until all is carried over."""
        if self.running:
            serve_until(self.idle, self.destroyed)

    def open_file(self, path: str) -> bool:
        """Open a transform file, and choose its transform.

        Parameters
        ----------
        path : str
            ``.busref.h5``

        Returns
        -------
        bool
            False when it could not be opened; a notification says why.
        """
        try:
            (layer,) = self._viewer.open(path, plugin="napari-busref")
        except Exception as error:  # of whatever is in the file
            self._fail(error)
            return False
        if layer in self.transform.choices:
            self.transform.value = layer
        return True

    def reset_choices(self, event: Any = None) -> None:
        """Offer what there is now; napari calls this when the layers change."""
        self._filling = True
        try:
            self._known = known_transforms(self._viewer.layers)
            before = self.moving.value
            self.transform.reset_choices()
            self.moving.reset_choices()
            if before is None:
                self._guess_moving()
        finally:
            self._filling = False
        self._update()

    # -- inside ---------------------------------------------------------------------------------

    def _chosen(self) -> tuple[KnownTransform, list[Layer]]:
        known = next((one for one in self._known if one.layer == self.transform.value), None)
        if known is None:
            raise ValueError(
                "there is no transform yet; register two layers, or open a transform file"
            )
        layers = self._selected()
        if not layers:
            raise ValueError("select one or more layers in the layer list")
        return known, layers

    def _selected(self) -> list[Layer]:
        selection = self._viewer.layers.selection
        return [layer for layer in self._viewer.layers if layer in selection]

    def _guess_moving(self) -> None:
        """Choose the layer that has the name and the size of the moving image."""
        known = next((one for one in self._known if one.layer == self.transform.value), None)
        found = None
        for layer in self._images():
            data = layer.data[0] if layer.multiscale else layer.data
            if known is not None and layer.name == known.moving:
                axes = [axis + layer.ndim for axis in known.axes]
                if min(axes) >= 0 and known.transform.moving_shape == tuple(
                    int(data.shape[axis]) for axis in axes
                ):
                    found = layer
        self.moving.value = found

    def _transform_chosen(self, _: Any = None) -> None:
        if not self._filling:
            self._guess_moving()
            self._update()

    def _selection_changed(self, event: Any = None) -> None:
        self._update()

    def _update(self, _: Any = None) -> None:
        """Say what will happen, and which buttons make sense."""
        known = next((one for one in self._known if one.layer == self.transform.value), None)
        layers = self._selected()
        if known is None:
            text = "No layer carries a transform: register two layers, or open a transform file."
        elif not layers:
            text = "Select the layers to carry over in the layer list (Ctrl or Shift for several)."
        else:
            names = [layer.name for layer in layers[:_NAMES_SHOWN]]
            more = len(layers) - len(names)
            text = "Selected: " + ", ".join(names) + (f" and {more} more." if more else ".")
        self.selected.setText(text)
        ready = known is not None and bool(layers)
        self.carry_button.setText("&Cancel" if self.running else "&Apply transform")
        self.carry_button.setEnabled(ready or self.running)
        self.place_button.setEnabled(ready and not self.running)

    def _on_progress(self, report: tuple[str, float]) -> None:
        self._say(f"{report[0]} ({100 * report[1]:.0f} %)")

    def _on_carried(self, layers: list[Layer]) -> None:
        selection = set(self._viewer.layers.selection)
        undo = Undo(self._viewer.layers)
        try:
            put_layers(self._viewer.layers, layers)
        except Exception as error:  # whatever it is, it must not be lost in a slot
            self._fail(error)
            return
        undo.done(self._viewer.layers)
        self.undo_button.keep(undo)
        # napari selects what is added; the same layers are likely to be carried over again
        still = {layer for layer in selection if layer in self._viewer.layers}
        if still:
            self._viewer.layers.selection = still
        self._say(f"carried over {_count(layers)}")

    def _on_cancelled(self) -> None:
        self._say("cancelled; no layer was added")

    def _on_undone(self) -> None:
        self._say(UNDONE)

    def _on_finished(self) -> None:
        self._stopper.job = None
        self._update()
        self.idle.emit()

    def _say(self, text: str) -> None:
        self.stage.setText(text)
        self.stage.setVisible(bool(text))

    def _fail(self, error: Exception) -> None:
        text = error_text(error)
        _log.debug("carry over failed", exc_info=error)
        self._say(text)
        show_error(f"Apply transform: {text}")

    # -- controls -------------------------------------------------------------------------------

    def _images(self, _: Any = None) -> list[Image]:
        return [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, Image) and "role" not in layer.metadata.get(METADATA_KEY, {})
        ]

    def _offered(self, _: Any = None) -> list[tuple[str, Layer]]:
        labels = [one.label for one in self._known]
        return [
            (label if labels.count(label) == 1 else f"{label} ({one.layer.name})", one.layer)
            for label, one in zip(labels, self._known, strict=True)
        ]

    def _carry_clicked(self) -> None:
        if self.running:
            self.cancel()
        else:
            self.carry()

    def _open_clicked(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Open a transform", "", f"Transforms (*{EXTENSION})"
        )
        if path:
            self.open_file(path)

    def _make_controls(self) -> None:
        self.transform = ComboBox(
            name="transform",
            tooltip="A transform that was found or opened, as infrared → visible",
            choices=self._offered,
        )
        self.direction = ComboBox(
            name="direction",
            tooltip="Where the selected layers belong, and where they go",
            choices=[
                ("infrared → visible", False),
                ("visible → infrared (inverse)", True),
            ],
        )
        self.moving = ComboBox(
            name="infrared layer",
            tooltip="The infrared layer that the transform is for. Layers with other pixels than\n"
            "it has are found by where they lie in the viewer; and back goes to where it lies",
            choices=self._images,
            nullable=True,
        )
        for chooser in (self.transform, self.direction, self.moving):
            narrow(chooser)
        self.open_button = named_button(
            "&Open a transform file…", "Open a .busref.h5 and choose its transform"
        )
        self.selected = label("selected")
        self.carry_button = named_button(
            "&Apply transform",
            "Add the selected layers on the other image: images are resampled (labels keep their\n"
            "numbers), points, shapes, vectors and tracks are moved",
        )
        self.place_button = named_button(
            "Place without resa&mpling",
            "Set the affine of the selected layers, so that they lie on the other image as far\n"
            "as shift, rotation, scale and shear go. No pixel changes; no layer is added",
        )
        self.undo_button = UndoButton(
            self._viewer.layers,
            "Put the layers back to where they were before the last 'Apply transform' or 'Place':\n"
            "new layers go, replaced ones come back, placed ones lie where they lay",
        )
        self.undo_button.undone.connect(self._on_undone)
        self.undo_button.failed.connect(self._fail)
        self.stage = label("stage")
        self.stage.hide()
        self.transform.changed.connect(self._transform_chosen)
        self.direction.changed.connect(self._update)
        self.open_button.clicked.connect(self._open_clicked)
        self.carry_button.clicked.connect(self._carry_clicked)
        self.place_button.clicked.connect(self.place)

    def _lay_out(self) -> None:
        grid = QGridLayout()
        for number, (text, chooser) in enumerate(
            (
                ("&Transform", self.transform),
                ("&Direction", self.direction),
                ("&Infrared layer", self.moving),
            )
        ):
            grid.addWidget(caption(text, chooser.native), number, 0)
            grid.addWidget(chooser.native, number, 1)
        grid.addWidget(self.open_button, 3, 1)
        grid.setColumnStretch(1, 1)
        layout = QVBoxLayout(self)
        layout.addLayout(grid)
        layout.addWidget(self.selected)
        layout.addWidget(row(self.carry_button, self.undo_button))
        for widget in (self.place_button, self.stage):
            layout.addWidget(widget)
        layout.addStretch()
        tab_order(
            self.transform.native,
            self.direction.native,
            self.moving.native,
            self.open_button,
            self.carry_button,
            self.undo_button,
            self.place_button,
        )


def _carry(
    layers: list[Layer],
    known: KnownTransform,
    moving: Image | None,
    inverse: bool,
    *,
    progress: Progress,
    cancel: threading.Event,
) -> list[Layer]:
    """Do the work, in the worker thread."""
    return apply_transform(
        layers,
        known.transform,
        known.layer,
        moving,
        inverse=inverse,
        axes=known.axes,
        planes=known.planes,
        progress=progress,
        cancel=cancel,
    )


def _count(layers: list[Layer]) -> str:
    return f"{len(layers)} layer" + ("" if len(layers) == 1 else "s")
