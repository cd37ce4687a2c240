"""The panel "Apply transform": apply a transform to layers of any type."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_busref._napari.apply_transform.api import apply_transform
from napari_busref._napari.apply_transform.known_transforms import (
    KnownTransform,
    known_transforms,
    put_layers,
)
from napari_busref._napari.apply_transform.placing import place_on
from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.trades import worded
from napari_busref._napari.widgets.forms import (
    Message,
    button,
    chooser,
    fill_line,
    form,
    row,
    scrolled,
    tab_order,
)
from napari_busref._napari.widgets.job_panel import RunPanel
from napari_busref._napari.widgets.layer_chooser import layer_chooser
from napari_busref.images.dtypes import parse_fill
from napari_busref.runtime.options import OPTIONS
from napari_busref.transforms.transform import EXTENSION

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

    from napari_busref.runtime.progress import Progress

__all__ = ["ApplyTransform"]

_NAMES_SHOWN = 6


class ApplyTransform(RunPanel):
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
        ``value`` False: from the moving to the fixed image; True: back.
    moving : magicgui.widgets.ComboBox
        The moving layer that the transform is for, or None where it is not open.
    fill_value : magicgui.widgets.LineEdit
        ``"automatic"`` or a number, for images outside the other image.
    idle : Signal
        Emitted at the end of every run.

    Examples
    --------
    >>> _, panel = viewer.window.add_plugin_dock_widget(
    ...     "napari-busref", "Apply transform"
    ... )  # doctest: +SKIP
    >>> viewer.layers.selection = {labels, points}  # doctest: +SKIP
    >>> panel.run()  # doctest: +SKIP
    >>> panel.wait()  # doctest: +SKIP
    """

    TITLE = "Apply transform"
    TAB = "Apply"
    RUN = "&Apply transform"
    RUN_TOOLTIP = (
        "Add the selected layers on the other image: images are resampled (labels keep their\n"
        "numbers), points, shapes, vectors and tracks are moved"
    )

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(napari_viewer, parent)
        self._known: list[KnownTransform] = []
        self._filling = False
        self._make_controls()
        self._lay_out()
        # a method, which napari holds weakly
        self._viewer.layers.selection.events.changed.connect(self._selection_changed)
        self.reset_choices()

    # -- for scripts ----------------------------------------------------------------------------

    def place(self) -> bool:
        """Set the ``affine`` of the selected layers, so that they lie on the other image.

        Returns
        -------
        bool
            False when that could not be done; a notification says why.
        """
        try:
            known, layers = self._chosen()
            with self._undoable(touched=layers):
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
        text = f"placed {_count(layers)} without resampling"
        if left > 0:
            text += f"; the transform bends, so pixels are off by up to {left:.1f} px"
        self.stage.say(text)
        return True

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
        except Exception as error:  # a file may hold anything
            self._fail(error)
            return False
        if layer in self.transform.choices:
            self.transform.value = layer
        return True

    def reset_choices(self, event: Any = None) -> None:
        """Offer the current layers and transforms; napari calls this when layers change."""
        self._filling = True
        try:
            self._known = known_transforms(self._viewer.layers)
            before = self.moving.value
            self.transform.reset_choices()
            self.direction.reset_choices()
            self.moving.reset_choices()
            if before is None:
                self._guess_moving()
        finally:
            self._filling = False
        self._show_state()

    # -- inside ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        known, layers = self._chosen()
        choices = self.moving.value, self.direction.value, parse_fill(self.fill_value.value)
        self._start(_apply, layers, known, *choices, returned=self._add_layers)

    def _chosen(self) -> tuple[KnownTransform, list[Layer]]:
        known = self._known_transform()
        if known is None:
            raise ValueError(
                "there is no transform yet; register two layers, or open a transform file"
            )
        layers = self._selected()
        if not layers:
            raise ValueError("select one or more layers in the layer list")
        return known, layers

    def _known_transform(self) -> KnownTransform | None:
        return next((one for one in self._known if one.layer == self.transform.value), None)

    def _selected(self) -> list[Layer]:
        selection = self._viewer.layers.selection
        return [layer for layer in self._viewer.layers if layer in selection]

    def _guess_moving(self) -> None:
        """Choose the layer that has the name and the size of the moving image."""
        known = self._known_transform()
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
            self._other_chosen()

    def _other_chosen(self, _: Any = None) -> None:
        """Say nothing more of what was done to other layers or by another transform."""
        if not self.running:
            self.stage.say("")
        self._show_state()

    def _selection_changed(self, event: Any = None) -> None:
        self._other_chosen()

    def _show_state(self, _: Any = None) -> None:
        super()._show_state()
        known, layers = self._known_transform(), self._selected()
        if known is None:
            text = "No layer carries a transform: register two layers, or open a transform file."
        elif not layers:
            text = "Select one or more layers in the layer list (Ctrl or Shift for several)."
        else:
            names = [layer.name for layer in layers[:_NAMES_SHOWN]]
            more = len(layers) - len(names)
            text = "Selected: " + ", ".join(names) + (f" and {more} more." if more else ".")
        self.selected.say(text)
        if not self.running:
            for one in (self.button, self.place_button):
                one.setEnabled(known is not None and bool(layers))
        else:
            self.place_button.setEnabled(False)

    def _add_layers(self, layers: list[Layer]) -> None:
        selection = set(self._viewer.layers.selection)
        with self._undoable():
            put_layers(self._viewer.layers, layers)
        # napari selects added layers; keep the selection, for the next transform
        still = {layer for layer in selection if layer in self._viewer.layers}
        if still:
            self._viewer.layers.selection = still
        self.stage.say(f"applied to {_count(layers)}")

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

    def _open_clicked(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Open a transform", "", f"Transforms (*{EXTENSION})"
        )
        if path:
            self.open_file(path)

    def _make_controls(self) -> None:
        self.transform = layer_chooser(
            "transform",
            "A transform that was found or opened, as {moving} → {fixed}",
            self._offered,
        )
        self.direction = chooser(
            "direction",
            "From which image the selected layers are taken to which",
            lambda _: [
                (worded("{moving} → {fixed}"), False),
                (worded("{fixed} → {moving} (inverse)"), True),
            ],
        )
        self.moving = layer_chooser(
            "moving layer",
            "The {moving} layer that the transform is for. Layers on another grid are\n"
            "mapped by their position in the viewer; the inverse maps onto this layer",
            self._images,
            nullable=True,
        )
        self.fill_value = fill_line(
            "fill_value",
            "Value of images outside the other image. "
            f"automatic: {OPTIONS['fill_value'].automatic}.\nnan is a number, too. Labels are 0",
        )
        self.open_button = button(
            "Ope&n a transform file…",
            "Open a .busref.h5 and choose its transform",
            self._open_clicked,
        )
        self.selected = Message("selected")
        self.place_button = button(
            "Place without resa&mpling",
            "Set the affine of the selected layers, so that they lie on the other image as far\n"
            "as shift, rotation, scale and shear go. No pixel changes; no layer is added",
            self.place,
        )
        self.transform.changed.connect(self._transform_chosen)
        self.direction.changed.connect(self._other_chosen)

    def _lay_out(self) -> None:
        scrolled(
            self,
            form(
                ("&Transform", self.transform.native),
                ("&Direction", self.direction.native),
                ("{Moving} la&yer", self.moving.native),
                ("Fill valu&e", self.fill_value.native),
                ("", self.open_button),
            ),
            self.selected,
            row(self.button, self.undo_button, self.redo_button),
            self.place_button,
            self.bar,
            self.stage,
        )
        tab_order(
            self.transform.native,
            self.direction.native,
            self.moving.native,
            self.fill_value.native,
            self.open_button,
            self.button,
            self.undo_button,
            self.redo_button,
            self.place_button,
        )


def _apply(
    layers: list[Layer],
    known: KnownTransform,
    moving: Image | None,
    inverse: bool,
    fill_value: float | None,
    *,
    progress: Progress,
    cancel: threading.Event,
) -> list[Layer]:
    """Apply a known transform, in the worker thread."""
    return apply_transform(
        layers,
        known.transform,
        known.layer,
        moving,
        inverse=inverse,
        axes=known.axes,
        planes=known.planes,
        fill_value=fill_value,
        progress=progress,
        cancel=cancel,
    )


def _count(layers: list[Layer]) -> str:
    return f"{len(layers)} layer" + ("" if len(layers) == 1 else "s")
