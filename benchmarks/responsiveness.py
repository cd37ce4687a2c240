"""How long the main thread is away while a large pair registers in the panel.

    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/responsiveness.py [--size 2048]

A timer in the main thread writes down when it is served; a gap is the time between two of these
heartbeats. The panel "Register and fuse" runs twice in a real napari window: the first run also
loads torch. Beside the gaps stands the stage at which the longest one was seen, and how long the
panel took to open.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

BEAT = 5  # ms


def gaps(beats: Sequence[float]) -> list[float]:
    """Milliseconds between one heartbeat and the next, from their times in seconds."""
    return [1000 * (later - earlier) for earlier, later in pairwise(beats)]


def summary(beats: Sequence[tuple[float, str]]) -> dict[str, Any]:
    """Median and longest gap, and what was going on during the longest.

    Parameters
    ----------
    beats : sequence of (float, str)
        Time in seconds and what was going on then; at least two.
    """
    if len(beats) < 2:
        raise ValueError(f"beats: got {len(beats)}, need at least two")
    found = gaps([time for time, _ in beats])
    longest = max(range(len(found)), key=found.__getitem__)
    return {
        "seconds": round(beats[-1][0] - beats[0][0], 1),
        "heartbeats": len(beats),
        "median_ms": round(median(found), 1),
        "over_50_ms": sum(gap > 50 for gap in found),
        "over_250_ms": sum(gap > 250 for gap in found),
        "longest_ms": round(found[longest], 1),
        "longest_at": f"{beats[longest][1]} -> {beats[longest + 1][1]}",
    }


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Open napari and the panel, and run it."""
    import napari
    from npe2 import PluginManager, PluginManifest
    from qtpy.QtCore import QTimer
    from qtpy.QtTest import QTest

    import napari_busref
    from napari_busref.samples import thermal_scene

    manager = PluginManager.instance()
    manager.discover()
    if "napari-busref" not in manager:  # not installed: from the checkout
        manifest = Path(napari_busref.__file__).with_name("napari.yaml")
        manager.register(PluginManifest.from_file(manifest))
    sample = thermal_scene(0, (arguments.size, arguments.size))
    viewer = napari.Viewer(show=True)
    viewer.add_image(sample.fixed, name="visible")
    viewer.add_image(sample.moving, name="infrared")
    QTest.qWait(1000)
    started = perf_counter()
    _, panel = viewer.window.add_plugin_dock_widget("napari-busref", "Register and fuse")
    rows: list[dict[str, Any]] = [{"open_seconds": round(perf_counter() - started, 2)}]
    rows[0]["torch_loaded"] = "torch" in sys.modules
    panel.model.value, panel.fusion_model.value = arguments.model, arguments.fusion_model
    panel.device.value = arguments.device
    for _ in range(arguments.runs):
        beats: list[tuple[float, str]] = []

        def beat(beats: list[tuple[float, str]] = beats) -> None:
            beats.append((perf_counter(), panel.stage.text().split(" · ")[0]))

        timer = QTimer()
        timer.setInterval(BEAT)
        timer.timeout.connect(beat)
        timer.start()
        if not panel.run():
            raise SystemExit("the run could not be started")
        panel.wait()
        QTest.qWait(500)  # what the new layers cost counts too
        timer.stop()
        rows.append(summary(beats))
    viewer.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=2048, help="rows and columns of both images")
    parser.add_argument("--model", default="auto", help="registration model")
    parser.add_argument("--fusion-model", default="gaf")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    arguments = parser.parse_args()
    rows = measure(arguments)
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items()))
    if arguments.out is not None:
        content = {"cpus": os.cpu_count(), "load": os.getloadavg(), "rows": rows}
        arguments.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
