"""Measure memory, time and difference of fusing a large image whole and in tiles.

    python benchmarks/tiling.py [--model gaf] [--side 2048] [--tile 512] [--device cpu]
        [--threads 2]

The image is noise, the worst case for global pooling. Each row runs in a separate process, which
isolates its memory: the growth of the resident set, or on a GPU the allocator's peak.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any


def measure(name: str, side: int, tile: int | None, device: str) -> dict[str, Any]:
    """Fuse noise of ``side`` x ``side`` px once, after a small image as warm-up."""
    import numpy as np
    import torch

    from napari_busref import fuse
    from napari_busref.models import load_model

    rng = np.random.default_rng(0)
    visible, infrared = rng.random((2, side, side), np.float32)
    model = load_model(name, kind="fusion", device=device)
    options: dict[str, Any] = {"model": model, "device": device, "mask": np.ones((side, side))}
    fuse(visible[:64, :64], infrared[:64, :64], model=model, device=device)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter(), time.process_time()
    fused = fuse(visible, infrared, tile=tile, **options).fused
    seconds, cpu_seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if torch.device(device).type == "cuda":
        grown = torch.cuda.max_memory_allocated() / 2**20
    # a corner large enough to contain borders of tiles
    corner = slice(0, min(side, 256))
    pair = visible[corner, corner], infrared[corner, corner]
    alone = {"model": model, "device": device, "mask": np.ones(pair[0].shape)}
    whole = fuse(*pair, tile=None, **alone).fused
    cut = fuse(*pair, tile=max(corner.stop // 2, 16), **alone).fused
    return {
        "model": name,
        "side": side,
        "tile": tile,
        "seconds": round(seconds, 4),
        "cpu_seconds": round(cpu_seconds, 4),
        "grown_mib": round(grown),
        "largest_difference": float(np.abs(whole - cut).max()),
        "mean": float(fused.mean()),
    }


def main() -> None:
    """Measure whole and tiled in separate processes and print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gaf")
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--row", choices=("whole", "tiled"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        import torch

        torch.set_num_threads(options.threads)
        tile = options.tile if options.row == "tiled" else None
        print(json.dumps(measure(options.model, options.side, tile, options.device)))
        return
    for row in ("whole", "tiled"):
        command = [sys.executable, *sys.argv, "--row", row]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print("  ".join(f"{k} {v}" for k, v in json.loads(output.splitlines()[-1]).items()))


if __name__ == "__main__":
    main()
