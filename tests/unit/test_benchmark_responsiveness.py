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


def test_gaps_and_their_summary(responsiveness):
    assert responsiveness.gaps([1.0, 1.25, 1.5, 2.5]) == [250.0, 250.0, 1000.0]
    beats = [(0.0, "reading"), (0.01, "aligning"), (0.31, "fusing"), (0.33, "done"), (0.4, "done")]
    assert responsiveness.summary(beats) == {
        "seconds": 0.4,
        "heartbeats": 5,
        "median_ms": 45.0,  # of 10, 300, 20 and 70
        "over_50_ms": 2,
        "over_250_ms": 1,
        "longest_ms": 300.0,
        "longest_at": "aligning -> fusing",
    }


def test_one_heartbeat_has_no_gap(responsiveness):
    with pytest.raises(ValueError, match="got 1, need at least two"):
        responsiveness.summary([(0.0, "reading")])
