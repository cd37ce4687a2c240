"""The verdict on a run, with the pair that it speaks of and the next steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_busref._napari.widgets.forms import BAD, DOUBTFUL, GOOD, Message, button, row
from napari_busref._napari.widgets.words import headline, pair_text, quality_html

if TYPE_CHECKING:
    from napari_busref._napari.register.run import RegisterOutcome, RegisterRequest

__all__ = ["Verdict"]


@dataclass(frozen=True, eq=False)
class _Said:
    """What was said of a pair."""

    pair: tuple[Any, ...]
    outcome: RegisterOutcome | None = None  # None of a failure
    request: RegisterRequest | None = None


class Verdict(QWidget):
    """Says how good a registration is, and offers what to do where it is doubtful.

    The verdict speaks of one pair. While another pair is chosen, one line names the earlier pair.

    Attributes
    ----------
    text : Message
    wide_button, landmarks_button : QPushButton
    search_wide, open_landmarks : Signal
        Emitted when the user presses a button.
    """

    search_wide = Signal()
    open_landmarks = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._said: _Said | None = None
        self.text = Message("quality")
        self.wide_button = button(
            "&Search wide",
            "Register these two layers again, this once with a search of any rotation\n"
            "and of larger shifts and scales. It takes longer",
            self.search_wide.emit,
        )
        self.landmarks_button = button(
            "La&ndmarks…",
            "Open the panel Landmarks for these two layers: mark the same places on both",
            self.open_landmarks.emit,
        )
        self.steps = row(self.wide_button, self.landmarks_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.text)
        layout.addWidget(self.steps)
        self.clear()

    def tab_order(self) -> list[QWidget]:
        """The controls from first to last."""
        return [self.wide_button, self.landmarks_button]

    def clear(self) -> None:
        """Say nothing."""
        self._said = None
        self.text.say("")
        self.text.setToolTip("")
        self.steps.hide()

    def fail(self, text: str, pair: tuple[Any, ...]) -> None:
        """Say why a run on a pair failed."""
        self.clear()
        self._said = _Said(pair)
        self.text.say(text, BAD)

    def judge(
        self, outcome: RegisterOutcome, request: RegisterRequest, pair: tuple[Any, ...]
    ) -> None:
        """Say how good a result is.

        Parameters
        ----------
        outcome : RegisterOutcome
        request : RegisterRequest
            Of the run.
        pair : tuple of Layer
            Its moving and fixed layer.
        """
        self._said = _Said(pair, outcome, request)
        self.follow(pair)

    def follow(self, pair: tuple[Any, ...]) -> bool:
        """Show the verdict as that of the chosen pair, or mark it as an earlier one.

        Parameters
        ----------
        pair : tuple of Layer or None
            The chosen moving and fixed layer.

        Returns
        -------
        bool
            Whether what is said is of the chosen pair.
        """
        said = self._said
        if said is None:
            return True
        same = said.pair == pair
        if said.outcome is None or said.request is None:
            if not same:
                self.clear()
            return same
        moving, fixed = said.request.moving.name, said.request.fixed.name
        quality, names = said.outcome.result.quality, pair_text(moving, fixed)
        self.text.setToolTip(f"{moving} → {fixed}")
        if same:
            colour = GOOD if quality.reliable else DOUBTFUL
            html = quality_html(quality, said.outcome.largest_px, names)
            self.text.say(html, colour, rich=True)
        else:
            self.text.say(f"Earlier run: {headline(quality, names)}")
        self.steps.setVisible(same and not quality.reliable and quality.status != "cancelled")
        self.wide_button.setVisible(said.request.settings.search != "wide")
        return same
