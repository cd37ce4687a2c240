"""Choose among the proposals of a wide search: refine each by one level, stop when clear."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
# Block confidence and edge score of a clear pose. Of 244 wrong poses none reaches a pair.
_CLEAR = ((0.6, 0.12), (0.5, 0.2))
_CLEAR_FIRST = 0.35  # block confidence of the first proposal, where it stands out
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
    for index, (how, count) in enumerate(_PASSES):
        # most pairs are clear in the first pass
        part = reporter.part(1 - 0.2**index, 1 - 0.2 ** (index + 1))
        found = _propose(scorer, initial, how, count, mirrored, part.part(0.0, 0.8))
        for number, proposal in enumerate(found):
            part.step("finding the rough position", 0.8 + 0.2 * number / count)
            if any(_reached(pose, proposal.theta, scorer.moving.shape) for pose in poses):
                continue
            name = f"wide {len(poses) + 1}"
            stands_out = number == 0 and _stands_out(found)
            poses.append(look(scorer, Estimate(proposal.theta), name, stands_out=stands_out))
            if poses[-1].clear:
                return poses
    best = max(poses, key=lambda pose: pose.blocks, default=None)
    if best is not None and _is_alone(best, poses, scorer.moving.shape):
        poses.append(replace(best, clear=True))
    return poses


def mirror_fits(scorer: CandidateScorer, initial: Tensor, reporter: Reporter) -> bool:
    """Whether the best reflected pose at scales near 1 is clear."""
    found = _search(scorer, initial, QUICK, 2, reporter, mirrored=True, level=True)
    return (
        bool(found)
        and look(scorer, Estimate(found[0].theta), "mirrored", stands_out=_stands_out(found)).clear
    )


def look(
    scorer: CandidateScorer, proposed: Estimate, name: str, *, stands_out: bool = False
) -> Pose:
    """Refine a pose by one pyramid level, and score it.

    ``stands_out``: the search scored it far above all others, so less evidence is enough.
    """
    features, moving = scorer.features, scorer.moving
    *_, refined = refine_levels(features, moving, proposed, _LOOK, score=scorer.edges)
    blocks, edges = scorer.blocks(refined), scorer.edges(refined)
    clear = is_clear(blocks, edges) or (stands_out and blocks >= _CLEAR_FIRST)
    return Pose(name, refined, blocks, edges, clear)


def is_clear(blocks: float, edges: float) -> bool:
    """Whether a block confidence and an edge score leave no doubt."""
    return any(blocks >= b and edges >= e for b, e in _CLEAR)


def _is_alone(best: Pose, poses: list[Pose], moving: tuple[int, int]) -> bool:
    """Whether no other place comes near the evidence for the best one."""
    blocks, edges, ratio = _CLEAR_ALONE
    rest = [pose for pose in poses if not _reached(best, pose.refined.theta, moving)]
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
    count: int,
    mirrored: bool,
    reporter: Reporter,
) -> list[PoseCandidate]:
    """The best poses of one search, and of the search for reflected ones."""
    found = _search(scorer, initial, how, count, reporter.part(0.0, 0.5 if mirrored else 1.0))
    if mirrored:
        found += _search(scorer, initial, how, count, reporter.part(0.5, 1.0), mirrored=True)
    return sorted(found, key=lambda candidate: -candidate.score)[:count]


def _search(
    scorer: CandidateScorer,
    initial: Tensor,
    how: SearchPass,
    count: int,
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
        max_candidates=count,
        reporter=reporter,
    )


def _stands_out(found: list[PoseCandidate]) -> bool:
    """Whether the first pose scores far above the second."""
    return len(found) < 2 or found[0].score > _STANDS_OUT * found[1].score


def _reached(pose: Pose, theta: Tensor, moving: tuple[int, int]) -> bool:
    apart = mean_distance(pose.refined.theta, theta, moving)
    return apart < _REACHED * (moving[0] * moving[1]) ** 0.5
