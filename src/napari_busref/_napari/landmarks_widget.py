"""The panel "Landmarks": mark the same places on both images, and fit a transform to them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
from magicgui.widgets import ComboBox
from napari.layers import Image
from napari.utils.notifications import show_error, show_info
from numpy.typing import NDArray
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtGui import QBrush, QColor, QFont, QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_busref._napari.forms import label, named_button, narrow, tab_order
from napari_busref._napari.landmark_pairs import COLOURS, LandmarkPairs, Side
from napari_busref._napari.landmark_result import (
    LandmarkResult,
    expected_transform,
    landmark_result,
    view_change,
)
from napari_busref._napari.layers import guess_pair
from napari_busref._napari.planes import Plane, shown_plane
from napari_busref._napari.results import update_layers
from napari_busref._napari.start import keep_start
from napari_busref._napari.words import error_text
from napari_busref._napari.worker import Stopper, serve_until, start_job
from napari_busref.landmarks import LandmarkFit, LandmarkModel, fit_landmarks
from napari_busref.transform import Transform

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

    from napari_busref.progress import Progress

__all__ = ["Landmarks"]

_log = logging.getLogger(__name__)

_COLUMNS = ("no.", "visible", "infrared", "residual", "left out")
_WORST = "#d64545"
_DELAY = 60  # ms after the last change of the points before they are fitted
_SIDES: dict[Side, str] = {"fixed": "visible", "moving": "infrared"}


class Landmarks(QWidget):
    """Mark places on both images, see how well they agree, and register by them.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari.
    parent : QWidget, optional

    Attributes
    ----------
    moving, fixed : magicgui.widgets.ComboBox
        The infrared and the visible layer; read and set ``value``.
    model : magicgui.widgets.ComboBox
        ``"affine"``, ``"homography"`` or ``"thin-plate"``; read and set ``value``.
    pairs : LandmarkPairs or None
        The two points layers, once there are any.
    fit : LandmarkFit or None
        Of the pairs there are; None while they do not determine the model.
    idle : Signal
        Emitted when "Use as start" or "Use as the result" has come to its end.

    Examples
    --------
    >>> _, panel = viewer.window.add_plugin_dock_widget(
    ...     "napari-busref", "Landmarks"
    ... )  # doctest: +SKIP
    >>> panel.start()  # doctest: +SKIP
    >>> panel.pairs.points["fixed"].add(fixed_points)  # doctest: +SKIP
    >>> panel.pairs.points["moving"].add(moving_points)  # doctest: +SKIP
    >>> panel.use_as_result()  # doctest: +SKIP
    >>> panel.wait()  # doctest: +SKIP
    """

    idle = Signal()

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = napari_viewer
        self.pairs: LandmarkPairs | None = None
        self.fit: LandmarkFit | None = None
        self._planes: tuple[Plane, Plane] | None = None  # fixed and moving, of the fit
        self._rows: list[int] = []  # number of the landmark in each row
        self._turn: Side | None = None  # where the next landmark goes; None: not placing
        self._visible: list[tuple[Layer, bool]] = []  # as it was before placing began
        self._filling = False
        self._stopper = Stopper()
        self._make_controls()
        self._lay_out()
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_DELAY)
        self._later.timeout.connect(self.refresh)
        self._next: tuple[Side, Side, int] | None = None  # turn to come, after a point on
        self._turning = QTimer(self)  # napari is still busy with the point that was added
        self._turning.setSingleShot(True)
        self._turning.setInterval(0)
        self._turning.timeout.connect(self._take_turn)
        self.destroyed.connect(self._stopper.let_go)
        self.reset_choices()
        self.refresh()

    # -- for scripts ----------------------------------------------------------------------------

    def start(self) -> LandmarkPairs | None:
        """Make the two points layers, or find those of before.

        Returns
        -------
        LandmarkPairs or None
            None when the layers are not right; a notification says why.
        """
        fixed, moving = self.fixed.value, self.moving.value
        if self.pairs is not None:
            return self.pairs
        try:
            if fixed is None or moving is None or fixed == moving:
                raise ValueError("open two image layers, an infrared and a visible one")
            shown_plane(fixed, self._viewer)
            shown_plane(moving, self._viewer)
            self.pairs = LandmarkPairs(
                self._viewer.layers,
                fixed,
                moving,
                changed=self._later.start,
                added=self._point_added,
            )
        except (ValueError, TypeError) as error:
            self._fail(error)
            return None
        self._later.start()
        return self.pairs

    def refresh(self) -> None:
        """Fit anew and fill the table; done by itself soon after the points change."""
        self._later.stop()
        self.fit, self._planes = None, None
        numbers: list[int] = []
        text = "Place landmarks on both images, then choose what to fit."
        if self.pairs is not None:
            text, numbers = self._fit_now(self.pairs)
        self._fill(numbers)
        self.summary.setText(text)
        ready = self.fit is not None and not self.running
        for button in (self.start_button, self.result_button):
            button.setEnabled(ready)
        self._tell_turn()

    @property
    def placing(self) -> bool:
        """Whether clicks on the images place landmarks."""
        return self._turn is not None

    @placing.setter
    def placing(self, on: bool) -> None:
        if on == self.placing:
            return
        if on:
            pairs = self.start()
            if pairs is not None:
                self._visible = [
                    (layer, layer.visible)
                    for layer in self._viewer.layers
                    if isinstance(layer, Image)
                ]
                self._set_turn(pairs.missing()[0])
        else:
            self._turn = None
            if self.pairs is not None:
                for points in self.pairs.points.values():
                    if points in self._viewer.layers:
                        points.visible = True  # first: napari then takes up the tool of before
                        points.mode = "pan_zoom"
            for layer, visible in self._visible:
                if layer in self._viewer.layers:
                    layer.visible = visible
            self._visible = []
        self.place_button.setChecked(self.placing)
        self._tell_turn()

    @property
    def running(self) -> bool:
        """Whether "Use as start" or "Use as the result" is at work."""
        return self._stopper.job is not None

    def use_as_start(self) -> bool:
        """Let the registration of the two layers start from the fit, and run it.

        Returns
        -------
        bool
            False when it could not be started; a notification says why.
        """
        return self._begin(_computed, "preparing the start", self._run_from)

    def use_as_result(self) -> bool:
        """Add the warped layer, the mask and the displacement that the fit gives.

        Returns
        -------
        bool
            False when it could not be started; a notification says why.
        """
        return self._begin(landmark_result, "starting", self._add_result)

    def wait(self) -> None:
        """Serve the window until the work has ended."""
        if self.running:
            serve_until(self.idle, self.destroyed)

    def delete_selected(self) -> None:
        """Remove the landmarks of the selected rows from both images."""
        if self.pairs is not None:
            rows = {index.row() for index in self.table.selectedIndexes()}
            for number in [self._rows[row] for row in rows]:
                self.pairs.remove(number)

    def reset_choices(self, event: Any = None) -> None:
        """Offer the image layers that there are now; napari calls this when they change."""
        before = self.moving.value, self.fixed.value
        self._filling = True
        try:
            for chooser in (self.moving, self.fixed):
                chooser.reset_choices()
            offered = self.fixed.choices
            chosen = before
            if (
                None in before
                or before[0] == before[1]
                or any(one not in offered for one in before)
            ):
                chosen = guess_pair(self._viewer.layers)
            for chooser, layer in zip((self.moving, self.fixed), chosen, strict=True):
                if layer is not None:
                    chooser.value = layer
        finally:
            self._filling = False
        self._drop_if_gone()

    # -- points ---------------------------------------------------------------------------------

    def _point_added(self, side: Side, number: int) -> None:
        if self.placing and self.pairs is not None:
            self._next = (self.pairs.turn_after(side, number), side, number)
            self._turning.start()

    def _take_turn(self) -> None:
        if self._next is None or not self.placing or self.pairs is None:
            return
        (turn, side, number), self._next = self._next, None
        self._look_at(turn, side, number)
        self._set_turn(turn)

    def _set_turn(self, side: Side) -> None:
        pairs = self.pairs
        if pairs is None:
            return
        self._turn = side
        alone = self.alone.isChecked()
        for layer, visible in self._visible:
            if layer in self._viewer.layers:
                layer.visible = layer == pairs.images[side] if alone else visible
        for other, points in pairs.points.items():
            points.visible = other == side or not alone
        self._viewer.layers.selection.active = pairs.points[side]
        for other, points in pairs.points.items():
            points.mode = "add" if other == side else "pan_zoom"
        self._tell_turn()

    def _look_at(self, turn: Side, side: Side, number: int) -> None:
        """Move the view so that the place just marked is expected where it was."""
        pairs = self.pairs
        if pairs is None or turn == side:
            return
        place = pairs.place(side, number)
        camera = self._camera
        centre = np.array(camera.center, dtype=float)
        try:
            planes: dict[Side, Plane] = {
                one: shown_plane(image, self._viewer) for one, image in pairs.images.items()
            }
            fixed, moving = planes["fixed"], planes["moving"]
            transform = expected_transform(fixed, moving, *pairs.matched(fixed, moving)[1:])
            if place is None:
                return
            centre[-2:], zoom = view_change(
                transform,
                place[list(planes[side].axes)],
                (planes[side], planes[turn]),
                centre[-2:],
                inverse=side == "moving",
            )
        except ValueError:  # nothing to go by: the view stays where it is
            return
        camera.center, camera.zoom = tuple(centre), camera.zoom * zoom

    def _tell_turn(self) -> None:
        if self.pairs is None or self._turn is None:
            self.turn.setText("")
        else:
            numbers = self.pairs.numbers(self._turn)
            waiting = [one for one in self.pairs.all_numbers() if one not in numbers]
            number = min(waiting) if waiting else self.pairs.missing()[1]
            image = self.pairs.images[self._turn].name
            self.turn.setText(
                f"Click place {number} on the {_SIDES[self._turn]} image, {image!r}."
            )
        self.turn.setVisible(bool(self.turn.text()))

    def _drop_if_gone(self) -> None:
        """Part with the points layers when one of the four layers is no longer there."""
        pairs = self.pairs
        if pairs is None:
            return
        chosen = {"fixed": self.fixed.value, "moving": self.moving.value}
        there = all(
            layer in self._viewer.layers
            for layer in (*pairs.images.values(), *pairs.points.values())
        )
        if there and all(pairs.images[side] == chosen[side] for side in pairs.images):
            return
        self.placing = False
        pairs.close()
        self.pairs = None
        self.refresh()

    # -- fit ------------------------------------------------------------------------------------

    def _fit_now(self, pairs: LandmarkPairs) -> tuple[str, list[int]]:
        """Fit, and return what to say and the numbers of the pairs."""
        model = cast(LandmarkModel, self.model.value)
        numbers: list[int] = []
        try:
            fixed, moving = (
                shown_plane(pairs.images[side], self._viewer) for side in ("fixed", "moving")
            )
            numbers, first, second = pairs.matched(fixed, moving)
            self.fit = fit_landmarks(
                first,
                second,
                fixed_shape=fixed.shape,
                moving_shape=moving.shape,
                model=model,
                numbers=numbers,
            )
        except ValueError as error:
            pairs.mark_worst(None)
            return f"{str(error)[0].upper()}{str(error)[1:]}.", numbers
        self._planes = (fixed, moving)
        worst = None if self.fit.worst is None else numbers[self.fit.worst]
        pairs.mark_worst(worst)
        parts = [f"{len(numbers)} pairs, root mean square residual {self.fit.rms:.2f} px"]
        known = self.fit.leave_one_out[np.isfinite(self.fit.leave_one_out)]
        if len(known):
            parts.append(f"{np.sqrt(np.mean(known**2)):.2f} px when each is left out")
        if worst is not None:
            parts.append(f"pair {worst} agrees least")
        return "; ".join(parts) + ".", numbers

    def _fill(self, numbers: list[int]) -> None:
        """Fill the table."""
        selected = {self._rows[index.row()] for index in self.table.selectedIndexes()}
        self._rows = [] if self.pairs is None else self.pairs.all_numbers()
        self._filling = True
        try:
            self.table.setRowCount(len(self._rows))
            for row, number in enumerate(self._rows):
                self._fill_row(row, number, numbers)
                if number in selected:
                    self.table.selectRow(row)
        finally:
            self._filling = False
        self.delete_button.setEnabled(bool(self._rows))

    def _fill_row(self, row: int, number: int, numbers: list[int]) -> None:
        pairs, fit = self.pairs, self.fit
        if pairs is None:
            return
        texts = [str(number)]
        for side in pairs.images:
            place = pairs.place(side, number)
            texts.append("–" if place is None else _position(place))
        errors = [np.nan, np.nan]
        if fit is not None and number in numbers:
            index = numbers.index(number)
            errors = [fit.residuals[index], fit.leave_one_out[index]]
        texts += ["" if np.isnan(error) else f"{error:.2f}" for error in errors]
        worst = fit is not None and fit.worst is not None and number == numbers[fit.worst]
        if worst:
            texts[0] = f"⚠ {number}"
        for column, text in enumerate(texts):
            item = QTableWidgetItem(text)
            item.setTextAlignment(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight)
            if column == 0:
                item.setBackground(QBrush(QColor(COLOURS[(number - 1) % len(COLOURS)])))
                item.setForeground(QBrush(QColor("black")))
                font = QFont()
                font.setBold(True)
                item.setFont(font)
            elif worst:
                item.setBackground(QBrush(QColor(_WORST)))
                item.setForeground(QBrush(QColor("white")))
            if worst:
                item.setToolTip("This pair agrees least with the others: look at it again")
            self.table.setItem(row, column, item)

    def _row_selected(self) -> None:
        """Show the landmark of the row that the user went to."""
        rows = {index.row() for index in self.table.selectedIndexes()}
        if self._filling or self.pairs is None or len(rows) != 1:
            return
        number = self._rows[rows.pop()]
        order: tuple[Side, Side] = ("fixed", "moving")
        for side in order if self._turn != "moving" else order[::-1]:
            place = self.pairs.place(side, number)
            if place is None:
                continue
            layer = self.pairs.points[side]
            layer.selected_data = {self.pairs.numbers(side).index(number)}
            world = np.asarray(layer.data_to_world(place))
            centre = np.array(self._camera.center, dtype=float)
            centre[-2:] = world[-2:]
            self._camera.center = tuple(centre)
            return

    @property
    def _camera(self) -> Any:
        # napari 0.9 has moved it
        return getattr(self._viewer, "scene", self._viewer).camera

    # -- using it -------------------------------------------------------------------------------

    def _begin(
        self, function: Callable[..., Any], stage: str, finish: Callable[[Any], None]
    ) -> bool:
        self.refresh()  # the points may have changed a moment ago
        if self.running:
            show_error("Landmarks: wait for the end of what is going on")
            return False
        if self.pairs is None or self.fit is None or self._planes is None:
            show_error(f"Landmarks: {self.summary.text()}")
            return False
        self.placing = False
        self.stage.setText(stage)
        self.stage.show()
        self._stopper.job = start_job(
            function,
            self.fit,
            *self._planes,
            connect={
                "yielded": self._on_progress,
                "returned": finish,
                "errored": self._fail,
                "finished": self._on_finished,
            },
        )
        self.start_button.setEnabled(False)
        self.result_button.setEnabled(False)
        return True

    def _on_progress(self, report: tuple[str, float]) -> None:
        self.stage.setText(f"{report[0]} ({100 * report[1]:.0f} %)")

    def _run_from(self, transform: Transform) -> None:
        """Hand the start to the panel "Register and fuse", and run that."""
        if self.pairs is None or self._planes is None:
            return
        moving, fixed = self.pairs.images["moving"], self.pairs.images["fixed"]
        keep_start(moving, *self._planes, transform)
        try:
            _, panel = self._viewer.window.add_plugin_dock_widget(
                "napari-busref", "Register and fuse"
            )
            panel.moving.value, panel.fixed.value = moving, fixed
            started = panel.run()
        except Exception as error:  # whatever it is, it must not be lost in a slot
            self._fail(error)
            return
        self.stage.setText(
            "registering from the landmarks: see the panel 'Register and fuse'"
            if started
            else "the start is kept; press 'Register and fuse'"
        )

    def _add_result(self, result: LandmarkResult) -> None:
        try:
            update_layers(self._viewer.layers, result.layers)
        except Exception as error:  # whatever it is, it must not be lost in a slot
            self._fail(error)
            return
        text = f"added {len(result.layers)} layers"
        if not result.quality.reliable:
            reasons = "; ".join(result.quality.reasons) or "its score is low"
            text += f". Check them, they may be wrong: {reasons}"
        self.stage.setText(text)

    def _on_finished(self) -> None:
        self._stopper.job = None
        self.refresh()
        self.idle.emit()

    def _fail(self, error: Exception) -> None:
        text = error_text(error)
        _log.debug("landmarks failed", exc_info=error)
        self.stage.setText(text)
        self.stage.show()
        show_error(f"Landmarks: {text}")

    # -- controls -------------------------------------------------------------------------------

    def _image_layers(self, _: Any = None) -> list[Image]:
        return [layer for layer in self._viewer.layers if isinstance(layer, Image)]

    def _layer_chosen(self, _: Any = None) -> None:
        if self._filling:
            return
        if self.moving.value == self.fixed.value and len(self.fixed.choices) > 1:
            show_info("Landmarks: choose two different layers")
        self._drop_if_gone()

    def _alone_changed(self, _: Any = None) -> None:
        if self._turn is not None:
            self._set_turn(self._turn)

    def _place_clicked(self, on: bool) -> None:
        self.placing = on

    def _make_controls(self) -> None:
        self.moving = ComboBox(
            name="infrared layer",
            tooltip="The layer that is resampled: infrared, thermal, another stain …",
            choices=self._image_layers,
        )
        self.fixed = ComboBox(
            name="visible layer",
            tooltip="The reference, which stays as it is",
            choices=self._image_layers,
        )
        self.model = ComboBox(
            name="fit",
            tooltip="affine: shift, rotation, scale and shear; 3 pairs or more.\n"
            "homography: a flat scene seen from two places; 4 pairs or more.\n"
            "thin-plate: goes through every pair and bends between them; 3 pairs or more, "
            "better 10",
            choices=list(get_args(LandmarkModel)),
        )
        for chooser in (self.moving, self.fixed, self.model):
            narrow(chooser)
        self.place_button = named_button(
            "&Place landmarks",
            "Click the same place on both images, in turn. Press again to end.\n"
            "A point can be dragged with napari's own select tool, and deleted on one image alone",
        )
        self.place_button.setCheckable(True)
        self.alone = QCheckBox("Show &only the image to click on")
        self.alone.setToolTip("While placing: hide all other images, and keep the place in view")
        self.alone.setChecked(True)
        self.turn = label("turn")
        self.table = QTableWidget(0, len(_COLUMNS))
        self.table.setObjectName("pairs")
        self.table.setHorizontalHeaderLabels(_COLUMNS)
        self.table.setToolTip(
            "Places in (row, col). residual: how far the fit misses the pair.\n"
            "left out: how far a fit to all other pairs misses it; a thin plate misses none "
            "otherwise.\nBoth in pixels of the visible image. Delete removes the selected pairs"
        )
        vertical, header = self.table.verticalHeader(), self.table.horizontalHeader()
        assert vertical is not None and header is not None  # a table has both
        vertical.hide()
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setTabKeyNavigation(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(len(_COLUMNS) - 1, QHeaderView.ResizeMode.Stretch)
        self.table.setMinimumHeight(160)
        self.delete_button = named_button(
            "&Delete pair", "Remove the selected landmarks from both images (Del)"
        )
        self.summary = label("summary")
        self.start_button = named_button(
            "Use as &start",
            "Register from here: opens 'Register and fuse' and runs it with what is set there.\n"
            "The start is kept until one of the two layers is moved",
        )
        self.result_button = named_button(
            "Use as the &result",
            "Add the warped layer, the mask and the displacement of this very fit, "
            "without registering",
        )
        self.stage = label("stage")
        self.stage.hide()
        self.place_button.clicked.connect(self._place_clicked)
        self.alone.toggled.connect(self._alone_changed)
        self.table.itemSelectionChanged.connect(self._row_selected)
        self.delete_button.clicked.connect(self.delete_selected)
        delete = QShortcut(QKeySequence(QKeySequence.StandardKey.Delete), self.table)
        delete.setContext(Qt.ShortcutContext.WidgetShortcut)
        delete.activated.connect(self.delete_selected)
        self.start_button.clicked.connect(self.use_as_start)
        self.result_button.clicked.connect(self.use_as_result)
        self.model.changed.connect(self.refresh)
        self.moving.changed.connect(self._layer_chosen)
        self.fixed.changed.connect(self._layer_chosen)

    def _lay_out(self) -> None:
        choosers = QGridLayout()
        for row, (text, chooser) in enumerate(
            (("&Infrared (moving)", self.moving), ("&Visible (fixed)", self.fixed))
        ):
            _add_row(choosers, row, text, chooser)
        choosers.setColumnStretch(1, 1)
        fit = QGridLayout()
        _add_row(fit, 0, "&Fit", self.model)
        fit.addWidget(self.delete_button, 0, 2)
        fit.setColumnStretch(1, 1)
        use = QHBoxLayout()
        use.addWidget(self.start_button)
        use.addWidget(self.result_button)
        layout = QVBoxLayout(self)
        layout.addLayout(choosers)
        layout.addWidget(self.place_button)
        layout.addWidget(self.alone)
        layout.addWidget(self.turn)
        layout.addWidget(self.table, 1)
        layout.addLayout(fit)
        layout.addWidget(self.summary)
        layout.addLayout(use)
        layout.addWidget(self.stage)
        tab_order(
            self.moving.native,
            self.fixed.native,
            self.place_button,
            self.alone,
            self.table,
            self.model.native,
            self.delete_button,
            self.start_button,
            self.result_button,
        )


def _computed(
    fit: LandmarkFit,
    fixed: Plane,
    moving: Plane,
    *,
    progress: Progress,
    cancel: threading.Event,
) -> Transform:
    """The transform of a fit, which takes a while on large images; for the worker."""
    progress("preparing the start", 0.0)
    return fit.transform


def _position(place: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.0f}" for value in place)


def _add_row(grid: QGridLayout, row: int, text: str, chooser: ComboBox) -> None:
    label = QLabel(text)
    label.setBuddy(chooser.native)
    label.setToolTip(chooser.tooltip)
    grid.addWidget(label, row, 0)
    grid.addWidget(chooser.native, row, 1)
