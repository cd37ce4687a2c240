"""Show the sliders of fusion in the fused layer while they move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Layer
from qtpy.QtCore import QObject, QTimer

from napari_busref._napari.register.fuse_again import slider_preview
from napari_busref._napari.register.result_layers import latest_result
from napari_busref._napari.widgets.worker import RunningJobs, start_job

if TYPE_CHECKING:
    from napari_busref.fusion.sliders import SliderPreview

__all__ = ["LiveSliders"]

_REST = 500  # ms without a move until the picture is fused in full


class LiveSliders(QObject):
    """Previews the sliders of a panel on its result, and fuses again when they rest.

    The first move prepares the preview in a worker; further moves take a tenth of a second. Only
    single planes in the style "natural" are previewed.

    Parameters
    ----------
    panel : RegisterAndFuse
        The panel imports this module, so its type is not named here.
    """

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self._panel = panel
        self._jobs = RunningJobs()
        self._preview: tuple[Any, SliderPreview] | None = None  # with the key of `_key`
        self._kept: tuple[Layer, Any] | None = None  # the fused layer and its own data
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(_REST)
        self._rest.timeout.connect(self._fuse)
        panel.destroyed.connect(self._jobs.abandon)

    def move(self, _: Any = None) -> None:
        """Show the present values of the sliders."""
        panel = self._panel
        if not panel.can_fuse_again or panel.settings.style != "natural" or self._layer() is None:
            return
        self._rest.start()
        if self._preview is not None and self._preview[0] == self._key():
            self._show(self._preview[1])
        elif not self._jobs.by_name:
            self._prepare()

    def stop(self) -> None:
        """Fuse nothing when the sliders rest."""
        self._rest.stop()

    def restore(self) -> None:
        """Give the fused layer back what it held before the preview."""
        if self._kept is not None:
            layer, data = self._kept
            self._kept = None
            layer.data = data

    def _key(self) -> Any:
        """What a preview depends on, except the sliders."""
        settings, last = self._panel.settings, self._panel._last
        registration = None if self._panel.result is None else self._panel.result.registration
        return id(last and last.fixed), id(registration), settings.fusion_model, settings.task

    def _layer(self) -> Image | None:
        """The fused layer of the pair, a single plane."""
        last, result = self._panel._last, self._panel.result
        if last is None or result is None or result.fused is None:
            return None
        layers = self._panel._viewer.layers
        layer: Any = latest_result(layers, "fused", last.fixed, last.moving)
        if layer is None or result.mode != "plane":
            return None
        single = layer.data.size == result.fused[...].size
        return layer if single and layer.data.dtype == result.fused.dtype else None

    def _prepare(self) -> None:
        panel, key = self._panel, self._key()
        request = replace(panel._last, settings=panel.settings)

        def ready(preview: SliderPreview) -> None:
            self._preview = key, preview
            if key == self._key() and panel.can_fuse_again:
                self._show(preview)

        slots: dict[str, Callable[..., Any]] = {
            "returned": ready,
            "errored": lambda _: None,  # a run reports the same error
            "finished": lambda: self._jobs.by_name.clear(),
        }
        self._jobs.by_name["preview"] = start_job(
            slider_preview, request, panel.result, connect=slots
        )

    def _show(self, preview: SliderPreview) -> None:
        layer, settings = self._layer(), self._panel.settings
        if layer is None:
            return
        if self._kept is None or self._kept[0] is not layer:
            self._kept = layer, layer.data
        picture = preview.picture(settings.infrared, settings.detail)
        layer.data = _spread(picture, preview.step, self._kept[1].shape)

    def _fuse(self) -> None:
        if self._panel.can_fuse_again and not self._jobs.by_name:
            self._panel.fuse_again()
        elif self._jobs.by_name:
            self._rest.start()


def _spread(picture: Any, step: int, shape: tuple[int, ...]) -> Any:
    """Repeat coarse pixels up to the shape of a layer's data, which may have leading axes."""
    rgb = picture.ndim == 3
    height, width = shape[-3:-1] if rgb else shape[-2:]
    if step > 1:
        picture = np.repeat(np.repeat(picture, step, 0), step, 1)[:height, :width]
    return picture.reshape(shape)
