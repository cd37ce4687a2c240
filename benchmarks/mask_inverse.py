"""Measure how the paper's approximate inverse changes the reconstructible mask.

    python benchmarks/mask_inverse.py [--draws 200]

Uses warps of the measuring protocol at 330 x 500. The exact inverse is a fixed point; the paper's
is ``theta^-1`` and then ``-phi``. Prints the mean and the 95th percentile of the distance between
both source positions in pixels, and the fraction of pixels in which the masks differ.
"""

from __future__ import annotations

import argparse

import torch

from napari_busref.geometry import base_grid, inside
from napari_busref.training.batches.warps import draw_warps
from napari_busref.training.recipe import WarpConfig

SHAPE = (330, 500)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    torch.manual_seed(0)
    half = torch.tensor([SHAPE[1] / 2, SHAPE[0] / 2])
    distances, differing, masked = [], [], []
    for _ in range(options.draws):
        warps = draw_warps(WarpConfig(), 1, SHAPE, torch.zeros(1))
        points = base_grid(*SHAPE, warps.theta)
        exact = warps.source_points(points, iterations=40)
        paper = warps.approximate_source_points(points)
        mask = inside(exact, *SHAPE)[:, 0]
        distances.append((((exact - paper) * half).square().sum(-1).sqrt())[mask])
        differing.append(float((mask != inside(paper, *SHAPE)[:, 0]).float().mean()))
        masked.append(float(mask.float().mean()))
    every = torch.cat(distances)
    print(f"distance mean {every.mean():.2f} px")
    print(f"distance 95th percentile {every[::97].quantile(0.95):.2f} px")
    print(f"mask covers {100 * sum(masked) / len(masked):.1f} % of the pixels")
    print(f"masks differ in {100 * sum(differing) / len(differing):.2f} % of the pixels")


if __name__ == "__main__":
    main()
