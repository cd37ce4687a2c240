"""Candidate estimates: propose them, score them, refine the best one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from napari_busref.geometry import Estimate, compose, mean_distance
from napari_busref.registration.context import RunContext
from napari_busref.registration.features import FixedFeatures
from napari_busref.registration.near_search import near_search
from napari_busref.registration.pyramid import (
    MaskedImage,
    overlap_magnification,
    pyramid_schedule,
    resample,
)
from napari_busref.registration.quality import UNRELATED_CONFIDENCE
from napari_busref.registration.refine import refine_levels
from napari_busref.registration.scoring import PRE_REFINEMENT, CandidateScorer, is_finite
from napari_busref.registration.wide_match import LOOK_SIDE, find_pose, is_clear, look, mirror_fits
from napari_busref.runtime.progress import Reporter

_CAPTURE_RANGE = 0.05  # of one pyramid level, as a fraction of the image side
_MAX_POSES = 12  # that a search proposes
_TOP_K = 3  # of them, the ones that a near search refines first
# Edge score above which a near search skips the other candidates and the coarse levels.
_CONFIDENT_EDGE_SCORE = 0.2
# Edge score of a near pose below which a wide search comes first. 9 wrong poses of 8 pairs reach
# 0.067; right ones exceed 0.08, but for satellite infrared and maps.
_UNLIKELY_EDGE_SCORE = 0.065
_HOPELESS_CONFIDENCE = 0.3  # of the blocks of a wide pose that is not worth its refinement


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
        Score of each candidate; empty for a single one without a search. Edge scores in [-1, 1]
        where one is confident, else block confidences in [0, 1]: edges of small overlaps, and of
        images with few strong edges, agree by chance. Near-duplicates and everything after a
        confident candidate are scored without refinement.
    wide : bool
        Whether a wide search found it.
    clear : bool
        False where a wide search found no pose without doubt.
    mirror_fits : bool
        Whether the mirrored moving image fits, where nothing else does.
    """

    estimate: Estimate
    chosen: str
    coarse: Estimate
    block_confidence: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)
    wide: bool = False
    clear: bool = True
    mirror_fits: bool = False


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
        ``coarse`` with the same parameters, one that estimates both directions ``symmetric``.
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
    scorer = CandidateScorer(features, moving)
    search = run.options.search

    candidates = {"initial": initial} if run.options.initial else {}
    names = list(proposal_networks)

    def propose(names: Iterable[str]) -> dict[str, Estimate]:
        networks = {name: proposal_networks[name] for name in names}
        return candidates | _network_proposals(networks, features, moving, initial, run)

    if search == "wide":
        return _match_wide(scorer, initial, run, lambda: propose(names))
    if search == "auto":
        # The first network is a tenth of the work of a near pair, and often enough.
        candidates = propose(names[:1])
        names = names[1:]
        if _any_confident(scorer, candidates):
            first = _select_and_refine(scorer, candidates, run)
            if first.block_confidence >= UNRELATED_CONFIDENCE:
                return first
    poses = _near_poses(features, moving, initial, run)
    likeliest = dict(list(poses.items())[:_TOP_K])
    again = run.without_keeping()
    second: Match | None = None
    if search == "auto" and _are_unlikely(scorer, [initial, *likeliest.values()]):
        second = _match_wide(scorer, initial, again)
        best = next(iter(likeliest.values()), initial)
        if second.clear and second.block_confidence > scorer.blocks(best):
            run.keep(second.estimate)
            return second
    candidates = propose(names)
    first = _select_and_refine(scorer, candidates | likeliest, run)
    if not poses or first.block_confidence >= UNRELATED_CONFIDENCE:
        return first
    if search == "near":
        second = _select_and_refine(scorer, candidates | poses, again, exhaustive=True)
    elif second is None:
        second = _match_wide(scorer, initial, again)
    if not second.clear or second.block_confidence <= first.block_confidence:
        return replace(first, mirror_fits=second.mirror_fits)
    run.keep(second.estimate)
    return second


def _match_wide(
    scorer: CandidateScorer,
    initial: Estimate,
    run: RunContext,
    others: Callable[[], dict[str, Estimate]] = dict,
) -> Match:
    """Choose among all rotations and scales, and refine.

    ``others`` returns candidates to compare where no pose is clear.
    """
    mirrored = run.options.mirrored
    poses = find_pose(scorer, initial.theta, run.plan.begin("search wide"), mirrored=mirrored)
    clear = bool(poses) and poses[-1].clear
    if not clear:
        finite = {name: given for name, given in others().items() if is_finite(given)}
        poses += [look(scorer, given, name) for name, given in finite.items()]
    run.watch.lap("search")
    if not poses:
        return Match(initial, "initial", initial, clear=False)
    best = poses[-1] if clear else max(poses, key=lambda pose: pose.blocks)
    scores = {pose.name: pose.blocks for pose in poses}
    found = Match(best.refined, best.name, best.refined, scores=scores, wide=True, clear=clear)
    if run.options.refine != "none" and (clear or best.blocks >= _HOPELESS_CONFIDENCE):
        _refine(scorer, found, run, above=LOOK_SIDE)
    found.block_confidence = scorer.blocks(found.estimate)
    found.clear = clear or is_clear(found.block_confidence, scorer.edges(found.estimate))
    if not found.clear and not mirrored:
        part = run.plan.begin("search mirrored")
        found.mirror_fits = mirror_fits(scorer, initial.theta, part)
    return found


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
    whole = run.plan.begin("propose")
    for index, (name, module) in enumerate(networks.items()):
        part = whole.part(index / len(networks), (index + 1) / len(networks))
        dtype = _float_type(module)
        # The refinement fits its own field, so it needs the affine only.
        estimate = getattr(module, "coarse" if refines else "symmetric", module)
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
        proposal = compose(initial, Estimate(answer.theta.float(), phi))
        proposals[name] = proposal if refines else replace(proposal, backward=answer.backward)
        run.watch.lap(name)
    return proposals


def _near_poses(
    features: FixedFeatures, moving: MaskedImage, initial: Estimate, run: RunContext
) -> dict[str, Estimate]:
    """The poses of the near search, best first: ``search``, ``search 2``, ..."""
    if run.options.search == "none":
        return {}
    matcher, part = features.networks.matcher, run.plan.begin("search near")
    poses = near_search(
        matcher, features.image, moving, initial.theta, max_candidates=_MAX_POSES, reporter=part
    )
    run.watch.lap("search")
    return {
        "search" if number == 1 else f"search {number}": Estimate(pose.theta)
        for number, pose in enumerate(poses, 1)
    }


def _are_unlikely(scorer: CandidateScorer, poses: list[Estimate]) -> bool:
    """Whether the edges speak for none of the poses."""
    return max(scorer.edges(pose) for pose in poses) < _UNLIKELY_EDGE_SCORE


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
    finite = {name: candidate for name, candidate in candidates.items() if is_finite(candidate)}
    if not finite:
        name, candidate = next(iter(candidates.items()))
        return Match(candidate, name, candidate)
    chosen, candidate = next(iter(finite.items()))
    scores: dict[str, float] = {}
    if len(finite) > 1 or run.options.search != "none":
        part = run.plan.begin("compare all" if exhaustive else "compare")
        chosen, candidate, scores = _select(scorer, finite, exhaustive, part)
        run.watch.lap("judge")
    found = Match(candidate, chosen, candidate, scores=scores)
    if run.options.refine != "none":
        _refine(scorer, found, run)
    found.block_confidence = scorer.blocks(found.estimate)
    return found


def _select(
    scorer: CandidateScorer, candidates: dict[str, Estimate], exhaustive: bool, part: Reporter
) -> tuple[str, Estimate, dict[str, float]]:
    """The best candidate after one pyramid level, with its name, and all scores."""
    confident = math.inf if exhaustive else _CONFIDENT_EDGE_SCORE
    refined = _pre_refine_distinct(scorer, candidates, confident, part)
    candidates = candidates | refined
    scores = {name: scorer.edges(candidate) for name, candidate in candidates.items()}
    if max(scores[name] for name in refined) <= confident:
        scores = {name: scorer.blocks(candidate) for name, candidate in candidates.items()}
    chosen = max(refined, key=lambda name: scores[name])
    return chosen, candidates[chosen], scores


def _refine(scorer: CandidateScorer, found: Match, run: RunContext, *, above: float = 0.0) -> None:
    """Refine the estimate of a match by the pyramid levels above a side."""
    options = run.options
    near = bool(found.scores) and scorer.edges(found.estimate) > _CONFIDENT_EDGE_SCORE
    shape = scorer.features.image.shape
    schedule = pyramid_schedule(options.refine, options.transform, shape, near=near)
    if above:
        schedule = tuple(level for level in schedule[:-1] if level.side > above) + schedule[-1:]
    elif found.scores and schedule[0] == PRE_REFINEMENT:
        schedule = schedule[1:]  # the selection has fitted this level
    run.keep(found.estimate)
    part = run.plan.begin("refine")
    steps = refine_levels(
        scorer.features,
        scorer.moving,
        found.estimate,
        schedule,
        options,
        score=scorer.edges,
        report=partial(part.step, "aligning the details"),
    )
    for estimate in steps:
        found.estimate = estimate
        run.keep(estimate)
    run.watch.lap("refine")


def _any_confident(scorer: CandidateScorer, candidates: Mapping[str, Estimate]) -> bool:
    """Whether the edges confirm a candidate after one pyramid level."""
    likely = {
        name: one
        for name, one in candidates.items()
        if is_finite(one) and scorer.edges(one) >= _UNLIKELY_EDGE_SCORE
    }
    refined = _pre_refine_distinct(scorer, likely, _CONFIDENT_EDGE_SCORE, Reporter())
    return any(scorer.edges(one) > _CONFIDENT_EDGE_SCORE for one in refined.values())


def _pre_refine_distinct(
    scorer: CandidateScorer, candidates: Mapping[str, Estimate], confident: float, part: Reporter
) -> dict[str, Estimate]:
    """Fit one pyramid level to the candidates, by falling edge score.

    Skips near-duplicates, and everything after a candidate that scores above ``confident``.
    """
    features, moving = scorer.features, scorer.moving
    refined: dict[str, Estimate] = {}
    optima: list[tuple[Estimate, float]] = []
    order = sorted(candidates, key=lambda n: -scorer.edges(candidates[n]))
    for number, name in enumerate(order):
        candidate = candidates[name]
        part.step("finding the rough position", number / len(order))
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


def _float_type(module: nn.Module) -> torch.dtype:
    types = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(types, torch.float32)
