"""Alignment scores of two images of different modalities. Free of torch, napari and Qt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.metrics import normalized_mutual_information

from napari_busref.images.preprocess import as_image, as_mask, filled, prepare, specks
from napari_busref.metrics.edge_agreement import edge_agreement
from napari_busref.metrics.registration import normalised_cross_correlation
from napari_busref.transforms.transform import Transform

__all__ = ["ALIGNMENT_METRICS", "AlignmentMetric", "alignment_scores", "end_point_error"]

_BINS = 64
_MIN_OVERLAP = 64  # valid pixels that two images must share
_SAMPLES = 200  # positions along the longer side at which end points are compared


@dataclass(frozen=True)
class AlignmentMetric:
    """Title, direction and meaning of a score.

    Attributes
    ----------
    title : str
        In plain words, with its unit; the acronym in brackets.
    higher_is_better : bool
    meaning : str
        One line, for tooltips, tables and the documentation.
    """

    title: str
    higher_is_better: bool
    meaning: str


#: The scores of `alignment_scores` and `end_point_error`, in the order of a table.
ALIGNMENT_METRICS: dict[str, AlignmentMetric] = {
    "nmi": AlignmentMetric(
        "Shared information (NMI)",
        True,
        "How far one image predicts the other: 1 not at all, 2 wholly.",
    ),
    "ncc": AlignmentMetric(
        "Correlation (NCC)",
        True,
        "Whether both are bright at the same places, -1 to 1; low between two modalities.",
    ),
    "edge_agreement": AlignmentMetric(
        "Edge agreement",
        True,
        "Whether edges run the same way, whatever side is brighter, -1 to 1.",
    ),
    "mncc": AlignmentMetric(
        "Match with the truth (MNCC)",
        True,
        "Correlation with the truth in the reconstructible mask, -1 to 1.",
    ),
    "mmse": AlignmentMetric(
        "Error against the truth (MMSE)",
        False,
        "Mean squared difference from the truth in the reconstructible mask, 0 to 1.",
    ),
    "epe": AlignmentMetric(
        "Distance from the truth, px (EPE)",
        False,
        "Mean distance between the estimated and the true position, in fixed pixels.",
    ),
}


def alignment_scores(
    fixed: ArrayLike,
    warped: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    truth: ArrayLike | None = None,
    truth_mask: ArrayLike | None = None,
) -> dict[str, float]:
    """Score the alignment of a warped image with the fixed one.

    Parameters
    ----------
    fixed, warped : array_like, shape (H, W) or (H, W, 3 or 4)
        On one grid; grey or colour, any real number type.
    mask : array_like of bool, shape (H, W), optional
        Valid pixels of `warped`; by default all except an empty border.
    truth : array_like, shape (H, W) or (H, W, 3 or 4), optional
        The perfectly aligned `warped`, on the same scale of values.
    truth_mask : array_like of bool, shape (H, W), optional
        Reconstructible mask: where `warped` can equal the truth. By default `mask`.

    Returns
    -------
    dict of str to float
        ``nmi`` (Studholme, Hill and Hawkes, Pattern Recognition 1999, in [1, 2], 64 bins),
        ``ncc``, ``edge_agreement``; with `truth` also ``mncc`` and ``mmse``. NaN where an image
        is constant or has no edges. `ALIGNMENT_METRICS` explains each.

    Raises
    ------
    TypeError
        When an image does not hold real numbers.
    ValueError
        When sizes differ, an image is empty, or the two overlap in fewer than 64 pixels.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).random((32, 32))
    >>> scores = alignment_scores(image, image, truth=image)
    >>> round(scores["nmi"], 3), round(scores["mncc"], 3), scores["mmse"]
    (2.0, 1.0, 0.0)
    """
    first = prepare(fixed, "fixed")
    shape = first.grey.shape
    _check(warped, "warped", shape)
    given = None if mask is None else as_mask(mask, "mask", shape)
    second = prepare(warped, "warped", mask=given, find_border=given is None)
    valid = second.valid
    both = first.valid & valid
    if both.sum() < _MIN_OVERLAP:
        raise ValueError(
            f"warped: overlaps {both.sum()} valid pixels of fixed, need {_MIN_OVERLAP}"
        )
    one, other = first.grey[both], second.grey[both]
    varied = np.ptp(one) > 0 and np.ptp(other) > 0
    # edges within 4 px of a lost pixel do not count, so fill the specks
    whole = second if given is None else prepare(warped, "warped")
    first, second = filled(first, specks(first.valid)), filled(second, specks(whole.valid))
    edges = edge_agreement(first.grey, second.grey, first.valid & second.valid)
    scores = {
        "nmi": float(normalized_mutual_information(one, other, bins=_BINS)) if varied else np.nan,
        "ncc": normalised_cross_correlation(one, other) if varied else np.nan,
        "edge_agreement": np.nan if edges is None else edges.value,
    }
    if truth is not None:
        area = valid if truth_mask is None else as_mask(truth_mask, "truth_mask", shape)
        scores |= _against_truth(warped, truth, area)
    return scores


def end_point_error(
    estimate: Transform, truth: Transform, mask: NDArray[np.bool_] | None = None
) -> float:
    """Return the mean end-point error of a transform against its truth.

    At a fixed pixel p it is ``|truth⁻¹(estimate(p)) - p|``, as in the measuring protocol: the
    distance between p and the true position of the content that the estimate puts there.

    Parameters
    ----------
    estimate, truth : Transform
        From the same fixed to the same moving image.
    mask : ndarray of bool, shape (H, W), optional
        Fixed pixels to compare; by default those whose true source is in the moving image. A
        grid of about 200 x 200 of them is used.

    Returns
    -------
    float
        In pixels of the fixed image; NaN for an empty mask.

    Raises
    ------
    ValueError
        When the shapes differ, or the truth folds over itself.
    """
    for name in ("fixed_shape", "moving_shape"):
        if getattr(estimate, name) != getattr(truth, name):
            raise ValueError(
                f"truth: got {name} {getattr(truth, name)}, need {getattr(estimate, name)} as in "
                "the estimate"
            )
    area = truth.mask() if mask is None else as_mask(mask, "mask", truth.fixed_shape)
    step = -(-max(area.shape) // _SAMPLES)
    points = step * np.argwhere(area[::step, ::step])
    if not len(points):
        return float("nan")
    error = truth.points(estimate.points(points), inverse=True) - points
    return float(np.hypot(*error.T).mean())


def _against_truth(
    warped: ArrayLike, truth: ArrayLike, area: NDArray[np.bool_]
) -> dict[str, float]:
    """MNCC and MMSE; invalid pixels of the warped image inside the area count as 0."""
    _check(truth, "truth", area.shape)
    images = as_image(warped, "warped"), as_image(truth, "truth")
    true = prepare(images[1], "truth", nodata=None)
    moved = prepare(images[0], "warped", nodata=None)
    grey = moved.grey
    if images[0].dtype == images[1].dtype and true.scale.high > true.scale.low:
        # one number type, one meaning of values: compare on one scale
        grey = true.scale.grey(np.ma.getdata(images[0]), moved.valid)
    inside = area & true.valid
    if inside.sum() < _MIN_OVERLAP:
        return {"mncc": np.nan, "mmse": np.nan}
    return {
        "mncc": normalised_cross_correlation(grey[inside], true.grey[inside]),
        "mmse": float(np.mean((grey[inside] - true.grey[inside]) ** 2, dtype=np.float64)),
    }


def _check(image: ArrayLike, name: str, shape: tuple[int, ...]) -> None:
    found = np.shape(image)[:2]
    if found != shape:
        raise ValueError(f"{name}: got {found} pixels, need the size of fixed, {shape}")
