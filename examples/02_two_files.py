"""Register two image files and keep the pixel size.

    python examples/02_two_files.py

The script saves the warped image with the pixel size of the fixed one, and the transform. The
shell does the same with `napari-busref run visible.tif infrared.tif -o results`.
"""

from pathlib import Path

import tifffile

from napari_busref import Transform, load_sample, read_image, register, write_image

out = Path("example-output/02_two_files")
out.mkdir(parents=True, exist_ok=True)

# Stand-ins for two camera files. 4 pixels per centimetre are 2.5 mm a pixel.
sample = load_sample("thermal")
resolution = {"resolution": (4, 4), "resolutionunit": "CENTIMETER"}
tifffile.imwrite(out / "visible.tif", sample.fixed, photometric="rgb", **resolution)
tifffile.imwrite(out / "infrared.tif", sample.moving)

fixed = read_image(out / "visible.tif")
moving = read_image(out / "infrared.tif")
result = register(fixed.data, moving.data)

# The warped image lies on the grid of the fixed one and has its pixel size.
write_image(out / "infrared_warped.tif", result.warped, metadata=fixed.metadata)
result.transform.save(out / "infrared.busref.h5", metadata={"fixed": "visible.tif"})

again = Transform.load(out / "infrared.busref.h5")
print(f"transform kept: {again == result.transform}, files in {out.resolve()}")
