"""Names of the training stages."""

from __future__ import annotations

STAGES = (
    "bus",
    "gaf",
    "registration",
    "matcher",
    "superfusion",
    "likelihood",
    "superfusion-fusion",
    "mda",
    "refusion",
)
"""The stages, in the order in which they build on each other."""
