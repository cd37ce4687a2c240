"""The verdict on a run, with the pair that it speaks of and the next steps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_busref._napari.layers.image_grids import pixel_size
from napari_busref._napari.layers.stack_planes import is_stack, plane_name, worst_planes
from napari_busref._napari.register.score_curve import ScoreCurve
from napari_busref._napari.widgets.forms import BAD, DOUBTFUL, GOOD, Message, button, row
from napari_busref._napari.widgets.words import headline, pair_text, quality_html

if TYPE_CHECKING:
    from napari_busref._napari.layers.plane_pairs import Position
    from napari_busref._napari.register.run import RegisterOutcome, RegisterRequest
    from napari_busref._napari.register.settings import Settings

_WORST = 3  # planes of a stack that are listed

__all__ = ["Verdict"]


@dataclass(frozen=True, eq=False)
class _Said:
    """What was said of a pair."""

    pair: tuple[Any, ...]
    outcome: RegisterOutcome | None = None  # None of a failure
    request: RegisterRequest | None = None


class Verdict(QWidget):
    """Says how good a registration is, and offers what to do next.

    The verdict speaks of one pair, and of the shown plane of a stack. While another pair is
    chosen, one line names the earlier pair.

    Attributes
    ----------
    text : Message
    said : object or None
        What was said of a pair; assign it to say it again, and call `follow`.
    wide_button, landmarks_button : QPushButton
        Shown where the result is doubtful; the first unless a wide search was tried.
    compare_button, apply_button : QPushButton
        Shown where there is a result.
    plane_buttons : list of QPushButton
        For the worst planes of a stack.
    scores : ScoreCurve
        Of all planes of a stack.
    search_wide, open_landmarks, open_compare, open_apply : Signal
        Emitted when the user presses a button.
    plane_chosen : Signal
        Emitted with the position of a plane that the user wants to see.
    """

    search_wide = Signal()
    open_landmarks = Signal()
    open_compare = Signal()
    open_apply = Signal()
    plane_chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.said: _Said | None = None
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
        self.compare_button = button(
            "Co&mpare…",
            "Check the result by eye: open the panel Compare for these two layers",
            self.open_compare.emit,
        )
        self.apply_button = button(
            "Appl&y…",
            "Take labels, points or other channels along: open the panel Apply transform",
            self.open_apply.emit,
        )
        self.further = row(self.compare_button, self.apply_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.summary = Message("planes")
        self._offered: list[Position] = []
        self.scores = ScoreCurve()
        self._order: list[Position] = []  # of the bars
        self.scores.chosen.connect(lambda number: self.plane_chosen.emit(self._order[number]))
        self.plane_buttons = [
            button("", "Show this plane", partial(self._choose_plane, number), name="plane")
            for number in range(_WORST)
        ]
        self.planes = row(*self.plane_buttons)
        layout.addWidget(self.text)
        for widget in (self.steps, self.further, self.summary, self.scores, self.planes):
            layout.addWidget(widget)
        self.clear()

    def tab_order(self) -> list[QWidget]:
        """The controls from first to last."""
        further = (self.compare_button, self.apply_button)
        return [self.wide_button, self.landmarks_button, *further, *self.plane_buttons]

    def clear(self) -> None:
        """Say nothing."""
        self.said = None
        self.text.say("")
        self.text.setToolTip("")
        self.steps.hide()
        self.further.hide()
        self._offer_planes("", [])

    def fail(self, text: str, pair: tuple[Any, ...]) -> None:
        """Say why a run on a pair failed."""
        self.clear()
        self.said = _Said(pair)
        self.text.say(text, BAD)

    def judge(
        self, outcome: RegisterOutcome, request: RegisterRequest, pair: tuple[Any, ...]
    ) -> None:
        """Keep a result; `follow` says how good it is.

        Parameters
        ----------
        outcome : RegisterOutcome
        request : RegisterRequest
            Of the run.
        pair : tuple of Layer
            Its moving and fixed layer.
        """
        self.said = _Said(pair, outcome, request)

    @property
    def outcome(self) -> RegisterOutcome | None:
        """The result that the verdict is on."""
        return None if self.said is None else self.said.outcome

    def follow(self, pair: tuple[Any, ...], position: Position | None = None) -> bool:
        """Show the verdict as that of the chosen pair, or mark it as an earlier one.

        Parameters
        ----------
        pair : tuple of Layer or None
            The chosen moving and fixed layer.
        position : tuple of int, optional
            Of the shown plane, where the result is of this pair.

        Returns
        -------
        bool
            Whether what is said is of the chosen pair.
        """
        said = self.said
        if said is None:
            self.clear()
            return True
        same = said.pair == pair
        if said.outcome is None or said.request is None:
            if not same:
                self.clear()
            return same
        moving, fixed = said.request.moving.name, said.request.fixed.name
        self.text.setToolTip(f"{moving} → {fixed}")
        names = pair_text(moving, fixed)
        if same:
            pixel = pixel_size(said.request.fixed)
            self._judge_plane(said.outcome, said.request.settings, names, position, pixel)
        else:
            self.text.say(f"Earlier run: {headline(said.outcome.result.quality, names)}")
            self.steps.hide()
            self._offer_planes("", [])
        self.further.setVisible(same and said.outcome.found)
        return same

    def _judge_plane(
        self,
        outcome: RegisterOutcome,
        settings: Settings,
        names: str,
        position: Position | None,
        pixel: Any,
    ) -> None:
        """Say how good the result is in the shown plane, and list the worst planes."""
        result, pairs = outcome.result, outcome.result.pairs
        stack = is_stack(pairs)
        found = None if position is None else result.planes.get(position)
        if not stack:
            found = result.planes[pairs.shown]
        doubtful = False
        if found is not None:
            at = pairs.shown if position is None else position
            quality = found.quality
            name = f"{names}, {plane_name(pairs, at)}" if stack else names
            html = quality_html(quality, outcome.largest_px[at], name, pixel)
            self.text.say(html, GOOD if quality.reliable else DOUBTFUL, rich=True)
            doubtful = not quality.reliable and quality.status != "cancelled"
            self.wide_button.setVisible(not settings.searched_wide(quality))
        else:
            first = plane_name(pairs, pairs.shown)
            self.text.say(
                f"{names}: this plane has the transform of {first}"
                if position is not None and result.mode == "one"
                else f"{names}: this plane was not registered"
            )
        self.steps.setVisible(doubtful)
        several = len(result.planes) > 1
        if stack and (several or found is None):
            self._list_planes(outcome, several)
            self._draw_scores(outcome, position)
        else:
            self._offer_planes("", [])

    def _list_planes(self, outcome: RegisterOutcome, several: bool) -> None:
        result = outcome.result
        good = sum(one.quality.reliable for one in result.planes.values())
        worst = [
            (f"{'' if one.quality.reliable else '⚠ '}{plane_name(result.pairs, at)}", at)
            for at, one in worst_planes(result, _WORST)
        ]
        text = f"{good} of {len(result.planes)} planes look right; the lowest scores have:"
        self._offer_planes(text if several else "The registered plane is:", worst)

    def _draw_scores(self, outcome: RegisterOutcome, position: Position | None) -> None:
        planes = outcome.result.planes
        self._order = sorted(planes)
        bars = []
        for quality in (planes[at].quality for at in self._order):
            lost = quality.status == "not registered"
            bars.append((quality.score, GOOD if quality.reliable else BAD if lost else DOUBTFUL))
        shown = self._order.index(position) if position in self._order else None
        self.scores.draw(bars, shown)

    def _offer_planes(self, text: str, planes: list[tuple[str, Position]]) -> None:
        self.summary.say(text)
        self.scores.draw([], None)
        self.planes.setVisible(bool(planes))
        self._offered = [position for _, position in planes]
        for number, one in enumerate(self.plane_buttons):
            one.setVisible(number < len(planes))
            if number < len(planes):
                one.setText(planes[number][0])

    def _choose_plane(self, number: int) -> None:
        self.plane_chosen.emit(self._offered[number])
