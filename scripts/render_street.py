"""Render the street of the built-in sample, and store it in the package.

    python scripts/render_street.py

scripts/street draws it, in about five seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from street.render import render

SHAPE = (384, 512)
SEED = 0
STORED = Path(__file__).resolve().parents[1] / "src" / "napari_busref" / "data" / "street.npz"


def pair() -> tuple[NDArray[np.uint8], NDArray[np.floating[Any]]]:
    """Render the visible image (uint8 RGB) and the infrared one (float32 in [0, 1])."""
    return render(SHAPE, SEED)


def main() -> None:
    visible, infrared = pair()
    np.savez_compressed(STORED, visible=visible, infrared=infrared)
    sys.stdout.write(f"{STORED}: {STORED.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
