"""The entry of a run in napari's own list of activities, at the lower right of the window."""

from __future__ import annotations

import io
from contextlib import suppress

from napari.utils import progress
from qtpy.QtGui import QMovie
from qtpy.QtWidgets import QLabel, QWidget

__all__ = ["Activity"]

# napari's spinner draws the whole window 33 times a second. Without a GPU that takes more of a
# busy processor than the run.
_SPINNER = 10  # per cent of its speed
_STEPS = 100  # napari processes the window's events at each


class Activity:
    """Shows runs in napari's list of activities, one at a time.

    napari processes the window's events whenever an entry changes. So `show` may only be called
    from a timer, and the run may have ended when it returns.

    Parameters
    ----------
    title : str
        Of the panel.
    panel : QWidget
        In napari's window.
    """

    def __init__(self, title: str, panel: QWidget) -> None:
        self._title, self._text = title, ""
        self._panel = panel
        self._spinners: list[QMovie] = []
        self._entry: progress | None = None
        self._busy = False

    def show(self, stage: str, fraction: float, left: str) -> None:
        """Show the stage, the fraction done and the time left; make an entry if there is none."""
        if self._busy:
            return
        self._busy = True
        try:
            self._show(f"{self._title}: {stage}", round(_STEPS * fraction), left)
        finally:
            self._busy = False

    def close(self) -> None:
        """Take the entry out of the list."""
        entry, self._entry, self._text = self._entry, None, ""
        if entry is not None:
            entry.close()
        for spinner in self._spinners:
            with suppress(RuntimeError):  # gone with its window
                spinner.setSpeed(100)
        self._spinners = []

    def _show(self, text: str, done: int, left: str) -> None:
        if self._entry is None:
            # the text goes nowhere; napari shows what follows the last bar of `bar_format`
            options = {"file": io.StringIO(), "bar_format": "{bar}|{unit}"}
            entry = progress(total=_STEPS, desc=text, mininterval=0, miniters=0, **options)
            self._entry, self._text = entry, text
            self._slow_down()
        entry = self._entry
        entry.unit = left
        if text != self._text:
            self._text = text
            entry.set_description(text)
        if entry is self._entry and done > entry.n:  # `set_description` may have ended the run
            entry.update(done - entry.n)

    def _slow_down(self) -> None:
        window = self._panel.window()
        movies = [] if window is None else [one.movie() for one in window.findChildren(QLabel)]
        self._spinners = [movie for movie in movies if movie is not None]
        for spinner in self._spinners:
            spinner.setSpeed(_SPINNER)
