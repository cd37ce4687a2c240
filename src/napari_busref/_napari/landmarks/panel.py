"""The panel "Landmarks": mark the same places on both images, and fit a transform to them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
from napari.layers import Vectors
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QWidget

from napari_busref._napari.landmarks.file_buttons import FileButtons
from napari_busref._napari.landmarks.pairs import LandmarkPairs, PairsStep, Side
from napari_busref._napari.landmarks.placement_mode import PlacementMode
from napari_busref._napari.landmarks.result import LandmarkResult, landmark_result, residual_arrows
from napari_busref._napari.landmarks.table import PairsTable
from napari_busref._napari.layers.image_grids import grid_of_plane
from napari_busref._napari.layers.initial_transform import keep_initial_transform
from napari_busref._napari.layers.planes import Plane, shown_plane
from napari_busref._napari.layers.trades import in_trade, worded
from napari_busref._napari.register.result_layers import update_layers
from napari_busref._napari.register.visibility import hide_others, show_sources, sources_shown
from napari_busref._napari.widgets.camera import camera_of
from napari_busref._napari.widgets.forms import (
    Message,
    button,
    caption,
    chooser,
    row,
    scrolled,
    tab_order,
)
from napari_busref._napari.widgets.job_panel import JobPanel
from napari_busref._napari.widgets.pair_chooser import MOVING_TIP, PairChooser
from napari_busref.transforms.formats.landmark_files import (
    LandmarkStyle,
    read_landmarks,
    write_landmarks,
)
from napari_busref.transforms.landmarks import LandmarkFit, LandmarkModel, fit_landmarks
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    import napari

    from napari_busref.runtime.progress import Progress

__all__ = ["Landmarks"]

_DELAY = 60  # ms after the last change of the points or the view
_UNDO, _REDO = "Ctrl+Z", "Ctrl+Shift+Z"  # napari has them for labels layers only


class Landmarks(JobPanel):
    """Mark places on both images, see how well they agree, and register by them.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari.
    parent : QWidget, optional

    Attributes
    ----------
    moving, fixed : magicgui.widgets.ComboBox
        The two layers; read and set ``value``.
    model : magicgui.widgets.ComboBox
        ``"affine"``, ``"homography"`` or ``"thin-plate"``; read and set ``value``.
    pairs : LandmarkPairs or None
        The two points layers, once they exist.
    fit : LandmarkFit or None
        To the placed pairs; None while they do not determine the model.
    idle : Signal
        Emitted at the end of "Use as start" or "Use as the result".

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

    TITLE = "Landmarks"

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(napari_viewer, parent)
        self.pairs: LandmarkPairs | None = None
        self.fit: LandmarkFit | None = None
        self._planes: tuple[Plane, Plane] | None = None  # fixed and moving, of `fit`
        self._arrows: Vectors | None = None
        self._fitted: list[int] = []  # numbers of the pairs of `fit`
        self._placing = PlacementMode(napari_viewer, self)
        self._make_controls()
        self._connect()
        self._lay_out()
        self._points_timer = self._delayed(self.refresh)
        self._zoom_timer = self._delayed(self._thin_labels)
        self._placing.changed.connect(self._show_turn)
        # a method, which napari holds weakly
        camera_of(napari_viewer).events.zoom.connect(self._zoom_changed)
        self.reset_choices()
        self.refresh()

    # -- for scripts ----------------------------------------------------------------------------

    def start(self) -> LandmarkPairs | None:
        """Make the two points layers, or find existing ones.

        Returns
        -------
        LandmarkPairs or None
            None when two images are not chosen or not shown in 2D; a notification says why.
        """
        moving, fixed = self.pair.layers
        if self.pairs is not None:
            return self.pairs
        try:
            if fixed is None or moving is None:
                raise ValueError(worded("open two image layers, {a_moving} and {a_fixed} one"))
            shown_plane(fixed, self._viewer)
            shown_plane(moving, self._viewer)
            self.pairs = LandmarkPairs(
                self._viewer.layers,
                fixed,
                moving,
                changed=self._points_timer.start,
                added=self._placing.added,
                stepped=self._stepped,
            )
            _bind_undo(self, self.pairs)
        except (ValueError, TypeError) as error:
            self._fail(error)
            return None
        self._points_timer.start()
        return self.pairs

    def refresh(self) -> None:
        """Fit again and fill the table; runs automatically soon after the points change."""
        self._points_timer.stop()
        self.fit, self._planes = None, None
        numbers: list[int] = []
        text = "Place landmarks on both images, then choose what to fit."
        if self.pairs is not None:
            text, numbers = self._fit_now(self.pairs)
        self._fitted = numbers
        self.table.fill(self.pairs, self.fit, numbers)
        self.delete_button.setEnabled(self.table.rowCount() > 0)
        self.summary.say(text)
        self._draw_residuals()
        self._show_state()
        self._show_turn()

    @property
    def placing(self) -> bool:
        """Whether clicks on the images place landmarks."""
        return self._placing.turn is not None

    @placing.setter
    def placing(self, on: bool) -> None:
        if on and not self.placing:
            pairs = self.start()
            if pairs is not None:
                self._placing.begin(pairs)
        elif self.placing and not on:
            self._placing.end()
        self._show_turn()

    def use_as_start(self) -> bool:
        """Make the fit the initial transform of the two layers, and register them.

        Returns
        -------
        bool
            False when it could not be started; a notification says why.
        """
        return self._attempt(self._begin, _compute, self._register_from)

    def use_as_result(self) -> bool:
        """Add the warped layer, the mask and the displacement that the fit gives.

        Returns
        -------
        bool
            False when it could not be started; a notification says why.
        """
        return self._attempt(self._begin, landmark_result, self._add_result)

    def open_landmarks(self, path: str | Path) -> bool:
        """Add the landmarks of a file.

        Parameters
        ----------
        path : path-like
            ``.csv`` of this panel or of BigWarp, or ``.points`` of QGIS.

        Returns
        -------
        bool
            False when it could not be read; a notification says why.
        """
        try:
            pairs, planes = self._pairs_and_planes()
            fixed, moving = map(grid_of_plane, planes)
            points = read_landmarks(Path(path), fixed, moving)
            numbers = pairs.add(*planes, *points)
        except (ValueError, OSError) as error:
            self._fail(error)
            return False
        self.stage.say(f"added {len(numbers)} pairs of {Path(path).name}")
        return True

    def save_landmarks(self, path: str | Path, style: LandmarkStyle | None = None) -> bool:
        """Write the pairs on the shown planes into a file.

        Parameters
        ----------
        path : path-like
        style : str, optional
            ``"pixels"``, ``"bigwarp"`` or ``"qgis"``; by default as the extension says.

        Returns
        -------
        bool
            False when it could not be written; a notification says why.
        """
        try:
            pairs, planes = self._pairs_and_planes()
            numbers, here, there = pairs.matched(*planes)
            if not numbers:
                raise ValueError("there are no pairs to save; place landmarks on both images")
            fixed, moving = map(grid_of_plane, planes)
            write_landmarks(Path(path), here, there, fixed, moving, style)
        except (ValueError, OSError) as error:
            self._fail(error)
            return False
        self.stage.say(f"saved {len(numbers)} pairs as {Path(path).name}")
        return True

    def _pairs_and_planes(self) -> tuple[LandmarkPairs, tuple[Plane, Plane]]:
        pairs = self.start()
        if pairs is None:
            raise ValueError("choose two image layers first")
        fixed, moving = (shown_plane(pairs.images[side], self._viewer) for side in pairs.images)
        return pairs, (fixed, moving)

    def delete_selected(self) -> None:
        """Remove the landmarks of the selected rows from both images."""
        if self.pairs is not None:
            self.pairs.remove(*self.table.selected())

    def reset_choices(self, event: Any = None) -> None:
        """Offer the current image layers; napari calls this when layers change."""
        self.pair.reset_choices(keep=True)
        self._drop_if_gone()

    # -- points ---------------------------------------------------------------------------------

    def _show_turn(self) -> None:
        self.place_button.setChecked(self.placing)
        self.turn.say(self._placing.instruction() if self.placing else "")
        self._thin_labels()

    def _zoom_changed(self, event: Any = None) -> None:
        if self.pairs is not None:
            self._zoom_timer.start()

    def _thin_labels(self) -> None:
        """Hide numbers that would overlap others; keep the worst and the selected pairs."""
        pairs, fit = self.pairs, self.fit
        if pairs is None:
            return
        first = self.table.selected()
        if fit is not None and fit.worst is not None:
            first.insert(0, self._fitted[fit.worst])
        pairs.thin_labels(camera_of(self._viewer).zoom, first)

    def _drop_if_gone(self) -> None:
        """Drop the points layers when one of the four layers is gone or another one is chosen."""
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
        self._history.forget(PairsStep)
        self._forget_stage()
        self.refresh()

    def _forget_stage(self) -> None:
        """Say nothing more of a run on other layers."""
        if not self.running:
            self.stage.say("")

    def _stepped(self, step: PairsStep) -> None:
        self._history.add(step)
        self._show_state()

    def _travel(self, step: Callable[..., Any], direction: int, said: str) -> bool:
        went = super()._travel(step, direction, said)
        self._placing.resume()
        return went

    # -- fit ------------------------------------------------------------------------------------

    def _fit_now(self, pairs: LandmarkPairs) -> tuple[str, list[int]]:
        """Fit, and return the summary and the numbers of the pairs."""
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

    def _draw_residuals(self, _: Any = None) -> None:
        """Draw the residuals again, or remove them."""
        layers, arrows = self._viewer.layers, None
        if self.residuals.isChecked() and self.pairs and self.fit and self._planes:
            points = self.pairs.matched(*self._planes)[1]
            arrows = residual_arrows(self.fit, self._planes[0], points, "landmark residuals")
        if self._arrows is not None and self._arrows in layers:
            layers.remove(self._arrows)
        self._arrows = arrows
        if arrows is not None:
            active = layers.selection.active
            layers.append(arrows)
            layers.selection.active = active  # a tool of the points layers may be in use

    def _look_at(self, number: int) -> None:
        """Centre the view on the landmark of the row that the user selected."""
        if self.pairs is None:
            return
        order: tuple[Side, Side] = ("fixed", "moving")
        for side in order if self._placing.turn != "moving" else order[::-1]:
            place = self.pairs.position(side, number)
            if place is None:
                continue
            layer = self.pairs.points[side]
            layer.selected_data = {self.pairs.numbers(side).index(number)}
            camera = camera_of(self._viewer)
            centre = np.array(camera.center, dtype=float)
            centre[-2:] = np.asarray(layer.data_to_world(place))[-2:]
            camera.center = tuple(centre)
            break
        self._thin_labels()

    # -- using it -------------------------------------------------------------------------------

    def _begin(self, function: Callable[..., Any], returned: Callable[[Any], None]) -> None:
        self.refresh()  # the points may have changed a moment ago
        if self.pairs is None or self.fit is None or self._planes is None:
            raise ValueError(self.summary.text())
        self.placing = False
        self._start(function, self.fit, *self._planes, returned=returned)

    def _register_from(self, transform: Transform) -> None:
        """Set the initial transform, and run the panel "Register and fuse"."""
        if self.pairs is None or self._planes is None:
            return
        moving, fixed = self.pairs.images["moving"], self.pairs.images["fixed"]
        keep_initial_transform(moving, *self._planes, transform)
        panel = self.open_panel("Register and fuse")
        panel.moving.value, panel.fixed.value = moving, fixed
        self.stage.say(
            "registering from the landmarks: see the panel 'Register and fuse'"
            if panel.run()
            else "the start is kept; press 'Register and fuse'"
        )

    def _add_result(self, result: LandmarkResult) -> None:
        layers, planes = self._viewer.layers, result.planes
        earlier = sources_shown(layers, *(plane.name for plane in planes))
        with self._undoable():
            placed = update_layers(layers, result.layers)
            hide_others(layers, placed)
            if self.pairs is not None:
                sources = self.pairs.images["fixed"], self.pairs.images["moving"]
                show_sources(layers, placed, sources, earlier)
        text = f"added {len(result.layers)} layers"
        if not result.quality.reliable:
            reasons = in_trade("; ".join(result.quality.reasons)) or "its score is low"
            text += f". Check them, they may be wrong: {reasons}"
        self.stage.say(text)

    def _on_finished(self, name: str) -> None:
        self.refresh()  # a layer may be gone
        super()._on_finished(name)

    def _show_state(self) -> None:
        super()._show_state()
        for one in (self.start_button, self.result_button):
            one.setEnabled(self.fit is not None and not self.running)

    # -- controls -------------------------------------------------------------------------------

    def _place_clicked(self, on: bool) -> None:
        self.placing = on

    def reword(self) -> None:
        """Use the words of another trade."""
        super().reword()
        self.refresh()

    def changeEvent(self, event: Any) -> None:
        """End the placing when the dock widget closes; called by Qt."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.placing = False
            self.residuals.setChecked(False)

    def _delayed(self, slot: Callable[[], None]) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(_DELAY)
        timer.timeout.connect(slot)
        return timer

    def _make_controls(self) -> None:
        self.pair = PairChooser(
            self._viewer,
            MOVING_TIP,
            "The reference, which stays as it is",
        )
        self.moving, self.fixed = self.pair.moving, self.pair.fixed
        self.model = chooser(
            "fit",
            "affine: shift, rotation, scale and shear; 3 pairs or more.\n"
            "homography: a flat scene seen from two positions; 4 pairs or more.\n"
            "thin-plate: goes through every pair and bends between them; 3 pairs or more, "
            "better 10",
            list(get_args(LandmarkModel)),
        )
        self.place_button = button(
            "Place landmar&ks",
            "Click the same place on both images, in turn. Press again to end.\n"
            "A point can be dragged with napari's own select tool, and deleted on one image alone",
        )
        self.place_button.setCheckable(True)
        self.alone = QCheckBox("Show only the image to cli&ck on")
        self.alone.setToolTip("While placing: hide all other images, and keep the place in view")
        self.alone.setChecked(True)
        self.beside = QCheckBox("Side &by side")
        self.beside.setToolTip(
            "While placing: the {fixed_image} on the left and the {moving_image} on the right.\n"
            "Click on either. From three pairs on, both show the same place"
        )
        self.residuals = QCheckBox("Residual arrows")
        self.residuals.setToolTip(
            "Draw on the {fixed_image} from where the fit puts each landmark to where it is,\n"
            "enlarged by the factor in the name of the layer"
        )
        self.files = FileButtons()
        self.turn = Message("turn")
        self.table = PairsTable()
        self.delete_button = button(
            "&Delete pair",
            "Remove the selected landmarks from both images (Del)",
            self.delete_selected,
        )
        self.undo_button.setToolTip(
            "Undo the last step: a landmark that was placed, moved or deleted, or a result.\n"
            "Again: the step before it (Ctrl+Z, on the image too)"
        )
        self.redo_button.setToolTip("Redo the step that was undone last (Ctrl+Shift+Z)")
        for keys, slot in ((_UNDO, self.undo), (_REDO, self.redo)):
            key = QShortcut(QKeySequence(keys), self)
            key.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            key.activated.connect(slot)
        self.summary = Message("summary")
        self.start_button = button(
            "Use as &start",
            "Register from here: shows 'Register and fuse' and runs it with what is set there.\n"
            "The start is kept until one of the two layers is moved",
            self.use_as_start,
        )
        self.result_button = button(
            "Use as the &result",
            "Add the warped layer, the mask and the displacement of this fit, without registering",
            self.use_as_result,
        )

    def _connect(self) -> None:
        self.place_button.clicked.connect(self._place_clicked)
        self.alone.toggled.connect(self._placing.show_alone)
        self.beside.toggled.connect(self._placing.show_beside)
        self.beside.toggled.connect(self.alone.setDisabled)
        self.residuals.toggled.connect(self._draw_residuals)
        self.files.opened.connect(self.open_landmarks)
        self.files.saved.connect(self.save_landmarks)
        self.table.row_chosen.connect(self._look_at)
        self.table.delete_pressed.connect(self.delete_selected)
        self.model.changed.connect(self.refresh)
        self.pair.changed.connect(self._forget_stage)
        self.pair.changed.connect(self._drop_if_gone)

    def _lay_out(self) -> None:
        fit = QWidget()
        layout = QHBoxLayout(fit)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(caption("Fi&t", self.model.native))
        layout.addWidget(self.model.native, 1)
        layout.addWidget(self.delete_button)
        scrolled(
            self,
            self.pair,
            self.place_button,
            self.alone,
            self.beside,
            self.turn,
            self.table,
            fit,
            self.summary,
            row(self.residuals, self.files),
            row(self.start_button, self.result_button),
            row(self.undo_button, self.redo_button),
            self.bar,
            self.stage,
            tall=self.table,
        )
        tab_order(
            *self.pair.tab_order(),
            self.place_button,
            self.alone,
            self.beside,
            self.table,
            self.model.native,
            self.delete_button,
            self.residuals,
            *self.files.buttons,
            self.start_button,
            self.result_button,
            self.undo_button,
            self.redo_button,
        )


def _bind_undo(panel: Landmarks, pairs: LandmarkPairs) -> None:
    """Undo and redo from the canvas while a points layer of the pairs is selected."""
    held = weakref.ref(panel)  # the layers outlive the panel

    def undo(_: Any) -> None:
        if (alive := held()) is not None:
            alive.undo()

    def redo(_: Any) -> None:
        if (alive := held()) is not None:
            alive.redo()

    for layer in pairs.points.values():
        for keys, function in ((_UNDO, undo), (_REDO, redo)):
            layer.bind_key(keys.replace("+", "-"), function, overwrite=True)


def _compute(
    fit: LandmarkFit,
    fixed: Plane,
    moving: Plane,
    *,
    progress: Progress,
    cancel: threading.Event,
) -> Transform:
    """Compute the transform of a fit in the worker thread: slow on large images."""
    progress("computing the initial transform", 0.0)
    return fit.transform
