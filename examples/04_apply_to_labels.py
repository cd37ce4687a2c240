"""Carry labels and points through a transform that was found on the images.

Run it as it stands: python examples/04_apply_to_labels.py
"""

from pathlib import Path

import numpy as np
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops

from napari_busref import load_sample, register, write_image

out = Path("example-output/04_apply_to_labels")
out.mkdir(parents=True, exist_ok=True)

sample = load_sample("thermal")
transform = register(sample.fixed, sample.moving).transform

# What is warm, outlined in the infrared image ...
warm = label(sample.moving > threshold_otsu(sample.moving)).astype(np.uint16)
# ... on the pixels of the visible image. order=0 keeps every label a label.
warm_on_visible = transform.apply(warm, order=0)
write_image(out / "labels_on_visible.tif", warm_on_visible)
print(f"{warm.max()} warm regions, {len(np.unique(warm_on_visible)) - 1} of them in view")

# Points go both ways: infrared to visible is the inverse.
centres = np.array([region.centroid for region in regionprops(warm)])
on_visible = transform.points(centres, inverse=True)
back = transform.points(on_visible)
print(f"largest error there and back: {np.abs(back - centres).max():.4f} px")
print(f"labels in {out.resolve()}")
