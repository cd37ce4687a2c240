"""A street at dusk, seen by a visible and a thermal camera: a small procedural renderer.

Every pixel keeps what both cameras need (`_Canvas`): albedo, emitted light, position in metres
and heat. The street is painted from far to near, then the visible image is lit and the thermal
image developed. Positions are in metres: ``x`` to the right, ``y`` up, ``z`` away from the
camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage as ndi

Floats = NDArray[np.floating[Any]]

_SAMPLES = 2  # rendered at this many samples a pixel side, then averaged: smooth edges
_ROAD = 4.2  # half width of the road, metres
_WALL = 8.4  # from the middle of the road to the facades
_CAMERA = 1.65  # height of the cameras
_FAR = 400.0


def render(shape: tuple[int, int], seed: int) -> tuple[NDArray[np.uint8], Floats]:
    """Render the scene.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the images.
    seed : int
        Seed of everything that is drawn.

    Returns
    -------
    visible : numpy.ndarray
        uint8 RGB ``(H, W, 3)``.
    infrared : numpy.ndarray
        float32 ``(H, W)`` in [0, 1], warm is bright, without sensor noise.
    """
    rng = np.random.default_rng(seed)
    canvas = _Canvas(shape, rng)
    _sky(canvas, rng)
    _skyline(canvas, rng)
    _ground(canvas, rng)
    for side in (-1, 1):
        _street_side(canvas, rng, side)
    _street_life(canvas, rng)
    return canvas.visible(rng), canvas.infrared()


class _Canvas:
    """What both cameras see, at the sampling resolution."""

    def __init__(self, shape: tuple[int, int], rng: np.random.Generator) -> None:
        height, width = (n * _SAMPLES for n in shape)
        self.height, self.width = height, width
        self.focal = 0.95 * max(width, 1.2 * height)
        self.middle = width * rng.uniform(0.42, 0.58)
        self.horizon = height * rng.uniform(0.50, 0.56)
        rows, cols = np.mgrid[:height, :width].astype(np.float32)
        self.x = (cols - self.middle) / self.focal  # of the ray at z = 1
        self.y = (self.horizon - rows) / self.focal
        self.albedo = np.zeros((height, width, 3), np.float32)
        # emitted, not reflected
        self.light = np.zeros((height, width, 3), np.float32)
        self.position = np.zeros((height, width, 3), np.float32)
        self.position[..., 2] = _FAR
        self.ambient = np.ones((height, width), np.float32)
        self.heat = np.zeros((height, width), np.float32)
        self.lamps: list[tuple[NDArray[np.float32], Floats, float]] = []
        self.noise = _noise_tile(rng)
        self.fine = _noise_tile(rng, octaves=3, start=32)

    def window(self, z: float, x: Sequence[float], y: Sequence[float]) -> _Window | None:
        """Return the part of the picture that shows a rectangle at distance `z`, or None."""
        cols = [int(self.middle + self.focal * v / z) for v in x]
        rows = [int(self.horizon - self.focal * (v - _CAMERA) / z) for v in y]
        part = (
            slice(max(min(rows) - 1, 0), min(max(rows) + 2, self.height)),
            slice(max(min(cols) - 1, 0), min(max(cols) + 2, self.width)),
        )
        if part[0].start >= part[0].stop or part[1].start >= part[1].stop:
            return None
        return _Window(self, part, z)

    def paint(
        self,
        part: tuple[slice, slice],
        cover: NDArray[Any],
        colour: ArrayLike | None = None,
        heat: ArrayLike | None = None,
        light: ArrayLike | None = None,
        position: ArrayLike | None = None,
        ambient: float | None = None,
    ) -> None:
        """Lay a surface over what is there, where and as far as `cover` says (bool or 0..1)."""
        cover = cover.astype(np.float32)
        wide = cover[..., None]
        if colour is not None:
            self.albedo[part] += wide * (np.asarray(colour, np.float32) - self.albedo[part])
            # an opaque surface hides the light behind it
            shine = np.zeros(3, np.float32) if light is None else np.asarray(light, np.float32)
            self.light[part] += wide * (shine - self.light[part])
        elif light is not None:
            self.light[part] += wide * (np.asarray(light, np.float32) - self.light[part])
        if heat is not None:
            self.heat[part] += cover * (np.asarray(heat, np.float32) - self.heat[part])
        if position is not None:
            at = np.broadcast_to(np.asarray(position, np.float32), self.position[part].shape)
            np.copyto(self.position[part], at, where=wide > 0.5)
        if ambient is not None:
            np.copyto(self.ambient[part], np.float32(ambient), where=cover > 0.5)

    def at(self, tile: Floats, u: ArrayLike, v: ArrayLike, size: float) -> Floats:
        """Noise in [0, 1] at surface positions, one tile every `size` metres."""
        n = tile.shape[0]
        u, v = np.broadcast_arrays(np.asarray(u), np.asarray(v))
        values: Floats = ndi.map_coordinates(
            tile, [u * (n / size), v * (n / size)], order=1, mode="grid-wrap"
        )
        return values

    def visible(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        lit = self.ambient[..., None] * np.array([0.44, 0.47, 0.60], np.float32)
        x, y, z = (np.ascontiguousarray(self.position[..., axis]) for axis in range(3))
        for place, colour, reach in self.lamps:
            distance = (x - place[0]) ** 2 + (y - place[1]) ** 2 + (z - place[2]) ** 2
            fall = 1 + distance * np.float32(1 / reach**2)
            lit += colour * (1 / (fall * np.sqrt(fall)))[..., None]
        picture = self.albedo * lit + self.light
        haze = np.where(z < _FAR, np.exp(-z / 260), np.float32(1))[..., None]
        picture = picture * haze + (1 - haze) * np.array([0.40, 0.33, 0.36], np.float32)
        picture = _reduce(picture)
        # glare in the lens around all lamps
        bright = _reduce(np.maximum(self.light - 0.55, 0) * (z < _FAR)[..., None])
        for sigma, share in ((0.004, 0.6), (0.014, 0.8), (0.05, 1.3)):
            blur = sigma * bright.shape[0]
            picture = picture + share * ndi.gaussian_filter(bright, (blur, blur, 0), truncate=3)
        picture = 1 - np.exp(-1.75 * picture)
        grain = rng.standard_normal(picture.shape).astype(np.float32)
        picture += (0.006 + 0.012 * np.sqrt(np.clip(picture, 0, 1))) * grain
        return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)

    def infrared(self) -> Floats:
        haze = np.exp(-self.position[..., 2] / 500)
        haze[self.position[..., 2] >= _FAR] = 1
        heat = _reduce(self.heat * haze + (1 - haze) * 0.34)
        # a thermal lens is softer than a visible one
        heat = ndi.gaussian_filter(heat, 0.0022 * heat.shape[0])
        # automatic gain, as thermal cameras have it
        low, high = np.quantile(heat, (0.002, 0.998))
        # a camera's black level: 0 is left for what lies outside the warped picture
        return np.clip((heat - low) / max(high - low, 1e-6), 0.02, 1).astype(np.float32)


class _Window:
    """A rectangle of the canvas on which things at one distance are painted."""

    def __init__(self, canvas: _Canvas, part: tuple[slice, slice], z: float) -> None:
        self.canvas, self.part, self.z = canvas, part, z
        self.x = canvas.x[part] * z
        self.y = canvas.y[part] * z + _CAMERA
        self.soft = 1.2 * z / canvas.focal  # metres of one sample, for smooth edges

    def paint(self, cover: NDArray[Any], **what: Any) -> None:
        place = np.stack([self.x, self.y, np.full_like(self.x, self.z)], axis=-1)
        self.canvas.paint(self.part, cover, position=place, **what)

    def edge(self, distance: Floats) -> Floats:
        """Turn a signed distance in metres (negative inside) into a cover 0..1."""
        return np.clip(0.5 - distance / self.soft, 0, 1)

    def capsule(self, a: Sequence[float], b: Sequence[float], r0: float, r1: float) -> Floats:
        dx, dy = b[0] - a[0], b[1] - a[1]
        along = ((self.x - a[0]) * dx + (self.y - a[1]) * dy) / max(dx * dx + dy * dy, 1e-9)
        along = np.clip(along, 0, 1)
        gap = np.hypot(self.x - a[0] - along * dx, self.y - a[1] - along * dy)
        return self.edge(gap - r0 - along * (r1 - r0))

    def ellipse(self, x: float, y: float, rx: float, ry: float) -> Floats:
        gap = np.hypot((self.x - x) / rx, (self.y - y) / ry) - 1
        return self.edge(gap * min(rx, ry))

    def box(self, x: float, y: float, half: float, high: float, corner: float = 0.0) -> Floats:
        qx = np.abs(self.x - x) - (half - corner)
        qy = np.abs(self.y - y) - (high - corner)
        outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
        return self.edge(outside + np.minimum(np.maximum(qx, qy), 0) - corner)

    def trapezium(self, x: float, low: float, high: float, below: float, above: float) -> Floats:
        """Upright trapezium with half widths `below` at height `low` and `above` at `high`."""
        along = (self.y - low) / (high - low)
        half = below + np.clip(along, -0.2, 1.2) * (above - below)
        gap = np.maximum(np.abs(self.x - x) - half, np.maximum(low - self.y, self.y - high))
        return self.edge(gap)


def _noise_tile(
    rng: np.random.Generator, size: int = 256, octaves: int = 6, start: int = 4
) -> Floats:
    """Fractal noise in [0, 1] that repeats without a seam."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = start * 2**octave
        if cells > size:
            break
        grid = rng.random((cells, cells)).astype(np.float32)
        step = np.arange(size) * (cells / size)
        at = np.meshgrid(step, step, indexing="ij")
        total += ndi.map_coordinates(grid, at, order=3, mode="grid-wrap") / 1.7**octave
    low, high = np.quantile(total, (0.01, 0.99))
    return np.clip((total - low) / (high - low), 0, 1).astype(np.float32)


def _reduce(image: Floats) -> Floats:
    height, width = image.shape[0] // _SAMPLES, image.shape[1] // _SAMPLES
    blocks = image.reshape(height, _SAMPLES, width, _SAMPLES, *image.shape[2:])
    return blocks.mean(axis=(1, 3))


_WHOLE = (slice(None), slice(None))


# -- sky, skyline and ground --------------------------------------------------------------------


def _sky(canvas: _Canvas, rng: np.random.Generator) -> None:
    up = np.clip(canvas.y / 0.62, 0, 1)[..., None]
    low = np.array([0.95, 0.52, 0.28], np.float32)
    mid = np.array([0.52, 0.38, 0.46], np.float32)
    top = np.array([0.10, 0.14, 0.30], np.float32)
    colour = np.where(
        up < 0.3, low + (mid - low) * (up / 0.3), mid + (top - mid) * ((up - 0.3) / 0.7)
    )
    distance = 1 / np.maximum(canvas.y + 0.08, 0.02)  # clouds lie flat and thin out far away
    clouds = canvas.at(canvas.noise, distance, canvas.x * distance * 0.6, 9)
    clouds = np.clip((clouds - 0.52) * 3, 0, 1) * np.clip(canvas.y * 6, 0, 1)
    colour = colour + (clouds * 0.30)[..., None] * (
        np.array([0.62, 0.42, 0.42], np.float32) - 0.6 * colour
    )
    heat = 0.13 - 0.09 * up[..., 0] + 0.10 * clouds
    canvas.light[:] = 0.66 * colour
    canvas.heat[:] = heat


def _skyline(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Hills and blocks where the street ends."""
    cols = canvas.x[0]
    ridge = 0.02 + 0.045 * canvas.at(canvas.noise, 3.1, cols + 5, 2.2)
    hills = canvas.y < ridge[None]
    tone = canvas.at(canvas.fine, canvas.y * 40, canvas.x * 40, 9)
    place = np.stack([canvas.x * 250, canvas.y * 250, np.full_like(canvas.x, 250)], axis=-1)
    canvas.paint(
        _WHOLE,
        hills,
        colour=np.array([0.10, 0.13, 0.12]) * (0.5 + tone[..., None]),
        heat=0.26 + 0.08 * tone,
        position=place,
    )
    left = -0.9
    while left < 0.9:
        width, z = rng.uniform(0.03, 0.08), rng.uniform(110, 190)
        height = rng.uniform(10, 34)
        right = left + width
        window = canvas.window(z, (left * z, right * z), (0, height))
        if window is not None:
            _facade(window, rng, left * z, right * z, height, ambient=0.55)
        left = right + rng.uniform(-0.01, 0.03)


def _ground(canvas: _Canvas, rng: np.random.Generator) -> None:
    below = canvas.y < -1e-3
    z = np.where(below, _CAMERA / np.maximum(-canvas.y, 1e-3), _FAR).astype(np.float32)
    z = np.minimum(z, _FAR - 1)
    x = canvas.x * z
    place = np.stack([x, np.zeros_like(x), z], axis=-1)
    # fine detail fades where it is smaller than a pixel, as it would through a lens
    near = np.clip(28 / z, 0, 1)
    rough = 0.5 + near * (canvas.at(canvas.fine, x, z, 3.5) - 0.5)
    patches = canvas.at(canvas.noise, x, z * 0.35, 14)
    grey = (0.13 + 0.09 * patches + 0.11 * (rough - 0.5))[..., None]
    wheel = np.exp(-(((np.abs(np.abs(x) - _ROAD / 2) - 0.75) / 0.28) ** 2))
    heat = 0.42 + 0.06 * patches + 0.03 * (rough - 0.5) + 0.05 * wheel
    canvas.paint(
        _WHOLE, below, colour=grey * np.array([1.0, 1.0, 1.06]), heat=heat, position=place
    )

    # repaired asphalt: another age, another warmth
    for _ in range(5):
        at_x, at_z = rng.uniform(-_ROAD, _ROAD), rng.uniform(5, 40)
        wide, long = rng.uniform(0.5, 1.2), rng.uniform(1.0, 4.0)
        patch = below & (np.abs(x - at_x) < wide) & (np.abs(z - at_z) < long)
        sign = rng.choice((-1, 1))
        canvas.paint(_WHOLE, patch, colour=grey * (1 - 0.3 * sign), heat=heat + 0.05 * sign)
    manhole = below & (np.hypot(x - 0.9, z - rng.uniform(8, 12)) < 0.42)
    canvas.paint(_WHOLE, manhole, colour=grey * 0.55, heat=0.72)

    # pavements: kerb, slabs
    side = below & (np.abs(x) > _ROAD)
    joints = (np.abs(x) % 1.2 < 0.05) | (z % 1.2 < 0.06 + 0.004 * z)
    slab = 0.27 + 0.07 * (patches - 0.5) + 0.08 * (rough - 0.5) - 0.09 * joints * near
    colour = slab[..., None] * np.array([1.0, 0.96, 0.90])
    canvas.paint(_WHOLE, side, colour=colour, heat=heat - 0.10 + 0.03 * joints * near)
    kerb = below & (np.abs(np.abs(x) - _ROAD) < 0.16)
    canvas.paint(_WHOLE, kerb, colour=np.array([0.40, 0.38, 0.36]), heat=0.31)

    # paint on the road has the road's temperature: the thermal camera does not see it
    worn = 0.55 + 0.45 * (canvas.at(canvas.fine, z, x, 5) > 0.28)
    dashes = (np.abs(x) < 0.09) & (z % 6.0 < 3.2)
    borders = np.abs(np.abs(x) - (_ROAD - 0.45)) < 0.07
    start = rng.uniform(7.0, 9.5)
    zebra = (np.abs(z - start - 1.4) < 1.4) & (np.abs(x) < _ROAD - 0.6) & (x % 1.0 < 0.5)
    stripes = below & (dashes & (np.abs(z - start - 1.4) > 2.2) | borders | zebra)
    canvas.paint(_WHOLE, stripes * worn, colour=np.array([0.74, 0.74, 0.72]))


# -- buildings ----------------------------------------------------------------------------------


def _street_side(canvas: _Canvas, rng: np.random.Generator, side: int) -> None:
    """Buildings along one side, painted from far to near."""
    plots = []
    z = rng.uniform(9.0, 13.0)
    while z < 105:
        length = rng.uniform(8, 17)
        height = rng.uniform(6.5, 10.5) if z < 30 else rng.uniform(8, 21)
        plots.append((z, z + length, height))
        z += length + (rng.uniform(3.5, 7) if rng.random() < 0.45 else 0.0)
    ambient = 0.95 if side < 0 else 0.62  # one side still sees the bright part of the sky
    for near, far, height in reversed(plots):
        _wall(canvas, rng, side, near, far, height, ambient)
        if rng.random() < 0.75:
            _chimney(canvas, rng, side, near, height)
        garden = rng.random() < 0.7
        if garden:
            _tree(canvas, rng, side * (_WALL + 2.0), near - 1.5, rng.uniform(4.5, 7.5))


def _wall(
    canvas: _Canvas,
    rng: np.random.Generator,
    side: int,
    near: float,
    far: float,
    height: float,
    ambient: float,
) -> None:
    """One building: the facade along the street and the end wall that faces the camera."""
    style = _Style(rng)
    with np.errstate(divide="ignore"):
        z = side * _WALL / np.where(side * canvas.x > 1e-4, canvas.x, side * 1e-4)
    part = (z >= near) & (z <= far)
    if part.any():
        rows, cols = np.where(part)
        box = (slice(0, rows.max() + 1), slice(cols.min(), cols.max() + 1))
        depth = z[box]
        y = canvas.y[box] * depth + _CAMERA
        cover = part[box] & (y >= 0) & (y <= height)
        place = np.stack([np.full_like(y, side * _WALL), y, depth], axis=-1)
        blur = np.clip(30 / depth, 0.25, 1)
        if style.shop:
            glow = np.array([0.75, 0.58, 0.36], np.float32)
            for at in np.arange(near + 2, min(far, 60), 4.0):
                canvas.lamps.append((_point(side * (_WALL - 0.8), 1.0, at), glow, 1.3))
        what = style.surface(canvas, depth - near, y, far - near, height, blur)
        canvas.paint(box, cover, position=place, ambient=ambient, **what)
    window = canvas.window(near, (side * _WALL, side * (_WALL + 9)), (0, height))
    if window is not None:
        inside = side * window.x >= _WALL
        cover = inside & (side * window.x <= _WALL + 9) & (window.y <= height) & (window.y >= 0)
        bare = rng.random() < 0.35
        u = side * window.x - _WALL
        what = style.surface(canvas, u, window.y, 9.0, height, np.float32(1), bare=bare)
        window.paint(cover, ambient=0.75 * ambient, **what)


def _facade(
    window: _Window,
    rng: np.random.Generator,
    left: float,
    right: float,
    height: float,
    ambient: float,
) -> None:
    style = _Style(rng)
    cover = (window.x >= left) & (window.x <= right) & (window.y >= 0) & (window.y <= height)
    what = style.surface(
        window.canvas, window.x - left, window.y, right - left, height, np.float32(0.3)
    )
    window.paint(cover, ambient=ambient, **what)


_WALL_COLOURS = (
    (0.48, 0.27, 0.20),
    (0.55, 0.47, 0.36),
    (0.42, 0.42, 0.44),
    (0.58, 0.53, 0.46),
    (0.36, 0.30, 0.28),
    (0.50, 0.38, 0.28),
    (0.34, 0.38, 0.42),
)
_LAMPLIGHT = ((1.0, 0.74, 0.38), (1.0, 0.84, 0.58), (0.86, 0.90, 1.0), (1.0, 0.62, 0.28))


class _Style:
    """How one building looks to both cameras."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.colour = np.array(_WALL_COLOURS[rng.integers(len(_WALL_COLOURS))], np.float32)
        self.colour *= rng.uniform(0.75, 1.1)
        self.storey = rng.uniform(2.8, 3.4)
        self.pitch = rng.uniform(1.9, 3.0)
        self.wide = self.pitch * rng.uniform(0.24, 0.34)  # half a window
        self.sill, self.lintel = 0.9, rng.uniform(2.1, 2.5)
        self.brick = rng.random() < 0.6
        self.shop = rng.random() < 0.55
        self.lit = rng.uniform(0.28, 0.6)
        self.warmth = rng.uniform(0.34, 0.56)
        # glass mirrors the cold sky on one house and leaks warmth on the next
        self.glass = rng.choice((-0.16, -0.12, 0.12, 0.18))
        self.sign = np.array(
            [(0.7, 0.12, 0.10), (0.1, 0.3, 0.6), (0.1, 0.45, 0.25), (0.75, 0.55, 0.1)][
                rng.integers(4)
            ],
            np.float32,
        )

    def surface(
        self,
        canvas: _Canvas,
        u: Floats,
        v: Floats,
        length: float,
        height: float,
        detail: ArrayLike,
        bare: bool = False,
    ) -> dict[str, Any]:
        """Colour, light and heat at `u` metres along the wall and `v` metres up."""
        rng = self.rng
        tone = canvas.at(canvas.noise, u, v, 11)
        grain = canvas.at(canvas.fine, u, v, 2.5)
        shade = 0.78 + 0.34 * tone + np.asarray(detail) * 0.22 * (grain - 0.5)
        if self.brick:
            row = np.floor(v / 0.22)
            joint = (v % 0.22 < 0.035) | ((u + 0.25 * (row % 2)) % 0.5 < 0.035)
            shade = shade - 0.20 * joint * np.clip(np.asarray(detail) * 1.4 - 0.4, 0, 1)
        shade = shade * (0.80 + 0.2 * np.clip(v / 2, 0, 1))  # splashes and dirt near the ground
        colour: Floats = shade[..., None] * self.colour
        light: Floats = np.zeros_like(colour)
        heat: Floats = self.warmth + 0.07 * (tone - 0.5) + 0.03 * (grain - 0.5)
        heat = heat - 0.07 * np.clip(v / max(height, 1), 0, 1)  # the top sees more of the sky

        storey = np.floor(v / self.storey).astype(int)
        up = v - storey * self.storey
        slab = (up < 0.22) & (storey > 0)
        cornice = v > height - 0.45
        for band, brighter, warmer in ((slab, 1.25, 0.07), (cornice, 1.35, -0.10)):
            colour = np.where(band[..., None], colour * brighter, colour)
            heat = np.where(band, heat + warmer, heat)
        if not bare:
            colour, light, heat = self._windows(
                rng, (colour, light, heat), u, up, storey, length, height, tone
            )
        return {"colour": colour, "light": light, "heat": heat}

    def _windows(
        self,
        rng: np.random.Generator,
        layers: tuple[Floats, Floats, Floats],
        u: Floats,
        up: Floats,
        storey: NDArray[np.int_],
        length: float,
        height: float,
        tone: Floats,
    ) -> tuple[Floats, Floats, Floats]:
        colour, light, heat = layers
        columns = max(int(length / self.pitch), 1)
        margin = (length - columns * self.pitch) / 2
        column = np.floor((u - margin) / self.pitch).astype(int)
        across = u - margin - (column + 0.5) * self.pitch
        floors = max(int((height - 0.5) / self.storey), 1)
        good = (column >= 0) & (column < columns) & (storey >= 0) & (storey < floors)
        column, level = np.clip(column, 0, columns - 1), np.clip(storey, 0, floors - 1)

        opening = good & (np.abs(across) < self.wide) & (up > self.sill) & (up < self.lintel)
        surround = (
            good
            & (np.abs(across) < self.wide + 0.16)
            & (up > self.sill - 0.2)
            & (up < self.lintel + 0.14)
        )
        ground = good & (storey == 0) & self.shop
        if self.shop:
            shop_window = ground & (np.abs(across) < self.pitch * 0.45) & (up > 0.35) & (up < 2.2)
            opening = np.where(storey == 0, shop_window, opening)
            surround = surround & (storey > 0)
        frame = opening & (
            (np.abs(across) < 0.045)
            | (np.abs(np.abs(across) - self.wide) < 0.06)
            | (np.abs(up - (self.sill + self.lintel) / 2) < 0.04)
        )

        on = rng.random((floors, columns)) < self.lit
        strength = rng.uniform(0.35, 1.0, (floors, columns)).astype(np.float32)
        lamp = np.array(_LAMPLIGHT, np.float32)[rng.integers(4, size=(floors, columns))]
        curtain = rng.uniform(-1.0, 1.0, (floors, columns)).astype(np.float32)
        if self.shop:
            on[0], strength[0] = True, rng.uniform(0.75, 1.1)
            lamp[0] = _LAMPLIGHT[rng.integers(3)]
        inside = (across / self.wide > curtain[level, column]) | (level == 0)
        glow = strength[level, column] * np.where(inside, 1.0, 0.45) * (0.70 + 0.45 * tone)
        glow *= 0.75 + 0.35 * (up - self.sill) / (self.lintel - self.sill)
        shine = (glow * on[level, column])[..., None] * lamp[level, column]
        dark = np.array([0.10, 0.12, 0.17], np.float32) * (0.6 + 1.2 * tone[..., None])

        colour = np.where(surround[..., None], colour * 1.22 + 0.03, colour)
        colour = np.where(opening[..., None], dark, colour)
        light = np.where(opening[..., None], shine, light)
        colour = np.where(frame[..., None], np.float32(0.5) * self.colour + 0.12, colour)
        light = np.where(frame[..., None], np.float32(0), light)
        heat = np.where(surround, heat + 0.05, heat)
        pane = self.glass + 0.07 * on[level, column] + 0.05 * (curtain[level, column] > 0)
        heat = np.where(opening, heat + pane, heat)
        heat = np.where(frame, heat - 0.5 * pane, heat)

        if self.shop:
            board = ground & (up > 2.25) & (up < 2.78)
            # lettering: seen only in visible light
            letters = board & (np.abs(up - 2.5) < 0.13) & (np.sin(u * 23) + np.sin(u * 37) > 0.2)
            colour = np.where(board[..., None], self.sign, colour)
            light = np.where(board[..., None], 0.22 * self.sign, light)
            light = np.where(letters[..., None], np.float32(0.75), light)
            heat = np.where(board, np.float32(self.warmth + 0.10), heat)
        return colour, light, heat


def _chimney(
    canvas: _Canvas, rng: np.random.Generator, side: int, near: float, height: float
) -> None:
    x, z = side * (_WALL + rng.uniform(1.0, 3.5)), near + 1.0
    window = canvas.window(z, (x - 1.2, x + 1.2), (height - 1, height + 2.2))
    if window is None:
        return
    window.paint(
        window.box(x, height + 0.2, 0.27, 0.8), colour=(0.30, 0.20, 0.17), heat=0.60, ambient=0.7
    )
    window.paint(window.box(x, height + 1.0, 0.33, 0.08), colour=(0.2, 0.17, 0.16), heat=0.92)


# -- what stands and moves in the street --------------------------------------------------------


def _street_life(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Place trees, lamps, cars and people and paint them from far to near."""
    things: list[tuple[float, Any]] = []

    def add(z: float, paint: Any, *arguments: Any) -> None:
        things.append((z, lambda: paint(canvas, rng, *arguments)))

    for z in np.arange(11.5, 75, 15.5):
        for side in (-1, 1):
            at = float(z) + (0 if side < 0 else 7.0)
            add(at, _lamp, side, at)
    for side in (-1, 1):
        for z in rng.uniform(15, 70, 3):
            add(float(z), _tree, side * rng.uniform(6.4, 7.4), float(z), rng.uniform(4.2, 6.2))
        for z in np.arange(16, 62, 7.5) + rng.uniform(-1, 1):
            if rng.random() < 0.6:
                add(float(z), _car, side * (_ROAD - 1.15), float(z), "parked")
    add(z := float(rng.uniform(17, 24)), _car, -_ROAD / 2 + rng.uniform(-0.2, 0.2), z, "coming")
    add(z := float(rng.uniform(38, 48)), _car, -_ROAD / 2, z, "coming")
    add(z := float(rng.uniform(12, 15)), _car, _ROAD / 2 - rng.uniform(0, 0.3), z, "leaving")
    add(z := float(rng.uniform(30, 40)), _car, _ROAD / 2, z, "leaving")
    for side in (-1, 1):
        for z in rng.uniform(9.5, 40, 4):
            add(float(z), _person, side * rng.uniform(_ROAD + 0.6, 7.2), float(z))
    add(z := float(rng.uniform(8.0, 9.5)), _person, rng.uniform(-2.6, 0.3), z)
    add(z := float(rng.uniform(9.0, 10.5)), _person, rng.uniform(-3.6, -1.6), z)
    add(z := float(rng.uniform(10, 14)), _signpost, (_ROAD + 0.5), z)
    _wires(canvas, rng)
    for _, paint in sorted(things, key=lambda thing: -thing[0]):
        paint()
    # our own headlights
    canvas.lamps.append((_point(0, 0.7, 4.5), np.array([0.55, 0.52, 0.46], np.float32), 5.0))


def _point(x: float, y: float, z: float) -> Floats:
    return np.array([x, y, z], np.float32)


def _wires(canvas: _Canvas, rng: np.random.Generator) -> None:
    for z in (20.0, 33.0, 52.0):
        window = canvas.window(z, (-_WALL, _WALL), (5.0, 9.5))
        if window is None:
            continue
        high = rng.uniform(7.2, 8.2)
        line = high - 1.1 * (1 - (window.x / _WALL) ** 2)
        cover = window.edge(np.abs(window.y - line) - 0.025) * (np.abs(window.x) < _WALL)
        window.paint(cover, colour=(0.05, 0.05, 0.06), heat=0.36)


def _lamp(canvas: _Canvas, rng: np.random.Generator, side: int, z: float) -> None:
    x, high, reach = side * (_ROAD + 0.55), 6.4, 1.5
    window = canvas.window(z, (x - 2, x + 2), (0, high + 0.6))
    if window is None:
        return
    dark = (0.10, 0.11, 0.11)
    window.paint(window.capsule((x, 0), (x, high), 0.10, 0.06), colour=dark, heat=0.50)
    window.paint(window.capsule((x, 0), (x, 0.9), 0.16, 0.14), colour=dark, heat=0.54)
    end = x - side * reach
    window.paint(window.capsule((x, high), (end, high + 0.2), 0.05, 0.05), colour=dark, heat=0.46)
    head = (end, high + 0.14)
    window.paint(
        window.ellipse(*head, 0.38, 0.13),
        colour=(0.9, 0.8, 0.6),
        light=(2.4, 1.75, 0.95),
        heat=0.86,
    )
    canvas.lamps.append(
        (_point(end, high, z), np.array([1.15, 0.80, 0.44], np.float32), 4.2),
    )


def _tree(canvas: _Canvas, rng: np.random.Generator, x: float, z: float, height: float) -> None:
    z = max(z, 6.0)
    spread = 0.34 * height
    window = canvas.window(z, (x - 1.6 * spread, x + 1.6 * spread), (0, 1.15 * height))
    if window is None:
        return
    lean = rng.uniform(-0.3, 0.3)
    fork = (x + lean, 0.45 * height)
    bark = (0.16, 0.12, 0.09)
    window.paint(window.capsule((x, 0), fork, 0.17, 0.10), colour=bark, heat=0.44)
    for turn in (-0.7, -0.2, 0.4, 0.8):
        tip = (fork[0] + turn * spread, height * rng.uniform(0.62, 0.8))
        window.paint(window.capsule(fork, tip, 0.08, 0.03), colour=bark, heat=0.42)
    lumps = np.zeros_like(window.x)
    for _ in range(9):
        angle, far = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random())
        cx = x + lean + 0.75 * spread * far * np.cos(angle)
        cy = 0.68 * height + 0.24 * height * far * np.sin(angle)
        size = spread * rng.uniform(0.38, 0.6)
        lumps += np.exp(-((window.x - cx) ** 2 + (window.y - cy) ** 2) / size**2)
    shift = rng.uniform(0, 100)
    leaves = canvas.at(canvas.noise, window.x + shift, window.y, 3.2)
    small = canvas.at(canvas.fine, window.x + shift, window.y, 1.6)
    field = lumps - 0.75 + 1.1 * (leaves - 0.5) + 0.5 * (small - 0.5)
    cover = np.clip(field * 5, 0, 1)
    # leaves on top catch the sky, those below are in shadow
    top = np.clip((window.y - 0.45 * height) / (0.5 * height), 0, 1)
    tone = 0.30 + 0.55 * leaves + 0.5 * (small - 0.5) + 0.35 * top
    green = np.array(rng.choice([(0.15, 0.22, 0.09), (0.20, 0.22, 0.08), (0.12, 0.21, 0.12)]))
    heat = 0.24 + 0.13 * leaves + 0.08 * (small - 0.5) - 0.03 * top
    window.paint(cover, colour=np.clip(tone, 0.05, 2)[..., None] * green, heat=heat)


def _signpost(canvas: _Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    window = canvas.window(z, (x - 0.6, x + 0.6), (0, 3))
    if window is None:
        return
    window.paint(window.capsule((x, 0), (x, 2.5), 0.04, 0.04), colour=(0.4, 0.4, 0.4), heat=0.30)
    window.paint(window.ellipse(x, 2.35, 0.36, 0.36), colour=(0.75, 0.08, 0.08), heat=0.24)
    window.paint(window.ellipse(x, 2.35, 0.27, 0.27), colour=(0.9, 0.9, 0.88))
    for shift in (-0.09, 0.09):
        window.paint(window.box(x + shift, 2.35, 0.055, 0.13, 0.04), colour=(0.06, 0.06, 0.06))


_CLOTHES = (
    (0.10, 0.12, 0.20),
    (0.17, 0.10, 0.10),
    (0.08, 0.10, 0.09),
    (0.22, 0.20, 0.17),
    (0.11, 0.16, 0.18),
    (0.06, 0.06, 0.08),
)


def _person(canvas: _Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    size = rng.uniform(0.92, 1.06)
    window = canvas.window(z, (x - 0.75, x + 0.75), (-0.3, 1.95))
    if window is None:
        return
    _shadow(canvas, x, z, 0.32, 0.15, heat=0.42)
    stride, turn = rng.uniform(0.08, 0.30), rng.choice((-1, 1))
    coat = np.array(_CLOTHES[rng.integers(len(_CLOTHES))])
    trousers = np.array(_CLOTHES[rng.integers(len(_CLOTHES))]) * 0.8
    folds = canvas.at(canvas.noise, window.x + 3 * x, 0.6 * window.y, 2.2)
    skin = np.array([0.42, 0.29, 0.22]) * rng.uniform(0.6, 1.1)

    def limb(points: list[tuple[float, float]], radii: list[float], **what: Any) -> None:
        placed = [(x + turn * px * size, py * size) for px, py in points]
        pairs = zip(placed[:-1], placed[1:], radii[:-1], radii[1:], strict=True)
        for a, b, r0, r1 in pairs:
            window.paint(window.capsule(a, b, r0 * size, r1 * size), **what)

    cloth = (0.8 + 0.4 * folds)[..., None]
    warm = 0.06 * (folds - 0.5)
    for way in (-1, 1):
        foot = way * stride
        limb(
            [(0.07 * way, 0.92), (0.08 * way + 0.55 * foot, 0.50), (0.07 * way + foot, 0.09)],
            [0.10, 0.075, 0.055],
            colour=trousers * cloth,
            heat=0.76 + warm,
        )
        ankle = 0.07 * way + foot
        limb([(ankle, 0.05), (ankle + 0.12, 0.04)], [0.05, 0.04], colour=(0.04,) * 3, heat=0.58)
    limb([(-0.02, 0.98), (0.0, 1.38)], [0.165, 0.185], colour=coat * cloth, heat=0.80 + warm)
    limb([(-0.13, 1.40), (0.13, 1.40)], [0.075, 0.075], colour=coat * cloth, heat=0.82 + warm)
    for way in (-1, 1):
        swing = -0.7 * way * stride
        hand = (0.21 * way + swing, 0.84)
        limb(
            [(0.19 * way, 1.38), (0.23 * way + 0.4 * swing, 1.10), hand],
            [0.065, 0.055, 0.045],
            colour=1.15 * coat * cloth,
            heat=0.77 + warm,
        )
        limb([hand, (hand[0], 0.80)], [0.045, 0.04], colour=skin, heat=0.95)
    if rng.random() < 0.4:  # a bag is as cold as the air
        limb([(-0.20, 1.2), (-0.22, 0.95)], [0.11, 0.12], colour=(0.28, 0.17, 0.08), heat=0.47)
    limb([(0.0, 1.42), (0.01, 1.53)], [0.06, 0.055], colour=skin, heat=0.98)
    head = (x + turn * 0.015 * size, 1.63 * size)
    window.paint(window.ellipse(*head, 0.095 * size, 0.125 * size), colour=skin, heat=1.0)
    hair = window.ellipse(head[0] - turn * 0.02, head[1] + 0.05 * size, 0.10 * size, 0.095 * size)
    window.paint(hair * (window.y > head[1]), colour=(0.07, 0.05, 0.04), heat=0.84)


def _shadow(
    canvas: _Canvas, x: float, z: float, wide: float, long: float, heat: float | None
) -> None:
    """Darken (and warm or cool) the ground under something."""
    rows = canvas.y < -1e-3
    top = int(np.argmax(rows.any(axis=1)))
    part = (slice(top, None), slice(None))
    ray = np.maximum(-canvas.y[part], 1e-3)
    depth = _CAMERA / ray
    gap = np.hypot((canvas.x[part] * depth - x) / wide, (depth - z) / (long + 0.35))
    cover = 0.75 * np.clip(1.6 - 1.3 * gap, 0, 1)
    canvas.albedo[part] *= 1 - cover[..., None]
    if heat is not None:
        canvas.heat[part] += cover * (heat - canvas.heat[part])


_PAINTS = (
    (0.36, 0.05, 0.05),
    (0.07, 0.12, 0.28),
    (0.42, 0.43, 0.45),
    (0.08, 0.08, 0.09),
    (0.55, 0.54, 0.50),
    (0.10, 0.22, 0.20),
)


def _car(canvas: _Canvas, rng: np.random.Generator, x: float, z: float, what: str) -> None:
    """A car seen from the front (coming) or from behind (leaving, parked)."""
    window = canvas.window(z, (x - 1.3, x + 1.3), (-0.4, 1.8))
    if window is None:
        return
    running = what != "parked"
    front = what == "coming"
    paint = np.array(_PAINTS[rng.integers(len(_PAINTS))], np.float32)
    roof = rng.uniform(1.40, 1.62)
    _shadow(canvas, x, z + 0.7, 1.05, 1.6, heat=0.66 if running else 0.34)

    body = 0.40 if running else rng.uniform(0.24, 0.33)
    for way in (-1, 1):
        tyre = window.box(x + way * 0.70, 0.26, 0.13, 0.28, 0.06)
        window.paint(tyre, colour=(0.03, 0.03, 0.03), heat=0.82 if running else 0.36)
    # cabin and glass: glass mirrors the cold sky
    window.paint(window.trapezium(x, 0.80, roof, 0.84, 0.60), colour=0.8 * paint, heat=body + 0.02)
    up = np.clip((window.y - 0.9) / 0.6, 0, 1)[..., None]
    mirror = np.array([0.05, 0.06, 0.08]) + 0.16 * up * np.array([0.9, 0.7, 0.8])
    window.paint(
        window.trapezium(x, 0.92, roof - 0.10, 0.73, 0.53), colour=mirror, heat=body - 0.12
    )
    for way in (-1, 1):
        mirror_at = window.ellipse(x + way * 0.98, 1.0, 0.11, 0.075)
        window.paint(mirror_at, colour=paint, heat=body)
        if front:
            seat = window.ellipse(x + way * 0.30, 1.04, 0.11, 0.14)
            inside = seat * window.trapezium(x, 0.92, roof - 0.1, 0.73, 0.53)
            window.paint(inside, colour=(0.04, 0.04, 0.05), heat=body - 0.05)
    # body, with the light of the sky on its upper half
    shine = 0.65 + 0.75 * np.clip((window.y - 0.3) / 0.6, 0, 1)[..., None]
    hull = window.box(x, 0.57, 0.90, 0.33, 0.15)
    warm = np.float32(body)
    if running and front:
        warm = body + 0.40 * np.exp(-((window.x - x) ** 2) / 0.30 - (window.y - 0.68) ** 2 / 0.06)
    elif running:
        warm = body + 0.16 * np.exp(-((window.y - 0.28) ** 2) / 0.02)
    window.paint(hull, colour=paint * shine, heat=warm)
    crease = window.box(x, 0.80, 0.84, 0.018)
    window.paint(crease, colour=paint * 1.7 + 0.05, heat=warm + 0.04)
    window.paint(
        window.box(x, 0.34, 0.88, 0.09, 0.05), colour=0.4 * paint + 0.03, heat=warm - 0.04
    )
    window.paint(window.box(x, 0.46, 0.25, 0.06), colour=(0.62, 0.62, 0.58))  # number plate
    window.paint(
        window.box(x, 0.46, 0.20, 0.03) * (np.sin(window.x * 75) > -0.2), colour=(0.05,) * 3
    )
    if front:
        grille = window.box(x, 0.62, 0.46, 0.075, 0.03)
        slats = np.where(np.sin(window.y * 130) > 0, 0.03, 0.16)[..., None] * np.ones(3)
        window.paint(grille, colour=slats, heat=0.93)
    for way in (-1, 1):
        at = (x + way * 0.66, 0.68)
        if front:
            window.paint(
                window.ellipse(*at, 0.19, 0.10),
                colour=(0.9, 0.9, 0.9),
                light=(5.5, 5.2, 4.6),
                heat=0.80,
            )
        else:
            glow = (2.2, 0.14, 0.08) if running else (0.02, 0.0, 0.0)
            window.paint(
                window.box(*at, 0.15, 0.085, 0.04),
                colour=(0.35, 0.03, 0.03),
                light=glow,
                heat=0.62 if running else body + 0.03,
            )
    if front:
        beam = np.array([0.75, 0.72, 0.62], np.float32)
        canvas.lamps.append((_point(x, 0.5, z - 2.5), beam, 2.6))
    elif running:
        exhaust = window.ellipse(x + 0.45, 0.24, 0.09, 0.06)
        window.paint(exhaust, colour=(0.05,) * 3, heat=1.0)
        canvas.lamps.append(
            (_point(x, 0.6, z - 1.2), np.array([0.5, 0.04, 0.03], np.float32), 1.4)
        )
