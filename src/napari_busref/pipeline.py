"""`register_and_fuse`: both steps in one call."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_busref.fusion import FusionResult, fuse
from napari_busref.fusion._fuse import unfused
from napari_busref.fusion.stages import fusion_stages
from napari_busref.fusion.styles import Style
from napari_busref.images.figures import as_picture, new_axes, show_picture
from napari_busref.images.nodata import NoData
from napari_busref.registration import RegistrationResult, register
from napari_busref.registration.result import VIEWS, check_views, plot_result
from napari_busref.registration.stages import registration_stages
from napari_busref.runtime.progress import Cancelled, Progress, Reporter
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["RegistrationAndFusionResult", "register_and_fuse"]


@dataclass(frozen=True, eq=False)
class RegistrationAndFusionResult:
    """Result of `register_and_fuse`.

    Attributes
    ----------
    registration : RegistrationResult
        Warped infrared image, mask, flow, transform and quality.
    fusion : FusionResult or None
        The fused image; the visible one outside the mask. None only with ``on_cancel="best"``,
        when the call was cancelled before the fusion.
    """

    registration: RegistrationResult
    fusion: FusionResult | None

    def __repr__(self) -> str:
        quality = self.registration.quality
        fused = "nothing fused" if self.fusion is None else repr(self.fusion)[1:-1]
        return (
            f"<RegistrationAndFusionResult: {quality.verdict}; score {quality.score:.2f}, "
            f"overlap {quality.overlap:.0%}; {fused}>"
        )

    def _repr_html_(self) -> str:
        fused = "" if self.fusion is None else self.fusion._repr_html_()
        return self.registration._repr_html_() + fused

    def plot(
        self,
        views: str | Sequence[str] = ("before", "after", "edges", "fused"),
        *,
        axes: Any = None,
    ) -> NDArray[np.object_]:
        """Plot the pair before and after the registration, and the fused image.

        Needs ``napari-busref[plot]``.

        Parameters
        ----------
        views : str or sequence of str
            Those of `RegistrationResult.plot`, and ``"fused"``.
        axes : matplotlib.axes.Axes or sequence of them, optional
            One for each view; by default a row of axes in a new figure.

        Returns
        -------
        ndarray of matplotlib.axes.Axes
            ``axes[0].figure`` is the figure. Nothing is shown.

        Raises
        ------
        ModuleNotFoundError
            Without matplotlib.
        ValueError
            For other views, or another number of axes.
        """
        names = check_views(views, (*VIEWS, "fused"))
        if "fused" in names and self.fusion is None:
            raise ValueError("views: got 'fused', but nothing was fused")
        drawn = new_axes(len(names), axes)
        for one, name in zip(drawn, names, strict=True):
            if name == "fused" and self.fusion is not None:
                fused = self.fusion.fused
                show_picture(one, as_picture(fused, name), name, fused.shape[:2])
            else:
                plot_result(self.registration, name, one)
        return np.array(drawn, dtype=object)


def register_and_fuse(
    fixed: ArrayLike,
    moving: ArrayLike,
    *,
    model: str | os.PathLike[str] | nn.Module = "auto",
    fusion_model: str | os.PathLike[str] | nn.Module | None = None,
    task: str = "infrared-visible",
    infrared: float = 0.5,
    detail: float = 0.5,
    style: Style = "natural",
    palette: str = "inferno",
    opacity: float = 0.5,
    above: float | None = None,
    below: float | None = None,
    scale_bar: bool = False,
    unit: str | None = None,
    loss_weights: bool = False,
    search: Literal["auto", "near", "wide", "none"] | None = None,
    mirrored: bool = False,
    refine: Literal["dense", "affine", "none"] | None = None,
    transform: Literal["affine", "homography"] = "affine",
    finest: Literal["full", "half", "quarter", "none"] | None = None,
    device: str | torch.device = "auto",
    initial: Transform | tuple[ArrayLike, ArrayLike] | None = None,
    fixed_mask: ArrayLike | None = None,
    moving_mask: ArrayLike | None = None,
    nodata: NoData = "auto",
    fill_value: float | None = None,
    on_cancel: Literal["raise", "best"] = "raise",
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> RegistrationAndFusionResult:
    """Register an infrared image to a visible one and fuse the two.

    Parameters
    ----------
    fixed : array_like, shape (H, W) or (H, W, 3 or 4)
        The visible image.
    moving : array_like, shape (h, w) or (h, w, 3 or 4)
        The infrared image.
    model : str, path or torch.nn.Module
        For the registration, see `napari_busref.register`.
    fusion_model : str, path or torch.nn.Module, optional
        For the fusion, ``model`` of `napari_busref.fuse`.
    task, infrared, detail, style, palette, opacity, above, below, scale_bar, unit, loss_weights
        For the fusion, see `napari_busref.fuse`.
    search, mirrored, refine, transform, finest, initial, fixed_mask, moving_mask, fill_value
        For the registration, see `napari_busref.register`.
    nodata : float, "auto" or None
        For both steps, see `napari_busref.register`.
    device : str or torch.device
        For both steps.
    on_cancel : str
        ``"raise"`` raises `Cancelled`. ``"best"`` returns the best registration so far, as
        `napari_busref.register` does, without a fusion.
    progress : Progress, optional
        Called with the stage and the fraction of both steps done.
    cancel : threading.Event, optional
        Set it to stop at the next stage.

    Returns
    -------
    RegistrationAndFusionResult
        The pair is fused whatever the quality of the registration: check
        ``registration.quality.reliable``.

    Raises
    ------
    TypeError, ValueError, ArithmeticError, Cancelled, MemoryError
        As `napari_busref.register` and `napari_busref.fuse`.
    """
    reporter = Reporter(progress, cancel)
    durations = [
        sum(stage.seconds for stage in stages)
        for stages in (
            registration_stages(fixed, model, search, refine, device),
            fusion_stages(fixed, fusion_model, task, device),
        )
    ]
    share = durations[0] / sum(durations)
    registration = register(
        fixed,
        moving,
        model=model,
        search=search,
        mirrored=mirrored,
        refine=refine,
        transform=transform,
        finest=finest,
        device=device,
        initial=initial,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        nodata=nodata,
        fill_value=fill_value,
        on_cancel=on_cancel,
        # `register` polls cancel itself and keeps reporting while it returns the best so far
        progress=reporter.part(0.0, share).regardless(),
        cancel=cancel,
    )
    if not registration.mask.any():
        return RegistrationAndFusionResult(registration, unfused(fixed, nodata))
    try:
        fusion = fuse(
            fixed,
            registration.warped,
            model=fusion_model,
            task=task,
            infrared=infrared,
            detail=detail,
            style=style,
            palette=palette,
            opacity=opacity,
            above=above,
            below=below,
            scale_bar=scale_bar,
            unit=unit,
            loss_weights=loss_weights,
            device=device,
            mask=registration.mask,
            nodata=nodata,
            progress=reporter.part(share, 1.0),
            cancel=cancel,
        )
    except Cancelled:
        if on_cancel == "raise":
            raise
        fusion = None
    return RegistrationAndFusionResult(registration, fusion)
