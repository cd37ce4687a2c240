"""The options of `register`, `fuse`, `register_and_fuse` and the readers: one table for all.

The functions check their arguments against it. The command line and the panel build their
controls from it. A test compares it with the signatures and with napari's manifest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, isfinite
from numbers import Real
from typing import Any

__all__ = ["OPTIONS", "Option", "check_choice", "check_number"]


@dataclass(frozen=True)
class Option:
    """One option, by its name in `napari_busref.register_and_fuse`.

    Attributes
    ----------
    name : str
        Of the argument.
    default : object
        Where it is None, the call chooses as `automatic` describes.
    help : str
        One line.
    choices : dict of str to str
        From a value to its meaning. Empty for an option without a list.
    automatic : str
        What the call chooses for None.
    open_ended : bool
        Values beyond `choices` are accepted too.
    limits : (float, float), optional
        Smallest and largest accepted number.
    """

    name: str
    default: Any
    help: str
    choices: dict[str, str] = field(default_factory=dict)
    automatic: str = ""
    open_ended: bool = False
    limits: tuple[float, float] | None = None

    @property
    def values(self) -> tuple[str, ...]:
        """The choices without their meanings."""
        return tuple(self.choices)

    @property
    def lines(self) -> list[str]:
        """The help, and one line for each choice with a meaning."""
        meanings = {"automatic": self.automatic} | self.choices
        return [self.help, *(f"{value}: {text}" for value, text in meanings.items() if text)]


_TABLE = (
    Option(
        "model",
        "auto",
        "Registration model; auto refines the best of all candidates.",
    ),
    Option(
        "search",
        None,
        "Search for a coarse pose before the refinement.",
        {
            "none": "starts at the initial transform",
            "near": "rotations to 15°, scales 0.8 to 1.25, shifts to 30 % of the image",
            "wide": "any rotation, scales 0.4 to 2.5, overlaps down to 30 %",
            "auto": "near, then wide where the blocks do not confirm the near result",
        },
        automatic="auto with the model auto, none with another",
    ),
    Option(
        "mirrored",
        False,
        "Whether the wide search also compares the mirrored moving image.",
    ),
    Option(
        "refine",
        None,
        "How far the refinement may bend the image.",
        {
            "none": "keeps the estimate of the model or search",
            "affine": "shift, rotation, scale and shear",
            "dense": "affine, then a smooth displacement of every pixel",
        },
        automatic="dense with the model auto, none with another",
    ),
    Option(
        "transform",
        "affine",
        "Transform that the refinement fits before the displacement field.",
        {
            "affine": "shift, rotation, scale and shear",
            "homography": "for a flat scene that two cameras see from different places",
        },
    ),
    Option(
        "finest",
        None,
        "Finest level of a large pair, which is registered in tiles.",
        {
            "full": "every pixel",
            "half": "means of 2 x 2 pixels, in a quarter of the time",
            "quarter": "means of 4 x 4 pixels",
            "none": "no tiles: the whole at 2048 x 2048 px at most",
        },
        automatic="half beyond 4096 x 4096 fixed pixels",
    ),
    Option(
        "nodata",
        "auto",
        "Value of missing pixels in both images; auto recognises values such as -9999.",
        open_ended=True,
    ),
    Option(
        "fill_value",
        None,
        "Value of the warped image outside the moving image.",
        automatic="NaN for floats; 0 or the no-data value for integers",
    ),
    Option(
        "on_cancel",
        "raise",
        "Result of a cancelled call.",
        {"raise": "none: the call raises Cancelled", "best": "the best estimate so far"},
    ),
    Option(
        "fusion_model",
        None,
        "Model that fuses the registered pair.",
        automatic="the best for the task",
    ),
    Option(
        "task",
        "infrared-visible",
        "Kind of pair to fuse; it selects the default fusion model and the weights.",
        {
            "infrared-visible": "a thermal or near-infrared and a visible image",
            "medical": "MRI with CT or PET",
            "multi-focus": "two focal planes; both images may give colours",
            "multi-exposure": "two exposures; both images may give colours",
        },
    ),
    Option(
        "infrared",
        0.5,
        "Brightness of large areas: 0 visible, 0.5 as the model made it, 1 infrared.",
        limits=(0, 1),
    ),
    Option(
        "detail",
        0.5,
        "Fine structure: 0 none, 0.5 as the model made it, 1 twice as much.",
        limits=(0, 1),
    ),
    Option(
        "device",
        "auto",
        "Where to compute; auto takes a GPU if there is one.",
        dict.fromkeys(("auto", "cpu", "cuda", "mps"), ""),
        open_ended=True,
    ),
    Option(
        "precision",
        "float32",
        "Number format of the fusion network.",
        {
            "float32": "",
            "bfloat16": "faster on some devices and smaller; grey levels are off by up to 2 %",
        },
    ),
    Option("tile", "auto", "Side of fusion tiles in pixels; auto: 512 above 2.5 megapixels."),
    Option(
        "feather",
        16.0,
        "Width in pixels over which the fused image fades into the visible one at the mask.",
        limits=(0, inf),
    ),
    Option(
        "style",
        "natural",
        "How the fused picture looks.",
        {
            "natural": "the fused image of the model",
            "msx": "visible edges over the palette's colours of the infrared image",
            "overlay": "these colours over the visible image, with an opacity",
            "inset": "these colours in the middle of the overlap",
        },
    ),
    Option(
        "palette",
        "inferno",
        "Colours of the infrared image; iron, hot, gray, magma, plasma, viridis or matplotlib's.",
        open_ended=True,
    ),
    Option("opacity", 0.5, "Opacity of the colours in an overlay.", limits=(0, 1)),
    Option(
        "above",
        None,
        "Smallest infrared value that gets colours.",
        automatic="no limit",
        limits=(-inf, inf),
    ),
    Option(
        "below",
        None,
        "Largest infrared value that gets colours.",
        automatic="no limit",
        limits=(-inf, inf),
    ),
    Option("scale_bar", False, "Draw the palette with the values at its ends."),
    Option(
        "unit",
        None,
        "Unit of the infrared values, such as °C, for the scale bar.",
        automatic="that of the file, if it has one",
        open_ended=True,
    ),
    Option("loss_weights", False, "Also return the weights of the fusion model's learned loss."),
    Option(
        "memory_limit",
        None,
        "Largest size in GiB that a file may declare for its pixels or values.",
        automatic="2, or the environment variable NAPARI_BUSREF_MEMORY",
        limits=(0, inf),
    ),
)

#: By name, in the order in which interfaces show them.
OPTIONS: dict[str, Option] = {option.name: option for option in _TABLE}


def check_choice(name: str, value: object) -> None:
    """Check the value of an option with fixed choices.

    Parameters
    ----------
    name : str
        One of `OPTIONS`.
    value : object
        What the caller gave.

    Raises
    ------
    ValueError
        Naming the option, the value and the choices.
    """
    option = OPTIONS[name]
    accepted = option.values if option.default is not None else (*option.values, None)
    if not (value is None or isinstance(value, str)) or value not in accepted:
        choices = ", ".join(map(repr, accepted))
        raise ValueError(f"{name}: got {value!r}, need one of {choices}")


def check_number(name: str, value: object) -> float:
    """Check the value of an option with limits and return it as a float.

    Parameters
    ----------
    name : str
        One of `OPTIONS`.
    value : object
        What the caller gave.

    Raises
    ------
    ValueError
        Naming the option, the value and the limits.
    """
    low, high = OPTIONS[name].limits or (-inf, inf)
    if isinstance(value, Real) and not isinstance(value, bool) and isfinite(value):
        number = float(value)
        if low <= number <= high:
            return number
    limits = f" of at least {low}" if high == inf else f" in [{low}, {high}]"
    raise ValueError(f"{name}: got {value!r}, need a number{limits if low > -inf else ''}")
