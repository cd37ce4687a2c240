from __future__ import annotations

import threading

import pytest

from napari_busref.runtime.progress import Cancelled, Reporter, check


def test_cancelled_passes_through_workers_that_swallow_runtime_errors():
    assert not issubclass(Cancelled, RuntimeError)


def test_check():
    event = threading.Event()
    check(None)
    check(event)
    event.set()
    with pytest.raises(Cancelled):
        check(event)


def test_parts_scale_and_never_go_back():
    seen: list[tuple[str, float]] = []
    reporter = Reporter(lambda stage, fraction: seen.append((stage, fraction)))
    reporter.step("a", 0)
    part = reporter.part(0.2, 0.6)
    part.step("b", 0.5)
    part.part(0.5, 1.0).step("c", 1)
    part.step("d", 0)
    reporter.step("e", 7)
    assert [stage for stage, _ in seen] == list("abcde")
    assert [fraction for _, fraction in seen] == pytest.approx([0, 0.4, 0.6, 0.6, 1])


def test_cancelled_before_anything_is_reported():
    event = threading.Event()
    seen = []
    reporter = Reporter(lambda stage, fraction: seen.append(stage), event).part(0, 0.5)
    event.set()
    with pytest.raises(Cancelled):
        reporter.step("a", 0)
    with pytest.raises(Cancelled):
        reporter.check()
    assert seen == []


@pytest.mark.parametrize("limits", [(-0.1, 1), (0.5, 0.4), (0, 1.1)])
def test_bad_part(limits):
    with pytest.raises(ValueError, match="low and high"):
        Reporter().part(*limits)
