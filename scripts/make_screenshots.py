"""Take screenshots of napari with the panels at work on the built-in samples, for docs/images.

    python scripts/make_screenshots.py [STORY …] [--to FOLDER]

Stories: thermal, landmarks, microscope, satellite, training. Each replays a tutorial in
docs/tutorials, or a part of one. walk does what a newcomer does first, in three trades, two themes
and two sizes of the window (docs/explanation/first_minutes.md). panels shows every panel, to be
looked at: give it a folder. All of them take some minutes on
two cores. Without a screen, run it under xvfb-run -a -s "-screen 0 1600x1200x24". It neither reads
nor changes the user's Preferences and models.
"""

from __future__ import annotations

import argparse
import os
import runpy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy import ndimage as ndi
from skimage.measure import label
from skimage.morphology import remove_small_objects

import napari_busref
from napari_busref import load_sample, write_image
from napari_busref.data.samples import thermal_scene

if TYPE_CHECKING:
    import napari
    from numpy.typing import NDArray
    from qtpy.QtWidgets import QWidget

    from napari_busref import Transform

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
COLOURS = 256  # of a picture's palette
WIDEST = 1150  # pixels of a picture
PANEL = 400  # pixels that a panel is wide
GAP = 24  # pixels between pictures beside each other


class Session:
    """A napari window with the plugin, and screenshots of it.

    Parameters
    ----------
    folder : Path
        For the pictures.
    size : tuple of int
        Width and height of the window.
    theme : str
        ``"dark"`` or ``"light"``.
    """

    def __init__(
        self, folder: Path, size: tuple[int, int] = (1320, 740), theme: str = "dark"
    ) -> None:
        import napari
        from npe2 import PluginManager, PluginManifest

        plugins = PluginManager.instance()
        plugins.discover()
        if "napari-busref" not in plugins:  # run from a checkout that is not installed
            manifest = Path(napari_busref.__file__).with_name("napari.yaml")
            plugins.register(PluginManifest.from_file(manifest))
        self.folder = folder
        self.viewer: napari.Viewer = napari.Viewer(show=True)
        self.viewer.theme = theme
        self.viewer.window.resize(*size)
        self.settle()

    def settle(self, milliseconds: int = 700) -> None:
        """Process the window's events until everything is drawn."""
        from qtpy.QtTest import QTest

        QTest.qWait(milliseconds)

    def until(self, ready: Callable[[], bool], milliseconds: int = 60_000) -> None:
        """Process the window's events until a condition holds."""
        for _ in range(milliseconds // 20):
            if ready():
                return
            self.settle(20)
        raise TimeoutError("the condition did not hold in time")

    def panel(self, title: str) -> Any:
        """Open a panel by its title in the menu, as a tab beside earlier ones."""
        from qtpy.QtCore import Qt

        window = self.viewer.window
        dock, panel = window.add_plugin_dock_widget("napari-busref", title, tabify=True)
        dock.parent().resizeDocks([dock], [PANEL], Qt.Orientation.Horizontal)
        self.settle()
        self.viewer.reset_view()
        return panel

    def select(self, name: str) -> None:
        """Select one layer, so napari shows its controls."""
        self.viewer.layers.selection = {self.viewer.layers[name]}

    def close_panel(self, panel: QWidget) -> None:
        """Take a panel out of the window."""
        self.viewer.window.remove_dock_widget(panel)
        self.settle(200)

    def dismiss(self, panel: QWidget) -> None:
        """Close napari's notifications, which cover the picture."""
        from qtpy.QtWidgets import QDialog

        for dialog in panel.window().findChildren(QDialog):
            if type(dialog).__name__ == "NapariQtNotification":
                dialog.close()

    def window(self, name: str) -> None:
        """Save a picture of the whole window."""
        self.settle()
        self._save(name, self._grab())

    def only(self, panel: QWidget, name: str = "") -> NDArray[np.uint8]:
        """Return a picture of one panel, down to the end of its content; save it under a name."""
        from qtpy.QtCore import QPoint

        self.settle()
        picture = self._grab()
        window = panel.window()
        corner = panel.mapTo(window, QPoint(0, 0))
        scale = picture.shape[1] / window.width()
        left, top, right, bottom = (
            round(scale * edge)
            for edge in (
                corner.x(),
                corner.y(),
                corner.x() + panel.width(),
                corner.y() + panel.height(),
            )
        )
        part = picture[top:bottom, left:right]
        # the content ends at the last row that differs from the bottom row
        drawn = np.flatnonzero((part != part[-1:]).any(axis=(1, 2)))
        end = min(int(drawn[-1]) + 12, len(part)) if len(drawn) else len(part)
        if name:
            self._save(name, part[:end])
        return part[:end]

    def together(self, name: str, pictures: list[NDArray[np.uint8]]) -> None:
        """Save pictures of one width as a sheet, two in a row, on the background of the first."""
        rows = [pictures[at : at + 2] for at in range(0, len(pictures), 2)]
        width = 2 * pictures[0].shape[1] + GAP
        height = sum(max(map(len, row)) for row in rows) + GAP * (len(rows) - 1)
        sheet = np.empty((height, width, 3), np.uint8)
        sheet[:] = pictures[0][-1, -1]
        top = 0
        for row in rows:
            for column, one in enumerate(row):
                left = column * (one.shape[1] + GAP)
                sheet[top : top + len(one), left : left + one.shape[1]] = one
            top += max(map(len, row)) + GAP
        self._save(name, sheet)

    def _grab(self) -> NDArray[np.uint8]:
        picture = self.viewer.screenshot(canvas_only=False, flash=False)
        return np.ascontiguousarray(picture[..., :3])

    def _save(self, name: str, picture: NDArray[np.uint8]) -> None:
        """Write an 8-bit palette PNG, a third of the size of true colour."""
        image = Image.fromarray(picture)
        image.thumbnail((WIDEST, WIDEST), Image.Resampling.LANCZOS)
        # other quantizers turn small coloured objects such as points grey
        small = image.quantize(
            COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE
        )
        path = self.folder / f"{name}.png"
        small.save(path, optimize=True)
        size = path.stat().st_size // 1024
        print(f"{path.name}: {small.width} x {small.height}, {size} KiB", flush=True)


@contextmanager
def session(folder: Path, trade: str = "thermal", **window: Any) -> Iterator[Session]:
    """A session in the words of a trade, whose window is closed at the end."""
    from napari_busref._napari.layers.trades import set_trade

    one = Session(folder, **window)
    set_trade(trade)
    try:
        yield one
    finally:
        one.viewer.close()
        one.settle(100)


def thermal(folder: Path) -> None:
    """Register and fuse: idle, running, done and unreliable; swipe."""
    with session(folder) as here:
        viewer = here.viewer
        _fixed, moving = viewer.open_sample("napari-busref", "thermal")
        panel = here.panel("Register and fuse")
        here.window("thermal-open")
        states = [here.only(panel)]
        panel.run()
        here.until(lambda: panel.bar.value() > 35)
        states.append(here.only(panel, "panel-running"))
        panel.wait()
        here.select("visible fused")
        states.append(here.only(panel, "panel-done"))
        here.window("thermal-done")

        compare = here.panel("Compare")
        compare.mode.value = "swipe"
        compare.compare()
        compare.wait()
        compare.measure()
        compare.wait()
        here.window("swipe")
        compare.mode.value = "edges"
        compare.wait()
        here.window("edges")
        here.close_panel(compare)

        # a moving image of something else: no registration can be right
        panel.undo()
        moving.data = load_sample("stain").moving
        panel.run()
        panel.wait()
        states.append(here.only(panel, "panel-unreliable"))
        here.together("panel", states)


def landmarks(folder: Path) -> None:
    """Landmark pairs, one of them placed wrongly; both images side by side."""
    with session(folder) as here:
        _fixed, moving = here.viewer.open_sample("napari-busref", "thermal")
        panel = here.panel("Landmarks")
        _place_landmarks(here, panel, moving.metadata["napari-busref"]["truth"])
        panel.residuals.setChecked(True)
        here.window("landmarks")
        panel.residuals.setChecked(False)
        panel.beside.setChecked(True)
        panel.placing = True
        here.window("side-by-side")
        panel.placing = False


def _place_landmarks(
    here: Session, panel: Any, truth: Transform, counts: tuple[int, int] = (3, 4)
) -> None:
    """Add rows and columns of landmarks as a user would: about 1 px off, and one far off."""
    panel.placing = True
    height, width = truth.fixed_shape
    rows = np.linspace(0.2, 0.85, counts[0]) * height
    cols = np.linspace(0.15, 0.85, counts[1]) * width
    places = np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1).reshape(-1, 2)
    partners = truth.points(places) + np.random.default_rng(0).normal(0, 0.8, places.shape)
    partners[5] += (9, -6)
    for place, partner in zip(places, partners, strict=True):
        for side, point in (("fixed", place), ("moving", partner)):
            panel.pairs.points[side].add(point)
            here.settle(60)
    panel.placing = False
    here.viewer.reset_view()


def microscope(folder: Path) -> None:
    """Two stains: overlay before and after, and cells on the other image."""
    with session(folder, "microscopy") as here:
        viewer = here.viewer
        _fixed, moving = viewer.open_sample("napari-busref", "stain")
        panel = here.panel("Register and fuse")
        panel.run()
        panel.wait()
        here.dismiss(panel)
        compare = here.panel("Compare")
        compare.mode.value = "overlay"
        compare.compare()
        compare.wait()
        compare.measure()
        compare.wait()
        here.window("microscope-after")
        compare.before.setChecked(True)
        compare.wait()
        here.window("microscope-before")
        compare.clear()
        here.close_panel(compare)
        here.close_panel(panel)

        for layer in viewer.layers:
            layer.visible = layer.name == "nuclei"
        # a simple segmentation of the protein image, and three marks
        stained = ndi.gaussian_filter(moving.data.astype(float), 3)
        regions = remove_small_objects(label(stained > 1.6 * stained.mean()), max_size=400)
        labels = viewer.add_labels(regions, name="stained regions", opacity=0.7)
        marks = viewer.add_points(
            [[170, 215], [330, 300], [430, 150]],
            name="marks",
            size=22,
            symbol="cross",
            face_color="yellow",
        )
        apply = here.panel("Apply transform")
        viewer.layers.selection = {labels, marks}
        apply.run()
        apply.wait()
        labels.visible = marks.visible = False
        here.window("carry-over")


def satellite(folder: Path) -> None:
    """Layers of different pixel size at their map positions, before and after."""
    with session(folder, "remote sensing") as here:
        viewer = here.viewer
        _open_satellite(viewer)
        panel = here.panel("Register and fuse")
        here.window("satellite-open")
        panel.run()
        panel.wait()
        for layer in viewer.layers:
            layer.visible = layer.name in ("visible", "thermal warped", "thermal displacement")
        viewer.layers["thermal warped"].opacity = 0.5
        here.select("thermal displacement")
        here.window("satellite-done")
        compare = here.panel("Compare")
        compare.mode.value = "checkerboard"
        compare.compare()
        compare.wait()
        here.select("visible")
        here.window("checkerboard")


def _open_satellite(viewer: napari.Viewer) -> None:
    """Open the pair of the satellite example at its map positions."""
    pair = runpy.run_path(str(ROOT / "examples" / "06_satellite_pair.py"))
    with tempfile.TemporaryDirectory() as files:
        paths = [Path(files) / name for name in ("visible.tif", "thermal.tif")]
        pair["write_pair"](*paths)
        pair["add_layers"](
            viewer, *(part for path in paths for part in pair["read_geotiff"](path))
        )
    viewer.canvas.overlays.scale_bar.visible = True


def training(folder: Path) -> None:
    """Fine-tune: the curves and the preview during a training."""
    with session(folder) as here, tempfile.TemporaryDirectory() as files, chdir(files):
        folders = [Path("pairs") / name for name in ("visible", "infrared")]
        for one in folders:
            one.mkdir(parents=True)
        for seed in range(10, 18):
            street = thermal_scene(seed, (192, 256))
            for one, image in zip(folders, (street.fixed, street.aligned), strict=True):
                write_image(one / f"street{seed}.png", image)
        panel = here.panel("Fine-tune")
        panel.source.fixed_folder.setText(str(folders[0]))
        panel.source.moving_folder.setText(str(folders[1]))
        panel.choices.name.setText("our camera")
        panel.choices.steps.setValue(40)
        panel.choices.batch.setValue(1)
        panel.choices.every.setValue(8)
        panel.choices.device.value = "cpu"
        panel.run()
        here.until(lambda: len(panel.curve.scores) > 2 or not panel.running, 400_000)
        here.viewer.reset_view()
        here.window("training")
        panel.cancel()
        panel.wait()


def walk(folder: Path) -> None:
    """What a newcomer of each trade does first."""
    small = (1024, 768)
    with session(folder, size=(1300, 850)) as here:
        here.viewer.open_sample("napari-busref", "thermal")
        panel = here.panel("Register and fuse")
        panel.run()
        panel.wait()
        here.select("visible fused")
        here.window("walk-thermal")
    with session(folder, size=small, theme="light") as here:
        _fixed, moving = here.viewer.open_sample("napari-busref", "thermal")
        moving.data = load_sample("stain").moving
        panel = here.panel("Register and fuse")
        panel.run()
        panel.wait()
        here.dismiss(panel)
        here.window("walk-nothing")
    with session(folder, "microscopy", size=small) as here:
        _open_stack(here.viewer)
        here.panel("Compare")
        panel = here.panel("Register and fuse")
        panel.settings = replace(panel.settings, planes="each", fused=False)
        panel.run()
        panel.wait()
        here.dismiss(panel)
        here.select("protein warped")
        here.window("walk-stack")
    with session(folder, "remote sensing", size=small, theme="light") as here:
        _open_satellite(here.viewer)
        register = here.panel("Register and fuse")
        register.run()
        register.wait()
        here.panel("Apply transform")
        panel = here.panel("Landmarks")
        _place_landmarks(here, panel, register.result.registration.transform, (2, 3))
        here.window("walk-landmarks")


def _open_stack(viewer: napari.Viewer) -> None:
    """Two stains of four planes in µm; the third plane of one is empty glass."""
    sample = load_sample("stain")
    place = {"scale": (2.0, 0.5, 0.5), "units": ("µm",) * 3, "axis_labels": ("z", "y", "x")}
    rng = np.random.default_rng(0)
    for name, image in (("nuclei", sample.fixed), ("protein", sample.moving)):
        image = image[100:356, 100:356]
        planes = np.stack([ndi.gaussian_filter(image, width) for width in (1, 0, 0.5, 1.5)])
        if name == "protein":
            planes[2] = rng.normal(30, 3, image.shape)
        viewer.add_image(planes, name=name, **place)


def panels(folder: Path) -> None:
    """Every panel at both sizes in both themes, after a result that is doubtful."""
    titles = ("Compare", "Landmarks", "Apply transform", "Import transform", "Register folders")
    for size, theme, trade in (
        ((1024, 768), "dark", "thermal"),
        ((1024, 768), "light", "microscopy"),
        ((1300, 850), "dark", "remote sensing"),
        ((1300, 850), "light", "general"),
    ):
        with session(folder, trade, size=size, theme=theme) as here:
            here.viewer.open_sample("napari-busref", "thermal")
            panel = here.panel("Register and fuse")
            fast = {"model": "identity", "search": "none", "refine": "none"}
            panel.settings = replace(panel.settings, **fast)
            panel.run()
            panel.wait()
            here.dismiss(panel)
            start = f"panels-{size[0]}-{theme}"
            here.window(f"{start}-register")
            for title in (*titles, "Fine-tune"):
                here.panel(title)
                here.window(f"{start}-{title.lower().replace(' ', '-')}")


#: Pictures to look at, which no page shows: only by name, with --to.
CHECKS: dict[str, Callable[[Path], None]] = {"panels": panels}
STORIES: dict[str, Callable[[Path], None]] = {
    "thermal": thermal,
    "landmarks": landmarks,
    "microscope": microscope,
    "satellite": satellite,
    "training": training,
    "walk": walk,
}


def make(folder: Path, stories: list[str]) -> None:
    """Replay the stories with empty Preferences and no user models."""
    folder = folder.resolve()  # a story may work in another folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as own:
        # napari reads its settings when it is first imported
        os.environ["NAPARI_CONFIG"] = str(Path(own) / "settings.yaml")
        os.environ["NAPARI_BUSREF_DATA"] = str(Path(own) / "data")
        for name in stories:
            (STORIES | CHECKS)[name](folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "stories", nargs="*", choices=[[], *STORIES, *CHECKS], help="all by default"
    )
    parser.add_argument("--to", type=Path, default=IMAGES, metavar="FOLDER")
    arguments = parser.parse_args()
    make(arguments.to, arguments.stories or list(STORIES))
