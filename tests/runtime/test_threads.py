"""Torch's threads follow a load that the tests make up."""

from __future__ import annotations

import threading

import pytest
import torch

from napari_busref.runtime import threads
from napari_busref.runtime.threads import (
    adapt_threads,
    allowed_cores,
    busy_elsewhere,
    following_load,
    free_cores,
)


@pytest.fixture
def eight(monkeypatch):
    """A machine of eight cores where torch has eight threads."""
    monkeypatch.setattr(threads, "allowed_cores", lambda: 8)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 8)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("busy", "free"), [(None, 8), (0, 8), (1, 7), (7, 1), (8, 1), (30, 1)])
def test_as_many_threads_as_free_cores(eight, busy, free):
    assert free_cores(lambda: busy) == free
    with following_load(lambda: busy):
        assert torch.get_num_threads() == free
    assert torch.get_num_threads() == 8


def test_a_short_burst_is_no_load(eight):
    readings = iter([5, 3, 4])
    assert free_cores(lambda: next(readings)) == 5
    readings = iter([5, 0])
    assert free_cores(lambda: next(readings)) == 8


def test_others_take_the_cores_that_are_not_allowed_first(eight, monkeypatch):
    monkeypatch.setattr(threads, "allowed_cores", lambda: 4)
    assert free_cores(lambda: 4) == 4
    assert free_cores(lambda: 6) == 2


def test_never_more_threads_than_torch_had(eight):
    torch.set_num_threads(2)
    with following_load(lambda: 0):
        assert torch.get_num_threads() == 2
    with following_load(lambda: 7):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_a_change_of_the_load_is_followed(eight, monkeypatch):
    load = [0]
    clock = [0.0]
    monkeypatch.setattr(threads.time, "monotonic", lambda: clock[0])
    with following_load(lambda: load[0]):
        load[0] = 6
        adapt_threads()  # too soon
        assert torch.get_num_threads() == 8
        clock[0] += 1
        adapt_threads()
        assert torch.get_num_threads() == 2
        load[0] = 0
        clock[0] += 1
        adapt_threads()
        assert torch.get_num_threads() == 8


def test_an_error_and_a_context_within_restore_the_threads(eight):
    with pytest.raises(RuntimeError), following_load(lambda: 7):  # noqa: PT012
        with following_load(lambda: 0):
            assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == 8
    adapt_threads()  # no effect outside
    assert torch.get_num_threads() == 8


def test_calls_in_two_threads_restore_what_the_first_found(eight):
    within, go_on = threading.Event(), threading.Event()

    def call():
        with following_load(lambda: 7):
            within.set()
            go_on.wait(10)

    other = threading.Thread(target=call)
    with following_load(lambda: 7):
        other.start()
        assert within.wait(10)
    go_on.set()
    other.join()
    assert torch.get_num_threads() == 8
    fresh = []
    last = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    last.start()
    last.join()
    assert fresh == [8]


def test_the_system_is_read(tmp_path, monkeypatch):
    tasks = tmp_path / "task"
    for number, state in enumerate("RSR"):
        (tasks / str(number)).mkdir(parents=True)
        (tasks / str(number) / "stat").write_text(f"{number} (a (b) R) {state} 1 2")
    (tasks / "ended").mkdir()
    (tmp_path / "loadavg").write_text("0.5 0.2 0.1 5/300 1234\n")
    monkeypatch.setattr(threads, "_TASKS", tasks)
    monkeypatch.setattr(threads, "_LOAD", tmp_path / "loadavg")
    assert busy_elsewhere() == 3
    (tmp_path / "loadavg").write_text("0.5 0.2 0.1 1/300 1234\n")
    assert busy_elsewhere() == 0
    monkeypatch.setattr(threads, "_LOAD", tmp_path / "none")
    assert busy_elsewhere() is None


def test_a_quota_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(threads, "_QUOTA", tmp_path / "cpu.max")
    assert allowed_cores() == 6
    for text, expected in [("max 100000", 6), ("250000 100000", 3), ("1000 100000", 1)]:
        (tmp_path / "cpu.max").write_text(text)
        assert allowed_cores() == expected
