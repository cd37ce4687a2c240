"""The fused image while sliders move: coarse, without a run of the network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.fusion._fuse import (
    add_change,
    brightness_change,
    filled,
    network_output,
    prepare_infrared,
)
from napari_busref.fusion.borders import fade
from napari_busref.fusion.emphasis import NEUTRAL
from napari_busref.fusion.tasks import model_for
from napari_busref.images.preprocess import as_image, prepare
from napari_busref.models.inference import inference_session
from napari_busref.runtime.progress import Reporter

__all__ = ["PREVIEW_PIXELS", "SliderPreview"]

#: Larger images are previewed at every second, third … pixel.
PREVIEW_PIXELS = 640 * 512


class SliderPreview:
    """Shows what ``infrared`` and ``detail`` of `napari_busref.fuse` do.

    The network runs once, here. `picture` then takes a tenth of a second at 640 x 512.

    Parameters
    ----------
    fixed : ndarray, shape (H, W) or (H, W, 3 or 4)
        The visible image.
    moving : ndarray, shape (H, W) or (H, W, 3 or 4)
        The infrared image on its grid.
    mask : ndarray of bool, shape (H, W)
        Valid pixels of the infrared image.
    model, task, device, feather
        As for `napari_busref.fuse`.

    Attributes
    ----------
    step : int
        The picture has every ``step``-th pixel of a row and of a column.
    """

    def __init__(
        self,
        fixed: NDArray[Any],
        moving: NDArray[Any],
        mask: NDArray[np.bool_],
        *,
        model: Any = None,
        task: str = "infrared-visible",
        device: Any = "auto",
        feather: float = 16.0,
    ) -> None:
        self.step = max(int(np.ceil(np.sqrt(mask.size / PREVIEW_PIXELS))), 1)
        every = slice(None, None, self.step), slice(None, None, self.step)
        found = as_image(fixed[every], "fixed")
        self._image = np.ma.getdata(found)
        self._visible = prepare(found, "fixed", nodata=None)
        thermal = prepare_infrared(as_image(moving[every], "moving"), mask[every])
        self._pair = filled(self._visible, thermal)
        self._mask = self._visible.valid & thermal.valid
        self._feather = feather / self.step
        with inference_session(model_for(task, model), "fusion", device) as run:
            self._fused = network_output(run, *self._pair, None, False, Reporter())

    def picture(self, infrared: float = NEUTRAL, detail: float = NEUTRAL) -> NDArray[Any]:
        """The fused image, (h, w) or (h, w, 3 or 4), in the number type of the fixed image.

        Parameters
        ----------
        infrared, detail : float
            As for `napari_busref.fuse`.
        """
        change = brightness_change(
            self._fused, self._pair, (infrared, detail), self._mask, self._feather
        )
        weight = fade(self._mask, self._feather)
        return add_change(self._image, change, weight, self._visible)
