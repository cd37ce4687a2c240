"""Measure how much longer a pair takes beside busy processes than on one free core.

    python benchmarks/contention.py [--busy 0 1 2] [--repeats 3]

The built-in pair is registered by the default model in a new process for each number of busy
processes. ``one core`` is the same in one thread of a process that is bound to one core, without
busy processes. Wall seconds are compared, so the machine should have no other load: its load is
printed. ``OMP_NUM_THREADS`` must not be set.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from statistics import median

PAIR = """
import sys, time, torch
from napari_busref import register
from napari_busref.data.samples import thermal_scene
if sys.argv[1] == "one":
    torch.set_num_threads(1)
sample = thermal_scene()
register(sample.fixed, sample.moving, device="cpu")
for _ in range(int(sys.argv[2])):
    began = time.perf_counter()
    result = register(sample.fixed, sample.moving, device="cpu")
    print(time.perf_counter() - began, result.parameters["device"])
print(torch.get_num_threads())
"""


def pair(kind: str, repeats: int, cores: set[int] | None = None) -> tuple[float, str, int]:
    """Median wall seconds of a pair, the device with its threads, and torch's threads after."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    bind = None if cores is None else (lambda: os.sched_setaffinity(0, cores))
    done = subprocess.run(
        [sys.executable, "-c", PAIR, kind, str(repeats)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        preexec_fn=bind,
    )
    *rows, after = done.stdout.splitlines()
    seconds = median(float(row.split()[0]) for row in rows)
    return seconds, rows[-1].partition(" ")[2], int(after)


def main() -> None:
    """Print the seconds beside each number of busy processes, and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    print(f"{len(cores)} cores, load {os.getloadavg()[0]:.1f} before")
    alone, _, _ = pair("one", options.repeats, {min(cores)})
    print(f"one core, one thread: {alone:.2f} s")
    for count in options.busy:
        others = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)
        ]
        try:
            seconds, device, after = pair("all", options.repeats)
        finally:
            for other in others:
                other.kill()
                other.wait()
        ratio = seconds / alone
        print(f"{count} busy: {seconds:.2f} s, {ratio:.2f} x, {device}, {after} threads after")


if __name__ == "__main__":
    main()
