"""Texts of the panels for results and errors."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari_busref.registration.quality import Quality

__all__ = ["error_text", "quality_html"]

_HEADLINES = {
    "registered": "⚠ Check the result, it may be wrong",
    "not registered": "⚠ Nothing was found: this is the start",
    "cancelled": "⚠ Cancelled: this is the best so far, not checked",
}
# a score below 0.5 is among the reasons
_LIKELIHOODS = ((0.95, "very likely"), (0.8, "likely"), (0.5, "more likely than not"))


def quality_html(quality: Quality, largest_px: float) -> str:
    """Describe the quality of a registration, as rich text for a label.

    Parameters
    ----------
    quality : Quality
    largest_px : float
        The largest displacement beyond the initial transform, in pixels of the fixed image.

    Returns
    -------
    str
        A headline, the reasons for doubt if there are any, and the numbers.
    """
    head = "✓ The registration looks right" if quality.reliable else _HEADLINES[quality.status]
    lines = [f"<b>{head}</b>"]
    likely = next((words for bound, words in _LIKELIHOODS if quality.score >= bound), None)
    if quality.status == "registered" and likely is not None:
        lines.append(f"score {quality.score:.2f} of 1: an error below 5 px is {likely}")
    if quality.reasons:
        items = "".join(f"<li>{escape(reason)}</li>" for reason in quality.reasons)
        lines.append(f"<ul style='margin: 2px 0 2px -22px'>{items}</ul>")
    rows = [
        ("shift", _number(quality.shift_px, "{:.1f} px")),
        ("rotation", _number(quality.rotation_deg, "{:.2f}°")),
        ("scale", _number(quality.scale, "{:.3f}")),
        ("largest displacement", _number(largest_px, "{:.1f} px")),
        ("overlap", _number(100 * quality.overlap, "{:.0f} % of the fixed image")),
        ("edge agreement", _edge_agreement(quality)),
    ]
    cells = "".join(
        f"<tr><td>{name}&nbsp;&nbsp;</td><td>{value}</td></tr>" for name, value in rows
    )
    lines.append(f"<table>{cells}</table>")
    return "".join(f"<div>{line}</div>" for line in lines)


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
    if quality.status == "not registered":
        return "not measured, as nothing changed"
    if quality.status == "cancelled":
        return "not measured"
    # exactly 0 where there are too few edges to measure
    before, after = (
        f"{value:.2f}" if np.isfinite(value) and value != 0 else "unknown"
        for value in (quality.edge_agreement_before, quality.edge_agreement)
    )
    return f"{before} → {after}"


def _number(value: float, form: str) -> str:
    return form.format(value) if np.isfinite(value) else "unknown"
