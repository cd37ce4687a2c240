"""Did the registration work? Numbers and reasons in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.metrics.edge_agreement import edge_agreement, edge_correlation
from napari_busref.transforms.transform import Transform

__all__ = [
    "UNRELATED_CONFIDENCE",
    "Evidence",
    "Quality",
    "assess",
    "rejects",
    "unregistered",
    "unverified",
]


# Limits of what passes for plausible, relative to the starting position.
_LEAST_OVERLAP = 0.1
# Standard deviations above chance. Of 42 aligned training pairs of RoadScene and VIS-NIR all lie
# above 4; turned and shifted by 24 px 7 % do, by 48 px none.
_LEAST_EXCESS = 4.0
_MOST_ROTATION = 45.0  # degrees
_SCALES = (0.5, 2.0)
_MOST_SHIFT = 0.5  # of the diagonal
_MOST_ROUND_TRIP = 0.04  # of the shorter side
_MOST_REFINED = 0.1  # of the shorter side
_LIKELY = 0.5  # score from which on a registration is called reliable

_REJECTION_SCORE = 0.2
"""Score below which a result may be worth less than its start."""
UNRELATED_CONFIDENCE = 0.6
"""`Evidence.local` of images that share nothing, at most: 0.53 in 60 mismatched training pairs."""

# Logistic regression of "mean error below 5 px" on `confidence_features`: fitted by
# benchmarks/calibrate_quality.py.
_WEIGHTS = (0.713, 0.366, -1.810)
_BIAS = -9.478


@dataclass(frozen=True)
class Evidence:
    """What search and refinement know about a registration.

    Attributes
    ----------
    local : float
        Probability, on average over the overlap, that a block's content lies within 2 px of where
        the registration says, at a working size of 128 px; in [0, 1].
    inverse_consistency_px : float
        How far the way there and an independent way back miss each other, in fixed pixels.
    refined_px : float
        How far the refinement moved what it started from, mean, in fixed pixels.
    chosen : str
        The candidate that was refined.
    candidates : dict
        What each candidate was judged by.
    cancelled : bool
        The registration was cut short, and nothing of the above was measured.
    """

    local: float
    inverse_consistency_px: float
    refined_px: float = 0.0
    chosen: str = ""
    candidates: dict[str, float] = field(default_factory=dict)
    cancelled: bool = False


@dataclass(frozen=True)
class Quality:
    """How far a registration can be trusted.

    Attributes
    ----------
    score : float
        In [0, 1]: the probability that the mean error is below 5 px of the fixed image, as seen
        on synthetic warps of thermal and near-infrared pairs (``docs/explanation/methods.md``). From what
        each block alone says of its place, the edges that agree beyond chance, and how far the
        way back misses the way there.
    reliable : bool
        True when there is nothing in `reasons`.
    reasons : tuple of str
        What speaks against the result, in plain words.
    overlap : float
        Share of the fixed image that the moving image covers, in [0, 1].
    min_jacobian : float
        Smallest local change of area that the displacement makes within the overlap; 1 without
        one, 0 or less where it folds.
    edge_agreement : float
        Agreement of the edges' directions in the overlap, in [-1, 1], see `edge_agreement`.
    edge_agreement_before : float
        The same at the starting position.
    shift_px : float
        How far the centre of the fixed image moved from the starting position, in fixed pixels.
    rotation_deg : float
        Rotation of the affine from the starting position, counter-clockwise on the screen, in
        degrees.
    scale : float
        Change of size of the affine from the starting position (geometric mean of both axes).
    edge_excess : float
        Standard deviations by which `edge_agreement` exceeds that of copies shifted by large
        amounts, which is what chance achieves here.
    evidence : Evidence or None
        What else the score rests on; None where nothing was registered.
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

    def as_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        values = asdict(self)
        values["reasons"] = list(self.reasons)
        if self.evidence is not None and not np.isfinite(self.evidence.inverse_consistency_px):
            values["evidence"]["inverse_consistency_px"] = None  # JSON knows no infinity
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Quality:
        """What `as_dict` gave, also by way of JSON.

        Raises
        ------
        TypeError
            When the values are those of another version.
        """
        plain: dict[str, Any] = {
            key: np.nan if value is None else value for key, value in values.items()
        }
        plain["reasons"] = tuple(values.get("reasons") or ())
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
    start: Transform,
    before: NDArray[np.float32],
    before_mask: NDArray[np.bool_],
    fixed_valid: NDArray[np.bool_] | None = None,
    wide: bool = False,
) -> Quality:
    """Judge a registration.

    Parameters
    ----------
    fixed : ndarray of float32, shape (H, W)
        Grey values of the fixed image.
    warped : ndarray of float32, shape (H, W)
        Grey values of the registered moving image.
    mask : ndarray of bool, shape (H, W)
        The reconstructible area.
    estimate, start : Transform
        What was found and where it started, from the fixed to the moving image.
    evidence : Evidence
        What matching says about it.
    before, before_mask : ndarray, shape (H, W)
        The moving image and its mask at the starting position.
    fixed_valid : ndarray of bool, shape (H, W), optional
        Pixels of the fixed image that hold content.
    wide : bool
        Large rotations, shifts and changes of size were looked for, so they are no reason for
        doubt.

    Returns
    -------
    Quality
    """
    usable = np.ones(mask.shape, bool) if fixed_valid is None else fixed_valid
    side = min(mask.shape)
    motion = _motion(mask, estimate, start, wide)
    reasons = list(motion.reasons)
    after = edge_agreement(fixed, warped, mask & usable)
    earlier = edge_correlation(fixed, before, before_mask & usable)
    if after is None:
        reasons.append("there are too few edges in the overlap to tell whether they agree")
    elif after.excess < _LEAST_EXCESS:
        reasons.append("the edges of the two images do not agree more than by chance")
    if after is not None and earlier is not None and after.value < earlier - 0.02:
        reasons.append("the edges agree less than they did before registration")
    if evidence.inverse_consistency_px > _MOST_ROUND_TRIP * side:
        reasons.append(
            f"the way there and the way back disagree by {evidence.inverse_consistency_px:.0f} px"
            if np.isfinite(evidence.inverse_consistency_px)
            else "there is no way back from the moving to the fixed image"
        )
    if evidence.refined_px > _MOST_REFINED * side:
        reasons.append(f"search and refinement disagree by {evidence.refined_px:.0f} px")
    excess = 0.0 if after is None else after.excess
    score = _probability(evidence, excess, side) * min(1.0, motion.overlap / _LEAST_OVERLAP)
    if score < _LIKELY:
        reasons.append(f"an error below 5 px is unlikely (probability {score:.0%})")
    return motion.quality(
        score=score,
        reliable=not reasons,
        reasons=tuple(reasons),
        edge_agreement=0.0 if after is None else after.value,
        edge_agreement_before=0.0 if earlier is None else earlier,
        edge_excess=excess,
        evidence=evidence,
    )


def unverified(
    mask: NDArray[np.bool_], estimate: Transform, *, start: Transform, wide: bool = False
) -> Quality:
    """The quality of what a cancelled registration had reached: who cancels does not wait for it.

    Parameters as of `assess`. The score is 0, and edges are not compared.
    """
    motion = _motion(mask, estimate, start, wide)
    cut = "it was cancelled before its end, and what it had reached was not checked"
    return motion.quality(
        score=0.0,
        reliable=False,
        reasons=(cut, *motion.reasons),
        edge_agreement=0.0,
        edge_agreement_before=0.0,
        evidence=Evidence(0.0, float("inf"), cancelled=True),
    )


def unregistered(mask: NDArray[np.bool_], *reasons: str) -> Quality:
    """The quality of a result that is only its starting position.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        The reconstructible area.
    *reasons : str
        Why nothing was found.
    """
    overlap = float(mask.mean()) if mask.size else 0.0
    return Quality(0.0, False, reasons, overlap, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def rejects(quality: Quality) -> bool:
    """Whether the start is worth more than what was found.

    It is when the result is unlikely to be right and no more places agree than do in images that
    share nothing.
    """
    local = 0.0 if quality.evidence is None else quality.evidence.local
    return quality.score < _REJECTION_SCORE and local < UNRELATED_CONFIDENCE


def _probability(evidence: Evidence, excess: float, side: int) -> float:
    signs = confidence_features(evidence, excess, side)
    logit = _BIAS + sum(w * s for w, s in zip(_WEIGHTS, signs, strict=True))
    return float(1 / (1 + np.exp(-logit)))


def confidence_features(
    evidence: Evidence, excess: float, side: int
) -> tuple[float, float, float]:
    """What the score is computed from: logit of the local share, root of the excess, log trip.

    Parameters
    ----------
    evidence : Evidence
        Of the registration.
    excess : float
        `Quality.edge_excess`.
    side : int
        Shorter side of the fixed image, in pixels.
    """
    local = min(max(evidence.local, 0.005), 0.995)
    trip = min(evidence.inverse_consistency_px / side, 1.0)
    return (
        float(np.log(local / (1 - local))),
        min(max(excess, 0.0), 40.0) ** 0.5,
        float(np.log(trip + 0.002)),
    )


@dataclass(frozen=True)
class _Motion:
    """What a transform says without the images, and what in it speaks against it."""

    reasons: tuple[str, ...]
    overlap: float
    min_jacobian: float
    shift_px: float
    rotation_deg: float
    scale: float

    def quality(self, **judged: Any) -> Quality:
        return Quality(**{**vars(self), **judged})


def _motion(mask: NDArray[np.bool_], estimate: Transform, start: Transform, wide: bool) -> _Motion:
    reasons = []
    overlap = float(mask.mean())
    if overlap < _LEAST_OVERLAP:
        reasons.append(f"only {overlap:.0%} of the fixed image is covered by the moving image")
    folding = _relative_jacobian(estimate)
    min_jacobian = float(folding[mask].min()) if mask.any() else float(folding.min())
    if min_jacobian <= 0:
        reasons.append("the displacement folds over itself")
    shift, rotation, scale, mirrored = _affine_parts(estimate, start)
    if mirrored:
        reasons.append("the moving image came out mirrored")
    if not wide:
        if shift > _MOST_SHIFT * float(np.hypot(*mask.shape)):
            reasons.append(f"a shift of {shift:.0f} px is implausibly large")
        if abs(rotation) > _MOST_ROTATION:
            reasons.append(f"a rotation of {rotation:.0f}° is implausibly large")
        if not _SCALES[0] <= scale <= _SCALES[1]:
            reasons.append(f"a change of size by {scale:.2f} is implausible")
    return _Motion(tuple(reasons), overlap, min_jacobian, shift, rotation, scale)


def _relative_jacobian(estimate: Transform) -> NDArray[np.float32]:
    determinant = np.float32(np.linalg.det(estimate.affine[:2, :2]))
    relative: NDArray[np.float32] = estimate.jacobian_determinant() / determinant
    return relative


def _affine_parts(estimate: Transform, start: Transform) -> tuple[float, float, float, bool]:
    """From the start: shift of the centre, rotation in degrees, scale, and whether it mirrors."""
    back = np.linalg.inv(start.affine)
    centre = (np.array(estimate.fixed_shape) - 1) / 2
    reached = back[:2, :2] @ estimate.points(centre) + back[:2, 2]
    shift = float(np.hypot(*(reached - centre)))
    linear = back[:2, :2] @ estimate.affine[:2, :2]
    determinant = float(np.linalg.det(linear))
    rotation = np.degrees(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))
    return shift, float(rotation), float(np.sqrt(abs(determinant))), determinant < 0
