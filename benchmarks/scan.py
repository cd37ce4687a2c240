"""Time the recurrence of SuperFusion's attention in chunks and as plain loops.

    python benchmarks/scan.py --threads 2

One plain loop runs over pixels (all channels at once), the other over columns. On a CPU the times
are CPU time, which other work on the machine affects little.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from time import perf_counter, process_time

import torch
from torch import Tensor

from napari_busref.models.fusion.scan import recurrent_scan


def pixels(x: Tensor, weight: Tensor) -> Tensor:
    """Run the recurrence pixel by pixel."""
    rows = []
    for row in x.unbind(2):
        found = [row[..., 0].relu()]
        for pixel in row.unbind(-1)[1:]:
            found.append((weight * found[-1] + pixel).relu())
        rows.append(torch.stack(found, -1))
    return torch.stack(rows, 2)


def columns(x: Tensor, weight: Tensor) -> Tensor:
    """Run the recurrence over whole columns."""
    found = [x[..., 0].relu()]
    for column in x.unbind(-1)[1:]:
        found.append((weight[:, None] * found[-1] + column).relu())
    return torch.stack(found, -1)


def seconds(scan: Callable[..., Tensor], x: Tensor, weight: Tensor, repeats: int) -> float:
    """Minimum time of a pass, with the gradients when ``x`` requires them."""
    found = []
    clock = perf_counter if x.is_cuda else process_time
    for _ in range(repeats):
        started = clock()
        result = scan(x, weight)
        if x.requires_grad:
            result.sum().backward()
        if x.is_cuda:
            torch.cuda.synchronize()
        found.append(clock() - started)
    return min(found)


def main() -> None:
    """Print one row per shape, with and without gradients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scans = {"pixel by pixel": pixels, "column by column": columns} | {
        f"chunks of {chunk}": partial(recurrent_scan, chunk=chunk) for chunk in (8, 16, 32, 64)
    }
    print("shape, gradients: milliseconds of " + ", ".join(scans))
    for shape in ((1, 16, 128, 160), (1, 16, 256, 320), (1, 16, 512, 640)):
        for gradients in (False, True):
            x = torch.randn(shape, device=options.device, requires_grad=gradients)
            weight = torch.rand(shape[1], device=options.device)
            with torch.set_grad_enabled(gradients):
                times = [
                    seconds(scan, x, weight, 1 if scan is pixels else options.repeats)
                    for scan in scans.values()
                ]
            text = ", ".join(f"{1000 * t:.1f}" for t in times)
            print(f"{'x'.join(map(str, shape))}, {'yes' if gradients else 'no'}: {text}")


if __name__ == "__main__":
    main()
