"""The arithmetic of benchmarks/responsiveness.py."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def responsiveness() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
        return importlib.import_module("responsiveness")


def test_gaps_and_their_causes(responsiveness):
    Beat, Note, Record = responsiveness.Beat, responsiveness.Note, responsiveness.Record
    beats = [
        Beat(0.0, "reading", 0.0, 0.0),
        Beat(0.01, "aligning", 0.002, 0.0),
        Beat(0.31, "fusing", 0.022, 0.05),
        Beat(0.33, "done", 0.03, 0.05),
        Beat(0.4, "done", 0.1, 0.05),
    ]
    assert responsiveness.gaps(beats) == pytest.approx([10, 300, 20, 70])
    notes = [Note(0.1, "a.draw", "b.work"), Note(0.2, "a.draw", ""), Note(0.35, "late", "")]
    found = responsiveness.summary(Record(beats, notes, [(0.0, 0.02), (0.2, 0.3)]))
    longest = found.pop("longest")
    assert found == {
        "seconds": 0.4,
        "heartbeats": 5,
        "median_ms": 45.0,  # of 10, 300, 20 and 70
        "over_50_ms": 2,
        "over_250_ms": 1,
        "longest_ms": 300.0,
    }
    assert [gap["ms"] for gap in longest] == [300, 70, 20, 10]
    assert longest[0] == {
        "ms": 300,
        "computed_ms": 20,
        "queued_ms": 50,
        "waited_ms": 230,
        "garbage_ms": 110,
        "stage": "aligning -> fusing",
        "main": {"a.draw": 2},
        "worker": {"b.work": 1},
    }


def test_one_heartbeat_has_no_gap(responsiveness):
    with pytest.raises(ValueError, match="got 1, need at least two"):
        responsiveness.summary(responsiveness.Record([responsiveness.Beat(0.0)]))
