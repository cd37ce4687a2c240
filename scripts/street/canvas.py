"""The canvas of both cameras: albedo, emitted light, position and heat of every sample.

Positions are in metres: ``x`` to the right, ``y`` up, ``z`` away from the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage as ndi

Floats = NDArray[np.floating[Any]]

ROAD = 4.2  # half width of the road, metres
WALL = 8.4  # from the middle of the road to the facades
CAMERA = 1.65  # height of the cameras
FAR = 400.0
WHOLE = (slice(None), slice(None))
_SAMPLES = 2  # per pixel side, averaged for smooth edges


class Kind(IntEnum):
    """What a surface is: the label of its pixels."""

    SKY = 0
    GROUND = 1
    BUILDING = 2
    PLANT = 3
    CAR = 4
    PERSON = 5
    POST = 6


def point(x: float, y: float, z: float) -> Floats:
    """Make a position in metres."""
    return np.array([x, y, z], np.float32)


class Canvas:
    """The scene in front of both cameras, at the sampling resolution."""

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
        self.light = np.zeros((height, width, 3), np.float32)  # emitted
        self.position = np.zeros((height, width, 3), np.float32)
        self.position[..., 2] = FAR
        self.ambient = np.ones((height, width), np.float32)
        self.heat = np.zeros((height, width), np.float32)
        self.kind = Kind.SKY  # of what is painted next
        self.kinds = np.zeros((height, width), np.uint8)
        self.lamps: list[tuple[NDArray[np.float32], Floats, float]] = []
        self.noise = _noise_tile(rng)
        self.fine = _noise_tile(rng, octaves=3, start=32)

    def window(self, z: float, x: Sequence[float], y: Sequence[float]) -> Window | None:
        """Find the part of the picture with a rectangle at distance `z`; None outside it."""
        cols = [int(self.middle + self.focal * v / z) for v in x]
        rows = [int(self.horizon - self.focal * (v - CAMERA) / z) for v in y]
        part = (
            slice(max(min(rows) - 1, 0), min(max(rows) + 2, self.height)),
            slice(max(min(cols) - 1, 0), min(max(cols) + 2, self.width)),
        )
        if part[0].start >= part[0].stop or part[1].start >= part[1].stop:
            return None
        return Window(self, part, z)

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
        """Paint a surface with the opacity `cover`, bool or 0..1."""
        cover = cover.astype(np.float32)
        wide = cover[..., None]
        if colour is not None:
            self.albedo[part] += wide * (np.asarray(colour, np.float32) - self.albedo[part])
            # an opaque surface hides the light behind it
            shine = np.zeros(3, np.float32) if light is None else np.asarray(light, np.float32)
            self.light[part] += wide * (shine - self.light[part])
            np.copyto(self.kinds[part], np.uint8(self.kind), where=cover > 0.5)
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
        """Sample noise in [0, 1] at surface positions, with a tile of `size` metres."""
        n = tile.shape[0]
        u, v = np.broadcast_arrays(np.asarray(u), np.asarray(v))
        values: Floats = ndi.map_coordinates(
            tile, [u * (n / size), v * (n / size)], order=1, mode="grid-wrap"
        )
        return values

    def visible(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Render the visible image, uint8 RGB (H, W, 3)."""
        lit = self.ambient[..., None] * np.array([0.44, 0.47, 0.60], np.float32)
        x, y, z = (np.ascontiguousarray(self.position[..., axis]) for axis in range(3))
        for (lamp_x, lamp_y, lamp_z), colour, reach in self.lamps:
            distance = (x - lamp_x) ** 2 + (y - lamp_y) ** 2 + (z - lamp_z) ** 2
            fall = 1 + distance * np.float32(1 / reach**2)
            lit += colour * (1 / (fall * np.sqrt(fall)))[..., None]
        picture = self.albedo * lit + self.light
        haze = np.where(z < FAR, np.exp(-z / 260), np.float32(1))[..., None]
        picture = picture * haze + (1 - haze) * np.array([0.40, 0.33, 0.36], np.float32)
        picture = _reduce(picture)
        # glare in the lens around all lamps
        bright = _reduce(np.maximum(self.light - 0.55, 0) * (z < FAR)[..., None])
        for sigma, share in ((0.004, 0.6), (0.014, 0.8), (0.05, 1.3)):
            blur = sigma * bright.shape[0]
            picture = picture + share * ndi.gaussian_filter(bright, (blur, blur, 0), truncate=3)
        picture = 1 - np.exp(-1.75 * picture)
        grain = rng.standard_normal(picture.shape).astype(np.float32)
        picture += (0.006 + 0.012 * np.sqrt(np.clip(picture, 0, 1))) * grain
        return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)

    def infrared(self) -> Floats:
        """Render the infrared image, float32 (H, W) in [0, 1]."""
        haze = np.exp(-self.position[..., 2] / 500)
        haze[self.position[..., 2] >= FAR] = 1
        heat = _reduce(self.heat * haze + (1 - haze) * 0.34)
        # a thermal lens is softer than a visible one
        heat = ndi.gaussian_filter(heat, 0.0022 * heat.shape[0])
        # automatic gain of a thermal camera
        low, high = np.quantile(heat, (0.002, 0.998))
        # the black level is above 0, the value outside a warped picture
        return np.clip((heat - low) / max(high - low, 1e-6), 0.02, 1).astype(np.float32)

    def labels(self) -> NDArray[np.uint8]:
        """The `Kind` at the middle of every pixel, uint8 (H, W)."""
        middle = slice(_SAMPLES // 2, None, _SAMPLES)
        return self.kinds[middle, middle]


class Window:
    """A rectangle of the canvas, to paint objects at one distance."""

    def __init__(self, canvas: Canvas, part: tuple[slice, slice], z: float) -> None:
        self.canvas, self.part, self.z = canvas, part, z
        self.x = canvas.x[part] * z
        self.y = canvas.y[part] * z + CAMERA
        self.soft = 1.2 * z / canvas.focal  # metres of one sample, for smooth edges

    def paint(self, cover: NDArray[Any], **what: Any) -> None:
        """Paint a surface at this distance, see `Canvas.paint`."""
        position = np.stack([self.x, self.y, np.full_like(self.x, self.z)], axis=-1)
        self.canvas.paint(self.part, cover, position=position, **what)

    def edge(self, distance: Floats) -> Floats:
        """Convert a signed distance in metres (negative inside) to a cover 0..1."""
        return np.clip(0.5 - distance / self.soft, 0, 1)

    def capsule(self, a: Sequence[float], b: Sequence[float], r0: float, r1: float) -> Floats:
        """Cover of a line from `a` to `b` with half widths `r0` and `r1` at its ends."""
        dx, dy = b[0] - a[0], b[1] - a[1]
        along = ((self.x - a[0]) * dx + (self.y - a[1]) * dy) / max(dx * dx + dy * dy, 1e-9)
        along = np.clip(along, 0, 1)
        gap = np.hypot(self.x - a[0] - along * dx, self.y - a[1] - along * dy)
        return self.edge(gap - r0 - along * (r1 - r0))

    def ellipse(self, x: float, y: float, rx: float, ry: float) -> Floats:
        """Cover of an ellipse with half axes `rx` and `ry`."""
        gap = np.hypot((self.x - x) / rx, (self.y - y) / ry) - 1
        return self.edge(gap * min(rx, ry))

    def box(self, x: float, y: float, half: float, high: float, corner: float = 0.0) -> Floats:
        """Cover of a rectangle with half sides `half` and `high`, and round corners."""
        qx = np.abs(self.x - x) - (half - corner)
        qy = np.abs(self.y - y) - (high - corner)
        outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
        return self.edge(outside + np.minimum(np.maximum(qx, qy), 0) - corner)

    def trapezium(self, x: float, low: float, high: float, below: float, above: float) -> Floats:
        """Cover of a trapezium with half widths `below` at height `low` and `above` at `high`."""
        along = (self.y - low) / (high - low)
        half = below + np.clip(along, -0.2, 1.2) * (above - below)
        gap = np.maximum(np.abs(self.x - x) - half, np.maximum(low - self.y, self.y - high))
        return self.edge(gap)


def _noise_tile(
    rng: np.random.Generator, size: int = 256, octaves: int = 6, start: int = 4
) -> Floats:
    """Make fractal noise in [0, 1] that tiles without a seam."""
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
