"""Sky, skyline and ground."""

from __future__ import annotations

import numpy as np

from .canvas import CAMERA, FAR, ROAD, WHOLE, Canvas, Kind
from .houses import facade


def sky(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint the sky at dusk, with clouds."""
    up = np.clip(canvas.y / 0.62, 0, 1)[..., None]
    low = np.array([0.95, 0.52, 0.28], np.float32)
    mid = np.array([0.52, 0.38, 0.46], np.float32)
    top = np.array([0.10, 0.14, 0.30], np.float32)
    colour = np.where(
        up < 0.3, low + (mid - low) * (up / 0.3), mid + (top - mid) * ((up - 0.3) / 0.7)
    )
    distance = 1 / np.maximum(canvas.y + 0.08, 0.02)  # flat clouds, thinner far away
    clouds = canvas.at(canvas.noise, distance, canvas.x * distance * 0.6, 9)
    clouds = np.clip((clouds - 0.52) * 3, 0, 1) * np.clip(canvas.y * 6, 0, 1)
    colour = colour + (clouds * 0.30)[..., None] * (
        np.array([0.62, 0.42, 0.42], np.float32) - 0.6 * colour
    )
    heat = 0.13 - 0.09 * up[..., 0] + 0.10 * clouds
    canvas.light[:] = 0.66 * colour
    canvas.heat[:] = heat


def skyline(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint hills and buildings at the end of the street."""
    canvas.kind = Kind.BUILDING
    cols = canvas.x[0]
    ridge = 0.02 + 0.045 * canvas.at(canvas.noise, 3.1, cols + 5, 2.2)
    hills = canvas.y < ridge[None]
    tone = canvas.at(canvas.fine, canvas.y * 40, canvas.x * 40, 9)
    position = np.stack([canvas.x * 250, canvas.y * 250, np.full_like(canvas.x, 250)], axis=-1)
    canvas.paint(
        WHOLE,
        hills,
        colour=np.array([0.10, 0.13, 0.12]) * (0.5 + tone[..., None]),
        heat=0.26 + 0.08 * tone,
        position=position,
    )
    left = -0.9
    while left < 0.9:
        width, z = rng.uniform(0.03, 0.08), rng.uniform(110, 190)
        height = rng.uniform(10, 34)
        right = left + width
        window = canvas.window(z, (left * z, right * z), (0, height))
        if window is not None:
            facade(window, rng, left * z, right * z, height, ambient=0.55)
        left = right + rng.uniform(-0.01, 0.03)


def ground(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint the road, its markings and the pavements."""
    canvas.kind = Kind.GROUND
    below = canvas.y < -1e-3
    z = np.where(below, CAMERA / np.maximum(-canvas.y, 1e-3), FAR).astype(np.float32)
    z = np.minimum(z, FAR - 1)
    x = canvas.x * z
    position = np.stack([x, np.zeros_like(x), z], axis=-1)
    # detail finer than a pixel fades
    near = np.clip(28 / z, 0, 1)
    rough = 0.5 + near * (canvas.at(canvas.fine, x, z, 3.5) - 0.5)
    patches = canvas.at(canvas.noise, x, z * 0.35, 14)
    grey = (0.13 + 0.09 * patches + 0.11 * (rough - 0.5))[..., None]
    wheel = np.exp(-(((np.abs(np.abs(x) - ROAD / 2) - 0.75) / 0.28) ** 2))
    heat = 0.42 + 0.06 * patches + 0.03 * (rough - 0.5) + 0.05 * wheel
    canvas.paint(
        WHOLE, below, colour=grey * np.array([1.0, 1.0, 1.06]), heat=heat, position=position
    )

    # repaired asphalt has another temperature
    for _ in range(5):
        at_x, at_z = rng.uniform(-ROAD, ROAD), rng.uniform(5, 40)
        wide, long = rng.uniform(0.5, 1.2), rng.uniform(1.0, 4.0)
        patch = below & (np.abs(x - at_x) < wide) & (np.abs(z - at_z) < long)
        sign = rng.choice((-1, 1))
        canvas.paint(WHOLE, patch, colour=grey * (1 - 0.3 * sign), heat=heat + 0.05 * sign)
    manhole = below & (np.hypot(x - 0.9, z - rng.uniform(8, 12)) < 0.42)
    canvas.paint(WHOLE, manhole, colour=grey * 0.55, heat=0.72)

    # pavements: kerb, slabs
    side = below & (np.abs(x) > ROAD)
    joints = (np.abs(x) % 1.2 < 0.05) | (z % 1.2 < 0.06 + 0.004 * z)
    slab = 0.27 + 0.07 * (patches - 0.5) + 0.08 * (rough - 0.5) - 0.09 * joints * near
    colour = slab[..., None] * np.array([1.0, 0.96, 0.90])
    canvas.paint(WHOLE, side, colour=colour, heat=heat - 0.10 + 0.03 * joints * near)
    kerb = below & (np.abs(np.abs(x) - ROAD) < 0.16)
    canvas.paint(WHOLE, kerb, colour=np.array([0.40, 0.38, 0.36]), heat=0.31)

    # paint has the road's temperature, so the thermal image does not show it
    worn = 0.55 + 0.45 * (canvas.at(canvas.fine, z, x, 5) > 0.28)
    dashes = (np.abs(x) < 0.09) & (z % 6.0 < 3.2)
    borders = np.abs(np.abs(x) - (ROAD - 0.45)) < 0.07
    start = rng.uniform(7.0, 9.5)
    zebra = (np.abs(z - start - 1.4) < 1.4) & (np.abs(x) < ROAD - 0.6) & (x % 1.0 < 0.5)
    stripes = below & (dashes & (np.abs(z - start - 1.4) > 2.2) | borders | zebra)
    canvas.paint(WHOLE, stripes * worn, colour=np.array([0.74, 0.74, 0.72]))
