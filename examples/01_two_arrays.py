"""Register and fuse two arrays.

    python examples/01_two_arrays.py

For your own images, replace `sample.fixed` and `sample.moving` by any two arrays
(rows, columns[, RGB]).
"""

from pathlib import Path

from napari_busref import load_sample, register_and_fuse, write_image

out = Path("example-output/01_two_arrays")
out.mkdir(parents=True, exist_ok=True)

sample = load_sample("thermal")  # a street at dusk, visible and infrared
result = register_and_fuse(sample.fixed, sample.moving)

registration = result.registration
print(f"quality {registration.quality.score:.2f}, reliable: {registration.quality.reliable}")
print(f"{registration.mask.mean():.0%} of the fixed image is in the infrared one")

# flow is (2, rows, columns): warped[r, c] = moving[r + flow[0, r, c], c + flow[1, r, c]]
row, col = 200, 300
d_row, d_col = registration.flow[:, row, col]
print(f"fixed pixel ({row}, {col}) is infrared pixel ({row + d_row:.1f}, {col + d_col:.1f})")

write_image(out / "warped.png", registration.warped)
write_image(out / "fused.png", result.fusion.fused)
print(f"pictures in {out.resolve()}")
