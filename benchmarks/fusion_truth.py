"""Compare fused multi-focus and multi-exposure pairs with the photographs they derive from.

    python benchmarks/fusion_truth.py [--model refusion] [--model guided-filter] [--split val]
        [--device cpu] [--threads 2]

Prints PSNR and SSIM of the fused brightness, 0..255, clipped and rounded, as means over the pairs.
For multi-focus pairs the photograph is the ideal result. For multi-exposure pairs it is one of
several good exposures.
"""

# Imports here must not load numpy: the number of threads is set first.
from __future__ import annotations

from typing import Annotated

import typer


def main(
    model: Annotated[
        list[str] | None, typer.Option(help="Models (default: refusion and baselines).")
    ] = None,
    split: str = "val",
    device: str = "cpu",
    threads: int = 2,
) -> None:
    """Measure models on both tasks and print one table each."""
    from options import set_threads

    set_threads(threads)
    import numpy as np
    from skimage.metrics import peak_signal_noise_ratio

    from napari_busref import fuse
    from napari_busref.data.datasets import load_pairs
    from napari_busref.data.task_pairs import originals
    from napari_busref.fusion.tasks import model_for
    from napari_busref.images.preprocess import luma
    from napari_busref.metrics.fusion import ssim
    from napari_busref.models import load_model

    names = model or ["refusion", "average", "laplacian", "guided-filter"]
    truth = originals(split)
    for task in ("multi-focus", "multi-exposure"):
        pairs = load_pairs(task, split=split)
        print(f"{task} {split}, {len(pairs)} pairs: PSNR in dB, SSIM")
        for name in names:
            network = load_model(str(model_for(task, name)), kind="fusion", device=device)
            scores = []
            for pair, second, first in pairs:
                grey = np.rint(luma(first.astype(float))).astype(np.uint8)
                mask = np.ones(grey.shape, bool)
                fused = fuse(grey, second, model=network, mask=mask, device=device).fused
                original = truth[pair]
                values = [image.astype(float) for image in (fused, original, original)]
                scores.append([peak_signal_noise_ratio(original, fused), ssim(*values)])
            found = np.mean(scores, 0)
            print(f"  {name}: {found[0]:.1f}, {found[1]:.3f}", flush=True)


if __name__ == "__main__":
    typer.run(main)
