"""Texts of the panels for results and errors."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from napari_busref._napari.layers.trades import Trade, current_trade, in_trade
from napari_busref.registration.quality import INITIAL_RETURNED

if TYPE_CHECKING:
    from napari_busref.registration.quality import Quality

__all__ = ["error_text", "headline", "pair_text", "quality_html", "reasons_text", "shortened"]

# a score below 0.5 is among the reasons
_LIKELIHOODS = ((0.95, "very likely"), (0.8, "likely"), (0.5, "more likely than not"))

_UNCALIBRATED = "a hint only, for it was not calibrated on such pairs"

# with the names of the pair before it, the verdict has to fit one line
_SHORT_HEADLINES = {
    "registered": "Check the result",
    "not registered": "Nothing was found",
    "cancelled": "Cancelled, not checked",
}
_NAME_LENGTH = 16
_IN_PANELS = {  # what a reason calls an argument of Python
    "allow it with mirrored=True": "set Mirrored to maybe in the advanced settings",
}
# where nothing was found, these repeat other reasons, or what the buttons offer
_REPEATS = (
    re.compile(r"\d+% of the picture is doubtful: [^;]*"),
    re.compile(r"(a wide search, or )?an initial transform may help"),
    re.compile(re.escape(INITIAL_RETURNED.removeprefix("; "))),
)


def shortened(name: str, length: int = _NAME_LENGTH) -> str:
    """Cut a long name in the middle: names of files often differ at both ends."""
    kept = length - 1
    return name if len(name) <= length else f"{name[: kept - kept // 2]}…{name[-(kept // 2) :]}"


def pair_text(moving: str, fixed: str) -> str:
    """Name a pair of layers by shortened names."""
    return f"{shortened(moving)} → {shortened(fixed)}"


def headline(quality: Quality, pair: str = "") -> str:
    """Give the verdict on a registration in one line.

    Parameters
    ----------
    quality : Quality
    pair : str
        Of `pair_text`, to name the pair first.
    """
    mark = "✓" if quality.reliable else "⚠"
    if not pair:
        return f"{mark} {quality.verdict}"
    short = "looks right" if quality.reliable else _SHORT_HEADLINES[quality.status]
    return f"{mark} {pair}: {short}"


def quality_html(
    quality: Quality,
    largest_px: float,
    pair: str = "",
    pixel: tuple[float, str] | None = None,
    trade: Trade | None = None,
) -> str:
    """Describe the quality of a registration, as rich text for a label.

    Parameters
    ----------
    quality : Quality
    largest_px : float
        The largest displacement beyond the initial transform, in pixels of the fixed image.
    pair : str
        As for `headline`.
    pixel : (float, str), optional
        Size of a pixel of the fixed image, and its unit; for trades that want lengths.
    trade : Trade, optional
        Whose words to use; by default that of the Preferences.

    Returns
    -------
    str
        A headline, the reasons for doubt if there are any, and the numbers. Where nothing was
        found there are no numbers.
    """
    trade = trade or current_trade()
    lines = [f"<b>{escape(headline(quality, pair))}</b>"]
    likely = next((words for bound, words in _LIKELIHOODS if quality.score >= bound), None)
    if quality.status == "registered" and likely is not None:
        meaning = f"an error below 5 px is {likely}" if trade.calibrated else _UNCALIBRATED
        lines.append(f"score {quality.score:.2f} of 1: {meaning}")
    if quality.reasons:
        items = "".join(f"<li>{escape(reason)}</li>" for reason in reasons_text(quality, trade))
        lines.append(f"<ul style='margin: 2px 0 2px -22px'>{items}</ul>")
    if quality.status == "not registered":
        return "".join(f"<div>{line}</div>" for line in lines)
    rows = [
        ("shift", _length(quality.shift_px, pixel if trade.lengths else None)),
        ("rotation", _number(quality.rotation_deg, "{:.2f}°")),
        ("scale", _number(quality.scale, "{:.3f}")),
        ("largest displacement", _length(largest_px, pixel if trade.lengths else None)),
        ("overlap", _number(100 * quality.overlap, f"{{:.0f}} % of the {trade.fixed_image}")),
        ("edge agreement", _edge_agreement(quality)),
    ]
    cells = "".join(
        f"<tr><td>{name}&nbsp;&nbsp;</td><td>{value}</td></tr>" for name, value in rows
    )
    lines.append(f"<table>{cells}</table>")
    return "".join(f"<div>{line}</div>" for line in lines)


def reasons_text(quality: Quality, trade: Trade | None = None) -> list[str]:
    """What speaks against a result, in the words of the panels.

    Parameters
    ----------
    quality : Quality
    trade : Trade, optional
        As for `quality_html`.
    """
    reasons = [in_trade(reason, trade) for reason in quality.reasons]
    for words, here in _IN_PANELS.items():
        reasons = [reason.replace(words, here) for reason in reasons]
    if quality.status != "not registered":
        unlikely = any(reason.startswith("an error below") for reason in reasons)
        whole = "100% of the picture is doubtful"  # says the same
        return [one for one in reasons if not (unlikely and one.startswith(whole))]
    parts = [part for reason in reasons for part in reason.split("; ")]
    return [p for p in parts if not any(one.fullmatch(p) for one in _REPEATS)] or parts


def error_text(error: BaseException) -> str:
    """Describe an error in one line.

    Parameters
    ----------
    error : Exception

    Returns
    -------
    str
        The message of an error about the input. Other errors also give their type, and a lack of
        memory also gives advice.
    """
    message = str(error).strip() or "no further message"
    name = type(error).__name__
    if isinstance(error, MemoryError) or "OutOfMemory" in name or "out of memory" in message:
        return f"not enough memory; choose the cpu device or smaller images ({name}: {message})"
    if isinstance(error, ValueError | TypeError | OSError):
        return message
    return f"{name}: {message}"


def _edge_agreement(quality: Quality) -> str:
    if quality.status == "cancelled":
        return "not measured"
    # exactly 0 where there are too few edges to measure
    before, after = (
        f"{value:.2f}" if np.isfinite(value) and value != 0 else "unknown"
        for value in (quality.edge_agreement_before, quality.edge_agreement)
    )
    return f"{before} → {after}"


def _length(pixels: float, pixel: tuple[float, str] | None) -> str:
    text = _number(pixels, "{:.1f} px")
    if pixel is None or not np.isfinite(pixels):
        return text
    return f"{text} ({pixels * pixel[0]:.3g} {escape(pixel[1])})"


def _number(value: float, form: str) -> str:
    return form.format(value) if np.isfinite(value) else "unknown"
