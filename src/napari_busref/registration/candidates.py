"""From candidates to the best one, refined: what `register` runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from torch import Tensor, nn

from napari_busref.geometry import Estimate, compose, mean_distance
from napari_busref.registration.consistency import block_confidence
from napari_busref.registration.features import FixedFeatures, edge_directions, valid_cells
from napari_busref.registration.pyramid import (
    MaskedImage,
    overlap_magnification,
    resample,
    working_size,
)
from napari_busref.registration.quality import UNRELATED_CONFIDENCE
from napari_busref.registration.refine import PyramidLevel, pyramid_schedule, refine_levels
from napari_busref.registration.search import RANGES, search
from napari_busref.runtime.progress import Reporter
from napari_busref.runtime.stopwatch import Stopwatch

_POLISH = (PyramidLevel("affine", 128),)
_JUDGED_AT = 256
_BLUR = 2.0  # px at that size
_REACH = 0.05  # share of the side by which a candidate may be off to be found by a look, safely
_PROPOSED = 12  # places that a search proposes
_LIKELIEST = 3  # of these a near search looks at first; the first is mostly right
# Agreement of edges of a candidate that is clearly right: a near search looks at no other, and its
# refinement begins at once where coarse looks would end.
_CLEAR = 0.2


@dataclass(frozen=True)
class Options:
    """What is run.

    Attributes
    ----------
    search, refine, transform : str
        As of `napari_busref.register`.
    start : bool
        Whether the start is a candidate too.
    learned, edges : bool
        What search and refinement compare; switches of the ablation.
    """

    search: str = "near"
    refine: str = "dense"
    transform: str = "affine"
    start: bool = True
    learned: bool = True
    edges: bool = True


@dataclass
class Match:
    """What came out.

    Attributes
    ----------
    estimate : Estimate
        Fixed -> moving.
    chosen : str
        Name of the candidate that it grew from.
    rough : Estimate
        That candidate before its refinement.
    local : float
        Of the estimate, see `napari_busref.registration.consistency.block_confidence`.
    scores : dict
        What each candidate was judged by: the agreement of its edges, in [-1, 1], after a near
        search that has found one whose edges are clearly right; else `block_confidence`, since the
        edges of small overlaps, and of pictures with few strong ones, agree by chance. Some were
        not looked at closely: of those that are nearly alike all but one, and all after one that
        was clearly right. Empty when there was only one candidate.
    """

    estimate: Estimate
    chosen: str
    coarse: Estimate
    local: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)


def find(
    proposal_networks: Mapping[str, nn.Module],
    reference: FixedFeatures,
    moving: MaskedImage,
    start: Estimate,
    options: Options,
    reporter: Reporter,
    watch: Stopwatch,
    keep: Callable[[Estimate], None] = lambda estimate: None,
) -> Match:
    """Collect candidates, judge them, refine the best.

    Parameters
    ----------
    one_shot : mapping
        Registration models by name: ``(fixed, moving, valid, reporter=...) -> Estimate``. Of their
        answers only the affine is refined; a model that has a quicker way to it offers that as
        ``coarse``, called alike.
    reference : Reference
        The fixed image, with the networks that search and refinement need.
    moving : View
        (1, 1, H, W), of any size.
    start : Estimate
        Fixed -> moving.
    options : Options
        What is run.
    reporter, watch
        Told about every stage.
    keep : callable, optional
        Given what a refinement begins with, and what it has reached after every look, as long as
        this is the best so far.
    """
    candidates = {"start": start} if options.start else {}
    candidates |= _answers(proposal_networks, reference, moving, start, options, reporter, watch)
    places: dict[str, Estimate] = {}
    if options.search != "none" and reference.networks is not None:
        part = reporter.part(0.5, 0.6)
        part.step("searching", 0.0)
        within = RANGES[options.search]
        found = search(
            reference.networks.matcher,
            reference.view,
            moving,
            start.theta,
            within,
            keep=_PROPOSED,
            reporter=part,
        )
        for number, place in enumerate(found, 1):
            places["search" if number == 1 else f"search {number}"] = Estimate(place.theta)
        watch.lap("search")
    judge = _Judge(reference, moving)
    if options.search == "wide":
        candidates |= places
        part = reporter.part(0.6, 1.0)
        return _settled(judge, candidates, options, part, watch, keep, patient=True)
    likeliest = dict(list(places.items())[:_LIKELIEST])
    first = _settled(judge, candidates | likeliest, options, reporter.part(0.6, 0.9), watch, keep)
    if not places or first.local >= UNRELATED_CONFIDENCE:
        return first
    again = _settled(
        judge, candidates | places, options, reporter.part(0.9, 1.0), watch, patient=True
    )
    if again.local <= first.local:
        return first
    keep(again.estimate)
    return again


def _answers(
    proposal_networks: Mapping[str, nn.Module],
    reference: FixedFeatures,
    moving: MaskedImage,
    start: Estimate,
    options: Options,
    reporter: Reporter,
    watch: Stopwatch,
) -> dict[str, Estimate]:
    """What the registration models say, by name; parameters as of `find`."""
    fixed, count = reference.view, len(proposal_networks)
    if not count:
        return {}
    refines = options.refine != "none" and reference.networks is not None
    before = resample(moving, start, fixed.shape)
    valid = None if bool(before.valid.all()) else before.valid
    image = before.image * before.valid  # empty where there is no picture, as in training
    answers = {}
    for index, (name, module) in enumerate(proposal_networks.items()):
        part = reporter.part(0.5 * index / count, 0.5 * (index + 1) / count)
        part.step(name, 0.0)
        dtype = _float_type(module)
        # a field of its own would only stand in the way of the refinement
        ask = getattr(module, "coarse", module) if refines else module
        answer = ask(
            fixed.image.to(dtype),
            image.to(dtype),
            None if valid is None else valid.to(dtype),
            reporter=part,
        )
        if not isinstance(answer, Estimate):
            raise TypeError(
                f"model: {name} returned {type(answer).__name__}, a registration model returns "
                "napari_busref.geometry.Estimate"
            )
        phi = None if refines or answer.phi is None else answer.phi.float()
        answers[name] = compose(start, Estimate(answer.theta.float(), phi))
        watch.lap(name)
    return answers


class _Judge:
    """What estimates for one pair of images are judged to be; nothing is looked at twice.

    Attributes
    ----------
    edges, blocks : callable
        `edge_score` and `block_confidence` of an estimate.
    polish : callable
        What one look makes of an estimate.
    """

    def __init__(self, reference: FixedFeatures, moving: MaskedImage) -> None:
        self.reference, self.moving = reference, moving
        self.edges = cache(partial(edge_score, reference, moving))
        self.blocks = cache(partial(block_confidence, reference, moving))
        self.polish = cache(partial(_polish, reference, moving, self.edges))


def _settled(
    judge: _Judge,
    candidates: dict[str, Estimate],
    options: Options,
    reporter: Reporter,
    watch: Stopwatch,
    keep: Callable[[Estimate], None] = lambda estimate: None,
    *,
    patient: bool = False,
) -> Match:
    """Choose among the candidates and refine; ``patient`` looks at each, and asks its blocks."""
    reporter.step("judging", 0.0)
    reference, moving = judge.reference, judge.moving
    scores: dict[str, float] = {}
    chosen = next(iter(candidates))
    usable = {name: candidate for name, candidate in candidates.items() if _finite(candidate)}
    if not usable:
        return Match(candidates[chosen], chosen, candidates[chosen])
    candidates, chosen = usable, next(iter(usable))
    if len(candidates) > 1 and reference.networks is not None:
        clear = math.inf if patient else _CLEAR
        polished = _polished(judge, candidates, clear)
        candidates = candidates | polished
        scores = {name: judge.edges(candidate) for name, candidate in candidates.items()}
        if max(scores[name] for name in polished) <= clear:
            scores = {name: judge.blocks(candidate) for name, candidate in candidates.items()}
        chosen = max(polished, key=lambda name: scores[name])
        watch.lap("judge")
    found = Match(candidates[chosen], chosen, candidates[chosen], scores=scores)
    if options.refine != "none" and reference.networks is not None:
        near = bool(scores) and judge.edges(found.estimate) > _CLEAR
        plan = pyramid_schedule(options.refine, options.transform, reference.view.shape, near=near)
        if scores and plan[0] == _POLISH[0]:
            plan = plan[1:]  # done before it was judged
        steps = refine_levels(
            reference,
            moving,
            found.estimate,
            plan,
            learned=options.learned,
            edges=options.edges,
            judge=judge.edges,
        )
        keep(found.estimate)
        for index, estimate in enumerate(steps):
            found.estimate = estimate
            keep(estimate)
            reporter.step(f"refining: {plan[index].kind}", (index + 1) / len(plan))
        watch.lap("refine")
    if reference.networks is not None:
        found.local = judge.blocks(found.estimate)
    return found


def _polish(
    reference: FixedFeatures,
    moving: MaskedImage,
    judge: Callable[[Estimate], float],
    estimate: Estimate,
) -> Estimate:
    *_, polished = refine_levels(reference, moving, estimate, _POLISH, judge=judge)
    return polished


def _polished(
    judge: _Judge, candidates: Mapping[str, Estimate], clear: float
) -> dict[str, Estimate]:
    """What one look makes of the candidates that are worth it, the likeliest first.

    One of several that are alike, and none after one that is judged to be clearly right.
    """
    reference, moving = judge.reference, judge.moving
    polished: dict[str, Estimate] = {}
    ends: list[tuple[Estimate, float]] = []
    for name in sorted(candidates, key=lambda n: -judge.edges(candidates[n])):
        candidate = candidates[name]
        if any(_alike(*end, candidate, moving.shape) for end in ends):
            continue
        polished[name] = judge.polish(candidate)
        reach = _REACH / overlap_magnification(moving, polished[name], reference.view.shape)
        ends.append((polished[name], reach))
        if judge.edges(polished[name]) > clear:
            break
    return polished


def _alike(end: Estimate, reach: float, other: Estimate, moving: tuple[int, int]) -> bool:
    """Whether a look at the other, too, would end at this end, in an image of shape ``moving``."""
    if end.phi is not None or other.phi is not None:
        return False
    seen = abs(float(torch.linalg.det(end.theta[0, :, :2]))) * moving[0] * moving[1]
    return mean_distance(end.theta, other.theta, moving) < reach * seen**0.5


def _finite(estimate: Estimate) -> bool:
    parts = (part for part in (estimate.theta, estimate.phi) if part is not None)
    return all(bool(part.isfinite().all()) for part in parts)


def _float_type(module: nn.Module) -> torch.dtype:
    types = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(types, torch.float32)


def edge_score(fixed: FixedFeatures, moving: MaskedImage, estimate: Estimate) -> float:
    """How far the directions of the edges agree in the overlap, in [-1, 1].

    No network has seen it and neither candidate maximised it, so it can judge between them.
    """
    size = working_size(fixed.view.shape, _JUDGED_AT)
    source = resample(moving, estimate, size)
    first, second = fixed.edges(size, _BLUR), edge_directions(source, _BLUR)
    # only where both have edges to compare: not next to a border of either
    both = (_compared(first) * _compared(second)).to(first.dtype)
    first, second = (_centred(edges, both) for edges in (first, second))
    norm = (first.square().sum() * second.square().sum()).sqrt()
    if float(norm) < 1e-3:
        return -1.0
    agreement: Tensor = (first * second).sum() / norm
    # a small overlap agrees by chance more easily
    return float(agreement) * float(valid_cells(source).mean()) ** 0.5


def _centred(edges: Tensor, both: Tensor) -> Tensor:
    """Less their mean: walls and horizons agree wherever they lie."""
    mean = (edges * both).sum((-2, -1), keepdim=True) / both.sum().clamp_min(1)
    return (edges - mean) * both


def _compared(edges: Tensor) -> Tensor:
    return (edges != 0).any(1, keepdim=True)
