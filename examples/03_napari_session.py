"""Run the panel in a scripted napari session.

    python examples/03_napari_session.py [screenshot.png] [--stay]

The script opens the built-in scene, runs the panel *Register and fuse* as a click would, and saves
a screenshot, by default `example-output/napari.png`. `--stay` keeps the window open. On a machine
without a screen, run it under xvfb-run:

    xvfb-run -a -s "-screen 0 1600x1200x24" python examples/03_napari_session.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import napari
from qtpy.QtTest import QTest

parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
parser.add_argument("screenshot", nargs="?", default="example-output/napari.png", type=Path)
parser.add_argument("--sample", default="thermal", help="thermal or stain")
parser.add_argument("--model", default="auto", help="registration model")
parser.add_argument("--fusion-model", default="automatic", help="fusion model")
parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
parser.add_argument("--stay", action="store_true", help="leave the window open")
arguments = parser.parse_args()
arguments.screenshot.parent.mkdir(parents=True, exist_ok=True)

viewer = napari.Viewer(show=True)
viewer.window.resize(1400, 900)
fixed, moving = viewer.open_sample("napari-busref", arguments.sample)

# The menus show these two names. The choosers are set like any widget.
_, panel = viewer.window.add_plugin_dock_widget("napari-busref", "Register and fuse")
panel.fixed.value, panel.moving.value = fixed, moving
panel.model.value = arguments.model
panel.fusion_model.value = arguments.fusion_model
panel.device.value = arguments.device

if not panel.run():
    raise SystemExit("the run could not be started")
panel.wait()  # keeps the window responsive
if panel.result is None:
    raise SystemExit("the run failed; its message is in the panel")

# The layers hold the whole result ...
warped = viewer.layers[f"{moving.name} warped"]
known = warped.metadata["napari-busref"]
print("quality:", known["quality"])
print("affine, fixed to moving pixels:", known["transform"].affine.round(4).tolist(), sep="\n")
print("layers:", ", ".join(layer.name for layer in viewer.layers))

# ... and the transform can be saved from here or from File > Save Selected Layers.
transform_file = arguments.screenshot.with_suffix(".busref.h5")
viewer.layers[f"{moving.name} displacement"].save(str(transform_file))
print("transform:", transform_file)

viewer.reset_view()
QTest.qWait(500)  # let the canvas draw
viewer.screenshot(str(arguments.screenshot), canvas_only=False, flash=False)
print("screenshot:", arguments.screenshot)

if arguments.stay:
    napari.run()
else:
    viewer.close()
