"""How long the stages of a long call take: measured defaults, and what this machine has taught.

Progress moves evenly when each stage's share of the bar is its share of the time. The defaults
are CPU seconds of one thread, from ``benchmarks/progress.py --stages`` at several sizes. Every run
corrects them for this process. Panels and the command line keep the
corrections in the user's cache; calls from Python write no file.
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from napari_busref.runtime.atomic_write import replacing
from napari_busref.runtime.folders import cache_folder

__all__ = ["DURATIONS", "Durations", "Stage", "pixels_of", "stage"]

_ROUGH, _FUSE = "finding the rough position", "fusing the images"

#: Words of each stage, and its seconds: constant, per megapixel of the fixed image.
_DEFAULTS: dict[str, tuple[str, float, float]] = {
    "libraries": ("getting ready", 3.0, 0.0),
    "read": ("reading the images", 0.02, 0.4),
    "load": ("loading the models", 1.5, 0.0),
    "propose": (_ROUGH, 0.15, 0.2),
    "search near": (_ROUGH, 0.55, 0.05),
    "search wide": (_ROUGH, 3.5, 0.0),
    "search mirrored": (_ROUGH, 2.0, 0.0),
    "compare": (_ROUGH, 0.25, 0.15),
    "compare all": (_ROUGH, 2.0, 0.0),
    "refine": ("aligning the details", 0.6, 8.5),
    "cross-check": ("checking the result", 0.4, 0.0),
    "assess": ("checking the result", 0.03, 0.55),
    "resample": ("resampling the image", 0.01, 0.06),
    "fusion read": ("preparing the fusion", 0.01, 0.12),
    "fusion load": ("preparing the fusion", 0.05, 0.0),
    "fuse": (_FUSE, 0.05, 3.6),
    "fuse average": (_FUSE, 0.0, 0.03),
    "fuse maximum": (_FUSE, 0.0, 0.03),
    "fuse laplacian": (_FUSE, 0.0, 0.15),
    "fuse mda": (_FUSE, 0.0, 5.6),
    "fuse refusion": (_FUSE, 0.0, 8.2),
    "compose": (_FUSE, 0.01, 0.1),
    "layers": ("making the layers", 0.05, 0.1),
    "save transform": ("saving the transform", 0.1, 0.0),
    "save mask": ("saving the mask", 0.05, 0.12),
    "save warped": ("saving the warped image", 0.05, 0.28),
    "save fused": ("saving the fused image", 0.05, 0.1),
    "fuse blocks": ("fusing at full resolution", 1.0, 1.36),
}
_OTHER = ("working", 1.0, 0.0)
_USUAL_PIXELS = 640 * 480  # where nothing else is known
_ONCE = ("load", "fusion load")  # later runs of a process find these loaded
_AGAIN = 0.01
_LIMIT, _LIMIT_ONCE = 50.0, 8.0  # more is an accident: a computer asleep, a cold disk
_SHORTEST = 0.005  # seconds; shorter stages teach nothing


@dataclass(frozen=True)
class Stage:
    """A stage of a job.

    Attributes
    ----------
    name : str
        Key of its duration.
    words : str
        For the user; empty for a part of a job that has stages of its own.
    seconds : float
        Expected.
    default : float
        Expected without corrections, in seconds.
    """

    name: str
    words: str
    seconds: float
    default: float = 0.0


class Durations:
    """Corrections of the default durations, as factors.

    Attributes
    ----------
    factors : dict of str to float
        By name of the stage.
    finished : set of str
        Names of the stages that this process has gone through.
    """

    def __init__(self) -> None:
        self.factors: dict[str, float] = {}
        self.finished: set[str] = set()
        self._read = self._changed = False

    def learn(self, done: Stage, seconds: float) -> None:
        """Correct the duration of a stage that has taken some seconds."""
        self.finished.add(done.name)
        if not done.name or done.default <= 0 or seconds < _SHORTEST:
            return
        limit = _LIMIT_ONCE if done.name.startswith(_ONCE) else _LIMIT
        factor = min(max(seconds / done.default, 1 / limit), limit)
        known = self.factors.get(done.name)
        # the geometric mean follows the machine, and one slow run does not decide
        self.factors[done.name] = factor if known is None else math.sqrt(known * factor)
        self._changed = True

    def factor(self, name: str) -> float:
        """The correction of a stage; of one that has not run yet, that of the usual stage."""
        usual = [self.factors[one] for one in self.factors if not one.startswith(_ONCE)]
        return self.factors.get(name, median(usual) if usual else 1.0)

    def read(self) -> None:
        """Read the corrections of earlier sessions, once; a damaged file is no error."""
        if self._read:
            return
        self._read = True
        try:
            found = json.loads(_file().read_text("utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(found, dict):
            self.factors = {str(k): float(v) for k, v in found.items() if _plausible(v)} | (
                self.factors
            )

    def write(self) -> None:
        """Write the corrections if there are new ones; a folder that refuses is no error."""
        if not self._changed:
            return
        self._changed = False
        path = _file()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            rounded = {name: round(self.factors[name], 3) for name in sorted(self.factors)}
            with replacing(path) as partial:
                partial.write_text(json.dumps(rounded, indent=1) + "\n", "utf-8")


def pixels_of(image: Any) -> float:
    """Number of pixels of an image or a shape, without reading it: bands and frames left out."""
    shape = image if isinstance(image, tuple) else getattr(image, "shape", None)
    try:
        sides = sorted(int(side) for side in shape or ())[-2:]
    except (TypeError, ValueError):
        sides = []
    return float(math.prod(sides)) if len(sides) == 2 else float(_USUAL_PIXELS)


def _file() -> Path:
    return cache_folder() / "durations.json"


def _plausible(value: Any) -> bool:
    return isinstance(value, int | float) and 1 / _LIMIT <= value <= _LIMIT


#: The durations of this process.
DURATIONS = Durations()


def stage(name: str, pixels: float = 0.0, *, kind: str = "", times: float = 1.0) -> Stage:
    """A stage with its expected duration.

    Parameters
    ----------
    name : str
        Of the table of defaults; one such as "fuse mine" gets those of "fuse", another a second.
    pixels : float
        Of the fixed image.
    kind : str
        What else the duration depends on, such as a model or a device; has its own corrections.
    times : float
        How often the stage's work is done.
    """
    general = (name, name.partition("-")[0], name.partition(" ")[0])
    words, constant, slope = next((_DEFAULTS[n] for n in general if n in _DEFAULTS), _OTHER)
    default = times * (constant + slope * pixels / 1e6)
    key = f"{name}: {kind}" if kind else name
    if name in _ONCE and key in DURATIONS.finished:
        key, default = f"{key}, again", default * _AGAIN
    return Stage(key, words, default * DURATIONS.factor(key), default)
