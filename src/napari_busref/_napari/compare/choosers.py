"""The choosers of "Compare": the fixed layer, the moving layer and the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QWidget

from napari_busref._napari.compare.source import comparable_images, guess_layers
from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.trades import current_trade, worded
from napari_busref._napari.widgets.forms import caption_of
from napari_busref._napari.widgets.layer_chooser import layer_chooser
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

__all__ = ["LayerChoosers"]


class LayerChoosers(QObject):
    """Choosers of the layers to compare.

    Parameters
    ----------
    viewer : napari.Viewer

    Attributes
    ----------
    fixed, moving, truth : magicgui.widgets.ComboBox
        Read and set ``value``.
    changed : Signal
        Emitted when the user or a script has chosen.
    """

    changed = Signal()

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._guessing = False  # True while the choosers change without the user
        self._user_chose = False
        self.fixed = layer_chooser(
            "fixed", "The {fixed} layer, with which the other is compared", self._images
        )
        self.moving = layer_chooser(
            "moving",
            "The layer to compare: a warped one, or the {moving} one where it lies now",
            self._images,
        )
        self.truth = layer_chooser(
            "truth",
            "Optional: the image that the moving layer should equal, or a layer that carries\n"
            "the true transform. Only the metrics use it",
            self._truths,
            nullable=True,
        )
        for one in (self.fixed, self.moving, self.truth):
            one.changed.connect(self._on_change)

    @property
    def pair(self) -> tuple[Image, Image]:
        """The fixed and the moving layer.

        Raises
        ------
        ValueError
            When there are not two images.
        """
        fixed, moving = self.fixed.value, self.moving.value
        if fixed is None or moving is None or len(self.fixed.choices) < 2:
            raise ValueError(
                worded("open two image layers, {a_fixed} one and {a_moving} or a warped one")
            )
        return fixed, moving

    def rows(self) -> list[tuple[str, QWidget]]:
        """Captions and choosers, for a form."""
        return [
            ("{fixed_caption}", self.fixed.native),
            ("{moving_caption}", self.moving.native),
            ("Tr&uth (optional)", self.truth.native),
        ]

    def show_rows(self) -> None:
        """Show the choosers that apply in the trade; call it once they are in a form."""
        shown = current_trade().truths or self.truth.value is not None
        for widget in (self.truth.native, caption_of(self.truth.native)):
            widget.setVisible(shown)

    def reset_choices(self, keep: bool) -> None:
        """Offer the layers of the viewer.

        Parameters
        ----------
        keep : bool
            Whether to keep a guessed pair, too, as long as both layers exist.
        """
        chosen = self.fixed.value, self.moving.value
        self._guessing = True
        try:
            for one in (self.fixed, self.moving, self.truth):
                one.reset_choices()
            lost = any(layer not in self.fixed.choices for layer in chosen)
            if lost or not (self._user_chose or keep):
                self._guess(*chosen)
        finally:
            self._guessing = False

    def _images(self, _: Any = None) -> list[Image]:
        return comparable_images(self._viewer.layers)

    def _truths(self, _: Any = None) -> list[Layer]:
        images = self._images()
        return [
            layer
            for layer in self._viewer.layers
            if layer in images
            or isinstance(layer.metadata.get(METADATA_KEY, {}).get("transform"), Transform)
        ]

    def _guess(self, fixed: Image | None, moving: Image | None) -> None:
        """Guess a pair, but keep an existing layer that the user chose."""
        first, second = guess_layers(self._viewer.layers)
        if self._user_chose and fixed in self.fixed.choices:
            second = second if second != fixed else first
            first = fixed
        elif self._user_chose and moving in self.fixed.choices:
            first = first if first != moving else second
            second = moving
        for one, layer in ((self.fixed, first), (self.moving, second)):
            if layer is not None:
                one.value = layer

    def _on_change(self, _: Any = None) -> None:
        if not self._guessing:
            self._user_chose = True
            self.changed.emit()
