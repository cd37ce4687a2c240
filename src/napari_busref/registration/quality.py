"""Assess a registration: score, status, and reasons in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_busref.metrics.edge_agreement import edge_agreement, edge_correlation
from napari_busref.transforms.transform import Transform

__all__ = [
    "GOOD_PX",
    "INITIAL_RETURNED",
    "LOCAL_WEIGHTS",
    "SCORE_BIAS",
    "SCORE_WEIGHTS",
    "UNRELATED_CONFIDENCE",
    "Evidence",
    "Quality",
    "assess",
    "confidence_features",
    "map_probability",
    "mean_support",
    "rejects",
    "unregistered",
    "unverified",
]

# Limits of a plausible transform, relative to the initial one.
_MIN_OVERLAP = 0.1
# Standard deviations above chance. All of 42 aligned training pairs of RoadScene and VIS-NIR lie
# above 4. Rotated and shifted by 24 px, 7 % do; by 48 px, none.
_MIN_EDGE_EXCESS = 4.0
_MAX_ROTATION_DEG = 45.0
_SCALE_RANGE = (0.5, 2.0)
_MAX_SHIFT = 0.5  # of the diagonal
_MAX_INCONSISTENCY = 0.04  # of the shorter side
_MAX_REFINED = 0.1  # of the shorter side
_STRIP = 4  # longer side over shorter side, beyond which a part of the longer one counts instead
_RELIABLE_SCORE = 0.5
_MAX_DOUBTFUL = 0.25  # share of the picture
_MAX_SUPPORT = 6.0  # in nats, of a cell; more says nothing more
_AMPLE_SUPPORT = 3.0  # mean of a picture; unrelated pairs reach 1.9
GOOD_PX = 5.0
"""Error in pixels of the fixed image that the score and the map speak of."""

INITIAL_RETURNED = "; the initial transform is returned"
"""The end of the reason why nothing was found."""

_REJECTION_SCORE = 0.35
"""Score below which an estimate may be rejected: unrelated pairs reach 0.35 in 75."""
UNRELATED_CONFIDENCE = 0.6
"""Upper bound of the block confidence of unrelated pairs: 0.53 in 60 mismatched training pairs."""

SCORE_WEIGHTS = (0.201, -2.428, 1.281)
"""Logistic regression of "mean error below 5 px" on `confidence_features`.

``benchmarks/calibrate_quality.py`` fits it.
"""
SCORE_BIAS = -14.522

LOCAL_WEIGHTS = (-1.427, 0.424, 0.662)
"""Of `Quality.map`: bias, and weights of the score's logit and of the local support.

Fitted to cells whose error is known (``docs/decisions/0038-a-map-of-doubt.md``).
"""

Status = Literal["registered", "not registered", "cancelled"]
_VERDICTS: dict[Status, str] = {
    "registered": "Check the result, it may be wrong",
    "not registered": "Nothing was found",
    "cancelled": "Cancelled: this is the best so far, not checked",
}
_REPR_REASONS = 60  # characters


@dataclass(frozen=True)
class Evidence:
    """What search and refinement measured.

    Attributes
    ----------
    block_confidence : float
        Mean probability that a block lies within 2 px of where the estimate puts it, at a working
        size of 128 px; in [0, 1].
    inverse_consistency_px : float
        Distance between the estimate and an independent backward registration, in fixed pixels.
    refined_px : float
        How far the refinement moved the candidate: mean, in fixed pixels.
    chosen : str
        The candidate that was refined.
    candidates : dict
        The score of each candidate.
    mirror_fits : bool
        Whether the mirrored moving image fits, where nothing else does.
    """

    block_confidence: float
    inverse_consistency_px: float
    refined_px: float = 0.0
    chosen: str = ""
    candidates: dict[str, float] = field(default_factory=dict)
    mirror_fits: bool = False

    def __repr__(self) -> str:
        return (
            f"<Evidence: block confidence {self.block_confidence:.2f}, inverse consistency "
            f"{self.inverse_consistency_px:.1f} px, refined by {self.refined_px:.1f} px, "
            f"{self.chosen or 'none'} chosen of {len(self.candidates)} candidates>"
        )


@dataclass(frozen=True)
class Quality:
    """How far to trust a registration.

    Attributes
    ----------
    score : float
        In [0, 1]: the probability of a mean error below 5 px of the fixed image. Fitted on
        thermal, near-infrared, medical, satellite, map and depth pairs
        (``docs/explanation/methods.md``). It combines the local support, edge agreement
        beyond chance, and inverse consistency.
    reliable : bool
        True when `reasons` is empty.
    reasons : tuple of str
        What speaks against the result, in plain words.
    overlap : float
        Fraction of the fixed image that the moving image covers, in [0, 1].
    min_jacobian : float
        Smallest local change of area by the displacement field within the overlap. 1 without a
        field, 0 or less where it folds.
    edge_agreement : float
        Correlation of the edge directions in the overlap, in [-1, 1], see
        `napari_busref.metrics.edge_agreement.edge_agreement`.
    edge_agreement_before : float
        The same for the initial transform.
    shift_px : float
        How far the centre of the fixed image moved from the initial transform, in fixed pixels.
    rotation_deg : float
        Rotation of the affine from the initial transform, counter-clockwise on the screen.
    scale : float
        Scale of the affine from the initial transform, geometric mean of both axes.
    edge_excess : float
        Standard deviations by which `edge_agreement` exceeds chance. Copies that are shifted by
        large amounts measure chance.
    evidence : Evidence or None
        None where `status` is not ``"registered"``.
    status : str
        ``"registered"``, ``"not registered"`` (the transform is the initial one) or
        ``"cancelled"`` (the transform is the best estimate so far, without checks).
    map : ndarray of float32, shape (rows, cols), or None
        Probability of an error below `map_px` in equal cells of the fixed image, at most about
        20 along each side of a square. NaN where one of the images is empty.
    map_px : float
        In pixels of the fixed image: 5, or more for sides beyond 720 px.
    """

    score: float
    reliable: bool
    reasons: tuple[str, ...]
    overlap: float
    min_jacobian: float
    edge_agreement: float
    edge_agreement_before: float
    shift_px: float
    rotation_deg: float
    scale: float
    edge_excess: float = 0.0
    evidence: Evidence | None = None
    status: Status = "registered"
    map: NDArray[np.float32] | None = field(default=None, compare=False)
    map_px: float = GOOD_PX

    @property
    def doubtful(self) -> float:
        """Share of the cells of `map` whose probability is below 0.5, in [0, 1]."""
        if self.map is None or np.isnan(self.map).all():
            return 0.0
        return float((self.map[~np.isnan(self.map)] < _RELIABLE_SCORE).mean())

    @property
    def verdict(self) -> str:
        """The verdict in one short sentence."""
        return "The registration looks right" if self.reliable else _VERDICTS[self.status]

    @property
    def numbers(self) -> str:
        """Overlap, shift, rotation and scale in one line."""
        return (
            f"overlap {self.overlap:.0%}, shift {self.shift_px:.1f} px, "
            f"rotation {self.rotation_deg:.1f}°, scale {self.scale:.3f}"
        )

    def __repr__(self) -> str:
        said = "; ".join(self.reasons)
        if len(said) > _REPR_REASONS:
            said = said[: _REPR_REASONS - 1] + "…"
        return (
            f"<Quality: {self.verdict}{f' ({said})' if said else ''}; "
            f"score {self.score:.2f}, {self.numbers}>"
        )

    def as_dict(self) -> dict[str, Any]:
        """The attributes as values that JSON can hold."""
        values = asdict(self)
        if self.map is not None:
            values["map"] = [
                [None if np.isnan(one) else round(float(one), 3) for one in row]
                for row in self.map
            ]
        values["reasons"] = list(self.reasons)
        if self.evidence is not None and not np.isfinite(self.evidence.inverse_consistency_px):
            values["evidence"]["inverse_consistency_px"] = None  # JSON has no infinity
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Quality:
        """Build from the values of `as_dict`, also after JSON.

        Raises
        ------
        TypeError
            For values of another version.
        """
        plain: dict[str, Any] = {
            key: np.nan if value is None else value for key, value in values.items()
        }
        plain["reasons"] = tuple(values.get("reasons") or ())
        if values.get("map") is not None:
            plain["map"] = np.array(values["map"], np.float32)  # None becomes NaN
        else:
            plain["map"] = None
        evidence = values.get("evidence")
        if evidence is not None:
            trip = evidence.get("inverse_consistency_px")
            evidence = Evidence(
                **{**evidence, "inverse_consistency_px": np.inf if trip is None else trip}
            )
        return cls(**{**plain, "evidence": evidence})


def assess(
    fixed: NDArray[np.float32],
    warped: NDArray[np.float32],
    mask: NDArray[np.bool_],
    estimate: Transform,
    evidence: Evidence,
    *,
    initial: Transform,
    before: NDArray[np.float32],
    before_mask: NDArray[np.bool_],
    fixed_valid: NDArray[np.bool_] | None = None,
    wide: bool = False,
    mirrored: bool = False,
    working: Transform | None = None,
    support: NDArray[np.float32] | None = None,
    support_px: float = GOOD_PX,
) -> Quality:
    """Assess a registration.

    Parameters
    ----------
    fixed : ndarray of float32, shape (H, W)
        Grey values of the fixed image.
    warped : ndarray of float32, shape (H, W)
        Grey values of the warped moving image.
    mask : ndarray of bool, shape (H, W)
        The reconstructible mask.
    estimate, initial : Transform
        The estimated and the initial transform, from the fixed to the moving image.
    evidence : Evidence
        What search and refinement measured.
    before, before_mask : ndarray, shape (H, W)
        The moving image by the initial transform, and its mask.
    fixed_valid : ndarray of bool, shape (H, W), optional
        Valid pixels of the fixed image.
    wide : bool
        Whether the search covered large rotations, shifts and scales. They are then plausible.
    mirrored : bool
        Whether a mirrored moving image is plausible.
    working : Transform, optional
        The estimate on the grid of these images, where that is coarser than the fixed image.
    support : ndarray of float32, shape (rows, cols), optional
        See `napari_busref.registration.consistency.local_support`.
    support_px : float
        Its tolerance.

    Returns
    -------
    Quality
    """
    valid = np.ones(mask.shape, bool) if fixed_valid is None else fixed_valid
    side = round(max(min(estimate.fixed_shape), max(estimate.fixed_shape) / _STRIP))
    motion = _motion(mask, estimate, initial, wide, mirrored, working)
    reasons = list(motion.reasons)
    if evidence.mirror_fits:
        reasons.append("the moving image fits when mirrored: allow it with mirrored=True")
    after = edge_agreement(fixed, warped, mask & valid)
    earlier = edge_correlation(fixed, before, before_mask & valid)
    if after is None:
        reasons.append("there are too few edges in the overlap to tell whether they agree")
    elif after.excess < _MIN_EDGE_EXCESS:
        reasons.append("the edges of the two images do not agree more than by chance")
    if after is not None and earlier is not None and after.value < earlier - 0.02:
        reasons.append("the edges agree less than they did before registration")
    if evidence.inverse_consistency_px > _MAX_INCONSISTENCY * side:
        distance = evidence.inverse_consistency_px
        reasons.append(
            f"forward and backward registration disagree by {distance:.0f} px"
            if np.isfinite(distance)
            else "no pixel of the moving image maps back to the fixed image"
        )
    if evidence.refined_px > _MAX_REFINED * side:
        reasons.append(f"search and refinement disagree by {evidence.refined_px:.0f} px")
    excess = 0.0 if after is None else after.excess
    score = _score(evidence, excess, side, mean_support(support))
    score *= min(1.0, motion.overlap / _MIN_OVERLAP)
    if score < _RELIABLE_SCORE:
        reasons.append(f"an error below 5 px is unlikely (probability {score:.0%})")
    quality = motion.quality(
        score=score,
        reliable=False,
        reasons=(),
        edge_agreement=0.0 if after is None else after.value,
        edge_agreement_before=0.0 if earlier is None else earlier,
        edge_excess=excess,
        evidence=evidence,
        map=None if support is None else map_probability(score, support),
        map_px=support_px,
    )
    if quality.doubtful > _MAX_DOUBTFUL:
        reasons.append(
            f"{quality.doubtful:.0%} of the picture is doubtful: an error below "
            f"{support_px:.0f} px is unlikely there"
        )
    return replace(quality, reliable=not reasons, reasons=tuple(reasons))


def unverified(
    mask: NDArray[np.bool_],
    estimate: Transform,
    *,
    initial: Transform,
    wide: bool = False,
    mirrored: bool = False,
    working: Transform | None = None,
) -> Quality:
    """The quality of a cancelled registration's best estimate so far.

    The score is 0, since a cancelled registration checks nothing. See `assess` for the parameters.
    """
    motion = _motion(mask, estimate, initial, wide, mirrored, working)
    reason = "it was cancelled, and the best estimate so far was not checked"
    return motion.quality(
        score=0.0,
        reliable=False,
        reasons=(reason, *motion.reasons),
        edge_agreement=0.0,
        edge_agreement_before=0.0,
        status="cancelled",
    )


def unregistered(mask: NDArray[np.bool_], *reasons: str) -> Quality:
    """The quality of the initial transform, where registration failed.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        The reconstructible mask of the initial transform.
    *reasons : str
        Why registration failed.
    """
    overlap = float(mask.mean()) if mask.size else 0.0
    parts = (overlap, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    return Quality(0.0, False, reasons, *parts, status="not registered")


def rejects(quality: Quality) -> bool:
    """Whether to reject an estimate and return the initial transform.

    True when the score is low and the block confidence is within the range of unrelated pairs.
    """
    confidence = 0.0 if quality.evidence is None else quality.evidence.block_confidence
    return quality.score < _REJECTION_SCORE and confidence < UNRELATED_CONFIDENCE


def _score(evidence: Evidence, excess: float, side: int, support: float) -> float:
    features = confidence_features(excess, evidence.inverse_consistency_px, side, support)
    logit = SCORE_BIAS + sum(w * f for w, f in zip(SCORE_WEIGHTS, features, strict=True))
    return float(1 / (1 + np.exp(-logit)))


def map_probability(score: float, support: NDArray[np.float32]) -> NDArray[np.float32]:
    """`Quality.map` from the score and the local support."""
    bias, prior, local = LOCAL_WEIGHTS
    logit = bias + prior * _logit(score) + local * support.clip(-_MAX_SUPPORT, _MAX_SUPPORT)
    return np.asarray(1 / (1 + np.exp(-logit)), np.float32)


def _logit(probability: float) -> float:
    bounded = min(max(probability, 0.005), 0.995)
    return float(np.log(bounded / (1 - bounded)))


def mean_support(support: NDArray[np.float32] | None) -> float:
    """Mean of the local support over the picture, each cell within ±6; 0 where nothing shows."""
    if support is None or np.isnan(support).all():
        return 0.0
    return float(np.nanmean(support.clip(-_MAX_SUPPORT, _MAX_SUPPORT)))


def confidence_features(
    excess: float, inconsistency_px: float, side: int, support: float
) -> tuple[float, float, float]:
    """The features of the score's logistic regression.

    Parameters
    ----------
    excess : float
        `Quality.edge_excess`.
    inconsistency_px : float
        `Evidence.inverse_consistency_px`.
    side : int
        Shorter side of the fixed image, in pixels; of strips, a quarter of the longer one.
    support : float
        See `mean_support`.

    Returns
    -------
    tuple of float
        Square root of the edge excess, logarithm of the inverse consistency, bounded support.
    """
    inconsistency = min(inconsistency_px / side, 1.0)
    return (
        min(max(excess, 0.0), 40.0) ** 0.5,
        float(np.log(inconsistency + 0.002)),
        min(support, _AMPLE_SUPPORT),
    )


@dataclass(frozen=True)
class _Motion:
    """What the transform alone shows, and what in it speaks against the result."""

    reasons: tuple[str, ...]
    overlap: float
    min_jacobian: float
    shift_px: float
    rotation_deg: float
    scale: float

    def quality(self, **assessed: Any) -> Quality:
        return Quality(**{**vars(self), **assessed})


def _motion(
    mask: NDArray[np.bool_],
    estimate: Transform,
    initial: Transform,
    wide: bool,
    mirrored: bool,
    working: Transform | None,
) -> _Motion:
    reasons = []
    overlap = float(mask.mean())
    if overlap < _MIN_OVERLAP:
        reasons.append(f"only {overlap:.0%} of the fixed image is covered by the moving image")
    folding = _relative_jacobian(working or estimate)
    min_jacobian = float(folding[mask].min()) if mask.any() else float(folding.min())
    if min_jacobian <= 0:
        reasons.append("the displacement folds over itself")
    shift, rotation, scale, reflected = _affine_parts(estimate, initial)
    if reflected and not mirrored:
        reasons.append("the moving image is mirrored")
    if not wide:
        if shift > _MAX_SHIFT * float(np.hypot(*estimate.fixed_shape)):
            reasons.append(f"a shift of {shift:.0f} px is implausibly large")
        if abs(rotation) > _MAX_ROTATION_DEG:
            reasons.append(f"a rotation of {rotation:.0f}° is implausibly large")
        if not _SCALE_RANGE[0] <= scale <= _SCALE_RANGE[1]:
            reasons.append(f"a change of size by {scale:.2f} is implausible")
    return _Motion(tuple(reasons), overlap, min_jacobian, shift, rotation, scale)


def _relative_jacobian(estimate: Transform) -> NDArray[np.float32]:
    determinant = np.float32(np.linalg.det(estimate.affine[:2, :2]))
    relative: NDArray[np.float32] = estimate.jacobian_determinant() / determinant
    return relative


def _affine_parts(estimate: Transform, initial: Transform) -> tuple[float, float, float, bool]:
    """From the initial transform: shift of the centre, rotation in degrees, scale, mirroring."""
    back = np.linalg.inv(initial.affine)
    centre = (np.array(estimate.fixed_shape) - 1) / 2
    reached = back[:2, :2] @ estimate.points(centre) + back[:2, 2]
    shift = float(np.hypot(*(reached - centre)))
    linear = back[:2, :2] @ estimate.affine[:2, :2]
    determinant = float(np.linalg.det(linear))
    rotation = np.degrees(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))
    return shift, float(rotation), float(np.sqrt(abs(determinant))), determinant < 0
