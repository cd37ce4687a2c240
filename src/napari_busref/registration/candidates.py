"""Candidate estimates: propose them, score them, refine the best one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from torch import Tensor, nn

from napari_busref.geometry import Estimate, compose, mean_distance
from napari_busref.registration.consistency import block_confidence
from napari_busref.registration.context import RunContext
from napari_busref.registration.features import FixedFeatures, edge_directions, valid_cells
from napari_busref.registration.pyramid import (
    MaskedImage,
    PyramidLevel,
    overlap_magnification,
    pyramid_schedule,
    resample,
    working_size,
)
from napari_busref.registration.quality import UNRELATED_CONFIDENCE
from napari_busref.registration.refine import refine_levels
from napari_busref.registration.search import RANGES, search

_PRE_REFINEMENT = (PyramidLevel("affine", 128),)
_SCORING_SIDE = 256
_SCORING_SIGMA = 2.0  # px at that size
_CAPTURE_RANGE = 0.05  # of one pyramid level, as a fraction of the image side
_MAX_POSES = 12  # that a search proposes
_TOP_K = 3  # of them, the ones that a near search refines first
# Edge score above which a near search skips the other candidates and the coarse levels.
_CONFIDENT_EDGE_SCORE = 0.2


@dataclass
class Match:
    """The chosen candidate, and what it was refined to.

    Attributes
    ----------
    estimate : Estimate
        Fixed -> moving.
    chosen : str
        Name of the candidate.
    coarse : Estimate
        The candidate before its refinement.
    block_confidence : float
        Of `estimate`, see `napari_busref.registration.consistency.block_confidence`.
    scores : dict
        Score of each candidate, empty when there is only one. Edge scores in [-1, 1] where a near
        search finds a confident candidate, else block confidences in [0, 1]: edges of small
        overlaps, and of images with few strong edges, agree by chance. Near-duplicates and
        everything after a confident candidate are scored without refinement.
    """

    estimate: Estimate
    chosen: str
    coarse: Estimate
    block_confidence: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)


def match(
    proposal_networks: Mapping[str, nn.Module],
    features: FixedFeatures,
    moving: MaskedImage,
    initial: Estimate,
    run: RunContext | None = None,
) -> Match:
    """Collect candidates, score them and refine the best.

    Parameters
    ----------
    proposal_networks : mapping
        Registration networks by name: ``(fixed, moving, valid, reporter=...) -> Estimate``. Only
        the affine of their answer is refined. A network that computes it faster offers a method
        ``coarse`` with the same parameters.
    features : FixedFeatures
        Of the fixed image.
    moving : MaskedImage
        (1, 1, H, W), of any size.
    initial : Estimate
        Fixed -> moving.
    run : RunContext, optional
        Options, progress, timings; ``keep`` receives the best estimate after every level.
    """
    run = run or RunContext()
    candidates = {"initial": initial} if run.options.initial else {}
    candidates |= _network_proposals(proposal_networks, features, moving, initial, run)
    poses = _search_poses(features, moving, initial, run)
    scorer = CandidateScorer(features, moving)
    if run.options.search == "wide":
        return _select_and_refine(scorer, candidates | poses, run.part(0.6, 1.0), exhaustive=True)
    likeliest = dict(list(poses.items())[:_TOP_K])
    first = _select_and_refine(scorer, candidates | likeliest, run.part(0.6, 0.9))
    if not poses or first.block_confidence >= UNRELATED_CONFIDENCE:
        return first
    again = run.part(0.9, 1.0).without_keeping()
    second = _select_and_refine(scorer, candidates | poses, again, exhaustive=True)
    if second.block_confidence <= first.block_confidence:
        return first
    run.keep(second.estimate)
    return second


def _network_proposals(
    networks: Mapping[str, nn.Module],
    features: FixedFeatures,
    moving: MaskedImage,
    initial: Estimate,
    run: RunContext,
) -> dict[str, Estimate]:
    """The estimates of the proposal networks by name, see `match`."""
    fixed = features.image
    if not networks:
        return {}
    refines = run.options.refine != "none"
    warped = resample(moving, initial, fixed.shape)
    valid = None if bool(warped.valid.all()) else warped.valid
    image = warped.image * warped.valid  # invalid pixels are 0, as in training
    proposals = {}
    for index, (name, module) in enumerate(networks.items()):
        low, high = (0.5 * (index + step) / len(networks) for step in (0, 1))
        part = run.reporter.part(low, high)
        part.step(name, 0.0)
        dtype = _float_type(module)
        # The refinement fits its own field, so it needs the affine only.
        estimate = getattr(module, "coarse", module) if refines else module
        answer = estimate(
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
        proposals[name] = compose(initial, Estimate(answer.theta.float(), phi))
        run.watch.lap(name)
    return proposals


def _search_poses(
    features: FixedFeatures, moving: MaskedImage, initial: Estimate, run: RunContext
) -> dict[str, Estimate]:
    """The poses of the search, best first: ``search``, ``search 2``, ..."""
    if run.options.search == "none":
        return {}
    part = run.reporter.part(0.5, 0.6)
    part.step("searching", 0.0)
    poses = search(
        features.networks.matcher,
        features.image,
        moving,
        initial.theta,
        RANGES[run.options.search],
        max_candidates=_MAX_POSES,
        reporter=part,
    )
    run.watch.lap("search")
    return {
        "search" if number == 1 else f"search {number}": Estimate(pose.theta)
        for number, pose in enumerate(poses, 1)
    }


class CandidateScorer:
    """Scores of candidate estimates for one pair, cached per estimate.

    Attributes
    ----------
    edges, blocks : callable
        `edge_score` and `block_confidence` of an estimate.
    pre_refine : callable
        An estimate after one pyramid level.
    """

    def __init__(self, features: FixedFeatures, moving: MaskedImage) -> None:
        self.features, self.moving = features, moving
        self.edges = cache(partial(edge_score, features, moving))
        self.blocks = cache(partial(block_confidence, features, moving))
        self.pre_refine = cache(partial(_pre_refine, features, moving, self.edges))


def _select_and_refine(
    scorer: CandidateScorer,
    candidates: dict[str, Estimate],
    run: RunContext,
    *,
    exhaustive: bool = False,
) -> Match:
    """Choose a candidate and refine it.

    ``exhaustive`` pre-refines every candidate and ranks them by block confidence.
    """
    run.reporter.step("comparing candidates", 0.0)
    finite = {name: candidate for name, candidate in candidates.items() if _is_finite(candidate)}
    if not finite:
        name, candidate = next(iter(candidates.items()))
        return Match(candidate, name, candidate)
    chosen, candidate = next(iter(finite.items()))
    scores: dict[str, float] = {}
    if len(finite) > 1:
        chosen, candidate, scores = _select(scorer, finite, exhaustive)
        run.watch.lap("judge")
    found = Match(candidate, chosen, candidate, scores=scores)
    if run.options.refine != "none":
        _refine(scorer, found, run)
    found.block_confidence = scorer.blocks(found.estimate)
    return found


def _select(
    scorer: CandidateScorer, candidates: dict[str, Estimate], exhaustive: bool
) -> tuple[str, Estimate, dict[str, float]]:
    """The best candidate after one pyramid level, with its name, and all scores."""
    confident = math.inf if exhaustive else _CONFIDENT_EDGE_SCORE
    refined = _pre_refine_distinct(scorer, candidates, confident)
    candidates = candidates | refined
    scores = {name: scorer.edges(candidate) for name, candidate in candidates.items()}
    if max(scores[name] for name in refined) <= confident:
        scores = {name: scorer.blocks(candidate) for name, candidate in candidates.items()}
    chosen = max(refined, key=lambda name: scores[name])
    return chosen, candidates[chosen], scores


def _refine(scorer: CandidateScorer, found: Match, run: RunContext) -> None:
    """Refine the estimate of a match, level by level."""
    options = run.options
    near = bool(found.scores) and scorer.edges(found.estimate) > _CONFIDENT_EDGE_SCORE
    shape = scorer.features.image.shape
    schedule = pyramid_schedule(options.refine, options.transform, shape, near=near)
    if found.scores and schedule[0] == _PRE_REFINEMENT[0]:
        schedule = schedule[1:]  # the selection has fitted this level
    run.keep(found.estimate)
    steps = refine_levels(
        scorer.features, scorer.moving, found.estimate, schedule, options, score=scorer.edges
    )
    for index, estimate in enumerate(steps):
        found.estimate = estimate
        run.keep(estimate)
        run.reporter.step(f"refining: {schedule[index].model}", (index + 1) / len(schedule))
    run.watch.lap("refine")


def _pre_refine(
    features: FixedFeatures,
    moving: MaskedImage,
    score: Callable[[Estimate], float],
    estimate: Estimate,
) -> Estimate:
    *_, refined = refine_levels(features, moving, estimate, _PRE_REFINEMENT, score=score)
    return refined


def _pre_refine_distinct(
    scorer: CandidateScorer, candidates: Mapping[str, Estimate], confident: float
) -> dict[str, Estimate]:
    """Fit one pyramid level to the candidates, by falling edge score.

    Skips near-duplicates, and everything after a candidate that scores above ``confident``.
    """
    features, moving = scorer.features, scorer.moving
    refined: dict[str, Estimate] = {}
    optima: list[tuple[Estimate, float]] = []
    for name in sorted(candidates, key=lambda n: -scorer.edges(candidates[n])):
        candidate = candidates[name]
        if any(_same_basin(*optimum, candidate, moving.shape) for optimum in optima):
            continue
        refined[name] = scorer.pre_refine(candidate)
        magnification = overlap_magnification(moving, refined[name], features.image.shape)
        optima.append((refined[name], _CAPTURE_RANGE / magnification))
        if scorer.edges(refined[name]) > confident:
            break
    return refined


def _same_basin(
    optimum: Estimate, capture_range: float, other: Estimate, moving: tuple[int, int]
) -> bool:
    """Whether both would converge to the same optimum, for a moving image of this shape."""
    if optimum.phi is not None or other.phi is not None:
        return False
    area = abs(float(torch.linalg.det(optimum.theta[0, :, :2]))) * moving[0] * moving[1]
    return mean_distance(optimum.theta, other.theta, moving) < capture_range * area**0.5


def _is_finite(estimate: Estimate) -> bool:
    parts = (part for part in (estimate.theta, estimate.phi) if part is not None)
    return all(bool(part.isfinite().all()) for part in parts)


def _float_type(module: nn.Module) -> torch.dtype:
    types = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(types, torch.float32)


def edge_score(features: FixedFeatures, moving: MaskedImage, estimate: Estimate) -> float:
    """Correlation of the edge directions in the overlap, in [-1, 1].

    No network and no candidate has maximised it, so it ranks them without bias.
    """
    size = working_size(features.image.shape, _SCORING_SIDE)
    source = resample(moving, estimate, size)
    first, second = features.edges(size, _SCORING_SIGMA), edge_directions(source, _SCORING_SIGMA)
    # Only cells with edges in both images, which excludes those beside a border.
    both = (_has_edges(first) * _has_edges(second)).to(first.dtype)
    first, second = (_centre(edges, both) for edges in (first, second))
    norm = (first.square().sum() * second.square().sum()).sqrt()
    if float(norm) < 1e-3:
        return -1.0
    correlation: Tensor = (first * second).sum() / norm
    # A small overlap correlates by chance more easily.
    return float(correlation) * float(valid_cells(source).mean()) ** 0.5


def _centre(edges: Tensor, both: Tensor) -> Tensor:
    """Subtract the mean direction: walls and horizons agree at every translation."""
    mean = (edges * both).sum((-2, -1), keepdim=True) / both.sum().clamp_min(1)
    return (edges - mean) * both


def _has_edges(edges: Tensor) -> Tensor:
    return (edges != 0).any(1, keepdim=True)
