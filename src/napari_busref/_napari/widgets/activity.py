"""The entry of a run in napari's own list of activities, at the lower right of the window."""

from __future__ import annotations

import io

from napari.utils import progress

__all__ = ["Activity"]

_STEPS = 1000


class Activity:
    """Shows runs in napari's list of activities, one at a time.

    napari processes the window's events whenever an entry changes. So `show` may only be called
    from a timer, and the run may have ended when it returns.

    Parameters
    ----------
    title : str
        Of the panel.
    """

    def __init__(self, title: str) -> None:
        self._title, self._text = title, ""
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

    def _show(self, text: str, done: int, left: str) -> None:
        if self._entry is None:
            # the text goes nowhere; napari shows what follows the last bar of `bar_format`
            options = {"file": io.StringIO(), "bar_format": "{bar}|{unit}"}
            entry = progress(total=_STEPS, desc=text, mininterval=0, miniters=0, **options)
            self._entry, self._text = entry, text
        entry = self._entry
        entry.unit = left
        if text != self._text:
            self._text = text
            entry.set_description(text)
        if entry is self._entry and done > entry.n:  # `set_description` may have ended the run
            entry.update(done - entry.n)
