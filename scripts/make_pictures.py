"""Draw the pictures of the README from the built-in sample, with the shipped weights.

    python scripts/make_pictures.py

It takes half a minute on two cores. With a display, for example under
xvfb-run -a -s "-screen 0 1600x1200x24", it also draws the pictures that show napari: that of the
README by examples/03_napari_session.py, those of the documentation by scripts/make_screenshots.py
(some minutes more).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from napari_busref import Transform, load_sample, register_and_fuse
from napari_busref._cli.demo import end_point_error, panels
from napari_busref._cli.pictures import overview

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"


def sample_picture(name: str) -> None:
    """Draw the overview of one sample: inputs above, results below."""
    sample = load_sample(name)
    both = register_and_fuse(sample.fixed, sample.moving, device="cpu")
    start = Transform.equal_field_of_view(sample.fixed.shape[:2], sample.moving.shape[:2])
    before = end_point_error(start, sample.truth)
    after = end_point_error(both.registration.transform, sample.truth)
    pictures = panels(sample, both, start)
    named = {
        "fixed": "fixed",
        "moving": "moving",
        "overlay_before": f"before: {before:.1f} px off",
        "overlay_after": f"after: {after:.1f} px off",
        "warped": "warped: moving on the fixed grid",
        "mask": "mask: what both cameras see",
        "flow": pictures["flow"][0],
        "fused": "fused",
    }
    titled = [(title, pictures[key][1]) for key, title in named.items()]
    save(f"{name}.jpg", overview(titled, columns=4, width=300))
    print(f"{name}: {before:.2f} px -> {after:.2f} px")


def shows_windows() -> bool:
    """Whether there is a display for napari."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        print("no display: the pictures that show napari stay as they are")
        return False
    return True


def napari_picture() -> None:
    """Save the screenshot that the napari example makes."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "napari.png"
        script = ROOT / "examples" / "03_napari_session.py"
        subprocess.run([sys.executable, script, shot], check=True)
        picture = Image.open(shot).convert("RGB")
    picture.thumbnail((1200, 1200), Image.Resampling.LANCZOS)
    save("napari.jpg", np.asarray(picture))


def save(name: str, picture: np.ndarray) -> None:
    """Write a JPEG: a fifth of the size of a PNG."""
    Image.fromarray(picture).save(IMAGES / name, quality=88, subsampling=0, optimize=True)


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    sample_picture("thermal")
    if shows_windows():
        napari_picture()
        # in another process, because napari reads its settings when it is imported
        subprocess.run([sys.executable, ROOT / "scripts" / "make_screenshots.py"], check=True)
