"""The panel "Register folders": register and fuse all pairs of two folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QCheckBox, QWidget

from napari_busref._napari.folders.pairs_table import PairRowsTable
from napari_busref._napari.folders.run import (
    FolderRequest,
    FolderResult,
    opened_layers,
    run_folders,
)
from napari_busref._napari.layers.trades import worded
from napari_busref._napari.register.settings import Preferences, Settings
from napari_busref._napari.widgets.forms import (
    DOUBTFUL,
    GOOD,
    Message,
    button,
    chooser,
    form,
    line,
    row,
    scrolled,
    tab_order,
    with_browser,
)
from napari_busref._napari.widgets.job_panel import RunPanel
from napari_busref.batch.run import SUMMARY
from napari_busref.data.pairing import MATCHES, Pair

if TYPE_CHECKING:
    import napari

__all__ = ["RegisterFolders"]

_EARLIER = [
    ("stop", "refuse"),
    ("resume: keep them", "resume"),
    ("replace them", "overwrite"),
]


class _RowSignal(QObject):
    """Delivers finished rows to the main thread."""

    finished = Signal(object, object)


class RegisterFolders(RunPanel):
    """Register and fuse all pairs of two folders, as the command ``napari-busref run`` does.

    The settings are those of "Register and fuse" in the Preferences.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari.
    parent : QWidget, optional

    Attributes
    ----------
    fixed_folder, moving_folder, output_folder : QLineEdit
    match : QLineEdit
        How to pair the files, see `napari_busref.data.pairing.find_pairs`.
    earlier : magicgui.widgets.ComboBox
        What to do with earlier results: ``"refuse"``, ``"resume"`` or ``"overwrite"``.
    settings : Settings or None
        Settings of a script; None: those of the Preferences.
    rows : list of (Pair, dict)
        Each finished pair and its row of the summary.
    idle : Signal
        Emitted at the end of every run.

    Examples
    --------
    >>> _, panel = viewer.window.add_plugin_dock_widget(
    ...     "napari-busref", "Register folders"
    ... )  # doctest: +SKIP
    >>> panel.fixed_folder.setText("flight/visible")  # doctest: +SKIP
    >>> panel.moving_folder.setText("flight/thermal")  # doctest: +SKIP
    >>> panel.output_folder.setText("flight/results")  # doctest: +SKIP
    >>> panel.run()  # doctest: +SKIP
    >>> panel.wait()  # doctest: +SKIP
    """

    TITLE = "Register folders"
    TAB = "Folders"
    RUN = "&Register all pairs"
    RUN_TOOLTIP = (
        "Register and fuse every pair, with the advanced settings of Register and fuse.\n"
        "The viewer can be used meanwhile"
    )
    ABANDONS = False  # the pair that is written now ends first

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(napari_viewer, parent)
        self.settings: Settings | None = None
        self.rows: list[tuple[Pair, dict[str, str]]] = []
        self._output = Path()  # of the rows
        self._signal: _RowSignal | None = None
        self._make_controls()
        self._lay_out()
        self._show_state()

    # -- for scripts ----------------------------------------------------------------------------

    def open_row(self, number: int) -> bool:
        """Open the images and the results of a pair in the viewer.

        Parameters
        ----------
        number : int
            Of the row, from 0.

        Returns
        -------
        bool
            False when there are none; a notification says why.
        """
        try:
            if not 0 <= number < len(self.rows):
                raise ValueError("choose a pair of the table")
            layers = opened_layers(self.rows[number][0], self._output)
        except (ValueError, OSError) as error:
            self._fail(error)
            return False
        for layer in self._viewer.layers:
            layer.visible = False
        self._viewer.layers.extend(layers)
        self._viewer.reset_view()
        return True

    # -- running --------------------------------------------------------------------------------

    def _begin(self) -> None:
        fixed, moving, output = (
            self._folder(edit, name)
            for edit, name in (
                (self.fixed_folder, "{fixed_image}s"),
                (self.moving_folder, "{moving_image}s"),
                (self.output_folder, "results"),
            )
        )
        settings = Preferences().load() if self.settings is None else self.settings
        fusion = settings.fusion()
        fusion["fusion_model"] = fusion.pop("model")
        earlier = self.earlier.value
        request = FolderRequest(
            fixed,
            moving,
            output,
            self.match.text().strip() or MATCHES[0],
            resume=earlier == "resume",
            overwrite=earlier == "overwrite",
            fuse=self.fuse.isChecked(),
            options={**settings.registration(), "on_cancel": "raise"}
            | (fusion if self.fuse.isChecked() else {}),
        )
        self.rows, self._output = [], output
        self.table.fill([])
        self.outcome.say("")
        self._signal = _RowSignal()
        self._signal.finished.connect(self._add_row)
        self._start(run_folders, request, self._signal.finished.emit, returned=self._show_result)

    def _folder(self, edit: Any, name: str) -> Path:
        text = edit.text().strip()
        if not text:
            raise ValueError(worded(f"choose the folder of the {name}"))
        return Path(text).expanduser()

    def _add_row(self, pair: Pair, row: dict[str, str]) -> None:
        if self.running:
            self.rows.append((pair, row))
            self.table.fill([row for _, row in self.rows])

    def _show_result(self, result: FolderResult) -> None:
        self.rows = result.rows
        self.table.fill([row for _, row in self.rows])
        states = [row["status"] for _, row in result.rows]
        counts = {name: states.count(name) for name in ("ok", "doubtful", "failed")}
        text = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        if result.alone:
            text += f"; {len(result.alone)} images without a partner"
        self.outcome.say(text, GOOD if counts["ok"] == len(states) else DOUBTFUL)
        self.stage.say(f"done; the table is {self._output / SUMMARY}")

    def _on_cancelled(self) -> None:
        self.stage.say(f"cancelled; {len(self.rows)} pairs are done, and their results stay")

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, FileExistsError):  # names the options of the command line
            text = str(error).replace("--output: ", "").replace("use --overwrite to replace", "")
            text = text.replace("--", "").rstrip("; ")
            error = FileExistsError(f"{text}: choose what to do with earlier results")
        super()._fail(error)

    def _end(self, name: str = "run") -> None:
        super()._end(name)
        self._signal = None

    def _show_state(self) -> None:
        super()._show_state()
        self.controls.setEnabled(not self.running)
        self.open_button.setEnabled(bool(self.rows))

    # -- controls -------------------------------------------------------------------------------

    def _open_clicked(self) -> None:
        self.open_row(max(self.table.currentRow(), 0))

    def _make_controls(self) -> None:
        self.fixed_folder = line("fixed folder", "Folder with each {fixed_image}")
        self.moving_folder = line("moving folder", "Folder with each {moving_image}")
        self.output_folder = line("output folder", "Folder for the results; it is made")
        self.match = line(
            "match",
            "How to pair the files. name: the same stem, or stems that differ by a word such as\n"
            "_V and _T. order: in the order of their names. Or a pattern: *_rgb,*_lwir",
        )
        self.match.setText(MATCHES[0])
        self.earlier = chooser("earlier", "What to do with results of an earlier run", _EARLIER)
        self.fuse = QCheckBox("Fuse the pairs, too")
        self.fuse.setChecked(True)
        self.fuse.setToolTip("Also write the fused image of each pair")
        self.outcome = Message("outcome")
        self.table = PairRowsTable()
        self.open_button = button(
            "Ope&n the pair",
            "Open the images and the results of the selected row in the viewer (Enter)",
            self._open_clicked,
        )
        self.table.opened.connect(self.open_row)

    def _lay_out(self) -> None:
        self.controls = form(
            ("{fixed_caption}", with_browser(self.fixed_folder)),
            ("{moving_caption}", with_browser(self.moving_folder)),
            ("Res&ults", with_browser(self.output_folder)),
            ("Pair &by", self.match),
            ("E&arlier results", self.earlier.native),
            ("", self.fuse),
        )
        scrolled(
            self,
            self.controls,
            row(self.button),
            self.bar,
            self.stage,
            self.outcome,
            self.table,
            row(self.open_button),
            tall=self.table,
        )
        tab_order(
            self.fixed_folder,
            self.moving_folder,
            self.output_folder,
            self.match,
            self.earlier.native,
            self.fuse,
            self.button,
            self.table,
            self.open_button,
        )
