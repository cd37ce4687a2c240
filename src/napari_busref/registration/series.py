"""`register_series`: find the transform of every frame of a series."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_busref.images.dtypes import default_fill
from napari_busref.images.figures import new_axes
from napari_busref.images.frames import Frames
from napari_busref.models.inference import versions
from napari_busref.registration.drift import Drift
from napari_busref.registration.key_frames import Images, Series, SeriesRun
from napari_busref.registration.quality import Quality
from napari_busref.runtime.progress import Progress, Reporter
from napari_busref.transforms.transform import Transform

__all__ = ["SeriesResult", "register_series"]

_OPTIONS = (
    *("model", "search", "mirrored", "refine", "transform", "device"),
    *("fixed_mask", "moving_mask", "nodata"),
)


@dataclass(frozen=True, eq=False)
class SeriesResult:
    """The result of `register_series`.

    Attributes
    ----------
    transforms : list of Transform
        Of each frame, from the fixed image to the moving frame.
    qualities : list of Quality
        Of each frame. That of a gap has the status ``"not registered"``.
    masks : list of ndarray of bool, shape (H, W)
        The reconstructible mask of each frame; False everywhere in a gap.
    drift : ndarray of float64, shape (T, 2)
        Where the model of the drift puts the centre of the fixed image, (row, col) in moving
        pixels, from its place in the first frame.
    gaps : dict of int to str
        From the number of each frame without a result of its own, from 0, to the reason. Its
        transform is interpolated from other frames, if any is reliable.
    parameters : dict
        Options and versions, as JSON can hold them.
    """

    transforms: list[Transform]
    qualities: list[Quality]
    masks: list[NDArray[np.bool_]]
    drift: NDArray[np.float64]
    gaps: dict[int, str]
    parameters: dict[str, Any]

    def __repr__(self) -> str:
        count, good = len(self.transforms), sum(one.reliable for one in self.qualities)
        listed = list(self.gaps)
        names = ", ".join(map(str, listed[:8])) + (", …" if len(listed) > 8 else "")
        rows, cols = np.ptp(self.drift, axis=0)
        gaps = f", {len(listed)} gaps ({names})" if listed else ""
        return (
            f"<SeriesResult: {count} frames, {good} look right{gaps}; the drift spans "
            f"{rows:.1f} x {cols:.1f} px>"
        )

    def apply(
        self, moving: Images | ArrayLike, order: int = 1, cval: float | None = None
    ) -> NDArray[Any]:
        """Resample every frame of a series onto the fixed grid, as `Transform.apply`.

        Parameters
        ----------
        moving : array_like, shape (T, h, w) or (T, h, w, C), or sequence of images
            The moving series, or another channel or labels of it.
        order : int
        cval : float, optional

        Returns
        -------
        ndarray, shape (T, H, W) or (T, H, W, C)

        Raises
        ------
        ValueError
            When there are more or fewer frames.
        """
        frames = _frames(moving, "moving")
        if len(frames) != len(self.transforms):
            need = len(self.transforms)
            raise ValueError(f"moving: got {len(frames)} frames, need {need}")
        warped: list[NDArray[Any] | None] = []
        for n, transform in enumerate(self.transforms):
            try:
                warped.append(transform.apply(frames[n], order, cval))
            except (OSError, ValueError):
                if n not in self.gaps:
                    raise
                warped.append(None)  # it could not be registered for the same reason
        made = [one for one in warped if one is not None]
        if not made:
            raise ValueError("moving: no frame can be read")
        fill = default_fill(made[0].dtype) if cval is None else cval
        empty = np.full_like(made[0], fill)
        stack = [empty if one is None else one for one in warped]
        return np.ma.stack(stack) if any(map(np.ma.isMaskedArray, made)) else np.stack(stack)

    def plot(self, *, axes: Any = None) -> NDArray[np.object_]:
        """Plot the drift and the scores over the frames; needs ``napari-busref[plot]``.

        Parameters
        ----------
        axes : sequence of two matplotlib.axes.Axes, optional
            By default those of a new figure.

        Returns
        -------
        ndarray of matplotlib.axes.Axes
            Gaps are grey bars, and frames that may be wrong orange points. Nothing is shown.

        Raises
        ------
        ModuleNotFoundError
            Without matplotlib.
        """
        drawn, frames = new_axes(2, axes), np.arange(len(self.drift))
        for label, values in zip(("rows", "columns"), self.drift.T, strict=True):
            drawn[0].plot(frames, values, label=label)
        drawn[0].legend()
        drawn[0].set_title("drift in px")
        scores = np.array([one.score for one in self.qualities])
        doubtful = [n for n in frames if not self.qualities[n].reliable and n not in self.gaps]
        drawn[1].plot(frames, scores)
        drawn[1].plot(doubtful, scores[doubtful], "o", color="tab:orange")
        drawn[1].set_title("score")
        for one in drawn:
            one.set_xlabel("frame")
            for gap in self.gaps:
                one.axvspan(gap - 0.5, gap + 0.5, color="0.85", linewidth=0)
        return np.array(drawn, dtype=object)


def register_series(
    fixed: ArrayLike | Images,
    moving: ArrayLike | Images,
    *,
    initial: Transform | tuple[ArrayLike, ArrayLike] | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> SeriesResult:
    """Register every frame of a series, and model its drift.

    A frame in ten is a key frame, which is searched from one of them. The others start from
    their neighbours, without a search. Frames that are not reliable, or more than four standard
    deviations beside the drift, are registered again from where the drift puts them. What then
    fails is a gap.

    Parameters
    ----------
    fixed : array_like, shape (H, W) or (H, W, 3 or 4), or a series as `moving`
        One image for all frames, or one for each.
    moving : array_like, shape (T, h, w) or (T, h, w, 3 or 4), or sequence of images
        A frame that is empty, damaged or of another size is a gap. Lazy arrays are read frame
        by frame.
    initial : Transform or (fixed points, moving points), optional
        Initial transform of the first key frame, as of `napari_busref.register`.
    executor : concurrent.futures.Executor, optional
        Where to register: a ``ProcessPoolExecutor``, or ``get_executor(pure=False)`` of a client
        of dask.distributed. By default here. The result is the same.
    progress : Progress, optional
        Called with the frame and the fraction done.
    cancel : threading.Event, optional
        Set it to stop.
    **options
        For `napari_busref.register`: `model`, `search` (of the key frames), `mirrored`,
        `refine`, `transform`, `device`, `nodata`, and masks for all frames.

    Returns
    -------
    SeriesResult

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was given and what is accepted.
    Cancelled
        When `cancel` was set.

    Examples
    --------
    >>> import numpy as np
    >>> film = np.random.default_rng(0).random((3, 32, 32))
    >>> register_series(film[0], film, model="identity", device="cpu")  # doctest: +SKIP
    """
    for name in options:
        if name not in _OPTIONS:
            raise TypeError(f"register_series has no option {name!r}; it has {_OPTIONS}")
    frames = _frames(moving, "moving")
    series = Series(_fixed(fixed, len(frames)), frames, initial, options)
    run = SeriesRun(series, executor, Reporter(progress, cancel), cancel)
    known = run.work()
    drift = Drift(known)
    known |= drift.gaps()
    results = [known[n] for n in range(len(frames))]
    gaps = [n for n, one in enumerate(results) if one.quality.status == "not registered"]
    centres = np.array([drift.centre(n) for n in range(len(frames))])
    return SeriesResult(
        [one.transform for one in results],
        [one.quality for one in results],
        [one.mask for one in results],
        centres - centres[0],
        {n: "; ".join(results[n].quality.reasons) for n in gaps},
        {
            "function": "register_series",
            "frames": len(frames),
            "options": {name: _word(value) for name, value in options.items()},
            "versions": versions(),
        },
    )


def _frames(images: Any, name: str) -> Any:
    """Check a series: frames by their numbers.

    Raises
    ------
    ValueError
        When it holds one image, or none.
    """
    shape = getattr(images, "shape", None)
    if shape is None:
        if not isinstance(images, Sequence | Frames):
            raise TypeError(f"{name}: got {type(images).__name__}, need a series of images")
        shape = (len(images), *np.shape(images[0])) if isinstance(images, list | tuple) else None
    if shape is not None and (len(shape) != 3 + (len(shape) == 4 and shape[-1] in (3, 4))):
        raise ValueError(
            f"{name}: got shape {tuple(shape)}, need a series (T, H, W) or (T, H, W, 3 or 4)"
        )
    if not len(images):
        raise ValueError(f"{name}: got no frame, need one or more")
    return images


def _fixed(images: Any, count: int) -> Any:
    """The fixed image of each frame: one for all, or a series of as many."""
    shape = getattr(images, "shape", None)
    if shape is not None and (len(shape) == 2 or (len(shape) == 3 and shape[-1] in (3, 4))):
        return [images] * count
    frames = _frames(images, "fixed")
    if len(frames) != count:
        raise ValueError(f"fixed: got {len(frames)} frames for {count} of moving")
    return frames


def _word(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else type(value).__name__
