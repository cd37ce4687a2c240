"""Scores of a fused image against its two sources.

All functions take real grey images ``(H, W)`` on the scale 0..255. They never stretch values, and
round them only where a histogram needs whole grey levels.

Do not use any score alone. Edge intensity, spatial frequency, standard deviation and entropy rise
with noise and over-sharpening. Copying one source wins VIF, mutual information, FMI_w and Q_AB/F;
averaging wins SSIM and correlation. ``docs/reference/metrics.md`` has the definitions, the ranges
and the pitfalls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from numpy.typing import ArrayLike

from napari_busref.metrics.fusion._images import images
from napari_busref.metrics.fusion.edges import nabf, qabf
from napari_busref.metrics.fusion.features import fmi_w
from napari_busref.metrics.fusion.information import cross_entropy, entropy, mutual_information
from napari_busref.metrics.fusion.perception import MIN_SIDE, q_cv, vif
from napari_busref.metrics.fusion.sharpness import (
    edge_intensity,
    spatial_frequency,
    standard_deviation,
)
from napari_busref.metrics.fusion.similarity import correlation, scd, ssim

__all__ = [
    "HIGHER_IS_BETTER",
    "METRICS",
    "MIN_SIDE",
    "Metric",
    "correlation",
    "cross_entropy",
    "edge_intensity",
    "entropy",
    "fmi_w",
    "fusion_scores",
    "mutual_information",
    "nabf",
    "q_cv",
    "qabf",
    "scd",
    "spatial_frequency",
    "ssim",
    "standard_deviation",
    "vif",
]


@dataclass(frozen=True)
class Metric:
    """Symbol, direction and summary of a score of `fusion_scores`.

    Attributes
    ----------
    symbol : str
        Its symbol in the literature.
    higher_is_better : bool
        Its direction.
    summary : str
        Summary of several images: ``"mean"`` or ``"median"``.
    """

    symbol: str
    higher_is_better: bool = True
    summary: Literal["mean", "median"] = "mean"


#: Every score of `fusion_scores`: first those to compare together, with N_AB/F as a ceiling.
METRICS: dict[str, Metric] = {
    "qabf": Metric("Q_AB/F"),
    "vif": Metric("VIF"),
    "scd": Metric("SCD"),
    "ssim": Metric("SSIM"),
    "q_cv": Metric("Q_cv", higher_is_better=False, summary="median"),
    "nabf": Metric("N_AB/F", higher_is_better=False),
    "edge_intensity": Metric("EI"),
    "spatial_frequency": Metric("SF"),
    "cross_entropy": Metric("CE", higher_is_better=False),
    "fmi_w": Metric("FMI_w"),
    "entropy": Metric("EN"),
    "standard_deviation": Metric("SD"),
    "mutual_information": Metric("MI"),
    "correlation": Metric("CC"),
}

#: Direction of every score in `fusion_scores`.
HIGHER_IS_BETTER: dict[str, bool] = {
    name: metric.higher_is_better for name, metric in METRICS.items()
}


_OF_FUSED: dict[str, Callable[[ArrayLike], float]] = {
    "edge_intensity": edge_intensity,
    "spatial_frequency": spatial_frequency,
    "entropy": entropy,
    "standard_deviation": standard_deviation,
}
_OF_ALL: dict[str, Callable[[ArrayLike, ArrayLike, ArrayLike], float]] = {
    "qabf": qabf,
    "vif": vif,
    "scd": scd,
    "ssim": ssim,
    "q_cv": q_cv,
    "nabf": nabf,
    "cross_entropy": cross_entropy,
    "fmi_w": fmi_w,
    "mutual_information": mutual_information,
    "correlation": correlation,
}


def fusion_scores(
    fused: ArrayLike,
    visible: ArrayLike,
    infrared: ArrayLike,
    names: Iterable[str] = tuple(METRICS),
) -> dict[str, float]:
    """Return the fusion scores of this module.

    Parameters
    ----------
    fused, visible, infrared : array_like
        Grey images ``(H, W)`` on the scale 0..255, sides of at least `MIN_SIDE` pixels.
    names : iterable of str
        Keys of `METRICS`; by default all.

    Returns
    -------
    dict
        One value for each name.

    Raises
    ------
    ValueError
        If an image is not grey, not finite or too small, the sizes differ, or a name is unknown.
    """
    image, first, second = images(fused=fused, visible=visible, infrared=infrared)
    names = list(names)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"names: got {unknown}, need some of {', '.join(METRICS)}")
    return {
        name: _OF_FUSED[name](image) if name in _OF_FUSED else _OF_ALL[name](image, first, second)
        for name in names
    }
