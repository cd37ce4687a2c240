"""Choosers of the moving and the fixed layer, which always differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QSizePolicy, QWidget

from napari_busref._napari.layers.map_positions import MapPlace, map_place
from napari_busref._napari.layers.orientation import stored_orientation, turn_upright
from napari_busref._napari.layers.pair import guess_pair
from napari_busref._napari.widgets.forms import button, caption
from napari_busref._napari.widgets.layer_chooser import layer_chooser

if TYPE_CHECKING:
    import napari

__all__ = ["MOVING_TIP", "PairChooser"]

#: Tooltip of the moving layer.
MOVING_TIP = "The {moving_image}: it is resampled. Any modality, stain, channel or sensor will do"


class PairChooser(QWidget):
    """Two choosers of image layers, and a button that swaps them.

    They guess which layer is which. Choosing the other's layer swaps the two. A single image is
    the fixed one. A further button turns layers whose files say that they are stored sideways,
    and another one says where both lie on the map and moves the moving layer there.

    Parameters
    ----------
    viewer : napari.Viewer
    moving_tip, fixed_tip : str
        Tooltips.

    Attributes
    ----------
    moving, fixed : magicgui.widgets.ComboBox
        The moving and the fixed layer; read and set ``value``.
    swap, upright, on_map : QPushButton
    changed : Signal
        Emitted when the user or a script chooses.
    """

    changed = Signal()

    def __init__(self, viewer: napari.Viewer, moving_tip: str, fixed_tip: str) -> None:
        super().__init__()
        self._viewer = viewer
        self._choosing = False  # True while this object, not the user, sets the choosers
        self._user_chose = False
        self._pair: tuple[Image | None, Image | None] = (None, None)
        self.moving = layer_chooser("moving layer", moving_tip, self._moving_choices)
        self.fixed = layer_chooser("fixed layer", fixed_tip, self.images)
        self.swap = button(
            "⇅", "Swap the {moving} and the {fixed} layer", self._swap_clicked, name="swap"
        )
        self.swap.setAccessibleName("Swap")
        self.swap.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Expanding)
        self.swap.setFixedWidth(28)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        self.upright = button("", "", self._turn_clicked, name="upright")
        self.upright.hide()
        self.on_map = button("", "Place by the map", self._map_clicked, name="on_map")
        self.on_map.hide()
        self._tags: dict[str, int] = {}
        self._place: MapPlace | None = None
        for line, (text, chooser) in enumerate(
            (("{moving_caption}", self.moving), ("{fixed_caption}", self.fixed))
        ):
            chooser.native.setMinimumContentsLength(5)  # a panel of 300 px holds them
            grid.addWidget(caption(text, chooser.native), line, 0)
            grid.addWidget(chooser.native, line, 1)
            chooser.changed.connect(self._layer_chosen)
        grid.addWidget(self.swap, 0, 2, 2, 1)
        grid.addWidget(self.upright, 2, 0, 1, 3)
        grid.addWidget(self.on_map, 3, 0, 1, 3)
        grid.setColumnStretch(1, 1)

    @property
    def layers(self) -> tuple[Image | None, Image | None]:
        """The chosen moving and fixed layer."""
        return self._pair

    def tab_order(self) -> list[QWidget]:
        """The controls from first to last."""
        return [self.moving.native, self.fixed.native, self.swap, self.upright, self.on_map]

    def images(self, _: Any = None) -> list[Image]:
        """The image layers of the viewer."""
        return [layer for layer in self._viewer.layers if isinstance(layer, Image)]

    def reset_choices(self, keep: bool = False) -> None:
        """Offer the current image layers.

        Parameters
        ----------
        keep : bool
            Whether to keep a guessed pair, too, as long as both layers exist.
        """
        before = self._pair
        self._choosing = True
        try:
            self.moving.reset_choices()
            self.fixed.reset_choices()
            offered = self.moving.choices
            kept = (keep or self._user_chose) and all(layer in offered for layer in before)
            moving, fixed = before if kept else self._guess(*before)
            for chooser, layer in ((self.moving, moving), (self.fixed, fixed)):
                if layer is not None:
                    chooser.value = layer
        finally:
            self._choosing = False
        self._pair = (self.moving.value, self.fixed.value)
        self.swap.setEnabled(None not in self._pair)
        self._show_files()

    def _moving_choices(self, _: Any = None) -> list[Image]:
        images = self.images()
        return images if len(images) > 1 else []

    def _guess(
        self, moving: Image | None, fixed: Image | None
    ) -> tuple[Image | None, Image | None]:
        """Guess both layers, but keep a layer that the user chose and that still exists."""
        offered = self.moving.choices
        guessed_moving, guessed_fixed = guess_pair(self._viewer.layers)
        if self._user_chose and fixed in offered:
            return (guessed_moving if guessed_moving != fixed else guessed_fixed), fixed
        if self._user_chose and moving in offered:
            return moving, (guessed_fixed if guessed_fixed != moving else guessed_moving)
        return guessed_moving, guessed_fixed

    def _layer_chosen(self, _: Any = None) -> None:
        if self._choosing:
            return
        self._user_chose = True
        if self.moving.value == self.fixed.value:  # not `is`: plugins get layers as proxies
            self._exchange()
        self._pair = (self.moving.value, self.fixed.value)
        self._show_files()
        self.changed.emit()

    def _sideways(self) -> list[Image]:
        """The chosen layers that are stored sideways; each file is opened once."""
        chosen = [layer for layer in self._pair if layer is not None]
        for layer in chosen:
            if layer.unique_id not in self._tags:
                self._tags[layer.unique_id] = stored_orientation(layer)
        return [layer for layer in chosen if self._tags[layer.unique_id] > 1]

    def _show_files(self) -> None:
        """Offer what the files of the two layers say, and napari leaves out."""
        self._show_map()
        names = " and ".join(layer.name for layer in self._sideways())
        self.upright.setVisible(bool(names))
        self.upright.setText("Stored sideways: turn upright")
        self.upright.setToolTip(
            f"The file of {names} says that it is stored sideways, and napari shows it so.\n"
            "Turn the layer before you register it"
        )

    def _show_map(self) -> None:
        moving, fixed = self._pair
        self._place = None
        if moving is not None and fixed is not None and moving != fixed:
            self._place = map_place(self._viewer, fixed, moving)
        self.on_map.setVisible(self._place is not None)
        if self._place is not None and moving is not None and fixed is not None:
            self.on_map.setText(f"Place by the map ({self._place.crs})")
            self.on_map.setToolTip(
                f"{self._place.words}.\n"
                f"Move {moving.name} to where it lies on {fixed.name}, to start there"
            )

    def _map_clicked(self) -> None:
        if self._place is not None:
            self._place.move()
            self._show_files()
            self.changed.emit()

    def _turn_clicked(self) -> None:
        for layer in self._sideways():
            turn_upright(layer)
            self._tags[layer.unique_id] = 1
        self._show_files()
        self.changed.emit()

    def _swap_clicked(self) -> None:
        if None not in self._pair:
            self._user_chose = True
            self._exchange()
            self._pair = (self.moving.value, self.fixed.value)
            self._show_files()
            self.changed.emit()

    def _exchange(self) -> None:
        self._choosing = True
        try:
            self.fixed.value, self.moving.value = self._pair
        finally:
            self._choosing = False
