"""Trees, lamps, cars and people in the street."""

from __future__ import annotations

from typing import Any

import numpy as np

from .canvas import CAMERA, ROAD, WALL, Canvas, Floats, Kind, Window, point


def street_life(canvas: Canvas, rng: np.random.Generator) -> None:
    """Place trees, lamps, cars and people and paint them from far to near."""
    things: list[tuple[float, Any]] = []

    def add(z: float, paint: Any, *arguments: Any) -> None:
        things.append((z, lambda: paint(canvas, rng, *arguments)))

    for z in np.arange(11.5, 75, 15.5):
        for side in (-1, 1):
            at = float(z) + (0 if side < 0 else 7.0)
            add(at, lamp, side, at)
    for side in (-1, 1):
        for z in rng.uniform(15, 70, 3):
            add(float(z), tree, side * rng.uniform(6.4, 7.4), float(z), rng.uniform(4.2, 6.2))
        for z in np.arange(16, 62, 7.5) + rng.uniform(-1, 1):
            if rng.random() < 0.6:
                add(float(z), car, side * (ROAD - 1.15), float(z), "parked")
    add(z := float(rng.uniform(17, 24)), car, -ROAD / 2 + rng.uniform(-0.2, 0.2), z, "coming")
    add(z := float(rng.uniform(38, 48)), car, -ROAD / 2, z, "coming")
    add(z := float(rng.uniform(12, 15)), car, ROAD / 2 - rng.uniform(0, 0.3), z, "leaving")
    add(z := float(rng.uniform(30, 40)), car, ROAD / 2, z, "leaving")
    for side in (-1, 1):
        for z in rng.uniform(9.5, 40, 4):
            add(float(z), person, side * rng.uniform(ROAD + 0.6, 7.2), float(z))
    add(z := float(rng.uniform(8.0, 9.5)), person, rng.uniform(-2.6, 0.3), z)
    add(z := float(rng.uniform(9.0, 10.5)), person, rng.uniform(-3.6, -1.6), z)
    add(z := float(rng.uniform(10, 14)), signpost, (ROAD + 0.5), z)
    wires(canvas, rng)
    for _, paint in sorted(things, key=lambda thing: -thing[0]):
        paint()
    # the headlights of the camera car
    canvas.lamps.append((point(0, 0.7, 4.5), np.array([0.55, 0.52, 0.46], np.float32), 5.0))


def wires(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint wires across the street."""
    canvas.kind = Kind.POST
    for z in (20.0, 33.0, 52.0):
        window = canvas.window(z, (-WALL, WALL), (5.0, 9.5))
        if window is None:
            continue
        high = rng.uniform(7.2, 8.2)
        line = high - 1.1 * (1 - (window.x / WALL) ** 2)
        cover = window.edge(np.abs(window.y - line) - 0.025) * (np.abs(window.x) < WALL)
        window.paint(cover, colour=(0.05, 0.05, 0.06), heat=0.36)


def lamp(canvas: Canvas, rng: np.random.Generator, side: int, z: float) -> None:
    """Paint a street lamp, and light its surroundings."""
    canvas.kind = Kind.POST
    x, high, reach = side * (ROAD + 0.55), 6.4, 1.5
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
        (point(end, high, z), np.array([1.15, 0.80, 0.44], np.float32), 4.2),
    )


def tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float, height: float) -> None:
    """Paint a tree."""
    canvas.kind = Kind.PLANT
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
    # the sky lights the top leaves, and the lower ones are in shadow
    top = np.clip((window.y - 0.45 * height) / (0.5 * height), 0, 1)
    tone = 0.30 + 0.55 * leaves + 0.5 * (small - 0.5) + 0.35 * top
    green = np.array(rng.choice([(0.15, 0.22, 0.09), (0.20, 0.22, 0.08), (0.12, 0.21, 0.12)]))
    heat = 0.24 + 0.13 * leaves + 0.08 * (small - 0.5) - 0.03 * top
    window.paint(cover, colour=np.clip(tone, 0.05, 2)[..., None] * green, heat=heat)


def signpost(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Paint a round road sign on a post."""
    canvas.kind = Kind.POST
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


def person(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Paint a walking person."""
    canvas.kind = Kind.PERSON
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
    canvas: Canvas, x: float, z: float, wide: float, long: float, heat: float | None
) -> None:
    """Darken the ground under an object, and set its temperature."""
    rows = canvas.y < -1e-3
    top = int(np.argmax(rows.any(axis=1)))
    part = (slice(top, None), slice(None))
    ray = np.maximum(-canvas.y[part], 1e-3)
    depth = CAMERA / ray
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


def car(canvas: Canvas, rng: np.random.Generator, x: float, z: float, what: str) -> None:
    """A car seen from the front (coming) or from behind (leaving, parked)."""
    canvas.kind = Kind.CAR
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
    _paint_cabin(window, x, roof, paint, body, front)
    _paint_hull(window, x, paint, body, running, front)
    _paint_lights(canvas, window, x, z, body, running, front)


def _paint_cabin(
    window: Window, x: float, roof: float, paint: Floats, body: float, front: bool
) -> None:
    # glass mirrors the cold sky
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


def _paint_hull(
    window: Window, x: float, paint: Floats, body: float, running: bool, front: bool
) -> None:
    """Paint the hull, brighter on its upper half, with bumper, plate and grille."""
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


def _paint_lights(
    canvas: Canvas, window: Window, x: float, z: float, body: float, running: bool, front: bool
) -> None:
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
        canvas.lamps.append((point(x, 0.5, z - 2.5), beam, 2.6))
    elif running:
        exhaust = window.ellipse(x + 0.45, 0.24, 0.09, 0.06)
        window.paint(exhaust, colour=(0.05,) * 3, heat=1.0)
        canvas.lamps.append((point(x, 0.6, z - 1.2), np.array([0.5, 0.04, 0.03], np.float32), 1.4))
