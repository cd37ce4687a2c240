"""`RegistrationResult`, and what it shows of itself: a line, HTML for notebooks, and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_busref.images.comparison import compare
from napari_busref.images.figures import as_picture, card, new_axes, show_picture, shrink
from napari_busref.registration.prepare import Pair
from napari_busref.registration.quality import Quality
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["VIEWS", "Preview", "RegistrationResult", "check_views", "picture_of", "plot_result"]

#: The names that `RegistrationResult.plot` accepts.
VIEWS = ("before", "after", "edges", "field")

_TITLES = {
    "before": "before: fixed blue, moving orange",
    "after": "after: fixed blue, moving orange",
    "edges": "edges of both images",
}
_PREVIEW_PIXELS = 1024  # longest side of a preview: at most 2 MB for both pictures
_ARROWS = 20  # along the longer side


@dataclass(frozen=True, eq=False)
class Preview:
    """Small pictures of a pair, which a result keeps instead of the images.

    Attributes
    ----------
    fixed, before : ndarray of uint8, shape (h, w)
        Grey values of the fixed image, and of the moving image by the initial transform.
    initial : Transform
    step : int
        Fixed pixels along a side of a preview's pixel.
    after : ndarray of uint8, optional
        The warped moving image, where the result does not hold it yet.
    """

    fixed: NDArray[np.uint8]
    before: NDArray[np.uint8]
    initial: Transform
    step: int
    after: NDArray[np.uint8] | None = None

    @classmethod
    def of(cls, pair: Pair) -> Preview:
        """Make the preview of a prepared pair."""
        step = -(-max(pair.shape) // _PREVIEW_PIXELS)
        pictures = [_bytes(grey) for grey in (pair.fixed.grey, pair.warped)]
        if pair.fixed.shape == pair.shape:
            fixed, before = (shrink(picture, step) for picture in pictures)
        else:
            rows, cols = (-(-size // step) for size in pair.shape)
            fixed, before = (
                np.asarray(Image.fromarray(picture).resize((cols, rows))) for picture in pictures
            )
        return cls(fixed, before, pair.initial, step)


@dataclass(frozen=True, eq=False)
class RegistrationResult:
    """The result of `register`.

    Attributes
    ----------
    warped : ndarray, shape (H, W) or (H, W, C)
        The moving image on the grid of the fixed one, with its own type and channels. It is
        interpolated once, from the original. Pixels outside the moving image are `fill_value`, by
        default NaN for floats and 0 for others. Missing pixels of integers keep their value,
        which by default also stands outside the moving image.
    mask : ndarray of bool, shape (H, W)
        The reconstructible mask: fixed pixels whose content lies on valid moving pixels. Moving
        pixels are invalid where they are NaN, missing, transparent, in the empty border or
        outside `moving_mask`.
    transform : Transform
        From fixed to moving positions. Apply it to other channels, labels or points; invert it;
        save it.
    quality : Quality
        Score, status and reasons: how far to trust the result.
    timings : dict
        Seconds of each stage and in total.
    parameters : dict
        Options, model, device, versions and shapes, as JSON can hold them.
    preview : Preview, optional
        Small pictures of both images, for `plot`.
    inverse : Transform, optional
        From moving to fixed positions, as ``model="superfusion"`` estimates it from the images
        without refinement. It differs from ``transform.inverse()``, which every result has, by
        the errors of both directions.
    """

    warped: NDArray[Any]
    mask: NDArray[np.bool_]
    transform: Transform
    quality: Quality
    timings: dict[str, float]
    parameters: dict[str, Any]
    preview: Preview | None = None
    inverse: Transform | None = None

    @cached_property
    def flow(self) -> NDArray[np.float32]:
        """The transform as ``(Δrow, Δcol)`` in pixels, shape (2, H, W), finite everywhere.

        ``warped[r, c] = moving[r + flow[0, r, c], c + flow[1, r, c]]``. Computed on first use.
        """
        return self.transform.flow()

    def metadata(self) -> dict[str, Any]:
        """Parameters, quality and timings, to store beside the transform as JSON.

        Examples
        --------
        ``result.transform.save("pair.busref.h5", metadata=result.metadata())``
        """
        return {
            "parameters": self.parameters,
            "quality": self.quality.as_dict(),
            "timings": self.timings,
        }

    def __repr__(self) -> str:
        quality = self.quality
        return (
            f"<RegistrationResult: {quality.verdict}; {self.warped.shape} {self.warped.dtype}, "
            f"score {quality.score:.2f}, {quality.numbers}>"
        )

    def _repr_html_(self) -> str:
        quality = self.quality
        lines = [
            *quality.reasons,
            f"score {quality.score:.2f}: the probability of an error below 5 px",
            quality.numbers,
        ]
        pictures = [(name, picture_of(self, name)) for name in ("before", "after")]
        return card(quality.verdict, lines, [one for one in pictures if one[1] is not None])

    def plot(self, views: str | Sequence[str] = VIEWS, *, axes: Any = None) -> NDArray[np.object_]:
        """Plot the pair before and after the registration; needs ``napari-busref[plot]``.

        Parameters
        ----------
        views : str or sequence of str
            ``"before"`` and ``"after"``: the fixed image blue, the moving one orange, grey
            where they agree. ``"edges"``: those of both. ``"field"``: arrows from each place to
            where its content was before, in fixed pixels.
        axes : matplotlib.axes.Axes or sequence of them, optional
            One for each view; by default a row of axes in a new figure.

        Returns
        -------
        ndarray of matplotlib.axes.Axes
            ``axes[0].figure`` is the figure. Nothing is shown: call ``matplotlib.pyplot.show``.

        Raises
        ------
        ModuleNotFoundError
            Without matplotlib.
        ValueError
            For other views, or another number of axes.
        """
        return plot_result(self, views, axes)


def picture_of(result: RegistrationResult, view: str) -> Any:
    """Draw a result before, after or by its edges; None without a preview.

    Returns
    -------
    ndarray of uint8, shape (h, w, 3), or None
    """
    preview = result.preview
    if preview is None:
        return None
    if view == "before":
        return compare(preview.fixed, preview.before, "overlay")
    after = after_picture(result) if preview.after is None else preview.after
    mode: Literal["overlay", "edges"] = "overlay" if view == "after" else "edges"
    return compare(preview.fixed, after, mode)


def after_picture(result: RegistrationResult) -> NDArray[np.uint8]:
    """The warped image as small as the preview."""
    assert result.preview is not None
    return shrink(as_picture(result.warped, "warped"), result.preview.step)


def check_views(views: str | Sequence[str], accepted: Sequence[str]) -> list[str]:
    """Check names of views and return them as a list.

    Raises
    ------
    ValueError
        Naming the unknown one and those that are accepted.
    """
    names = [views] if isinstance(views, str) else list(views)
    wrong = [name for name in names if name not in accepted]
    if wrong or not names:
        got = wrong[0] if wrong else names
        raise ValueError(f"views: got {got!r}, need some of {', '.join(map(repr, accepted))}")
    return names


def plot_result(result: RegistrationResult, views: str | Sequence[str], axes: Any) -> NDArray[Any]:
    """Draw views of a result; see `RegistrationResult.plot`."""
    names = check_views(views, VIEWS)
    if result.preview is None:
        raise ValueError("plot: this result holds no preview of its images; register makes one")
    drawn = new_axes(len(names), axes)
    shape = result.transform.fixed_shape
    for one, name in zip(drawn, names, strict=True):
        if name == "field":
            _plot_field(one, result)
        else:
            show_picture(one, picture_of(result, name), _TITLES[name], shape)
    return np.array(drawn, dtype=object)


def _plot_field(axes: Axes, result: RegistrationResult) -> None:
    """Arrows from fixed pixels to where their content was by the initial transform."""
    assert result.preview is not None
    initial, (rows, cols) = result.preview.initial, result.transform.fixed_shape
    spacing = max(rows, cols) / _ARROWS
    ticks = [np.linspace(0, size - 1, max(round(size / spacing), 2)) for size in (rows, cols)]
    points = np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, 2)
    apart = result.transform.points(points) - initial.points(points)
    moved = np.linalg.solve(initial.affine[:2, :2], apart.T)  # moving to fixed pixels
    length = np.hypot(*moved)
    longest = float(length.max())
    show_picture(axes, result.preview.fixed, f"displacement: up to {longest:.1f} px", (rows, cols))
    arrows = axes.quiver(
        points[:, 1],
        points[:, 0],
        moved[1],
        moved[0],
        length,
        angles="xy",
        scale_units="xy",
        scale=min(1.0, max(longest, 1e-6) / (1.5 * spacing)),  # short ones are drawn longer
        width=0.005,
        cmap="plasma",
    )
    axes.figure.colorbar(arrows, ax=axes, label="px", shrink=0.8)


def _bytes(grey: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(grey * np.float32(255)).astype(np.uint8)
