"""The choosers of "Compare": what is compared with what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QFormLayout

from napari_busref._napari.compare.controls import add_row, chooser
from napari_busref._napari.compare.source import guess_sides, offered
from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

__all__ = ["SideChoosers"]


class SideChoosers(QObject):
    """Choosers of the reference, the layer under test and the truth.

    Parameters
    ----------
    viewer : napari.Viewer

    Attributes
    ----------
    reference, tested, truth : magicgui.widgets.ComboBox
        Read and set ``value``.
    changed : Signal
        Emitted when the user or a script has chosen.
    """

    changed = Signal()

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._choosing = False  # True while this and not the user changes the choosers
        self._user_chose = False
        self.reference = chooser(
            "reference", "The layer that stays as it is: the fixed one", self._images
        )
        self.tested = chooser(
            "under test",
            "The layer to be judged: the warped one, or the moving one where it lies now",
            self._images,
        )
        self.truth = chooser(
            "truth",
            "If you have it: what the layer under test should look like, or a layer that carries\n"
            "the true transform. Only the metrics use it",
            self._truths,
            nullable=True,
        )
        for one in (self.reference, self.tested, self.truth):
            one.changed.connect(self._chosen)

    @property
    def pair(self) -> tuple[Image, Image]:
        """The reference and the layer under test.

        Raises
        ------
        ValueError
            When there are not two images.
        """
        reference, tested = self.reference.value, self.tested.value
        if reference is None or tested is None or len(self.reference.choices) < 2:
            raise ValueError("open two image layers, a reference and one to be judged")
        return reference, tested

    def add_to(self, form: QFormLayout) -> None:
        """Add the choosers, one a row."""
        add_row(form, "&Reference (fixed)", self.reference.native)
        add_row(form, "Under &test", self.tested.native)
        add_row(form, "Tr&uth", self.truth.native)

    def reset_choices(self, keep: bool) -> None:
        """Offer the layers that there are now.

        Parameters
        ----------
        keep : bool
            Whether a pair that was guessed stays, too, as long as both layers are there.
        """
        chosen = self.reference.value, self.tested.value
        self._choosing = True
        try:
            for one in (self.reference, self.tested, self.truth):
                one.reset_choices()
            lost = any(layer not in self.reference.choices for layer in chosen)
            if lost or not (self._user_chose or keep):
                self._guess(*chosen)
        finally:
            self._choosing = False

    def _images(self, _: Any = None) -> list[Image]:
        return offered(self._viewer.layers)

    def _truths(self, _: Any = None) -> list[Layer]:
        images = self._images()
        return [
            layer
            for layer in self._viewer.layers
            if layer in images
            or isinstance(layer.metadata.get(METADATA_KEY, {}).get("transform"), Transform)
        ]

    def _guess(self, reference: Image | None, tested: Image | None) -> None:
        """Fill the choosers by a guess, but keep what the user chose and is still there."""
        offered_now = self.reference.choices
        first, second = guess_sides(self._viewer.layers)
        if self._user_chose and reference in offered_now:
            second = second if second != reference else first
            first = reference
        elif self._user_chose and tested in offered_now:
            first = first if first != tested else second
            second = tested
        for one, layer in ((self.reference, first), (self.tested, second)):
            if layer is not None:
                one.value = layer

    def _chosen(self, _: Any = None) -> None:
        if not self._choosing:
            self._user_chose = True
            self.changed.emit()
