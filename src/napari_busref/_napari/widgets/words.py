"""What the panels say: results and errors in words."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari_busref.registration.quality import Quality

__all__ = ["error_text", "found", "quality_html"]


def quality_html(quality: Quality, largest_px: float) -> str:
    """Say how a registration went, as rich text for a label.

    Parameters
    ----------
    quality : Quality
    largest_px : float
        The largest displacement from the start, in pixels of the fixed image.

    Returns
    -------
    str
        A headline, the reasons for doubt if there are any, and the numbers.
    """
    if quality.reliable:
        head = "✓ The registration looks right"
    elif _cut_short(quality):
        head = "⚠ Cancelled: this is the best so far, not checked"
    elif found(quality):
        head = "⚠ Check the result, it may be wrong"
    else:
        head = "⚠ Nothing was found: this is the start"
    lines = [f"<b>{head}</b>"]
    checked = found(quality) and not _cut_short(quality)
    if checked and not any("an error below 5 px" in why for why in quality.reasons):
        lines.append(f"score {quality.score:.2f} of 1: an error below 5 px is {_likely(quality)}")
    if quality.reasons:
        items = "".join(f"<li>{escape(reason)}</li>" for reason in quality.reasons)
        lines.append(f"<ul style='margin: 2px 0 2px -22px'>{items}</ul>")
    rows = [
        ("shift", _number(quality.shift_px, "{:.1f} px")),
        ("rotation", _number(quality.rotation_deg, "{:.2f}°")),
        ("scale", _number(quality.scale, "{:.3f}")),
        ("largest displacement", _number(largest_px, "{:.1f} px")),
        ("overlap", _number(100 * quality.overlap, "{:.0f} % of the fixed image")),
        ("edge agreement", _edges(quality)),
    ]
    cells = "".join(
        f"<tr><td>{name}&nbsp;&nbsp;</td><td>{value}</td></tr>" for name, value in rows
    )
    lines.append(f"<table>{cells}</table>")
    return "".join(f"<div>{line}</div>" for line in lines)


def found(quality: Quality) -> bool:
    """Whether a registration found anything, and did not end where it started."""
    return quality.status != "not registered"


def error_text(error: BaseException) -> str:
    """Say in one line what went wrong.

    Parameters
    ----------
    error : Exception

    Returns
    -------
    str
        The message of an error that is about the input; for any other also its type, and for
        memory that ran out also what to do.
    """
    message = str(error).strip() or "no further message"
    name = type(error).__name__
    if isinstance(error, MemoryError) or "OutOfMemory" in name or "out of memory" in message:
        return f"not enough memory; choose the cpu device or smaller images ({name}: {message})"
    if isinstance(error, ValueError | TypeError | OSError):
        return message
    return f"{name}: {message}"


def _cut_short(quality: Quality) -> bool:
    """Whether it is that of a refinement which was cancelled, and nothing was measured."""
    return quality.status == "cancelled"


def _likely(quality: Quality) -> str:
    bounds = ((0.95, "very likely"), (0.8, "likely"), (0.5, "more likely than not"))
    return next((words for bound, words in bounds if quality.score >= bound), "unlikely")


def _edges(quality: Quality) -> str:
    if not found(quality):
        return "not measured, as nothing changed"
    if _cut_short(quality):
        return "not measured"
    # exactly 0 where there are too few edges to measure
    before, after = (
        f"{value:.2f}" if np.isfinite(value) and value != 0 else "unknown"
        for value in (quality.edge_agreement_before, quality.edge_agreement)
    )
    return f"{before} → {after}"


def _number(value: float, form: str) -> str:
    return form.format(value) if np.isfinite(value) else "unknown"
