"""The button "Save result…": the questions where to save, and the job that saves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

from napari_busref._napari.layers.map_positions import geotags
from napari_busref._napari.register.save import SaveRequest, kinds_of, save
from napari_busref._napari.widgets.forms import button

__all__ = ["ResultSaver", "ask_to_replace", "ask_where"]


class ResultSaver(QObject):
    """Saves the result of a panel.

    Parameters
    ----------
    panel : RegisterAndFuse
        The panel imports this module, so its type is not named here.

    Attributes
    ----------
    button : QPushButton
    """

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._panel = panel
        self.button = button(
            "Save result…",
            "Write the result to files, in the background: OME-Zarr or TIFF of any size,\n"
            "with the transform. A picture above 4096 x 4096 pixels is fused at full resolution",
            self._ask,
        )

    def begin(self, path: Path, cloud: bool, overwrite: bool) -> None:
        """Start to write; raise ValueError or FileExistsError where that is not possible."""
        request = self._request(path, cloud, overwrite)
        self._panel._start(save, request, returned=self._on_saved)

    def _request(self, path: Path, cloud: bool, overwrite: bool) -> SaveRequest:
        result, last = self._panel.registered()
        return SaveRequest(result, last, path, cloud, overwrite, geotags(self._panel.fixed.value))

    def _ask(self) -> None:
        panel = self._panel
        if panel.result is None:
            return
        chosen = ask_where(panel, _suggested(panel.fixed.value), kinds_of(panel.result))
        if chosen is None:
            return
        overwrite = False
        try:
            self._request(*chosen, overwrite)
        except FileExistsError as error:
            overwrite = ask_to_replace(panel, str(error).removeprefix("path: "))
            if not overwrite:
                return
        except ValueError:
            pass  # `save_result` reports it
        panel.save_result(chosen[0], cloud=chosen[1], overwrite=overwrite)

    def _on_saved(self, paths: list[Path]) -> None:
        seconds = perf_counter() - self._panel._started
        text = f"saved {len(paths)} files in {paths[0].parent} in {seconds:.1f} s"
        self._panel.stage.say(text)


def _suggested(layer: Layer) -> str:
    """A name beside the file of a layer, without an extension."""
    name = layer.name.replace("/", "_").replace("\\", "_")
    return str(Path(layer.source.path).parent / name) if layer.source.path else name


def ask_where(
    parent: QWidget, name: str, kinds: Mapping[str, tuple[str, bool]]
) -> tuple[Path, bool] | None:
    """Ask for the name of the files.

    Parameters
    ----------
    parent : QWidget
    name : str
        Suggested, without an extension.
    kinds : mapping
        From the text of a kind of file to its extension, and whether it is a COG.

    Returns
    -------
    (Path, bool) or None
        The path and whether it is a COG; None where the user cancels. A typed extension of
        another kind counts more than the chosen kind.
    """
    path, chosen = QFileDialog.getSaveFileName(
        parent,
        "Name of the files: _warped, _mask and _fused are added",
        name,
        ";;".join(kinds),
        options=QFileDialog.Option.DontConfirmOverwrite,
    )
    if not path:
        return None
    suffix, cloud = kinds.get(chosen, next(iter(kinds.values())))
    if path.lower().endswith(suffix):
        return Path(path), cloud
    if path.lower().endswith(tuple(suffix for suffix, _ in kinds.values())):
        return Path(path), False
    return Path(path + suffix), cloud


def ask_to_replace(parent: QWidget, text: str) -> bool:
    """Ask whether existing files are replaced."""
    answer = QMessageBox.question(parent, "Replace the files?", f"{text}.\nReplace them?")
    return bool(answer == QMessageBox.StandardButton.Yes)
