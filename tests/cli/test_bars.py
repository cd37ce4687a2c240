"""The progress bars of the command line."""

from __future__ import annotations

import io

from rich.console import Console

from napari_busref._cli import console
from napari_busref._cli.console import Bars
from napari_busref.runtime.durations import DURATIONS, stage


def test_a_bar_shows_the_stage_and_the_time_left(monkeypatch, tmp_path):
    text = io.StringIO()
    terminal = Console(file=text, force_terminal=True, width=160)
    monkeypatch.setattr(console, "err", lambda: terminal)
    with Bars() as bars:
        report = bars.add("pair 1")
        report("aligning the details", 0.2)
        report.expect(0.6, 100.0)  # 250 s for all of the bar
        bars._progress.refresh()
        DURATIONS.learn(stage("refine", 1e6), 9.1)
    assert "pair 1: aligning the details" in text.getvalue()
    assert " 20%" in text.getvalue() and "about 3 min left" in text.getvalue()
    assert "refine" in (tmp_path / "cache" / "durations.json").read_text()
