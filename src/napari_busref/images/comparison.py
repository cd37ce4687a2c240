"""Pictures that compare two images on one grid. Needs neither torch, napari nor Qt.

`compare` draws any of them from two images. The other functions are its parts and take pictures
(uint8 RGB) or grey values in [0, 1].
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_busref.images.preprocess import as_image, as_mask, prepare

__all__ = [
    "FIXED_COLOUR",
    "MODES",
    "MOVING_COLOUR",
    "Mode",
    "Swipe",
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

#: Colours of the two images in overlays. Their sum is white and their luminance is equal, and
#: people with red-green blindness see them apart.
FIXED_COLOUR, MOVING_COLOUR = "#009bff", "#ff6400"

_PERCENTILES = (0.5, 99.5)
_SAMPLE_PIXELS = 1 << 18  # most pixels that percentiles are computed from
_STRONG_EDGE = 98.0  # percentile of the gradient magnitude that is drawn at full strength
_DIVIDER_COLOUR = (255, 221, 51)
_EMPTY_GREY = 40  # of a difference, where an image has no content
_MIN_SIGMA, _MAX_SIGMA = 0.01, 100  # px


def compare(
    fixed: ArrayLike,
    moving: ArrayLike,
    mode: Mode = "overlay",
    *,
    mask: ArrayLike | None = None,
    tile: int = 64,
    position: float = 0.5,
    axis: int = 1,
    sigma: float = 1.5,
) -> Picture:
    """Draw an aligned pair in one picture that shows how well it fits.

    Parameters
    ----------
    fixed, moving : array_like, shape (H, W) or (H, W, 3 or 4)
        The fixed image, and the moving image on its grid. Grey or colour, any real number type;
        NaN, infinite and transparent pixels are empty. ``"checkerboard"`` and ``"swipe"`` show
        colour uint8 images as they are. All others are drawn in grey, see `stretch`.
    mode : {"checkerboard", "swipe", "overlay", "edges", "difference"}
        See `checkerboard`, `Swipe`, `overlay`, `edge_overlay` and `difference`.
    mask : array_like of bool, shape (H, W), optional
        Valid pixels of `moving`. The others are drawn black.
    tile : int
        Side of the squares of a checkerboard, in pixels.
    position, axis : float and int
        Divider of a swipe, in [0, 1] along axis 0 (rows) or 1 (columns).
    sigma : float
        Standard deviation of the Gaussian gradient that finds edges, in pixels, from 0.01 to 100.

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
    first, second = as_image(fixed, "fixed", min_size=1), as_image(moving, "moving", min_size=1)
    if first.shape[:2] != second.shape[:2]:
        raise ValueError(
            f"moving: got {second.shape[:2]} pixels, need the size of fixed, "
            f"{first.shape[:2]}; resample it with Transform.apply"
        )
    given = None if mask is None else as_mask(mask, "mask", second.shape[:2])
    if mode in ("checkerboard", "swipe"):
        pictures = _picture(first, "fixed", None), _picture(second, "moving", given)
        if mode == "checkerboard":
            return checkerboard(*pictures, tile)
        return Swipe(*pictures, position, axis=axis).picture
    grey, valid = stretch(first, "fixed")
    other, other_valid = stretch(second, "moving", mask=given, find_border=True)
    if mode == "overlay":
        return overlay(grey, other)
    if mode == "edges":
        return edge_overlay(edges(grey, valid, sigma), edges(other, other_valid, sigma))
    return difference(grey, other, valid & other_valid)


def stretch(
    image: ArrayLike,
    name: str,
    *,
    mask: NDArray[np.bool_] | None = None,
    find_border: bool = False,
) -> tuple[Grey, NDArray[np.bool_]]:
    """Convert an image to grey values that fill [0, 1].

    Builds on `napari_busref.images.preprocess.prepare` and also stretches uint8, from the 0.5 to
    the 99.5 percentile of the valid pixels. Images that use the whole range compare more easily.

    Parameters
    ----------
    image : array_like, shape (H, W) or (H, W, 3 or 4)
        See `compare`.
    name : str
        What error messages call the image.
    mask : ndarray of bool, shape (H, W), optional
        Valid pixels.
    find_border : bool
        Also exclude the empty border that warping leaves.

    Returns
    -------
    grey : ndarray of float32, shape (H, W)
        0 at pixels that are not valid.
    valid : ndarray of bool, shape (H, W)
    """
    prepared = prepare(image, name, min_size=1, mask=mask, find_border=find_border)
    grey, valid = prepared.grey, prepared.valid
    values = grey[valid]
    low, high = np.percentile(values[:: -(-values.size // _SAMPLE_PIXELS)], _PERCENTILES)
    if high > low:
        grey = np.clip((grey - np.float32(low)) / np.float32(high - low), 0, 1)
        grey[~valid] = 0
    return grey, valid


def checkerboard(first: Picture, second: Picture, tile: int = 64) -> Picture:
    """Alternate two pictures in the squares of a checkerboard; the first is at (0, 0).

    Parameters
    ----------
    first, second : ndarray of uint8, shape (H, W, 3)
    tile : int
        Side of a square in pixels, at least 1.
    """
    _check_number("tile", tile, 1, np.inf, "at least 1 pixel", whole=True)
    rows, cols = (np.arange(size) // tile for size in first.shape[:2])
    odd = ((rows[:, None] + cols) % 2).astype(bool)
    return np.where(odd[..., None], second, first)


class Swipe:
    """Two pictures with a divider: the first is drawn before it, the second after it.

    Moving the divider copies only the pixels that it crosses.

    Parameters
    ----------
    first, second : ndarray of uint8, shape (H, W, 3)
        Left and right of the divider (above and below for ``axis=0``).
    position : float
        Of the divider, in [0, 1] of the picture.
    axis : int
        1: the divider is vertical and moves along the columns. 0: it is horizontal.
    line : int
        Width of the line that marks the divider, in pixels; 0 for none.

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
        if not isinstance(axis, int | np.integer) or axis not in (0, 1):
            raise ValueError(f"axis: got {axis!r}, need 0 (rows) or 1 (columns)")
        if first.shape != second.shape:
            raise ValueError(f"second: got shape {second.shape}, need that of first {first.shape}")
        if line < 0:
            raise ValueError(f"line: got {line}, need 0 or more pixels")
        self.axis = axis
        self.picture = second.copy()
        self._first, self._second = first, second
        self._line = line
        self._divider = 0
        self._drawn = slice(0, 0)
        self.move(position)

    @property
    def position(self) -> float:
        """Of the divider, in [0, 1]."""
        return self._divider / self._size

    def move(self, position: float) -> slice:
        """Move the divider.

        Parameters
        ----------
        position : float
            Clipped to [0, 1].

        Returns
        -------
        slice
            The columns (rows for ``axis=0``) of `picture` that were written.
        """
        _check_number("position", position, -np.inf, np.inf, "a number, best in [0, 1]")
        divider = round(min(max(float(position), 0.0), 1.0) * self._size)
        start = max(divider - self._line // 2, 0)
        line = slice(start, min(start + self._line, self._size))
        low, high = min(divider, self._divider), max(divider, self._divider)
        if self._drawn.stop > self._drawn.start:
            low, high = min(low, self._drawn.start), max(high, self._drawn.stop)
        for lines, source in (
            (slice(low, divider), self._first),
            (slice(divider, high), self._second),
        ):
            self._along(self.picture)[lines] = self._along(source)[lines]
        if 0 < divider < self._size:  # at either end, one picture fills the whole area
            self._along(self.picture)[line] = _DIVIDER_COLOUR
        else:
            line = slice(divider, divider)
        self._divider, self._drawn = divider, line
        return slice(min(low, line.start), max(high, line.stop))

    @property
    def _size(self) -> int:
        return self.picture.shape[self.axis]

    def _along(self, picture: Picture) -> Picture:
        return picture if self.axis == 0 else picture.swapaxes(0, 1)


def overlay(fixed: Grey, moving: Grey) -> Picture:
    """Draw the fixed image in blue and the moving one in orange: grey where they agree.

    Parameters
    ----------
    fixed, moving : ndarray of float32, shape (H, W)
        In [0, 1].
    """
    pair = [_bytes(one).astype(np.uint16) for one in (fixed, moving)]
    channels = []
    for position in (1, 3, 5):  # of a channel in the text of a colour
        shares = (int(name[position : position + 2], 16) for name in (FIXED_COLOUR, MOVING_COLOUR))
        total = sum(share * one for share, one in zip(shares, pair, strict=True))
        channels.append((total + 127) // 255)
    return np.stack(channels, axis=-1).astype(np.uint8)


def edges(grey: Grey, valid: NDArray[np.bool_], sigma: float = 1.5) -> Grey:
    """Compute the edge strength of an image.

    It is the magnitude of the Gaussian gradient above its median (noise and texture), relative to
    the strong edges of the image. It is 0 near the border of the valid area.

    Parameters
    ----------
    grey : ndarray of float32, shape (H, W)
        In [0, 1].
    valid : ndarray of bool, shape (H, W)
        Valid pixels.
    sigma : float
        Standard deviation of the Gaussian in pixels, from 0.01 to 100.

    Returns
    -------
    ndarray of float32, shape (H, W)
        In [0, 1].
    """
    _check_number("sigma", sigma, _MIN_SIGMA, _MAX_SIGMA, f"{_MIN_SIGMA} to {_MAX_SIGMA} pixels")
    inside = grey[valid]
    filled = grey if valid.all() or not inside.size else np.where(valid, grey, inside.mean())
    magnitude: Grey = ndimage.gaussian_gradient_magnitude(
        filled, sigma, mode="nearest", truncate=3.0
    )
    if not valid.all():
        support = 2 * round(3 * sigma) + 1  # of the Gaussian, truncated at 3 sigma
        magnitude = magnitude * ndimage.minimum_filter(valid, support, mode="nearest")
    step = -(-magnitude.size // _SAMPLE_PIXELS)
    usual, strong = map(float, np.percentile(magnitude.ravel()[::step], (50, _STRONG_EDGE)))
    # below a thousandth of the grey range per pixel there is only noise to amplify
    strength: Grey = np.clip((magnitude - usual) / max(strong - usual, 1e-3), 0, 1)
    return strength


def edge_overlay(fixed: Grey, moving: Grey) -> Picture:
    """Draw edges of the fixed image in blue, of the moving one in orange, common ones in white.

    Parameters
    ----------
    fixed, moving : ndarray of float32, shape (H, W)
        From `edges`.
    """
    return overlay(fixed, moving)


def difference(fixed: Grey, moving: Grey, valid: NDArray[np.bool_]) -> Picture:
    """Draw ``moving - fixed``: white for 0, red above, blue below.

    Parameters
    ----------
    fixed, moving : ndarray of float32, shape (H, W)
        In [0, 1].
    valid : ndarray of bool, shape (H, W)
        Where both are valid. The rest is dark grey.
    """
    change = moving - fixed
    blue, red = _bytes(1 - np.maximum(change, 0)), _bytes(1 + np.minimum(change, 0))
    picture = np.stack([red, np.minimum(blue, red), blue], axis=-1)
    picture[~valid] = _EMPTY_GREY
    return picture


def grey_picture(grey: Grey) -> Picture:
    """Convert grey values in [0, 1] to uint8 RGB."""
    return np.repeat(_bytes(grey)[..., None], 3, axis=-1)


def _picture(image: NDArray[Any], name: str, mask: NDArray[np.bool_] | None) -> Picture:
    if image.ndim == 3 and image.dtype == np.uint8:
        colours = image[..., :3]
        if mask is not None:
            colours = np.where(mask[..., None], colours, np.uint8(0))
        return np.ascontiguousarray(colours)
    return grey_picture(stretch(image, name, mask=mask)[0])


def _check_number(
    name: str, value: object, low: float, high: float, need: str, *, whole: bool = False
) -> None:
    """Raise a ValueError unless a value is a number, or an integer, between two limits."""
    kind = Integral if whole else Real
    if not isinstance(value, kind) or isinstance(value, bool) or not low <= float(value) <= high:
        raise ValueError(f"{name}: got {value!r}, need {need}")


def _bytes(grey: Grey) -> Picture:
    return np.rint(grey * np.float32(255)).astype(np.uint8)
