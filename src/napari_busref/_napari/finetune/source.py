"""The part of the panel "Fine-tune" that chooses the training pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox
from napari.layers import Image
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QListWidget, QVBoxLayout, QWidget

from napari_busref._napari.finetune.pairs import layer_pairs
from napari_busref._napari.layers.pair import METADATA_KEY, guess_pair
from napari_busref._napari.widgets.forms import button, form, line, narrow, row, with_browser
from napari_busref._napari.widgets.layer_chooser import layer_chooser
from napari_busref.training.finetuning.pairs import AlignedPair, pairs_in_folders

if TYPE_CHECKING:
    import napari

__all__ = ["TrainingSource"]

_PAGES = ("folders", "layers")


class TrainingSource(QWidget):
    """Two folders of aligned images, or pairs of layers.

    Parameters
    ----------
    napari_viewer : napari.Viewer

    Attributes
    ----------
    source : magicgui.widgets.ComboBox
        ``"folders"`` or ``"layers"``; read and set ``value``.
    fixed_folder, moving_folder : QLineEdit
        Folders of the fixed and of the moving images.
    match : magicgui.widgets.ComboBox
        How files are paired, ``"name"`` or ``"order"``.
    fixed, moving : magicgui.widgets.ComboBox
        The layers of a pair.
    pair_list : QListWidget
    failed : Signal
        Emitted with the exception when two layers are no aligned pair.
    """

    failed = Signal(object)

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._pairs: list[tuple[Image, Image]] = []  # fixed and moving, in the order of the list
        self.source = ComboBox(
            name="source",
            choices=[("files of two folders", "folders"), ("layers of this viewer", "layers")],
            tooltip="Where the aligned pairs are: images of one size that fit pixel by pixel",
        )
        self.fixed_folder, self.moving_folder = (
            line(f"{word} folder", f"Folder of each {{{word}_image}} (TIFF, PNG, JPEG, NPY)")
            for word in ("fixed", "moving")
        )
        self.match = ComboBox(
            name="match",
            choices=[("same name", "name"), ("order of the names", "order")],
            tooltip="Which files form a pair: those with the same name, whatever the extension,\n"
            "or the first of both folders, the second and so on",
        )
        self.fixed, self.moving = (
            layer_chooser(f"{word} layer", tip, self._image_layers)
            for word, tip in (
                ("fixed", "The {fixed} layer. Every plane of a stack is a pair"),
                (
                    "moving",
                    "The {moving} layer, which fits the {fixed} one pixel by pixel,\n"
                    "such as the warped layer of Register and fuse",
                ),
            )
        )
        for chooser in (self.source, self.match):
            narrow(chooser)
        self.add_button = button("A&dd pair", "Add the two layers to the list", self.add_pair)
        self.remove_button = button(
            "&Remove pair", "Remove the selected pairs from the list", self.remove_pair
        )
        self.pair_list = QListWidget()
        self.pair_list.setMaximumHeight(80)
        self.pair_list.setToolTip(
            "The training pairs. While the list is empty, the two layers above are the pair"
        )
        self._pages = (
            form(
                ("{fixed_caption}", with_browser(self.fixed_folder)),
                ("{moving_caption}", with_browser(self.moving_folder)),
                ("Pair by", self.match.native),
            ),
            form(
                ("{fixed_caption}", self.fixed.native),
                ("{moving_caption}", self.moving.native),
                ("", row(self.add_button, self.remove_button)),
                ("", self.pair_list),
            ),
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(form(("P&airs", self.source.native)))
        for page in self._pages:
            layout.addWidget(page)
        self.source.changed.connect(self._show_page)
        self._show_page()

    def pairs(self) -> tuple[list[AlignedPair], str]:
        """Return the chosen pairs, not read yet, and a description of their source.

        Raises
        ------
        ValueError, OSError
            When there is none, or the chosen images are not aligned.
        """
        if self.source.value == "folders":
            fixed, moving = self.fixed_folder.text().strip(), self.moving_folder.text().strip()
            pairs = pairs_in_folders(fixed, moving, self.match.value)
            return pairs, f"{Path(fixed).absolute()} and {Path(moving).absolute()}"
        chosen = self._pairs or [self._chosen()]
        found = [pair for one, two in chosen for pair in layer_pairs(one, two, self._viewer)]
        return found, "layers " + ", ".join(f"{one.name} and {two.name}" for one, two in chosen)

    def add_pair(self) -> bool:
        """Add the two chosen layers to the list of pairs.

        Returns
        -------
        bool
            False when they are not aligned; then `failed` was emitted.
        """
        try:
            pair = self._chosen()
            count = len(layer_pairs(*pair, self._viewer))
        except (ValueError, TypeError) as error:
            self.failed.emit(error)
            return False
        if pair not in self._pairs:
            self._pairs.append(pair)
            more = f"  ({count} planes)" if count > 1 else ""
            self.pair_list.addItem(f"{pair[0].name}  +  {pair[1].name}{more}")
        return True

    def remove_pair(self) -> None:
        """Remove the selected pairs from the list, or the last one."""
        rows = {self.pair_list.row(item) for item in self.pair_list.selectedItems()}
        for number in sorted(rows or {len(self._pairs) - 1}, reverse=True):
            if number >= 0:
                self._drop(number)

    def reset_choices(self) -> None:
        """Offer the layers of the viewer, and drop pairs of removed layers."""
        before = self.moving.value, self.fixed.value
        for chooser in (self.moving, self.fixed):
            chooser.reset_choices()
        offered = self.fixed.choices
        if None in before or before[0] == before[1] or any(one not in offered for one in before):
            before = guess_pair(self._viewer.layers)
        for chooser, layer in zip((self.moving, self.fixed), before, strict=True):
            if layer is not None:
                chooser.value = layer
        for number in reversed(range(len(self._pairs))):
            if any(layer not in self._viewer.layers for layer in self._pairs[number]):
                self._drop(number)

    def tab_order(self) -> list[QWidget]:
        """The controls from first to last."""
        return [
            self.source.native,
            self.fixed_folder,
            self.moving_folder,
            self.match.native,
            self.fixed.native,
            self.moving.native,
            self.add_button,
            self.remove_button,
            self.pair_list,
        ]

    def _chosen(self) -> tuple[Image, Image]:
        if self.fixed.value is None or self.moving.value is None:
            raise ValueError("open two aligned image layers, or choose folders of pairs")
        return self.fixed.value, self.moving.value

    def _drop(self, number: int) -> None:
        self.pair_list.takeItem(number)
        del self._pairs[number]

    def _image_layers(self, _: Any = None) -> list[Image]:
        return [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, Image)
            and not str(layer.metadata.get(METADATA_KEY, {}).get("role")).startswith("preview")
        ]

    def _show_page(self, _: Any = None) -> None:
        for name, page in zip(_PAGES, self._pages, strict=True):
            page.setVisible(name == self.source.value)
