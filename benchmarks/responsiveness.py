"""Measure how long the main thread is blocked while a large pair registers in the panel.

    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/responsiveness.py [--size 2048]
    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/responsiveness.py --cancel 8
    python benchmarks/responsiveness.py --calls 5

A timer in the main thread records heartbeats; a gap is the time between two of them. A control
without a run comes first. Then the panel *Register and fuse* runs twice in a napari window; the
first run also loads torch. The output includes the time to open the panel.

Three times of the main thread explain a gap. It computed (slots, drawing), it was queued for a
processor, or it was idle or waited for a lock, mostly Python's. Garbage collection holds that lock
and is listed separately. A second thread records what both threads execute during long gaps.

``--cancel N`` measures clicks on Cancel instead: the time until the panel is idle, with the warped
layer in the window if the best result is kept, and the time until the other layers exist. N clicks
are spread over a run, for both settings of what to keep. The first click comes in the first run of
the session, before napari has shown any result. With ``--fuse`` the clicks come while the
registered pair is fused again.

``--calls N`` opens no window. It cancels `register` and `fuse` N times each, 0.2 s after the start
and at doubling times, at 1000 x 1500 and 3000 x 4000. It prints the time until the call ends.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time
from types import FrameType
from typing import Any

BEAT = 5  # ms
LATE = 0.03  # s without a heartbeat before the threads are sampled
LISTED = 5  # longest gaps
FIRST = 45  # per cent of the progress bar: the refinement of the model "auto"


@dataclass(frozen=True)
class Beat:
    """One heartbeat of the main thread.

    Attributes
    ----------
    time : float
        Seconds.
    stage : str
        Text of the panel.
    computed, queued : float
        Seconds until then that the main thread had run, and had waited for a processor.
    """

    time: float
    stage: str = ""
    computed: float = 0.0
    queued: float = 0.0


@dataclass(frozen=True)
class Note:
    """What the threads executed at a time (s) within a long gap."""

    time: float
    main: str
    worker: str


@dataclass
class Record:
    """Measurements of the main thread.

    Attributes
    ----------
    beats : list of Beat
    notes : list of Note
    collections : list of (float, float)
        Begin and end (s) of each garbage collection, in any thread.
    """

    beats: list[Beat] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    collections: list[tuple[float, float]] = field(default_factory=list)


def gaps(beats: Sequence[Beat]) -> list[float]:
    """Milliseconds between one heartbeat and the next."""
    return [1000 * (later.time - earlier.time) for earlier, later in pairwise(beats)]


def summary(record: Record) -> dict[str, Any]:
    """Median and longest gaps of at least two beats, with the causes of the longest."""
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
        "longest": [_describe(beats[at], beats[at + 1], record) for at in order[:LISTED]],
    }


def _describe(before: Beat, after: Beat, record: Record) -> dict[str, Any]:
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
        "main": _most_frequent(note.main for note in within),
        "worker": _most_frequent(note.worker for note in within),
    }


def _most_frequent(words: Iterable[str]) -> dict[str, int]:
    return dict(Counter(filter(None, words)).most_common(3))


def _queued() -> float:
    """Seconds that this thread has waited for a processor; 0 except on Linux."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def _innermost(frame: FrameType | None) -> str:
    """The innermost call of this package, and the innermost call of all."""
    names = []
    while frame is not None:
        code = frame.f_code
        names.append((code.co_filename, f"{Path(code.co_filename).stem}.{code.co_name}"))
        frame = frame.f_back
    ours = next((name for path, name in names if "/napari_busref/" in path), "")
    inner = names[0][1] if names else ""
    return inner if inner == ours or not ours else f"{ours} > {inner}"


@contextmanager
def sampling(record: Record) -> Iterator[None]:
    """Note what the threads execute while the main thread is late."""
    main_thread, end = threading.main_thread().ident, threading.Event()

    def sample() -> None:
        while not end.wait(0.01):
            now = perf_counter()
            if not record.beats or now - record.beats[-1].time < LATE:
                continue
            frames = sys._current_frames()
            main = _innermost(frames.pop(main_thread, None))
            frames.pop(threading.get_ident(), None)
            calls = [_innermost(frame) for frame in frames.values()]
            ours = "; ".join(call for call in calls if " > " in call)
            record.notes.append(Note(now, main, ours))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@contextmanager
def recording(panel: Any) -> Iterator[Record]:
    """Record the heartbeats of the main thread, and what it executed in long gaps."""
    from qtpy.QtCore import Qt, QTimer

    record = Record()

    def beat() -> None:
        stage = panel.stage.text().split(" · ")[0]
        record.beats.append(Beat(perf_counter(), stage, thread_time(), _queued()))

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
    gc.callbacks.append(collecting)
    try:
        with sampling(record):
            yield record
    finally:
        gc.callbacks.remove(collecting)
        timer.stop()


def serve(seconds: float) -> None:
    """Run the event loop for a time."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    QTimer.singleShot(round(1000 * seconds), loop.quit)
    loop.exec()


def open_panel(size: int) -> tuple[Any, Any, dict[str, Any]]:
    """A napari window with a pair of this size, the panel, and the cost of opening the panel."""
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
    began = perf_counter()
    _, panel = viewer.window.add_plugin_dock_widget("napari-busref", "Register and fuse")
    cost = {"seconds": round(perf_counter() - began, 2), "torch_loaded": "torch" in sys.modules}
    return viewer, panel, cost


def choose(panel: Any, arguments: argparse.Namespace) -> None:
    """Set the panel to the options of the command line."""
    panel.model.value, panel.fusion_model.value = arguments.model, arguments.fusion_model
    panel.device.value = arguments.device
    serve(1)


def start(panel: Any, fuse: bool = False) -> None:
    """Start a run, or fuse again what is registered."""
    if not (panel.fuse_again() if fuse else panel.run()):
        raise SystemExit("the panel could not start the run")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the gaps while the panel is idle, and while it runs."""
    viewer, panel, cost = open_panel(arguments.size or 2048)
    choose(panel, arguments)
    with recording(panel) as idle:
        serve(arguments.idle)
    runs = []
    for _ in range(arguments.runs):
        with recording(panel) as record:
            start(panel)
            panel.wait()
            serve(0.5)  # include the cost of the new layers
        runs.append(summary(record))
    serve(2)  # the panel enables garbage collection again
    began = perf_counter()
    gc.collect()
    garbage = {"objects": len(gc.get_objects()), "seconds": round(perf_counter() - began, 2)}
    viewer.close()
    return {"opened": cost, "idle": summary(idle), "runs": runs, "garbage": garbage}


def timeline(panel: Any, fuse: bool = False) -> list[tuple[float, int]]:
    """Run to the end; seconds and values of the progress bar whenever it moved."""
    moved: list[tuple[float, int]] = []
    began = perf_counter()
    start(panel, fuse)
    while panel.running:
        serve(0.02)
        if not moved or panel.bar.value() > moved[-1][1]:
            moved.append((perf_counter() - began, panel.bar.value()))
    panel.wait()
    return moved


def moments(moved: Sequence[tuple[float, int]], count: int) -> list[tuple[int, float]]:
    """Moments spread over a run: the value of the bar, and seconds since it reached the value.

    Runs differ in length, so seconds alone would miss the longer steps.
    """
    whole = moved[-1][0]
    found = []
    for number in range(count):
        time = whole * (number + 0.5) / count
        at, value = max((one for one in moved if one[0] <= time), default=(0.0, 0))
        found.append((value, time - at))
    return found


def click(
    panel: Any, keep: str, moment: tuple[int, float], fuse: bool = False
) -> dict[str, Any] | None:
    """Start a run and cancel it; None if it finished before the click.

    The click comes ``after`` seconds. Seconds from the click: ``idle`` until the panel is idle and
    the window drawn, ``complete`` until all layers exist, ``ended`` until the thread ends, for
    which the panel does not wait. ``kept`` is True when there are results.
    """
    from qtpy.QtCore import QThreadPool

    value, further = moment
    panel.advanced.controls["on_cancel"].value = keep
    began = perf_counter()
    start(panel, fuse)
    while panel.running and panel.bar.value() < value:
        serve(0.01)
    serve(further)
    if not panel.running:
        panel.wait()
        return None
    after = perf_counter() - began
    stage = panel.stage.text().split(" · ")[0]
    pressed = perf_counter()
    panel.button.click()
    while panel.running:
        serve(0.001)
    serve(0)  # draw the window
    idle = perf_counter() - pressed
    panel.wait()
    complete = perf_counter() - pressed
    while not QThreadPool.globalInstance().waitForDone(0):
        serve(0.02)
    ended = perf_counter() - pressed
    serve(0.5)
    times = {"idle": round(idle, 3), "complete": round(complete, 3), "ended": round(ended, 3)}
    kept = panel.result is not None
    return {"keep": keep, "after": round(after, 2), "stage": stage, **times, "kept": kept}


def measure_cancelling(arguments: argparse.Namespace) -> dict[str, Any]:
    """Cancel runs at moments spread over the length of a run."""
    sizes: dict[str, Any] = {}
    for size in [arguments.size] if arguments.size else [512, 1024]:
        viewer, panel, _ = open_panel(size)
        choose(panel, arguments)
        fuse = arguments.fuse
        first = click(panel, "best", (FIRST, 0.0))
        if fuse:
            timeline(panel)
        moved = timeline(panel, fuse)
        clicks = [
            click(panel, keep, moment, fuse)
            for keep in (("nothing",) if fuse else ("nothing", "best"))
            for moment in moments(moved, arguments.cancel)
        ]
        sizes[str(size)] = {
            "whole_run": round(moved[-1][0], 1),
            "first": first,
            "clicks": [one for one in clicks if one is not None],
        }
        viewer.close()
        serve(0.5)
    return sizes


def measure_calls(count: int, shapes: Sequence[tuple[int, int]]) -> dict[str, list[float]]:
    """Seconds from a cancel until `register` and `fuse` end."""
    from napari_busref import Cancelled, fuse, register
    from napari_busref.data.samples import thermal_scene

    found: dict[str, list[float]] = {}
    for shape in shapes:
        sample = thermal_scene(0, shape)
        for call, moving in ((register, sample.moving), (fuse, sample.aligned)):
            row = found.setdefault(f"{call.__name__} {shape[0]} x {shape[1]}", [])
            for number in range(count):
                cancel, pressed = threading.Event(), [0.0]

                def press(cancel: Any = cancel, pressed: list[float] = pressed) -> None:
                    pressed[0] = perf_counter()
                    cancel.set()

                timer = threading.Timer(0.2 * 2**number, press)
                timer.start()
                try:
                    call(sample.fixed, moving, cancel=cancel)
                except Cancelled:
                    row.append(perf_counter() - pressed[0])
                timer.cancel()
    return found


def print_gaps(found: dict[str, Any]) -> None:
    """Print the gaps of the main thread."""
    print("panel opened:", found["opened"])
    print("garbage collection of all objects at the end:", found["garbage"])
    for name, row in [("idle", found["idle"]), *enumerate(found["runs"], 1)]:
        print(f"{name}:", ", ".join(f"{key} {row[key]}" for key in row if key != "longest"))
        for gap in row["longest"]:
            print("   ", ", ".join(f"{key} {value}" for key, value in gap.items()))


def print_clicks(sizes: dict[str, Any]) -> None:
    """Print the times for each size and setting, then every click."""
    for size, found in sizes.items():
        print(f"{size} x {size}, a run takes {found['whole_run']} s")
        print("  first run of the session:", found["first"])
        for keep in ("nothing", "best"):
            clicks = [one for one in found["clicks"] if one["keep"] == keep]
            # ignore clicks before there was a result to keep
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
        "--size", type=int, help="side of both images (default: 2048, with --cancel 512 and 1024)"
    )
    parser.add_argument(
        "--cancel", type=int, metavar="N", help="measure N clicks on Cancel instead"
    )
    parser.add_argument("--fuse", action="store_true", help="with --cancel: while it fuses again")
    parser.add_argument("--calls", type=int, metavar="N", help="cancel N calls, without a window")
    parser.add_argument("--model", default="auto", help="registration model")
    parser.add_argument("--fusion-model", default="gaf")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of the control")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    arguments = parser.parse_args()
    if arguments.calls:
        found = measure_calls(arguments.calls, [(1000, 1500), (3000, 4000)])
        for call, seconds in found.items():
            print(f"{call}: {max(seconds, default=0.0):.3f} s at most, of {len(seconds)} calls")
    elif arguments.cancel:
        found = measure_cancelling(arguments)
        print_clicks(found)
    else:
        found = measure(arguments)
        print_gaps(found)
    if arguments.out is not None:
        content = {"cpus": os.cpu_count(), "load": os.getloadavg(), **found}
        arguments.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
