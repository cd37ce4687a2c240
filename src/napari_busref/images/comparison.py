"""Pictures in which two images on one grid can be compared by eye. Neither torch, napari nor Qt.

`compare` makes each of them from any two images; the other functions are its parts and take
pictures (uint8 RGB) or grey values in [0, 1].
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_busref.images.preprocess import as_image, as_mask, prepare

__all__ = [
    "MODES",
    "Curtain",
    "Mode",
    "checkerboard",
    "compare",
    "difference",
    "edge_overlay",
    "edges",
    "grey_picture",
    "overlay",
    "stretch",
]

Picture = NDArray[np.uint8]
Grey = NDArray[np.float32]

Mode = Literal["checkerboard", "swipe", "overlay", "edges", "difference"]
#: The names that `compare` accepts.
MODES: tuple[str, ...] = get_args(Mode)

_PERCENTILES = (0.5, 99.5)
_SAMPLE = 1 << 18  # pixels that percentiles are measured on, at most
_STRONG = 98.0  # percentile of the edges that is shown at full strength
_LINE = (255, 221, 51)


def compare(
    reference: ArrayLike,
    tested: ArrayLike,
    mode: Mode = "overlay",
    *,
    mask: ArrayLike | None = None,
    tile: int = 64,
    position: float = 0.5,
    axis: int = 1,
    sigma: float = 1.5,
) -> Picture:
    """Draw two images of one size so that it can be seen whether they fit.

    Parameters
    ----------
    reference, tested : array_like, shape (H, W) or (H, W, 3 or 4)
        Grey or colour, any real number type; NaN, infinite and transparent pixels are empty.
        Colour uint8 images are shown as they are where the mode has colours to spare, all others
        in grey, see `stretch`.
    mode : {"checkerboard", "swipe", "overlay", "edges", "difference"}
        See `checkerboard`, `Curtain`, `overlay`, `edge_overlay` and `difference`.
    mask : array_like of bool, shape (H, W), optional
        Where `tested` has content. Elsewhere it is shown black.
    tile : int
        Side of the squares of a checkerboard, in pixels.
    position, axis : float and int
        Edge of a swipe, in [0, 1] along axis 0 (rows) or 1 (columns).
    sigma : float
        Width of the edges that are looked for, in pixels.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)

    Raises
    ------
    TypeError
        When an image holds no real numbers.
    ValueError
        When the sizes differ, an image is empty, or an option is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> ramp = np.tile(np.linspace(0, 1, 4), (2, 1))
    >>> compare(ramp, ramp, "overlay")[0, :, 0]  # equal images are grey
    array([  0,  85, 170, 255], dtype=uint8)
    """
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}, need one of {', '.join(MODES)}")
    first, second = (
        as_image(reference, "reference", min_size=1),
        as_image(tested, "tested", min_size=1),
    )
    if first.shape[:2] != second.shape[:2]:
        raise ValueError(
            f"tested: got {second.shape[:2]} pixels, need the size of reference, "
            f"{first.shape[:2]}; resample it with Transform.apply"
        )
    valid = None if mask is None else as_mask(mask, "mask", second.shape[:2])
    if mode in ("checkerboard", "swipe"):
        left, right = _picture(first, "reference", None), _picture(second, "tested", valid)
        if mode == "checkerboard":
            return checkerboard(left, right, tile)
        return Curtain(left, right, position, axis=axis).picture
    (grey, inside), (other, content) = (
        stretch(first, "reference"),
        stretch(second, "tested", mask=valid, find_border=True),
    )
    if mode == "overlay":
        return overlay(grey, other)
    if mode == "edges":
        return edge_overlay(edges(grey, inside, sigma), edges(other, content, sigma))
    return difference(grey, other, inside & content)


def stretch(
    image: ArrayLike,
    name: str,
    *,
    mask: NDArray[np.bool_] | None = None,
    find_border: bool = False,
) -> tuple[Grey, NDArray[np.bool_]]:
    """Bring any image to grey values that fill [0, 1].

    Unlike `napari_busref.images.preprocess.prepare`, on which it builds, also uint8 is stretched (from
    the 0.5 to the 99.5 percentile of the content): two images are easier to compare when each
    uses the whole range.

    Parameters
    ----------
    image : array_like, shape (H, W) or (H, W, 3 or 4)
        See `compare`.
    name : str
        How error messages call it.
    mask : ndarray of bool, shape (H, W), optional
        Where it has content.
    find_border : bool
        Find also the empty border that warping leaves.

    Returns
    -------
    grey : ndarray of float32, shape (H, W)
        0 where there is no content.
    valid : ndarray of bool, shape (H, W)
        Where there is content.
    """
    prepared = prepare(image, name, min_size=1, mask=mask, find_border=find_border)
    grey, valid = prepared.grey, prepared.valid
    values = grey[valid]
    low, high = np.percentile(values[:: -(-values.size // _SAMPLE)], _PERCENTILES)
    if high > low:
        grey = np.clip((grey - np.float32(low)) / np.float32(high - low), 0, 1)
        grey[~valid] = 0
    return grey, valid


def checkerboard(first: Picture, second: Picture, tile: int = 64) -> Picture:
    """Show two pictures in turn in the squares of a checkerboard; the first is at (0, 0).

    Parameters
    ----------
    first, second : ndarray of uint8, shape (H, W, 3)
    tile : int
        Side of a square in pixels, at least 1.
    """
    if tile < 1:
        raise ValueError(f"tile: got {tile}, need at least 1 pixel")
    rows, cols = (np.arange(size) // tile for size in first.shape[:2])
    odd = ((rows[:, None] + cols) % 2).astype(bool)
    return np.where(odd[..., None], second, first)


class Curtain:
    """Two pictures and an edge: the first is shown before it, the second after it.

    Moving the edge copies only the pixels that it passes over.

    Parameters
    ----------
    first, second : ndarray of uint8, shape (H, W, 3)
        Left and right of the edge (above and below for ``axis=0``).
    position : float
        Of the edge, in [0, 1] of the picture.
    axis : int
        1: the edge is vertical and moves along the columns. 0: it is horizontal.
    line : int
        Width of the line that marks the edge, in pixels; 0 for none.

    Attributes
    ----------
    picture : ndarray of uint8, shape (H, W, 3)
        Changed in place by `move`.
    """

    def __init__(
        self,
        first: Picture,
        second: Picture,
        position: float = 0.5,
        *,
        axis: int = 1,
        line: int = 1,
    ) -> None:
        if axis not in (0, 1):
            raise ValueError(f"axis: got {axis!r}, need 0 (rows) or 1 (columns)")
        if first.shape != second.shape:
            raise ValueError(f"second: got shape {second.shape}, need that of first {first.shape}")
        if line < 0:
            raise ValueError(f"line: got {line}, need 0 or more pixels")
        self.axis = axis
        self.picture = second.copy()
        self._first, self._second = first, second
        self._line = line
        self._edge = 0
        self._drawn = slice(0, 0)
        self.move(position)

    @property
    def position(self) -> float:
        """Of the edge, in [0, 1]."""
        return self._edge / self._size

    def move(self, position: float) -> slice:
        """Move the edge.

        Parameters
        ----------
        position : float
            In [0, 1]; what lies outside is moved to its ends.

        Returns
        -------
        slice
            The columns (rows for ``axis=0``) of `picture` that were written.
        """
        edge = round(min(max(float(position), 0.0), 1.0) * self._size)
        start = max(edge - self._line // 2, 0)
        line = slice(start, min(start + self._line, self._size))
        low, high = min(edge, self._edge), max(edge, self._edge)
        if self._drawn.stop > self._drawn.start:
            low, high = min(low, self._drawn.start), max(high, self._drawn.stop)
        for part, source in ((slice(low, edge), self._first), (slice(edge, high), self._second)):
            self._along(self.picture)[part] = self._along(source)[part]
        if 0 < edge < self._size:  # at either end one picture is seen whole
            self._along(self.picture)[line] = _LINE
        else:
            line = slice(edge, edge)
        self._edge, self._drawn = edge, line
        return slice(min(low, line.start), max(high, line.stop))

    @property
    def _size(self) -> int:
        return self.picture.shape[self.axis]

    def _along(self, picture: Picture) -> Picture:
        return picture if self.axis == 0 else picture.swapaxes(0, 1)


def overlay(reference: Grey, tested: Grey) -> Picture:
    """Show the reference in magenta and the other in green: grey where they agree.

    Parameters
    ----------
    reference, tested : ndarray of float32, shape (H, W)
        In [0, 1].
    """
    magenta, green = _bytes(reference), _bytes(tested)
    return np.stack([magenta, green, magenta], axis=-1)


def edges(grey: Grey, valid: NDArray[np.bool_], sigma: float = 1.5) -> Grey:
    """Find how salient the edges of an image are.

    Magnitude of the Gaussian gradient above its median (noise and texture), as a share of the
    strong edges of this image. It is 0 where the border of the content is near.

    Parameters
    ----------
    grey : ndarray of float32, shape (H, W)
        In [0, 1].
    valid : ndarray of bool, shape (H, W)
        Where there is content.
    sigma : float
        Standard deviation of the Gaussian in pixels, above 0.

    Returns
    -------
    ndarray of float32, shape (H, W)
        In [0, 1].
    """
    if not sigma > 0:
        raise ValueError(f"sigma: got {sigma}, need more than 0 pixels")
    inside = grey[valid]
    filled = grey if valid.all() or not inside.size else np.where(valid, grey, inside.mean())
    magnitude: Grey = ndimage.gaussian_gradient_magnitude(
        filled, sigma, mode="nearest", truncate=3.0
    )
    if not valid.all():
        reach = 2 * round(3 * sigma) + 1  # what lies outside is seen no farther
        magnitude = magnitude * ndimage.minimum_filter(valid, reach, mode="nearest")
    step = -(-magnitude.size // _SAMPLE)
    usual, strong = map(float, np.percentile(magnitude.ravel()[::step], (50, _STRONG)))
    # below a thousandth of the grey range for a pixel there is only noise to amplify
    salient: Grey = np.clip((magnitude - usual) / max(strong - usual, 1e-3), 0, 1)
    return salient


def edge_overlay(reference: Grey, tested: Grey) -> Picture:
    """Show edges of the reference in red and those of the other in green.

    Yellow where they coincide, as in the figures of the BusReF paper.

    Parameters
    ----------
    reference, tested : ndarray of float32, shape (H, W)
        From `edges`.
    """
    red, green = _bytes(reference), _bytes(tested)
    return np.stack([red, green, np.zeros_like(red)], axis=-1)


def difference(reference: Grey, tested: Grey, valid: NDArray[np.bool_]) -> Picture:
    """Show ``tested - reference``: white for 0, red where the other is brighter, blue darker.

    Parameters
    ----------
    reference, tested : ndarray of float32, shape (H, W)
        In [0, 1].
    valid : ndarray of bool, shape (H, W)
        Where both have content; dark grey elsewhere.
    """
    change = tested - reference
    cold, warm = _bytes(1 - np.maximum(change, 0)), _bytes(1 + np.minimum(change, 0))
    picture = np.stack([warm, np.minimum(cold, warm), cold], axis=-1)
    picture[~valid] = 40
    return picture


def grey_picture(grey: Grey) -> Picture:
    """Grey values in [0, 1] as uint8 RGB."""
    return np.repeat(_bytes(grey)[..., None], 3, axis=-1)


def _picture(image: NDArray[Any], name: str, mask: NDArray[np.bool_] | None) -> Picture:
    if image.ndim == 3 and image.dtype == np.uint8:
        colours = image[..., :3]
        if mask is not None:
            colours = np.where(mask[..., None], colours, np.uint8(0))
        return np.ascontiguousarray(colours)
    return grey_picture(stretch(image, name, mask=mask)[0])


def _bytes(grey: Grey) -> Picture:
    return np.rint(grey * np.float32(255)).astype(np.uint8)
