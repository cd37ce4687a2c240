"""The panel "Compare"."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QEvent, QTimer
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_busref._napari.compare.choosers import LayerChoosers
from napari_busref._napari.compare.controls import ModeControls
from napari_busref._napari.compare.draw import Drawing, DrawRequest, draw_comparison
from napari_busref._napari.compare.legend import legend
from napari_busref._napari.compare.metrics import Measured, measure
from napari_busref._napari.compare.metrics_table import MetricsTable
from napari_busref._napari.compare.pixels import Pixels, Region, choose_region
from napari_busref._napari.compare.session import LAYER_EVENTS, ComparisonSession
from napari_busref._napari.compare.source import Comparison, find_comparison
from napari_busref._napari.layers.planes import SPATIAL_KEYS, shown_plane
from napari_busref._napari.layers.view import view_window
from napari_busref._napari.widgets.camera import camera_of
from napari_busref._napari.widgets.forms import DOUBTFUL, Message, button, form, row, scrolled
from napari_busref._napari.widgets.job_panel import JobPanel
from napari_busref._napari.widgets.words import error_text

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

__all__ = ["Compare"]

_VALUE_EVENTS = ("data", *SPATIAL_KEYS)  # of a layer, after which its numbers are others
_SETTLE = 150  # ms without a further change before the comparison follows the viewer


@dataclass(frozen=True)
class _Key:
    """Layers and planes that numbers belong to."""

    chosen: tuple[Layer | None, ...]
    planes: tuple[tuple[int, ...], ...]

    @property
    def layers(self) -> list[Layer]:
        """Those that are chosen; no truth may be."""
        return [layer for layer in self.chosen if layer is not None]


class Compare(JobPanel):
    """Compare a registered layer with its reference, by eye and in numbers.

    The panel shows one layer, ``comparison``, on the grid of the reference. It hides other images
    until `clear` or the end of the panel. It follows the layers and the sliders. Where a plane is
    too large to be read at full resolution, it also follows the camera.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari.
    parent : QWidget, optional

    Attributes
    ----------
    fixed, moving, truth, mode, direction : magicgui.widgets.ComboBox
        Read and set ``value``. `mode` takes the keys of `MODE_TITLES`.
    tile, sigma, rate, position, coloured, before
        The Qt controls of the modes.
    table : MetricsTable
        ``table.measured`` holds the numbers.
    idle : Signal
        Emitted when nothing more is being drawn or measured.

    Examples
    --------
    >>> _, panel = viewer.window.add_plugin_dock_widget(
    ...     "napari-busref", "Compare"
    ... )  # doctest: +SKIP
    >>> panel.mode.value = "edges"  # doctest: +SKIP
    >>> panel.compare()  # doctest: +SKIP
    >>> panel.wait()  # doctest: +SKIP
    """

    TITLE = "Compare"

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(napari_viewer, parent)
        self._session = ComparisonSession(napari_viewer)
        self._showing: tuple[Layer, ...] = ()  # the layers that are compared
        self._shown: Drawing | None = None
        self._pixels: dict[str, Pixels] = {}
        self._pixels_region: Region | None = None
        self._draw_again = False  # something changed since the running job began
        self._complaint = ""
        self._measured_of: _Key | None = None  # the layers and planes of the numbers
        self._make_controls()
        self._lay_out()
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.setInterval(_SETTLE)
        self._settle.timeout.connect(self._draw)
        self._blink = QTimer(self)
        self._blink.timeout.connect(self._blink_once)
        self._connect()
        self.reset_choices()

    # -- for scripts ----------------------------------------------------------------------------

    @property
    def showing(self) -> bool:
        """Whether a comparison is shown or being drawn."""
        return bool(self._showing)

    @property
    def layer(self) -> Image | None:
        """The layer of the comparison, once it is drawn."""
        return self._session.view.layer

    def compare(self) -> bool:
        """Show the chosen comparison, and keep it up to date until `clear`.

        Returns
        -------
        bool
            False when it cannot be shown; a notification says why.
        """
        self.clear()
        self._complaint = ""
        try:
            comparison = self._comparison()
        except (ValueError, TypeError) as error:
            self._fail(error)
            return False
        self._showing = self.choosers.pair
        watched = [*self._showing]
        if comparison.before is not None:
            watched += [
                one for one in self._viewer.layers if one.name == comparison.before.plane.name
            ]
        viewer = self._viewer
        emitters = [getattr(layer.events, name) for layer in watched for name in LAYER_EVENTS]
        emitters += [getattr(viewer.dims.events, name) for name in ("point", "order", "ndisplay")]
        self._session.connect(emitters, self._session.on_change)
        camera = camera_of(viewer).events
        self._session.connect([camera.zoom, camera.center], self._session.on_camera_move)
        self._show_state()
        self._draw()
        return True

    def clear(self) -> None:
        """Remove the comparison and show the other layers as they were."""
        self._blink.stop()
        self._settle.stop()
        self._draw_again = False
        self._showing = ()
        self._shown = None
        self._forget()
        if (job := self._jobs.by_name.get("draw")) is not None:
            job.quit()
        self._session.disconnect()
        self._session.view.clear()
        self._show_state()

    def measure(self) -> bool:
        """Fill the table of metrics.

        Returns
        -------
        bool
            False when it cannot be filled; a notification says why.
        """
        self._show_measured(None)
        if "measure" in self._jobs.by_name:
            return False
        try:
            comparison = self._comparison()
        except (ValueError, TypeError) as error:
            self._fail(error)
            return False
        show = partial(self._on_measured, self._key())
        self._start(measure, comparison, returned=show, name="measure", quiet=True)
        return True

    def save_csv(self, path: str | Path) -> Path:
        """Write the table of metrics.

        Parameters
        ----------
        path : path-like
            Gets the ending ``.csv`` if it has none.

        Returns
        -------
        pathlib.Path

        Raises
        ------
        ValueError
            When nothing was measured.
        OSError
            When the file cannot be written.
        """
        if self.table.measured is None:
            raise ValueError("there are no numbers to save; press Measure first")
        target = Path(path)
        return self.table.measured.save(target if target.suffix else target.with_suffix(".csv"))

    def reset_choices(self, event: Any = None) -> None:
        """Offer the current layers; napari calls this when layers change."""
        self.choosers.reset_choices(keep=self.showing)
        gone = [layer.name for layer in self._showing if layer not in self._viewer.layers]
        if gone:
            self.clear()
            show_info(f"Compare: layer {gone[0]!r} was removed; the comparison is cleared")
        self._drop_stale()
        self._show_state()

    def reword(self) -> None:
        """Use the words of another trade."""
        super().reword()
        self.choosers.show_rows()

    def changeEvent(self, event: Any) -> None:
        """Clear the comparison when the dock widget closes; called by Qt."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.clear()

    # -- controls -------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        self.choosers = choosers = LayerChoosers(self._viewer)
        self.modes = modes = ModeControls()
        # by the names that scripts use
        self.fixed, self.moving, self.truth = choosers.fixed, choosers.moving, choosers.truth
        self.mode, self.direction, self.coloured = modes.mode, modes.direction, modes.coloured
        self.tile, self.position = modes.tile, modes.position
        self.rate, self.sigma = modes.rate, modes.sigma
        self.before = button("&Before registration", "", name="before")
        self.before.setCheckable(True)
        self.button = button("&Compare", "", self._button_clicked)
        self.legend, self.hint = Message("legend"), Message("hint")
        self.measure_button = button(
            "&Measure",
            "Compute the numbers below for the layers chosen above, before and after registration",
            self.measure,
        )
        self.save_button = button(
            "&Save CSV…", "Save the table as a file that a spreadsheet opens", self._save_clicked
        )
        self.table = MetricsTable()
        self.note = Message("note")

    def _lay_out(self) -> None:
        scrolled(
            self,
            form(*self.choosers.rows(), *self.modes.rows()),
            self.coloured,
            self.before,
            self.button,
            self.hint,
            self.legend,
            row(self.measure_button, self.save_button),
            self.table,
            self.note,
        )
        self.modes.show_rows()
        self.choosers.show_rows()

    def _connect(self) -> None:
        self._session.attach(self)
        self._viewer.dims.events.point.connect(self._drop_stale)  # held weakly
        self.destroyed.connect(self._session.close)
        self.choosers.changed.connect(self._layer_chosen)
        self.modes.changed.connect(self._draw)
        self.before.toggled.connect(self._draw)
        self.position.valueChanged.connect(self._move_divider)
        self.rate.valueChanged.connect(self._set_rate)

    def _layer_chosen(self, _: Any = None) -> None:
        self._show_measured(None)
        if self.showing:
            self.compare()
        self._show_state()

    def _comparison(self) -> Comparison:
        return find_comparison(self._viewer, *self.choosers.pair, self.truth.value)

    # -- drawing (in the main thread; `draw_comparison` runs in a worker) ------------------------

    def follow(self) -> None:
        """Read and draw the comparison again, once changes have settled."""
        if self.showing:
            self._forget()
            self._settle.start()

    def follow_camera(self) -> None:
        """Draw another region, where the plane is too large to be compared whole."""
        if self._shown is not None and not self._shown.request.region.whole:
            self._settle.start()

    def _draw(self, _: Any = None) -> None:
        if not self.showing:
            return
        self._settle.stop()
        if (job := self._jobs.by_name.get("draw")) is not None:
            self._draw_again = True
            job.cancel.set()
            return
        try:
            comparison = find_comparison(self._viewer, *self._showing)
            plane = comparison.fixed.plane
            region = choose_region(plane, view_window(self._showing[0], plane))
        except (ValueError, TypeError) as error:
            self._fail(error)
            self._emit_idle()
            return
        self._show_before(comparison)
        if region != self._pixels_region:
            self._forget()
            self._pixels_region = region
        request = DrawRequest(
            comparison,
            region,
            "before" if self.before.isChecked() and comparison.before is not None else "after",
            self.modes.options,
            dict(self._pixels),
        )
        self._start(draw_comparison, request, returned=self._on_drawn, name="draw", quiet=True)

    def _forget(self) -> None:
        """Drop the pixels, including those that a job is reading."""
        self._pixels.clear()
        self._pixels_region = None

    def _on_drawn(self, drawing: Drawing) -> None:
        if not self.showing or self._draw_again:
            return
        request = drawing.request
        if request.region == self._pixels_region:
            self._pixels.update(drawing.pixels)
        self._shown = drawing
        self._complaint = ""
        self._show_state()
        plane, view = request.comparison.fixed.plane, self._session.view
        if request.options.mode == "swipe":
            first, second = drawing.pictures
            view.show_swipe(
                first,
                second,
                plane,
                request.region,
                position=self.modes.divider,
                axis=self.direction.value,
            )
        else:
            view.show(drawing.pictures[0], plane, request.region)
        if request.options.mode == "blink":
            self._set_rate(self.rate.value())
            self._blink.start()
        else:
            self._blink.stop()

    def _blink_once(self) -> None:
        shown = self._shown
        if shown is None or len(shown.pictures) != 2:
            self._blink.stop()
            return
        first, second = shown.pictures
        self._shown = shown = Drawing(shown.request, shown.pixels, (second, first))
        request = shown.request
        self._session.view.show(second, request.comparison.fixed.plane, request.region)

    def _set_rate(self, rate: float) -> None:
        self._blink.setInterval(round(1000 / rate))

    def _move_divider(self, _: int) -> None:
        self._session.view.move(self.modes.divider)

    def divider_dragged(self, position: float) -> None:
        """Move the divider to the position in [0, 1] to which it was dragged."""
        self.modes.divider = position

    # -- jobs -----------------------------------------------------------------------------------

    @property
    def _busy(self) -> bool:
        return self.running or self._settle.isActive()

    def _on_finished(self, name: str) -> None:
        self._end(name)
        if name == "draw" and self._draw_again:
            self._draw_again = False
            self._draw()
        self._emit_idle()

    def _on_cancelled(self) -> None:
        """Say nothing: another job follows, or the comparison is cleared."""

    def _on_measured(self, key: _Key | None, measured: Measured) -> None:
        if key is None or key != self._key():
            self.note.say("The layers or the plane changed meanwhile: measure again.")
            return
        self._show_measured(measured)
        self._measured_of = key
        for layer in key.layers:
            for name in _VALUE_EVENTS:
                # a method, which napari holds weakly
                getattr(layer.events, name).connect(self._on_changed_values)

    def _show_measured(self, measured: Measured | None) -> None:
        for layer in self._measured_of.layers if self._measured_of is not None else ():
            for name in _VALUE_EVENTS:
                getattr(layer.events, name).disconnect(self._on_changed_values)
        self._measured_of = None
        self.table.show_measured(measured)
        self.note.say("" if measured is None else measured.note)

    def _on_changed_values(self, event: Any = None) -> None:
        self._show_measured(None)
        self._show_state()

    def _drop_stale(self, event: Any = None) -> None:
        """Drop numbers that are not those of the chosen layers and the shown planes."""
        if self._measured_of is not None and self._measured_of != self._key():
            self._on_changed_values()

    def _key(self) -> _Key | None:
        try:
            layers = self.choosers.pair
            planes = tuple(shown_plane(layer, self._viewer).position for layer in layers)
        except ValueError:
            return None
        return _Key((*layers, self.truth.value), planes)

    # -- showing --------------------------------------------------------------------------------

    def _button_clicked(self) -> None:
        if self.showing:
            self.clear()
        else:
            self.compare()

    def _save_clicked(self) -> None:
        name, _ = QFileDialog.getSaveFileName(
            self, "Save the metrics", "metrics.csv", "Comma-separated values (*.csv)"
        )
        if not name:
            return
        try:
            show_info(f"Compare: saved {self.save_csv(name)}")
        except (OSError, ValueError) as error:
            self._fail(error)

    def _show_state(self) -> None:
        super()._show_state()
        self.button.setText("Clea&r" if self.showing else "&Compare")
        self.button.setToolTip(
            "Remove the comparison and show the other layers again"
            if self.showing
            else "Show the comparison in an extra layer; other images are hidden meanwhile"
        )
        measuring = "measure" in self._jobs.by_name
        self.measure_button.setEnabled(not measuring)
        self.measure_button.setText("Measuring…" if measuring else "&Measure")
        self.save_button.setEnabled(self.table.measured is not None)
        if not self.showing:
            self.before.setEnabled(False)
            self.before.setToolTip("Compare first")
        self.legend.say("" if self._shown is None else legend(self._shown.request), rich=True)
        self.hint.say(self._complaint, DOUBTFUL)

    def _show_before(self, comparison: Comparison) -> None:
        self.before.setEnabled(comparison.before is not None)
        self.before.setToolTip(
            "Show the moving layer where the registration started, instead of its result"
            if comparison.before is not None
            else f"The state before registration is unknown: {comparison.no_before}"
        )

    def _fail(self, error: BaseException) -> None:
        text = error_text(error)
        if text != self._complaint:  # once, however often a slider is moved
            show_error(f"Compare: {text}")
        self._complaint = text
        self._show_state()
