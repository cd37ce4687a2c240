"""The panel "Register and fuse" as one call for scripts. Needs no Qt."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from napari_busref._napari.register.run import make_request, run
from napari_busref._napari.register.settings import PANEL_OPTIONS, Settings

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer

    from napari_busref.runtime.progress import Progress

__all__ = ["register_layers"]

_OPEN_ENDED = ("model", "fusion_model", "device")  # paths and "cuda:1": checked where used


def register_layers(
    viewer: ViewerModel,
    fixed: Image,
    moving: Image,
    *,
    fixed_mask: Labels | None = None,
    moving_mask: Labels | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    **settings: Any,
) -> list[Layer]:
    """Register and fuse two layers as the panel does: stacks, pyramids, lazy arrays, units.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
        Holds both layers. The shown plane of a stack is registered; the layers' positions in the
        world are the initial transform.
    fixed, moving : napari.layers.Image
        The visible and the infrared layer.
    fixed_mask, moving_mask : napari.layers.Labels, optional
        On any grid: pixels that are 0 are not valid.
    progress : Progress, optional
        Called with the stage and the fraction done.
    cancel : threading.Event, optional
        Set it to stop.
    **settings
        By the names of the panel: ``model``, ``search``, ``refine``, ``transform``,
        ``fill_value``, ``fusion_model``, ``task``, ``infrared``, ``detail``, ``device``,
        ``planes`` (``"plane"``, ``"one"`` or ``"each"``), ``warped``, ``mask``, ``fused``,
        ``weights`` (bool), ``displacement`` (``"arrows"``, ``"grid"``, ``"lengths"`` or
        ``"none"``), ``on_cancel`` (``"nothing"`` or ``"best"``). The defaults are those of the
        panel.

    Returns
    -------
    list of napari.layers.Layer
        The chosen results, from bottom to top, in no viewer yet. Each lies exactly on `fixed` and
        holds the transform and its quality in ``metadata["napari-busref"]``. None where nothing
        was found.

    Raises
    ------
    TypeError, ValueError
        Naming the setting or layer, the given value and the accepted ones.
    Cancelled, MemoryError, ArithmeticError
        As `napari_busref.register_and_fuse`.

    Examples
    --------
    >>> viewer = napari.Viewer()  # doctest: +SKIP
    >>> fixed, moving = viewer.open_sample("napari-busref", "thermal")  # doctest: +SKIP
    >>> viewer.layers.extend(register_layers(viewer, fixed, moving))  # doctest: +SKIP
    """
    chosen = Settings(**settings)
    for option in PANEL_OPTIONS:
        if option.choices is None or option.name in _OPEN_ENDED:
            continue
        accepted, given = [value for _, value in option.choices()], getattr(chosen, option.name)
        if given not in accepted:
            raise ValueError(f"{option.name}: got {given!r}, need one of {accepted}")
    request = make_request(viewer, fixed, moving, chosen, fixed_mask, moving_mask)
    return run(request, progress=progress or _silent, cancel=cancel or threading.Event()).layers


def _silent(stage: str, fraction: float) -> None:
    """Ignore progress."""
