"""The choice between candidates."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_busref import Cancelled, Transform
from napari_busref.geometry import (
    Estimate,
    identity_theta,
    pixels_to_estimate,
)
from napari_busref.registration.candidates import Match, match
from napari_busref.registration.context import MatchOptions, RunContext
from napari_busref.registration.features import FixedFeatures
from napari_busref.registration.near_search import PoseCandidate
from napari_busref.registration.refine import (
    refine_levels,
)
from napari_busref.registration.scoring import edge_score
from napari_busref.runtime.progress import Plan, Reporter
from napari_busref.runtime.stopwatch import Stopwatch
from synthetic_pairs import SHAPE, error, moved, pair, start, view

pytestmark = pytest.mark.usefixtures("without_gradients")


class Wrong(torch.nn.Module):
    def forward(self, fixed, moving, moving_valid=None, reporter=None):
        return Estimate(torch.tensor([[[1.0, 0, 0.4], [0, 1, -0.3]]]))


def found(networks, truth, options, proposal_networks=None, reporter=None, **more):
    fixed, moving = pair(truth)
    return match(
        proposal_networks or {},
        FixedFeatures(networks, fixed),
        moving,
        Estimate(identity_theta(1, fixed.image)),
        RunContext(options, Plan(reporter), **more),
    )


def test_the_best_candidate_wins(networks):
    truth = moved(row=20, col=-25, angle=9)
    result = found(networks, truth, MatchOptions(refine="affine"), {"wrong": Wrong()})
    assert result.chosen.startswith("search")
    assert {"initial", "wrong", "search"} <= set(result.scores)
    assert result.scores[result.chosen] == max(result.scores.values())
    assert error(result.estimate, truth) < 1.5


class Said(torch.nn.Module):
    """Says what it was told to say."""

    def __init__(self, theta):
        super().__init__()
        self.theta = theta

    def forward(self, fixed, moving, moving_valid=None, reporter=None):
        return Estimate(self.theta)


@pytest.fixture
def looked(monkeypatch):
    """Where every refinement that `match` runs has started."""
    starts = []

    def counted(fixed, moving, start, *schedule, **more):
        starts.append(start)
        return refine_levels(fixed, moving, start, *schedule, **more)

    monkeypatch.setattr("napari_busref.registration.scoring.refine_levels", counted)
    return starts


def test_of_candidates_that_are_alike_the_best_one_is_looked_at(networks, looked, monkeypatch):
    close, closer = (torch.tensor([[[1.0, 0, x], [0, 1, 0]]]) for x in (0.03, 0.01))
    said = {"close": Said(close), "closer": Said(closer), "wrong": Wrong()}
    options = MatchOptions(search="none", refine="none", initial=False)
    assert found(networks, moved(), options, said).chosen == "closer"
    assert len(looked) == 1  # and that was clearly right
    looked.clear()
    monkeypatch.setattr(
        "napari_busref.registration.candidates._CONFIDENT_EDGE_SCORE", 1.1
    )  # nothing ever is
    result = found(networks, moved(), options, said)
    assert [float(estimate.theta[0, 0, 2]) for estimate in looked] == pytest.approx([0.01, 0.4])
    assert result.chosen == "closer"
    assert set(result.scores) == {"close", "closer", "wrong"}
    # a network that says nothing usable is like no other
    said = {"nothing": Said(torch.zeros(1, 2, 3)), "closer": Said(closer)}
    assert found(networks, moved(), options, said).chosen == "closer"


def test_further_places_are_looked_at_until_one_is_clear(networks, looked, monkeypatch):
    options = MatchOptions(refine="none", initial=False)
    result = found(networks, moved(row=5), options)
    assert len(looked) == 1 and set(result.scores) == {"search", "search 2", "search 3"}
    monkeypatch.setattr(
        "napari_busref.registration.candidates._CONFIDENT_EDGE_SCORE", 1.1
    )  # nothing ever is
    assert found(networks, moved(row=5), options).chosen == result.chosen
    assert len(looked) > 2


def test_where_edges_say_little_blocks_decide(networks, monkeypatch):
    def edges(reference, moving, estimate):  # as beside a hot object with a strong border
        return 0.1 if float(estimate.theta[0, 0, 2]) > 0.2 else 0.0

    monkeypatch.setattr("napari_busref.registration.scoring.edge_score", edges)
    said = {"wrong": Wrong(), "close": Said(torch.tensor([[[1.0, 0, 0.03], [0, 1, 0]]]))}
    options = MatchOptions(search="none", refine="none", initial=False)
    result = found(networks, moved(), options, said)
    assert result.chosen == "close"
    assert result.scores["close"] > 0.8 > 0.5 > result.scores["wrong"]
    monkeypatch.setattr(
        "napari_busref.registration.candidates._CONFIDENT_EDGE_SCORE", 0.05
    )  # edges say enough
    result = found(networks, moved(), options, said)
    assert result.chosen == "wrong"
    assert result.scores == {"close": 0.0, "wrong": 0.1}


@pytest.mark.parametrize("right", [2, 5, None])
def test_further_places_are_looked_at_where_the_first_ones_fail(networks, monkeypatch, right):
    shifts = [(0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5), (0.5, 0.5)]
    places = [PoseCandidate(torch.tensor([[[1.0, 0, x], [0, 1, y]]]), 0.0) for x, y in shifts]
    if right is not None:
        places.insert(right - 1, PoseCandidate(torch.eye(2, 3)[None], 0.0))
    asked = []

    def proposed(*_, max_candidates, **__):
        asked.append(max_candidates)
        return places

    monkeypatch.setattr("napari_busref.registration.candidates.near_search", proposed)
    kept = []
    options = MatchOptions(search="near", refine="affine", initial=False)
    result = found(networks, moved(row=3), options, keep=kept.append)
    assert asked == [12]  # one search, whatever is looked at
    if right is None:
        assert result.block_confidence < 0.6
        return
    assert len(result.scores) == (3 if right == 2 else 6)
    assert result.chosen == f"search {right}"
    assert result.block_confidence > 0.8
    assert error(result.estimate, moved(row=3)) < 1
    assert kept[-1] is result.estimate


def test_a_wide_search_finds_a_fifth_of_the_picture(networks):
    truth = moved(row=20, col=-25, angle=8, scale=2.4)
    result = found(networks, truth, MatchOptions(search="wide", refine="affine"))
    assert result.wide and error(result.estimate, truth) < 1


def test_auto_searches_wide_where_the_near_result_is_not_confirmed(networks):
    turned, near = moved(row=9, col=-7, angle=130, scale=1.3), moved(row=9, col=-7, angle=6)
    watch = Stopwatch()
    result = found(networks, turned, MatchOptions(refine="affine"), watch=watch)
    assert result.wide and result.clear
    assert error(result.estimate, turned) < 1
    assert "judge" not in watch.total()  # no near pose has edges in common, so none was fitted
    result = found(networks, near, MatchOptions(refine="affine", initial=False))
    assert not result.wide and result.chosen.startswith("search")
    # a start that the edges confirm needs no search
    result = found(networks, moved(row=2), MatchOptions(refine="affine"))
    assert set(result.scores) == {"initial"} and error(result.estimate, moved(row=2)) < 1
    result = found(networks, turned, MatchOptions(search="near", refine="affine"))
    assert not result.wide and error(result.estimate, turned) > 20


@pytest.mark.parametrize("clear", [True, False])
@pytest.mark.parametrize("better", [True, False])
def test_a_wide_result_needs_to_be_clear_and_better(networks, monkeypatch, clear, better):
    confidence = 0.9 if better else 0.0
    answer = Match(
        Estimate(torch.eye(2, 3)[None]), "wide 1", start(), confidence, wide=True, clear=clear
    )
    module = "napari_busref.registration.candidates"
    monkeypatch.setattr(f"{module}._match_wide", lambda *_, **__: answer)
    monkeypatch.setattr(f"{module}.UNRELATED_CONFIDENCE", 1.1)  # nothing near is confirmed
    result = found(networks, moved(angle=170), MatchOptions(refine="none"))
    assert (result is answer) == (clear and better)


def test_a_mirrored_picture_is_found_where_that_is_allowed(networks):
    flip = Transform(
        [[1, 0, 0], [0, -1, SHAPE[1] - 1], [0, 0, 1]], fixed_shape=SHAPE, moving_shape=SHAPE
    )
    truth = moved(row=5, col=-8, angle=70).compose(flip)
    options = MatchOptions(search="wide", refine="affine")
    assert found(networks, truth, options).mirror_fits
    result = found(networks, truth, replace(options, mirrored=True))
    assert error(result.estimate, truth) < 1 and not result.mirror_fits
    assert not found(networks, moved(angle=70), options).mirror_fits


class Bent(torch.nn.Module):
    """Says something else when only the affine is of use."""

    def forward(self, fixed, moving, moving_valid=None, reporter=None):
        return Estimate(identity_theta(1, fixed), torch.full((1, 2, 8, 8), 0.1))


class Quick(Bent):
    def coarse(self, fixed, moving, moving_valid=None, reporter=None):
        return Wrong()(fixed, moving)


@pytest.mark.parametrize(
    ("network", "refine", "expected"),
    [
        (Bent(), "none", Bent()),
        (Quick(), "none", Bent()),
        (Quick(), "affine", Wrong()),
        (Bent(), "affine", lambda fixed, _: Estimate(identity_theta(1, fixed))),
    ],
)
def test_only_the_affine_of_a_network_is_refined(networks, network, refine, expected):
    options = MatchOptions(search="none", refine=refine, initial=False)
    result = found(networks, moved(row=3), options, {"network": network})
    image = torch.zeros(1, 1, 8, 8)
    wanted = expected(image, image)
    torch.testing.assert_close(result.coarse.theta, wanted.theta)
    assert (result.coarse.phi is None) == (wanted.phi is None)


@pytest.mark.parametrize("search", ["none", "near", "wide"])
@pytest.mark.parametrize("refine", ["none", "affine"])
def test_what_is_not_finite_is_left_out(networks, search, refine):
    said = {"broken": Said(torch.full((1, 2, 3), torch.nan))}
    options = MatchOptions(search=search, refine=refine, initial=False)
    result = found(networks, truth := moved(row=3), options, said)
    if search == "none":  # for `register` to say so
        assert result.chosen == "broken" and result.block_confidence == 0
        assert bool(result.estimate.theta.isnan().all())
    else:
        assert result.chosen.startswith("wide" if search == "wide" else "search")
        assert error(result.estimate, truth) < (1.5 if refine == "affine" else 3)


def test_stages_can_be_switched_off(networks):
    result = found(networks, moved(row=3), MatchOptions(search="none", refine="none"))
    assert result.chosen == "initial"
    assert result.scores == {}
    assert error(result.estimate, moved()) < 1e-3


def test_cancelling_the_refinement(networks):
    cancel, reached = threading.Event(), []

    def progress(stage, fraction):
        if len(reached) == 2:  # after the first level
            cancel.set()

    with pytest.raises(Cancelled):
        found(
            networks,
            truth := moved(row=9),
            MatchOptions(search="none"),
            reporter=Reporter(progress, cancel),
            keep=reached.append,
        )
    before, after = (error(estimate, truth) for estimate in (reached[0], reached[-1]))
    assert after < 6 < before


def test_edge_score_prefers_the_truth(networks):
    truth = moved(row=5, col=8, angle=4)
    fixed, moving = pair(truth)
    device = torch.device("cpu")
    right = pixels_to_estimate(truth.affine, None, SHAPE, SHAPE, device)
    assert (
        edge_score(FixedFeatures(networks, fixed), moving, right)
        > edge_score(FixedFeatures(networks, fixed), moving, start()) + 0.2
    )
    assert edge_score(FixedFeatures(networks, view(np.zeros(SHAPE))), moving, right) == -1
