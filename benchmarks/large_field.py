"""Measure CPU seconds and memory of a large visible image with a small thermal one.

    python benchmarks/large_field.py [--shape 3000 4000] [--small 120 160] [--format .tif]

The pair is the built-in street, enlarged, as a drone's two cameras take it. The command
``napari-busref run`` registers, warps and fuses it and writes all files. It runs in a new process,
whose CPU seconds and peak memory include the start of Python and torch. The error is the mean
distance to the known warp, in pixels of each image.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CHUNK = 100  # every so many pixels the error is measured


def write_pair(folder: Path, shape: tuple[int, int], small: tuple[int, int], suffix: str) -> None:
    """Write both images, and the true position of some pixels of the visible one."""
    import numpy as np
    from skimage.transform import resize

    from napari_busref import Transform, write_image
    from napari_busref.data.samples import thermal_scene

    sample = thermal_scene(0, shape)
    moving = resize(sample.moving, small, preserve_range=True, anti_aliasing=True)
    write_image(folder / f"visible{suffix}", sample.fixed)
    write_image(folder / "thermal.tif", np.rint(moving).astype(np.uint8))
    rows, cols = (np.arange(CHUNK // 2, size, CHUNK) for size in shape)
    points = np.stack(np.meshgrid(rows, cols, indexing="ij"), -1).reshape(-1, 2)
    smaller = Transform.equal_field_of_view(shape, small)
    truth = smaller.points(sample.truth.points(points))
    np.savez(folder / "truth.npz", points=points, truth=truth)


def errors(folder: Path) -> dict[str, float]:
    """Mean distance to the truth in pixels of both images, and the score."""
    import numpy as np

    from napari_busref import Transform

    transform = Transform.load(folder / "out" / "thermal.busref.h5")
    report = json.loads((folder / "out" / "thermal_report.json").read_text("utf-8"))
    known = np.load(folder / "truth.npz")
    inside = (known["truth"] >= 0).all(1) & (
        known["truth"] <= np.array(transform.moving_shape)
    ).all(1)
    apart = transform.points(known["points"])[inside] - known["truth"][inside]
    moving = float(np.hypot(*apart.T).mean())
    scale = transform.fixed_shape[0] / transform.moving_shape[0]
    return {
        "error_px_thermal": round(moving, 3),
        "error_px_visible": round(moving * scale, 2),
        "score": round(report["quality"]["score"], 3),
    }


def run(command: list[str], folder: Path) -> dict[str, float]:
    """Run a command; its CPU seconds and peak memory, by the kernel's count."""
    process = subprocess.Popen(command, cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return {
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
    }


def main() -> None:
    """Write the pair, run the command, print what it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=2, default=(3000, 4000), metavar=("H", "W"))
    parser.add_argument("--small", type=int, nargs=2, default=(120, 160), metavar=("H", "W"))
    parser.add_argument("--format", default=".tif", help="extension of the visible image")
    parser.add_argument("--fusion-model", default="gaf")
    parser.add_argument("--keep", type=Path, help="folder for the files, kept")
    parser.add_argument("--step", choices=("write", "errors"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "write":
        write_pair(options.keep, tuple(options.shape), tuple(options.small), options.format)
        return
    if options.step == "errors":
        print(json.dumps(errors(options.keep)))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = options.keep or Path(made)
        folder.mkdir(exist_ok=True, parents=True)
        # a process that has imported little: a child's peak begins at that of its parent
        again = [
            sys.executable,
            str(Path(__file__).resolve()),
            *sys.argv[1:],
            "--keep",
            str(folder),
        ]
        if not (folder / "truth.npz").exists():
            subprocess.run([*again, "--step", "write"], check=True)
        pair = [f"visible{options.format}", "thermal.tif"]
        command = [sys.executable, "-m", "napari_busref", "run", *pair, "-o", "out", "--overwrite"]
        command += ["--fusion-model", options.fusion_model]
        found = run(command, folder)
        done = subprocess.run(
            [*again, "--step", "errors"], check=True, capture_output=True, text=True
        )
        print(
            "  ".join(f"{key} {value}" for key, value in (found | json.loads(done.stdout)).items())
        )


if __name__ == "__main__":
    main()
