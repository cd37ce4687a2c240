"""What one registration runs with: its options, and the context that its stages share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

from napari_busref.geometry import Estimate
from napari_busref.registration.bsplines import Array
from napari_busref.registration.em_fit import BlockLikelihoods
from napari_busref.runtime.progress import Plan
from napari_busref.runtime.stopwatch import Stopwatch

EStep = Callable[[BlockLikelihoods, Estimate, Array, float], tuple[Array, Array]]
"""`BlockLikelihoods.e_step` of an estimate: the likelihoods, the estimate, and its arguments."""


@dataclass(frozen=True)
class MatchOptions:
    """How a pair is matched.

    Attributes
    ----------
    search, refine, transform : str
        The options of `napari_busref.register`.
    initial : bool
        Whether the initial transform is a candidate.
    mirrored : bool
        Whether a wide search compares reflected poses, too.
    learned, edges : bool
        Whether to compare learned features, and edges and pixels. The ablation switches them.
    score_tolerance : float
        Fall of the edge score up to which a pyramid level's fit is accepted.
    e_step : callable, optional
        Replaces `BlockLikelihoods.e_step` when a displacement field is fitted.
        ``benchmarks/truth.py`` puts the true displacements there.
    """

    search: str = "auto"
    refine: str = "dense"
    transform: str = "affine"
    initial: bool = True
    mirrored: bool = False
    learned: bool = True
    edges: bool = True
    score_tolerance: float = 0.01
    e_step: EStep | None = None


def _discard(estimate: Estimate) -> None:
    pass


@dataclass(frozen=True)
class RunContext:
    """What the stages of one registration share.

    Attributes
    ----------
    options : MatchOptions
    plan : Plan
        Receives the progress and raises `Cancelled`.
    watch : Stopwatch
        Times the stages.
    keep : callable
        Receives the first estimate of a refinement and every better one.
    """

    options: MatchOptions = MatchOptions()
    plan: Plan = field(default_factory=Plan)
    watch: Stopwatch = field(default_factory=Stopwatch)
    keep: Callable[[Estimate], None] = _discard

    def without_keeping(self) -> Self:
        """The same context for a second attempt, which may turn out worse than the first."""
        return replace(self, keep=_discard)
