"""The words of a trade: how the panels name the two images, and what they leave out.

Needs neither Qt nor a viewer. A text of a panel holds the words in braces, such as
``"the {moving_image}"``, and `worded` fills them in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from napari_busref._napari.layers.preferences import stored_group
from napari_busref.transforms.formats.landmark_files import LandmarkStyle

__all__ = [
    "GROUP",
    "TRADES",
    "Trade",
    "current_trade",
    "in_trade",
    "set_trade",
    "worded",
]


@dataclass(frozen=True)
class Trade:
    """The words of a trade.

    Attributes
    ----------
    name : str
        In napari's Preferences.
    title : str
        In the switch.
    moving, fixed : str
        Adjectives of the two images, layers and planes.
    moving_image, fixed_image : str
        What the two are.
    moving_caption, fixed_caption : str
        Captions of choosers, with an ampersand before the letter of the shortcut.
    tasks : dict of str to str
        The tasks of a fusion that occur in the trade, and their names there.
    landmark_files : tuple of str
        Kinds of landmark files that occur in the trade.
    lengths : bool
        Whether lengths in µm or m are of interest beside pixels.
    calibrated : bool
        Whether the score was calibrated on such pairs.
    truths : bool
        Whether to offer a known truth to measure against. Samples carry theirs in any trade.
    """

    name: str
    title: str
    moving: str
    fixed: str
    moving_image: str
    fixed_image: str
    moving_caption: str
    fixed_caption: str
    tasks: dict[str, str]
    landmark_files: tuple[LandmarkStyle, ...]
    lengths: bool = False
    calibrated: bool = False
    truths: bool = False

    @property
    def words(self) -> dict[str, str]:
        """The words by their names in a text, also with an article or a capital."""
        names = ("moving", "fixed", "moving_image", "fixed_image")
        words = {name: str(getattr(self, name)) for name in names}
        articles = {
            f"a_{name}": f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
            for name, word in words.items()
        }
        capitals = {name.capitalize(): word.capitalize() for name, word in words.items()}
        captions = {name: getattr(self, name) for name in ("moving_caption", "fixed_caption")}
        return words | articles | capitals | captions


#: By name, in the order of the switch.
TRADES: dict[str, Trade] = {
    trade.name: trade
    for trade in (
        Trade(
            "thermal",
            "thermal camera",
            "infrared",
            "visible",
            "infrared image",
            "visible image",
            "&Infrared (moving)",
            "Visibl&e (fixed)",
            {"infrared-visible": "infrared and visible"},
            ("pixels",),
            calibrated=True,
        ),
        Trade(
            "microscopy",
            "microscopy",
            "moving",
            "reference",
            "moving stain",
            "reference stain",
            "Mov&ing stain",
            "R&eference stain",
            {"infrared-visible": "two stains or channels", "multi-focus": "two focal planes"},
            ("pixels", "bigwarp"),
            lengths=True,
        ),
        Trade(
            "remote sensing",
            "remote sensing",
            "sensed",
            "reference",
            "sensed image",
            "reference image",
            "Sensed &image",
            "R&eference image",
            {"infrared-visible": "two sensors"},
            ("pixels", "qgis"),
            lengths=True,
            calibrated=True,
        ),
        Trade(
            "general",
            "general",
            "moving",
            "fixed",
            "moving image",
            "fixed image",
            "Mov&ing image",
            "Fix&ed image",
            {
                "infrared-visible": "two sensors",
                "medical": "MRI with CT or PET",
                "multi-focus": "two focal planes",
                "multi-exposure": "two exposures",
            },
            ("pixels", "bigwarp", "qgis"),
            lengths=True,
            truths=True,
        ),
    )
}

_DEFAULT = "thermal"
GROUP, _NAME = "panels", "trade"
"""Group and name in the manifest's configurations."""
_chosen = _DEFAULT  # where the Preferences do not hold it


def current_trade() -> Trade:
    """Return the trade in napari's Preferences."""
    return TRADES.get(getattr(stored_group(GROUP), _NAME, _chosen), TRADES[_DEFAULT])


def set_trade(name: str) -> None:
    """Choose the trade of all panels, in napari's Preferences.

    Raises
    ------
    ValueError
        When it is none of `TRADES`.
    """
    global _chosen
    if name not in TRADES:
        raise ValueError(f"trade: got {name!r}, need one of {', '.join(TRADES)}")
    _chosen = name
    store: Any = stored_group(GROUP)
    if hasattr(store, _NAME):
        setattr(store, _NAME, name)


def worded(text: str, trade: Trade | None = None) -> str:
    """Fill the words of a trade into a text that holds their names in braces.

    Parameters
    ----------
    text : str
        Text in other braces stays.
    trade : Trade, optional
        By default that of the Preferences.

    Examples
    --------
    >>> worded("{a_moving} and {a_fixed} layer", TRADES["thermal"])
    'an infrared and a visible layer'
    """
    if "{" not in text:
        return text
    for name, word in (trade or current_trade()).words.items():
        text = text.replace(f"{{{name}}}", word)
    return text


def in_trade(text: str, trade: Trade | None = None) -> str:
    """Name the two images in a text of the Python interface by the words of a trade.

    Parameters
    ----------
    text : str
        It says "fixed image" and "moving image".
    trade : Trade, optional
        By default that of the Preferences.
    """
    chosen = trade or current_trade()
    return text.replace("fixed image", chosen.fixed_image).replace(
        "moving image", chosen.moving_image
    )
