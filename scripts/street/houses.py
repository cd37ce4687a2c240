"""Buildings along both sides of the street."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .canvas import CAMERA, WALL, Canvas, Floats, Kind, Window, point
from .things import tree


def street_side(canvas: Canvas, rng: np.random.Generator, side: int) -> None:
    """Paint the buildings along one side from far to near."""
    plots = []
    z = rng.uniform(9.0, 13.0)
    while z < 105:
        length = rng.uniform(8, 17)
        height = rng.uniform(6.5, 10.5) if z < 30 else rng.uniform(8, 21)
        plots.append((z, z + length, height))
        z += length + (rng.uniform(3.5, 7) if rng.random() < 0.45 else 0.0)
    ambient = 0.95 if side < 0 else 0.62  # the bright part of the sky lights one side
    for near, far, height in reversed(plots):
        _wall(canvas, rng, side, near, far, height, ambient)
        if rng.random() < 0.75:
            _chimney(canvas, rng, side, near, height)
        garden = rng.random() < 0.7
        if garden:
            tree(canvas, rng, side * (WALL + 2.0), near - 1.5, rng.uniform(4.5, 7.5))


def _wall(
    canvas: Canvas,
    rng: np.random.Generator,
    side: int,
    near: float,
    far: float,
    height: float,
    ambient: float,
) -> None:
    """Paint a building: its facade along the street and the end wall towards the camera."""
    canvas.kind = Kind.BUILDING
    style = _Style(rng)
    with np.errstate(divide="ignore"):
        z = side * WALL / np.where(side * canvas.x > 1e-4, canvas.x, side * 1e-4)
    part = (z >= near) & (z <= far)
    if part.any():
        rows, cols = np.where(part)
        box = (slice(0, rows.max() + 1), slice(cols.min(), cols.max() + 1))
        depth = z[box]
        y = canvas.y[box] * depth + CAMERA
        cover = part[box] & (y >= 0) & (y <= height)
        position = np.stack([np.full_like(y, side * WALL), y, depth], axis=-1)
        blur = np.clip(30 / depth, 0.25, 1)
        if style.shop:
            glow = np.array([0.75, 0.58, 0.36], np.float32)
            for at in np.arange(near + 2, min(far, 60), 4.0):
                canvas.lamps.append((point(side * (WALL - 0.8), 1.0, at), glow, 1.3))
        what = style.surface(canvas, depth - near, y, far - near, height, blur)
        canvas.paint(box, cover, position=position, ambient=ambient, **what)
    window = canvas.window(near, (side * WALL, side * (WALL + 9)), (0, height))
    if window is not None:
        inside = side * window.x >= WALL
        cover = inside & (side * window.x <= WALL + 9) & (window.y <= height) & (window.y >= 0)
        bare = rng.random() < 0.35
        u = side * window.x - WALL
        what = style.surface(canvas, u, window.y, 9.0, height, np.float32(1), bare=bare)
        window.paint(cover, ambient=0.75 * ambient, **what)


def facade(
    window: Window,
    rng: np.random.Generator,
    left: float,
    right: float,
    height: float,
    ambient: float,
) -> None:
    """Paint a distant building from the front."""
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
    """The appearance of one building to both cameras."""

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
        # glass mirrors the cold sky on one house and leaks heat on the next
        self.glass = rng.choice((-0.16, -0.12, 0.12, 0.18))
        self.sign = np.array(
            [(0.7, 0.12, 0.10), (0.1, 0.3, 0.6), (0.1, 0.45, 0.25), (0.75, 0.55, 0.1)][
                rng.integers(4)
            ],
            np.float32,
        )

    def surface(
        self,
        canvas: Canvas,
        u: Floats,
        v: Floats,
        length: float,
        height: float,
        detail: ArrayLike,
        bare: bool = False,
    ) -> dict[str, Any]:
        """Compute colour, light and heat at `u` metres along the wall and `v` metres up."""
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
        heat = heat - 0.07 * np.clip(v / max(height, 1), 0, 1)  # the sky cools the top more

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
            # lettering, only in visible light
            letters = board & (np.abs(up - 2.5) < 0.13) & (np.sin(u * 23) + np.sin(u * 37) > 0.2)
            colour = np.where(board[..., None], self.sign, colour)
            light = np.where(board[..., None], 0.22 * self.sign, light)
            light = np.where(letters[..., None], np.float32(0.75), light)
            heat = np.where(board, np.float32(self.warmth + 0.10), heat)
        return colour, light, heat


def _chimney(
    canvas: Canvas, rng: np.random.Generator, side: int, near: float, height: float
) -> None:
    canvas.kind = Kind.BUILDING
    x, z = side * (WALL + rng.uniform(1.0, 3.5)), near + 1.0
    window = canvas.window(z, (x - 1.2, x + 1.2), (height - 1, height + 2.2))
    if window is None:
        return
    window.paint(
        window.box(x, height + 0.2, 0.27, 0.8), colour=(0.30, 0.20, 0.17), heat=0.60, ambient=0.7
    )
    window.paint(window.box(x, height + 1.0, 0.33, 0.08), colour=(0.2, 0.17, 0.16), heat=0.92)
