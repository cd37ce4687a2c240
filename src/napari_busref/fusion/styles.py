"""Pictures that look thermal: palette colours of the infrared image with the visible picture."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref.fusion.borders import fade
from napari_busref.images.preprocess import Prepared, luma
from napari_busref.runtime.options import check_choice, check_number

__all__ = ["PALETTES", "Look", "Style", "draw", "palette_colours"]

Style = Literal["natural", "msx", "overlay", "inset"]
Grey = NDArray[np.float32]

#: Colours from cold to warm, at equal distances. Those of matplotlib's names are its colours.
PALETTES: dict[str, tuple[str, ...]] = {
    "inferno": (
        "#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60",
        "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4",
    ),
    "magma": (
        "#000004", "#180f3d", "#440f76", "#721f81", "#9e2f7f",
        "#cd4071", "#f1605d", "#fd9668", "#feca8d", "#fcfdbf",
    ),
    "plasma": (
        "#0d0887", "#47039f", "#7301a8", "#9c179e", "#bd3786",
        "#d8576b", "#ed7953", "#fa9e3b", "#fdc926", "#f0f921",
    ),
    "viridis": (
        "#440154", "#482878", "#3e4989", "#31688e", "#26828e",
        "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725",
    ),
    "iron": ("#00000a", "#1e0078", "#91009c", "#e64616", "#ffaa00", "#ffff64", "#ffffff"),
    "hot": ("#0b0000", "#ff0000", "#ffff00", "#ffffff"),
    "gray": ("#000000", "#ffffff"),
}  # fmt: skip
_EDGES = 3.0  # gain of the visible edges, times `detail`
_EDGE_SIGMA = 0.004  # of the shorter side: what is finer is an edge; at least 2 px
_INSET = 0.25  # of the overlap's height and width, left free on each side of the inset
_BAR = (0.6, 0.03, 0.03)  # height, width and margin of the scale bar, of the picture


@dataclass(frozen=True)
class Look:
    """How a picture looks, by the options of `napari_busref.fuse`.

    Attributes
    ----------
    style : str
        ``"natural"``, ``"msx"``, ``"overlay"`` or ``"inset"``.
    palette : str
        See `palette_colours`.
    opacity : float
        Of the colours in an overlay, in [0, 1].
    above, below : float or None
        Only infrared values in this range get colours.
    scale_bar : bool
        Draw the palette with the values at its ends.
    unit : str or None
        Of the infrared values, such as ``"°C"``.
    """

    style: str = "natural"
    palette: str = "inferno"
    opacity: float = 0.5
    above: float | None = None
    below: float | None = None
    scale_bar: bool = False
    unit: str | None = None

    def __post_init__(self) -> None:
        check_choice("style", self.style)
        palette_colours(self.palette)
        check_number("opacity", self.opacity)
        for name in ("above", "below"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        if self.above is not None and self.below is not None and self.above > self.below:
            raise ValueError(
                f"below: got {self.below}, need a number of at least above, {self.above}"
            )
        if not isinstance(self.unit, str | None):
            raise TypeError(f"unit: got {self.unit!r}, need text such as '°C', or None")
        if self.scale_bar and self.style == "natural":
            others = ", ".join(repr(style) for style in get_args(Style)[1:])
            raise ValueError(f"scale_bar: style 'natural' has no colours, need one of {others}")
        if self.scale_bar and not self.unit:
            raise ValueError(
                "scale_bar: the unit of the infrared values is unknown; give unit='°C' or that of "
                "the values"
            )

    def parameters(self) -> dict[str, Any]:
        """The options as plain values; those of colours only where there are any."""
        return {"style": self.style} if self.style == "natural" else asdict(self)


def palette_colours(name: str) -> NDArray[np.float32]:
    """Return the 256 colours of a palette, (256, 3) in [0, 1], cold to warm.

    Parameters
    ----------
    name : str
        A key of `PALETTES` or, with matplotlib installed, one of its colormaps. ``"_r"`` at the
        end reverses a palette.

    Raises
    ------
    ValueError
        For another name.
    """
    if isinstance(name, str):
        stops = PALETTES.get(name.removesuffix("_r"))
        if stops is not None:
            colours = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in stops]) / 255
            at = np.linspace(0, 1, 256)
            places = np.linspace(0, 1, len(colours))
            table = np.stack([np.interp(at, places, channel) for channel in colours.T], 1)
            return (table[::-1] if name.endswith("_r") else table).astype(np.float32)
        if importlib.util.find_spec("matplotlib") is not None:
            from matplotlib import colormaps

            if name in colormaps:
                found: NDArray[np.float32] = colormaps[name](np.linspace(0, 1, 256))[:, :3]
                return found.astype(np.float32)
    raise ValueError(
        f"palette: got {name!r}, need one of {', '.join(map(repr, PALETTES))} or, with "
        "matplotlib installed, a name of its colormaps"
    )


def draw(
    image: NDArray[Any],
    visible: Prepared,
    infrared: NDArray[Any],
    thermal: Prepared,
    look: Look,
    *,
    detail: float = 0.5,
    feather: float = 16.0,
) -> NDArray[np.uint8]:
    """Draw a picture of a pair.

    - ``msx``: the palette's colours with the edges of the visible image on them, times `detail`.
    - ``overlay``: the colours over the visible picture, with `Look.opacity`.
    - ``inset``: the colours in the middle of the overlap, the visible picture around.

    Parameters
    ----------
    image : ndarray, shape (H, W) or (H, W, 3 or 4)
        The visible image.
    visible, thermal : Prepared
        Both images as grey values.
    infrared : ndarray, shape (H, W) or (H, W, 3 or 4)
        Values of the infrared image on the same grid, for `Look.above` and `Look.below`. Not
        changed.
    look : Look
        Of another style than ``"natural"``.
    detail : float
        In [0, 1]: strength of the edges.
    feather : float
        Width in pixels of the fade at the border of the infrared image.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        Red, green and blue. Where the infrared image has no content, the visible picture.
    """
    table = palette_colours(look.palette)
    base = visible.scale.colours(image, visible.valid)
    if image.ndim == 2:
        base = np.repeat(base[..., None], 3, 2)
    colours = table[np.rint(255 * thermal.grey).astype(np.uint8)]
    weight = fade(thermal.valid & visible.valid, feather)
    if look.style == "msx":
        sigma = max(_EDGE_SIGMA * min(visible.shape), 2.0)
        edges = visible.grey - ndimage.gaussian_filter(visible.grey, sigma, mode="nearest")
        colours = colours + (_EDGES * detail * edges)[..., None]
    elif look.style == "overlay":
        weight = look.opacity * weight
    else:
        weight = weight * _middle(thermal.valid)
    if look.above is not None or look.below is not None:
        values = luma(infrared[..., :3].astype(np.float64)) if infrared.ndim == 3 else infrared
        weight = weight * (
            (values >= (-np.inf if look.above is None else look.above))
            & (values <= (np.inf if look.below is None else look.below))
        )
    picture = base + weight[..., None] * (colours - base)
    drawn = np.rint(255 * picture.clip(0, 1)).astype(np.uint8)
    return _with_scale_bar(drawn, table, thermal, look) if look.scale_bar else drawn


def _middle(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The middle of a mask's bounding box."""
    inside = np.zeros(mask.shape, bool)
    if mask.any():
        box = []
        for axis in (1, 0):
            found = np.flatnonzero(mask.any(axis))
            first, last = int(found[0]), int(found[-1]) + 1
            free = int(_INSET * (last - first))
            box.append(slice(first + free, last - free))
        inside[tuple(box)] = True
    return inside


def _with_scale_bar(
    picture: NDArray[np.uint8], table: Grey, thermal: Prepared, look: Look
) -> NDArray[np.uint8]:
    """Draw the palette at the right side, with the values at its ends."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = picture.shape[:2]
    length, thick, margin = (
        max(int(share * side), least)
        for share, side, least in zip(_BAR, (height, width, width), (8, 4, 2), strict=True)
    )
    top, left = (height - length) // 2, width - margin - thick
    rows = np.linspace(255, 0, length).round().astype(int)
    picture = picture.copy()
    picture[top : top + length, left : left + thick] = np.rint(255 * table[rows])[:, None]
    drawn = Image.fromarray(picture)
    brush = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(max(height // 30, 9))
    origin = thermal.scale.origin or 0
    ends = ((thermal.scale.high, top, "rb"), (thermal.scale.low, top + length, "rt"))
    for value, row, anchor in ends:
        brush.text(
            (left + thick, row), f"{origin + value:.4g} {look.unit}", "white", font, anchor,
            stroke_width=max(height // 300, 1), stroke_fill="black",
        )  # fmt: skip
    return np.asarray(drawn)
