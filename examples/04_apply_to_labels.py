"""Apply a transform to labels and points.

    python examples/04_apply_to_labels.py

The transform comes from registering the images. Labels keep their values, and points go both ways.
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

# Label the warm regions of the infrared image ...
warm = label(sample.moving > threshold_otsu(sample.moving)).astype(np.uint16)
# ... and warp them to the visible one. order=0 interpolates no label values.
warm_on_visible = transform.apply(warm, order=0)
write_image(out / "labels_on_visible.tif", warm_on_visible)
print(f"{warm.max()} warm regions, {len(np.unique(warm_on_visible)) - 1} of them in view")

# The transform maps visible to infrared points, so infrared to visible is its inverse.
centres = np.array([region.centroid for region in regionprops(warm)])
on_visible = transform.points(centres, inverse=True)
back = transform.points(on_visible)
print(f"largest error there and back: {np.abs(back - centres).max():.4f} px")
print(f"labels in {out.resolve()}")
