"""Whether a displacement field earns its place: held-out blocks judge it against the affine.

The blocks lie on a chequerboard of tiles. A field and an affine, fitted to the tiles of one
colour, are compared on the blocks of the other colour, and the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from napari_busref.registration.bsplines import Array, SplineField
from napari_busref.registration.em_fit import BlockLikelihoods, Field, fit_affine

MIN_RATIO = 1.5
"""How many times as likely as the affine a field has to make a held-out block, on average.

Fields of the protocol's size reach 1.7 to 6. Fields where the truth is an affine reach 1.0 to 1.4,
with one exception of 1.5 (``docs/decisions/0035-held-out-blocks-judge-a-field.md``).
"""
_TILE = 48  # px; the evidence of a block reaches 20 px

Bent = tuple[Array, SplineField]
"""An affine (3, 3) and the field beside it, see `em_fit.fit_bspline_field`."""


def earns_its_place(
    data: BlockLikelihoods,
    bent: Bent,
    affine: Array,
    fit: Callable[[BlockLikelihoods, tuple[float, ...]], Bent],
    bandwidths: tuple[float, ...],
    earlier: Field | None = None,
) -> bool:
    """Whether the held-out blocks are `MIN_RATIO` times as likely with a field.

    Parameters
    ----------
    data : BlockLikelihoods
    bent, affine : Bent and ndarray, shape (3, 3)
        Both fits to all blocks. The affine leaves the earlier field as it is.
    fit : callable
        Fits an affine and a field to blocks, by rounds of some bandwidths.
    bandwidths : tuple of float
        Of the fits. The last one is the tolerance of the comparison.
    earlier : callable, optional
        The field that was applied when the images were resampled.
    """
    least = math.log(MIN_RATIO)

    def gains(blocks: BlockLikelihoods, bent: Bent, affine: Array) -> Array:
        """Logarithm of how many times as likely each block is with the field, weighted."""
        logs = [
            blocks.log_likelihood(displacement, bandwidths[-1])
            for displacement in (_left_by(bent, blocks.position, earlier), _moved(affine, blocks))
        ]
        return (logs[0] - logs[1]) * blocks.weight

    # The blocks that a field was fitted to flatter it, so a field that fails here fails anyway.
    if gains(data, bent, affine).sum() < least * data.weight.sum():
        return False
    tiles = np.floor((data.position - data.position.min(0)) / (_TILE * data.pixel))
    white = tiles.sum(1) % 2 == 0
    judged = 0.0
    for fitted in (white, ~white):
        training = data.part(fitted)
        # Every second round decides as all do (54 pairs), in half the time.
        found = fit(training, bandwidths[1::2]), fit_affine(training, bandwidths)
        judged += gains(data.part(~fitted), *found).sum()
    return bool(judged >= least * data.weight.sum())


def _moved(affine: Array, blocks: BlockLikelihoods) -> Array:
    return np.asarray(blocks.position @ (affine[:2, :2] - np.eye(2)).T + affine[:2, 2])


def _left_by(bent: Bent, position: Array, earlier: Field | None) -> Array:
    """Displacements (N, 2) by a field and its affine beyond the earlier field."""
    affine, field = bent
    whole = position @ (affine[:2, :2] - np.eye(2)).T + affine[:2, 2] + field.at(position)
    if earlier is None:
        return np.asarray(whole)
    return np.asarray(whole - earlier(position + whole - earlier(position)))
