"""Time the recurrent pass of SuperFusion's attention: in chunks, and as the plain loop.

python benchmarks/scan.py --threads 2
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from time import perf_counter

import torch
from torch import Tensor

from napari_busref.models.scan import recurrent_scan


def naive(x: Tensor, weight: Tensor) -> Tensor:
    """The recurrence column by column, over whole columns."""
    columns = [x[..., 0].relu()]
    for t in range(1, x.shape[-1]):
        columns.append((weight[:, None] * columns[-1] + x[..., t]).relu())
    return torch.stack(columns, -1)


def seconds(scan: Callable[..., Tensor], x: Tensor, weight: Tensor, repeats: int) -> float:
    """Best time of a pass; with gradients where ``x`` wants them."""
    found = []
    for _ in range(repeats):
        started = perf_counter()
        result = scan(x, weight)
        if x.requires_grad:
            result.sum().backward()
        if x.is_cuda:
            torch.cuda.synchronize()
        found.append(perf_counter() - started)
    return min(found)


def main() -> None:
    """Print one row a shape, with and without gradients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scans = {"loop": naive} | {
        f"chunks of {chunk}": partial(recurrent_scan, chunk=chunk) for chunk in (8, 16, 32, 64)
    }
    print("shape, gradients: milliseconds of " + ", ".join(scans))
    for shape in ((1, 16, 128, 160), (1, 16, 256, 320), (1, 16, 512, 640)):
        for gradients in (False, True):
            x = torch.randn(shape, device=options.device, requires_grad=gradients)
            weight = torch.rand(shape[1], device=options.device)
            with torch.set_grad_enabled(gradients):
                times = [seconds(scan, x, weight, options.repeats) for scan in scans.values()]
            text = ", ".join(f"{1000 * t:.1f}" for t in times)
            print(f"{'x'.join(map(str, shape))}, {'yes' if gradients else 'no'}: {text}")


if __name__ == "__main__":
    main()
