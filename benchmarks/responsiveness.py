"""How long the main thread is away while a large pair registers in the panel.

    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/responsiveness.py [--size 2048]
    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/responsiveness.py --cancel 8

With `--cancel N` it measures instead how long it takes from a click on Cancel until the panel is
idle again, with the warped layer in the window if the best is kept, and until the other layers are
there too; at N moments spread over a run, for both choices of what is kept. The very first click
comes in the session's first run, in which napari has shown no results yet.

A timer in the main thread writes down when it is served; a gap is the time between two of these
heartbeats. First comes a control in which nothing runs, then the panel "Register and fuse" runs
twice in a real napari window: the first run also loads torch. How long the panel took to open is
told too.

Where a gap comes from is told by three times of the main thread: what it computed itself (slots,
drawing), what it waited for a processor while others had them all, and the rest, in which it had
nothing to do or waited for a lock, mostly Python's. Python's own garbage collection, which holds
that lock, is told apart. A second thread notes what both were doing meanwhile.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter, sleep, thread_time
from types import FrameType
from typing import Any

BEAT = 5  # ms
LATE = 0.03  # s without a heartbeat, after which is noted what the threads are doing
LISTED = 5  # longest gaps
FIRST = 450  # thousandths of the progress bar: there the model "auto" refines


@dataclass(frozen=True)
class Beat:
    """One heartbeat of the main thread.

    Attributes
    ----------
    time : float
        When, in seconds.
    stage : str
        What the panel showed then.
    computed, queued : float
        Seconds that the main thread had run until then, and had waited for a processor.
    """

    time: float
    stage: str = ""
    computed: float = 0.0
    queued: float = 0.0


@dataclass(frozen=True)
class Note:
    """What the threads were doing at a time (s) when the main thread was late."""

    time: float
    main: str
    worker: str


@dataclass
class Record:
    """All that is written down while the main thread is watched.

    Attributes
    ----------
    beats : list of Beat
    notes : list of Note
    collections : list of (float, float)
        Begin and end (s) of each garbage collection, in whatever thread.
    """

    beats: list[Beat] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    collections: list[tuple[float, float]] = field(default_factory=list)


def gaps(beats: Sequence[Beat]) -> list[float]:
    """Milliseconds between one heartbeat and the next."""
    return [1000 * (later.time - earlier.time) for earlier, later in pairwise(beats)]


def summary(record: Record) -> dict[str, Any]:
    """Median and longest gaps of at least two beats, and where the longest ones came from."""
    beats = record.beats
    if len(beats) < 2:
        raise ValueError(f"beats: got {len(beats)}, need at least two")
    found = gaps(beats)
    order = sorted(range(len(found)), key=found.__getitem__, reverse=True)
    return {
        "seconds": round(beats[-1].time - beats[0].time, 1),
        "heartbeats": len(beats),
        "median_ms": round(median(found), 1),
        "over_50_ms": sum(gap > 50 for gap in found),
        "over_250_ms": sum(gap > 250 for gap in found),
        "longest_ms": round(found[order[0]], 1),
        "longest": [_described(beats[at], beats[at + 1], record) for at in order[:LISTED]],
    }


def _described(before: Beat, after: Beat, record: Record) -> dict[str, Any]:
    whole = 1000 * (after.time - before.time)
    computed = 1000 * (after.computed - before.computed)
    queued = 1000 * (after.queued - before.queued)
    collected = sum(
        max(0.0, min(end, after.time) - max(begin, before.time))
        for begin, end in record.collections
    )
    within = [note for note in record.notes if before.time <= note.time <= after.time]
    return {
        "ms": round(whole),
        "computed_ms": round(computed),
        "queued_ms": round(queued),
        "waited_ms": max(0, round(whole - computed - queued)),
        "garbage_ms": round(1000 * collected),
        "stage": f"{before.stage} -> {after.stage}",
        "main": _most([note.main for note in within]),
        "worker": _most([note.worker for note in within]),
    }


def _most(words: Sequence[str]) -> dict[str, int]:
    return dict(Counter(filter(None, words)).most_common(3))


def _waited() -> float:
    """Seconds that this thread has waited for a processor; Linux tells."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def _place(frame: FrameType | None) -> str:
    """Where a thread is: the innermost call of this package, and the innermost one of all."""
    names = []
    while frame is not None:
        code = frame.f_code
        names.append((code.co_filename, f"{Path(code.co_filename).stem}.{code.co_name}"))
        frame = frame.f_back
    ours = next((name for path, name in names if "/napari_busref/" in path), "")
    inner = names[0][1] if names else ""
    return inner if inner == ours or not ours else f"{ours} > {inner}"


class Watch:
    """Notes what the threads are doing while the main thread is late."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._main = threading.main_thread().ident
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        own, beats = threading.get_ident(), self._record.beats
        while not self._end.is_set():
            sleep(0.01)
            now = perf_counter()
            if not beats or now - beats[-1].time < LATE:
                continue
            frames = sys._current_frames()
            main = _place(frames.pop(self._main, None))
            frames.pop(own, None)
            others = [_place(frame) for frame in frames.values()]
            at_work = "; ".join(place for place in others if " > " in place)
            self._record.notes.append(Note(now, main, at_work))


@contextmanager
def watched(panel: Any) -> Iterator[Record]:
    """Record the heartbeats of the main thread, and what it did when they were late."""
    from qtpy.QtCore import Qt, QTimer

    record = Record()
    watch = Watch(record)

    def beat() -> None:
        stage = panel.stage.text().split(" · ")[0]
        record.beats.append(Beat(perf_counter(), stage, thread_time(), _waited()))

    def collecting(phase: str, _: dict[str, int]) -> None:
        now = perf_counter()
        if phase == "start":
            record.collections.append((now, now))
        elif record.collections:
            record.collections[-1] = (record.collections[-1][0], now)

    timer = QTimer()
    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.setInterval(BEAT)
    timer.timeout.connect(beat)
    timer.start()
    watch.start()
    gc.callbacks.append(collecting)
    try:
        yield record
    finally:
        gc.callbacks.remove(collecting)
        timer.stop()
        watch.stop()


def serve(seconds: float) -> None:
    """Serve the window for a time."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    QTimer.singleShot(round(1000 * seconds), loop.quit)
    loop.exec()


def opened(size: int) -> tuple[Any, Any, dict[str, Any]]:
    """A napari window with a pair of this size and the panel; and what opening that cost."""
    import napari
    from npe2 import PluginManager, PluginManifest

    import napari_busref
    from napari_busref.data.samples import thermal_scene

    manager = PluginManager.instance()
    manager.discover()
    if "napari-busref" not in manager:  # not installed: from the checkout
        manifest = Path(napari_busref.__file__).with_name("napari.yaml")
        manager.register(PluginManifest.from_file(manifest))
    sample = thermal_scene(0, (size, size))
    viewer = napari.Viewer(show=True)
    viewer.add_image(sample.fixed, name="visible")
    viewer.add_image(sample.moving, name="infrared")
    serve(1)
    started = perf_counter()
    _, panel = viewer.window.add_plugin_dock_widget("napari-busref", "Register and fuse")
    cost = {"seconds": round(perf_counter() - started, 2), "torch_loaded": "torch" in sys.modules}
    return viewer, panel, cost


def choose(panel: Any, arguments: argparse.Namespace) -> None:
    """Set the panel as the command line says."""
    panel.model.value, panel.fusion_model.value = arguments.model, arguments.fusion_model
    panel.device.value = arguments.device
    serve(1)


def begin(panel: Any) -> None:
    """Press the button."""
    if not panel.run():
        raise SystemExit("the run could not be started")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Open napari and the panel, and run it."""
    viewer, panel, cost = opened(arguments.size or 2048)
    choose(panel, arguments)
    with watched(panel) as idle:
        serve(arguments.idle)
    runs = []
    for _ in range(arguments.runs):
        with watched(panel) as record:
            begin(panel)
            panel.wait()
            serve(0.5)  # what the new layers cost counts too
        runs.append(summary(record))
    serve(2)  # the panel lets Python search again
    started = perf_counter()
    gc.collect()
    search = {"objects": len(gc.get_objects()), "seconds": round(perf_counter() - started, 2)}
    viewer.close()
    return {"opened": cost, "idle": summary(idle), "runs": runs, "garbage": search}


@dataclass(frozen=True)
class Click:
    """One click on Cancel.

    Attributes
    ----------
    keep : str
        What was to be kept: "nothing" or "best".
    after : float
        Seconds after the run began.
    stage : str
        What the panel showed.
    idle : float
        Seconds from the click until the panel was idle again, and the window drawn.
    complete : float
        Seconds from the click until all layers were there.
    ended : float
        Seconds from the click until the thread had ended, for which nobody waits.
    kept : bool
        Whether there are results.
    """

    keep: str
    after: float
    stage: str
    idle: float
    complete: float
    ended: float
    kept: bool


def timeline(panel: Any) -> list[tuple[float, int]]:
    """Run to the end; seconds at which the progress bar moved, and where to."""
    moved: list[tuple[float, int]] = []
    started = perf_counter()
    begin(panel)
    while panel.running:
        serve(0.02)
        if not moved or panel.bar.value() > moved[-1][1]:
            moved.append((perf_counter() - started, panel.bar.value()))
    panel.wait()
    return moved


def moments(moved: Sequence[tuple[float, int]], count: int) -> list[tuple[int, float]]:
    """Moments spread over a run: where the bar is then, and for how many seconds.

    A run is not as long as the one before, so seconds alone would miss the longer steps.
    """
    whole = moved[-1][0]
    found = []
    for number in range(count):
        time = whole * (number + 0.5) / count
        at, value = max((one for one in moved if one[0] <= time), default=(0.0, 0))
        found.append((value, time - at))
    return found


def click(panel: Any, keep: str, moment: tuple[int, float]) -> Click | None:
    """Begin a run and cancel it; None when it was done before."""
    from qtpy.QtCore import QThreadPool

    value, further = moment
    panel.advanced.controls["on_cancel"].value = keep
    started = perf_counter()
    begin(panel)
    while panel.running and panel.bar.value() < value:
        serve(0.01)
    serve(further)
    if not panel.running:
        panel.wait()
        return None
    after = perf_counter() - started
    stage = panel.stage.text().split(" · ")[0]
    pressed = perf_counter()
    panel.button.click()
    while panel.running:
        serve(0.001)
    serve(0)  # what has come into the window is drawn
    idle = perf_counter() - pressed
    panel.wait()
    complete = perf_counter() - pressed
    while not QThreadPool.globalInstance().waitForDone(0):
        serve(0.02)
    ended = perf_counter() - pressed
    serve(0.5)
    times = (round(seconds, 3) for seconds in (idle, complete, ended))
    return Click(keep, round(after, 2), stage, *times, panel.result is not None)


def cancelled(arguments: argparse.Namespace) -> dict[str, Any]:
    """Cancel runs at moments that are spread over a whole one."""
    sizes: dict[str, Any] = {}
    for size in [arguments.size] if arguments.size else [512, 1024]:
        viewer, panel, _ = opened(size)
        choose(panel, arguments)
        first = click(panel, "best", (FIRST, 0.0))
        moved = timeline(panel)
        clicks = [
            click(panel, keep, moment)
            for keep in ("nothing", "best")
            for moment in moments(moved, arguments.cancel)
        ]
        sizes[str(size)] = {
            "whole_run": round(moved[-1][0], 1),
            "first": None if first is None else asdict(first),
            "clicks": [asdict(one) for one in clicks if one is not None],
        }
        viewer.close()
        serve(0.5)
    return sizes


def print_gaps(found: dict[str, Any]) -> None:
    """Tell what was measured of the main thread."""
    print("panel opened:", found["opened"])
    print("a search of all objects for garbage, at the end:", found["garbage"])
    for name, row in [("idle", found["idle"]), *enumerate(found["runs"], 1)]:
        print(f"{name}:", ", ".join(f"{key} {row[key]}" for key in row if key != "longest"))
        for gap in row["longest"]:
            print("   ", ", ".join(f"{key} {value}" for key, value in gap.items()))


def print_clicks(sizes: dict[str, Any]) -> None:
    """Tell the times for each size and choice, then every click."""
    for size, found in sizes.items():
        print(f"{size} x {size}, a run takes {found['whole_run']} s")
        print("  first run of the session:", found["first"])
        for keep in ("nothing", "best"):
            clicks = [one for one in found["clicks"] if one["keep"] == keep]
            # a click that comes before there is anything to keep says nothing of keeping it
            counted = [one for one in clicks if one["kept"] or keep == "nothing"]
            times = [one["idle"] for one in counted]
            if times:
                print(
                    f"  keep {keep}: median {median(times):.2f} s, longest {max(times):.2f} s, "
                    f"with all layers {max(one['complete'] for one in counted):.2f} s, "
                    f"{sum(time > 0.5 for time in times)} of {len(times)} over 0.5 s, "
                    f"{sum(one['kept'] for one in clicks)} with results"
                )
            for one in clicks:
                print("    ", ", ".join(f"{key} {one[key]}" for key in one if key != "keep"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--size", type=int, help="rows and columns of both images; 2048, or 512 and 1024 to cancel"
    )
    parser.add_argument(
        "--cancel", type=int, metavar="N", help="measure N clicks on Cancel instead"
    )
    parser.add_argument("--model", default="auto", help="registration model")
    parser.add_argument("--fusion-model", default="gaf")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of the control")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    arguments = parser.parse_args()
    if arguments.cancel:
        found = cancelled(arguments)
        print_clicks(found)
    else:
        found = measure(arguments)
        print_gaps(found)
    if arguments.out is not None:
        content = {"cpus": os.cpu_count(), "load": os.getloadavg(), **found}
        arguments.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
