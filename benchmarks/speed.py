"""Measure seconds per pair, parameters and peak memory at 512 x 640, beside a reference method.

    python benchmarks/speed.py [--threads 2] [--device cpu] [--repeats 5] [--out speed.json]
        [--kind fusion] [--shape 512 640] [--precision float32]

The reference of registration is ``skimage.registration.optical_flow_tvl1``, that of fusion the
Laplacian pyramid. Each row runs in a separate process, which measures its peak memory. Compare the
ratio to the reference between machines. CPU seconds add all threads and depend little on other
work of the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

ROWS = {
    "registration": ("optical_flow_tvl1", "busref", "auto"),
    "fusion": ("laplacian", "average", "gaf", "superfusion", "mda", "refusion"),
}


def _call(
    kind: str, name: str, shape: tuple[int, int], device: str, precision: Any
) -> tuple[Callable[[], object], int]:
    """The call that a row times, and the number of its parameters."""
    from skimage.color import rgb2gray

    from napari_busref import fuse, register
    from napari_busref.data.samples import thermal_scene
    from napari_busref.models import load_model

    sample = thermal_scene(shape=shape)
    if name == "optical_flow_tvl1":
        from skimage.registration import optical_flow_tvl1

        fixed = rgb2gray(sample.fixed)
        return lambda: optical_flow_tvl1(fixed, sample.moving / 255.0), 0
    model: Any = load_model(name, kind=kind, device=device)
    parameters = sum(p.numel() for p in model.parameters())
    if kind == "registration":
        call = partial(register, sample.fixed, sample.moving)
    else:
        call = partial(fuse, sample.fixed, sample.aligned, precision=precision)
    return partial(call, model=model, device=device), parameters


def measure(kind: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row: median and fastest of the repeated calls, after a first call that is not timed."""
    import torch

    torch.set_num_threads(options.threads)
    shape = (options.shape[0], options.shape[1])
    call, parameters = _call(kind, name, shape, options.device, options.precision)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    seconds, busy = [], []
    for _ in range(options.repeats):
        began, cpu = time.perf_counter(), time.process_time()
        call()  # returns numpy arrays, so the device has finished
        seconds.append(time.perf_counter() - began)
        busy.append(time.process_time() - cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "kind": kind,
        "name": name,
        "seconds": round(median(seconds), 4),
        "fastest": round(min(seconds), 4),
        "cpu_seconds": round(min(busy), 4),
        "parameters": parameters,
        "peak_mib": round(peak / 1024),
        "grown_mib": round((peak - before) / 1024),
    }


def import_seconds(repeats: int) -> float:
    """Median seconds of ``import napari_busref`` in a new interpreter."""
    code = (
        "import time; t = time.perf_counter(); import napari_busref; "
        "print(time.perf_counter() - t)"
    )
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
        runs.append(float(done.stdout))
    return round(median(runs), 4)


def main() -> None:
    """Measure every row and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kind", choices=tuple(ROWS))
    parser.add_argument("--shape", type=int, nargs=2, default=(512, 640), metavar=("H", "W"))
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--row", nargs=2, metavar=("KIND", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measure(*options.row, options)))
        return
    rows: list[dict[str, Any]] = []
    for kind in [options.kind] if options.kind else ROWS:
        for name in ROWS[kind]:
            command = [sys.executable, *sys.argv, "--row", kind, name]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row = json.loads(output.splitlines()[-1])
            peer = next((r for r in rows if r["kind"] == kind), row)
            row["ratio_to_peer"] = round(row["fastest"] / peer["fastest"], 3)
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    report = {
        "machine": f"{platform.machine()}, {platform.system()}",
        "device": options.device,
        "threads": options.threads,
        "shape": options.shape,
        "precision": options.precision,
        "import_napari_busref_seconds": import_seconds(options.repeats),
        "rows": rows,
    }
    print("import napari_busref:", report["import_napari_busref_seconds"], "s")
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
