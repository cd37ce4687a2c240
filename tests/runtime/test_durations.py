"""Learned durations of stages, plans of stages, and what a bar shows between two reports."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from napari_busref.runtime import durations, progress
from napari_busref.runtime.durations import Durations, Stage, pixels_of, stage
from napari_busref.runtime.pace import Pace, time_left
from napari_busref.runtime.progress import Plan, Reporter


@pytest.fixture
def learned(monkeypatch, tmp_path):
    """Fresh durations, kept in a temporary folder."""
    monkeypatch.setenv("NAPARI_BUSREF_DATA", str(tmp_path))
    fresh = Durations()
    for module in (durations, progress):
        monkeypatch.setattr(module, "DURATIONS", fresh)
    return fresh


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def planned(*stages):
    seen = []
    return Plan(Reporter(lambda *report: seen.append(report)), stages), seen


READ, FIT, FUSE = (
    Stage(name, f"{name} now", seconds)
    for name, seconds in (("read", 1.0), ("fit", 6.0), ("fuse", 3.0))
)


def test_stages_have_the_share_of_the_bar_that_their_time_has():
    plan, seen = planned(READ, FIT, FUSE)
    plan.begin("read")
    part = plan.begin("fit")
    part.step("words of a network", 0.5)
    plan.begin("fuse")
    plan.end("done")
    assert [words for words, _ in seen] == ["read now", "fit now", "fit now", "fuse now", "done"]
    assert [fraction for _, fraction in seen] == pytest.approx([0, 0.1, 0.4, 0.7, 1.0])


def test_a_stage_left_out_or_not_planned_moves_the_others_only():
    plan, seen = planned(READ, FIT, FUSE)
    plan.begin("fit")  # without reading: 6 of 9 seconds
    plan.begin("search wide")  # not planned
    plan.begin("fuse")
    plan.end("done")
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert fractions[1] == pytest.approx(6 / 9)
    assert fractions[1] < fractions[2] < 1


def test_a_plan_that_ignores_cancel_leaves_the_first_one_alone():
    plan, seen = planned(READ, FIT, FUSE)
    plan.begin("read")
    heir = plan.regardless()
    heir.begin("fuse")
    plan.begin("fit")
    assert [words for words, _ in seen] == ["read now", "fuse now", "fit now"]


def test_a_stage_is_learned_and_kept_for_the_next_session(learned, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "perf_counter", clock)
    first = stage("refine", 250_000)
    for _ in range(2):
        plan, _ = planned(stage("refine", 250_000))
        plan.begin("refine")
        clock.now += 3 * first.default
        plan.end("done")
    assert stage("refine", 250_000).seconds == pytest.approx(3 * first.default)
    assert stage("refine", 1_000_000).seconds == pytest.approx(
        3 * stage("refine", 1_000_000).default
    )
    learned.write()
    again = Durations()
    again.read()
    assert again.factors == {"refine": 3.0}


@pytest.mark.parametrize("content", ["", "[1]", '{"refine": "x", "read": -1, "fuse": 1e9}'])
def test_a_damaged_table_is_no_error(learned, tmp_path, content):
    path = tmp_path / "cache" / "durations.json"
    path.parent.mkdir()
    path.write_text(content)
    learned.read()
    assert learned.factors == {}


def test_a_folder_that_refuses_is_no_error(learned, tmp_path):
    (tmp_path / "cache").write_text("a file")
    learned.learn(stage("refine", 1e6), 5.0)
    learned.write()
    learned.read()


def test_one_odd_run_does_not_decide(learned):
    one = stage("refine", 1e6)
    for seconds in (one.default, 1e6):  # the computer slept
        learned.learn(one, seconds)
    assert learned.factors["refine"] == pytest.approx(math.sqrt(50))
    json.dumps(learned.factors)


def test_a_stage_that_has_not_run_is_as_slow_as_the_others(learned):
    for name, factor in (("read", 3.0), ("refine", 4.0), ("fuse", 90.0), ("load", 0.2)):
        learned.learn(stage(name, 1e6), factor * stage(name, 1e6).default)
    one = stage("search near")
    assert one.seconds == pytest.approx(4 * one.default)


def test_what_is_loaded_is_not_loaded_again(learned):
    first = stage("load", kind="cpu")
    learned.learn(first, first.default)
    assert stage("load", kind="cpu").seconds < 0.1 * first.seconds
    plan, seen = planned(stage("load", kind="cpu"), FIT)
    plan.begin("load")
    plan.begin("fit")
    assert seen[1][1] < 0.1


def test_pixels_without_reading_an_image():
    assert pixels_of(np.zeros((3, 40, 50))) == pixels_of((40, 50)) == 2000
    assert pixels_of(np.zeros((40, 50, 3))) == 2000
    assert pixels_of([[1, 2], [3, 4]]) == pixels_of("x") > 0


def test_the_bar_moves_on_between_two_reports():
    clock = Clock()
    pace = Pace(clock)
    pace("fit", 0.2)
    assert math.isnan(pace.now().left)
    pace.expect(0.6, 10.0)
    clock.now = 4.0
    assert pace.now().fraction == pytest.approx(0.36)
    shown = []
    for clock.now in (5.0, 8.0, 20.0, 100.0):  # the report is late
        shown.append(pace.now().fraction)
    assert shown == sorted(shown) and shown[0] == pytest.approx(0.4) and shown[-1] <= 0.6
    pace("fit", 0.3)  # behind what is shown
    assert pace.now().fraction == shown[-1]
    pace("fuse", 0.8)
    assert pace.now()[:2] == ("fuse", 0.8)


def test_the_time_left_comes_from_the_forecast_first():
    clock = Clock()
    pace = Pace(clock)
    pace("fit", 0.1)
    pace.expect(0.6, 10.0)  # 20 s for the whole bar
    assert pace.now().left == pytest.approx(18.0 * 0.9, rel=0.15)
    clock.now = 30.0
    pace("fuse", 0.9)  # the bar took longer than forecast: 33 s
    assert pace.now().left == pytest.approx(0.1 * (0.9 * 30 / 0.9 + 0.1 * 20), rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (math.nan, ""),
        (0.4, ""),
        (3.4, "about 3 s left"),
        (33, "about 35 s left"),
        (150, "about 2 min left"),
    ],
)
def test_the_time_left_in_words(seconds, text):
    assert time_left(seconds) == text


def test_forecasts_pass_through_the_parts_of_a_job():
    class Progress:
        def __init__(self):
            self.expected = []

        def __call__(self, stage, fraction):
            pass

        def expect(self, fraction, seconds):
            self.expected.append((round(fraction, 3), seconds))

    whole = Progress()
    outer = Reporter(whole).part(0.0, 0.5).prefixed("plane 1: ")
    plan = Plan(Reporter(outer), [READ, FIT])
    plan.begin("read")
    assert whole.expected == [(round(0.5 / 7, 3), 1.0)]
