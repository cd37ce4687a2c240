"""Choose among the proposals of a wide search: refine each by one level, stop when clear."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import compress
from statistics import median

from torch import Tensor

from napari_busref.geometry import Estimate, mean_distance
from napari_busref.registration.near_search import PoseCandidate
from napari_busref.registration.pyramid import PyramidLevel
from napari_busref.registration.refine import refine_levels
from napari_busref.registration.scoring import CandidateScorer
from napari_busref.registration.wide_search import CAREFUL, QUICK, SearchPass, wide_search
from napari_busref.runtime.progress import Reporter

LOOK_SIDE = 192
"""Side of the level that a proposal is refined at. From 128 px, 6 of 20 hard pairs are lost."""
_LOOK = (PyramidLevel("affine", LOOK_SIDE, 2),)
_PASSES = ((QUICK, 2), (CAREFUL, 4))  # with the number of proposals that are refined
_PROPOSALS = 12  # of each pass; those of both are ranked together
_AGREES = 0.06  # of the side; proposals of two passes this near are one place
_ABSENT = 0.9  # score, relative to chance, of a place that a pass does not propose
# Block confidence and edge score of a clear pose. Of 244 wrong poses none reaches a pair.
_CLEAR = ((0.6, 0.12), (0.5, 0.2))
_CLEAR_FIRST = 0.35  # block confidence of the first proposal, where it stands out
_CLEAR_AGREED = 0.4  # the same where both passes propose it; others reach 0.39 in unrelated pairs
_STANDS_OUT = 1.2  # score relative to the second proposal's
# Block confidence and edge score of the best of all proposals, and its ratio to the next one's
# blocks. Pairs that do not belong together reach 0.34 and 0.11.
_CLEAR_ALONE = (0.4, 0.09, 1.5)
_REACHED = 0.03  # of the side; a proposal this near to a refined one is left out


@dataclass(frozen=True)
class Pose:
    """A proposal after one pyramid level.

    Attributes
    ----------
    name : str
    refined : Estimate
        Fixed -> moving.
    blocks, edges : float
        Block confidence and edge score.
    clear : bool
        Whether both leave no doubt.
    """

    name: str
    refined: Estimate
    blocks: float
    edges: float
    clear: bool

    @property
    def theta(self) -> Tensor:
        """Affine of `refined`, (1, 2, 3)."""
        return self.refined.theta


def find_pose(
    scorer: CandidateScorer,
    initial: Tensor,
    reporter: Reporter,
    *,
    mirrored: bool = False,
) -> list[Pose]:
    """Refine the proposals of a quick search, and of a careful one where none is clear.

    Parameters
    ----------
    scorer : CandidateScorer
        Of the pair.
    initial : Tensor
        (1, 2, 3), see `wide_search`.
    reporter : Reporter
    mirrored : bool
        Compare reflected poses, too.

    Returns
    -------
    list of Pose
        In the order of their refinement. A clear pose is the last one.
    """
    poses: list[Pose] = []
    earlier: list[PoseCandidate] = []
    tried: list[Tensor] = []
    moving = scorer.moving.shape
    for index, (how, count) in enumerate(_PASSES):
        # most pairs are clear in the first pass
        part = reporter.part(1 - 0.2**index, 1 - 0.2 ** (index + 1))
        found = _propose(scorer, initial, how, mirrored, part.part(0.0, 0.8))
        ranked, agree = _rank(found, earlier, moving)
        needed = _CLEAR_AGREED if agree else math.inf
        if _stands_out(found) and ranked[0].theta is found[0].theta:
            needed = _CLEAR_FIRST
        for number, proposal in enumerate(ranked[:count]):
            part.step("finding the rough position", 0.8 + 0.2 * number / count)
            if any(proposal.theta is theta for theta in tried):
                continue
            tried.append(proposal.theta)
            place = [pose for pose in poses if _is_near(pose, proposal.theta, moving, _AGREES)]
            if not any(_is_near(pose, proposal.theta, moving, _REACHED) for pose in place):
                poses.append(look(scorer, Estimate(proposal.theta), f"wide {len(poses) + 1}"))
                place.append(poses[-1])
            top = max(place, key=lambda pose: pose.blocks)
            if top.clear or (number == 0 and top.blocks >= needed):
                return [*poses, replace(top, clear=True)]
        earlier = found
    best = max(poses, key=lambda pose: pose.blocks, default=None)
    if best is not None and _is_alone(best, poses, moving):
        poses.append(replace(best, clear=True))
    return poses


def mirror_fits(scorer: CandidateScorer, initial: Tensor, reporter: Reporter) -> bool:
    """Whether the best reflected pose at scales near 1 is clear."""
    found = _search(scorer, initial, QUICK, reporter, mirrored=True, level=True)
    if not found:
        return False
    pose = look(scorer, Estimate(found[0].theta), "mirrored")
    return pose.clear or (_stands_out(found) and pose.blocks >= _CLEAR_FIRST)


def look(scorer: CandidateScorer, proposed: Estimate, name: str) -> Pose:
    """Refine a pose by one pyramid level, and score it."""
    features, moving = scorer.features, scorer.moving
    *_, refined = refine_levels(features, moving, proposed, _LOOK, score=scorer.edges)
    blocks, edges = scorer.blocks(refined), scorer.edges(refined)
    return Pose(name, refined, blocks, edges, is_clear(blocks, edges))


def is_clear(blocks: float, edges: float) -> bool:
    """Whether a block confidence and an edge score leave no doubt."""
    return any(blocks >= b and edges >= e for b, e in _CLEAR)


def _is_alone(best: Pose, poses: list[Pose], moving: tuple[int, int]) -> bool:
    """Whether no other place comes near the evidence for the best one."""
    blocks, edges, ratio = _CLEAR_ALONE
    rest = [pose for pose in poses if not _is_near(best, pose.theta, moving, _REACHED)]
    return (
        best.blocks >= blocks
        and best.edges >= edges
        and bool(rest)
        and best.blocks >= ratio * max(pose.blocks for pose in rest)
    )


def _propose(
    scorer: CandidateScorer,
    initial: Tensor,
    how: SearchPass,
    mirrored: bool,
    reporter: Reporter,
) -> list[PoseCandidate]:
    """The best poses of one search, and of the search for reflected ones."""
    found = _search(scorer, initial, how, reporter.part(0.0, 0.5 if mirrored else 1.0))
    if mirrored:
        found += _search(scorer, initial, how, reporter.part(0.5, 1.0), mirrored=True)
    return sorted(found, key=lambda candidate: -candidate.score)[:_PROPOSALS]


def _rank(
    found: list[PoseCandidate], earlier: list[PoseCandidate], moving: tuple[int, int]
) -> tuple[list[PoseCandidate], bool]:
    """Order the proposals of a pass and of an earlier one by both scores.

    A score counts relative to its pass's median, which is a chance peak.

    Returns
    -------
    ranked : list of PoseCandidate
        One for each place, best first. Its score is the sum of both.
    agree : bool
        Whether both passes propose the first place.
    """
    if not earlier:
        return found, False
    if not found:
        return earlier, False
    typical, before = (median(one.score for one in given) for given in (found, earlier))
    both: list[tuple[float, bool, Tensor]] = []
    left = list(earlier)
    for one in found:
        near = [_is_near(other, one.theta, moving, _AGREES) for other in left]
        same = [other.score / before for other in compress(left, near)]
        left = [other for other, is_near in zip(left, near, strict=True) if not is_near]
        both.append((one.score / typical + max(same, default=_ABSENT), bool(same), one.theta))
    both += [(other.score / before + _ABSENT, False, other.theta) for other in left]
    both.sort(key=lambda place: -place[0])
    return [PoseCandidate(theta, score) for score, _, theta in both], both[0][1]


def _search(
    scorer: CandidateScorer,
    initial: Tensor,
    how: SearchPass,
    reporter: Reporter,
    *,
    mirrored: bool = False,
    level: bool = False,
) -> list[PoseCandidate]:
    return wide_search(
        scorer.features.networks.matcher,
        scorer.features.image,
        scorer.moving,
        initial,
        how,
        mirrored=mirrored,
        level=level,
        max_candidates=_PROPOSALS,
        reporter=reporter,
    )


def _stands_out(found: list[PoseCandidate]) -> bool:
    """Whether the first pose scores far above the second."""
    if len(found) < 2:
        return bool(found)
    return found[0].score > _STANDS_OUT * found[1].score


def _is_near(
    pose: Pose | PoseCandidate, theta: Tensor, moving: tuple[int, int], share: float
) -> bool:
    """Whether the positions of two poses differ by less than a share of the moving side."""
    apart = mean_distance(pose.theta, theta, moving)
    return apart < share * (moving[0] * moving[1]) ** 0.5
