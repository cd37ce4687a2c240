"""One tile of a large pair, registered by one level of refinement.

A `Tile` holds all that a worker needs and can be pickled, if its images can. `fit_tile` is a
function of it alone, so tiles may run anywhere in any order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref.images.block_means import block_means
from napari_busref.images.nodata import NoData
from napari_busref.images.preprocess import Prepared, Scale, fill_invalid, usable
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.levels import onto_levels
from napari_busref.transforms.transform import Transform, Window

if TYPE_CHECKING:
    from napari_busref.registration.em_fit import BlockLikelihoods
    from napari_busref.registration.pyramid import MaskedImage

__all__ = ["MARGIN", "SIDE", "Source", "Tile", "TileFit", "displaced", "fit_tile", "texture"]

SIDE = 1024
"""Side of a tile in pixels of its level."""
MARGIN = 64
"""Pixels around a tile that its fit also uses."""

_REACH = 16  # moving pixels beyond the sources, for the features' blur
_TEXTURE = 0.01  # local deviation of blurred grey values in [0, 1]; sensor noise has 0.003
_LEAST_TEXTURED = 0.02  # share of a tile; less is no texture
_MULTIPLE, _LEAST_SIDE = 8, 48  # of the sides that the networks accept
_CLOSE_PX = 2.0  # of the level, for the agreement
_STRIDE = 2  # of blocks, as in refinement

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Source:
    """An image that is read window by window, and how its values become grey values.

    Attributes
    ----------
    image : array_like, shape (H, W) or (H, W, 3 or 4)
        See `napari_busref.images.block_means.block_means`.
    nodata : float, "auto" or None
    scale : Scale
        From a coarse level of the whole image.
    valid : ndarray of bool, shape (h, w)
        Valid pixels of that level: neither empty border nor outside of a mask.
    """

    image: Any
    nodata: NoData
    scale: Scale
    valid: NDArray[np.bool_]

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) at full resolution."""
        rows, cols = self.image.shape[:2]
        return int(rows), int(cols)

    def level(self, step: int) -> Grid:
        """The grid of a level."""
        return Grid.covering(self.shape, (float(step), float(step)))

    def prepared(self, step: int, window: Window) -> Prepared:
        """Read grey values in [0, 1] of a window of a level."""
        values = block_means(self.image, step, window, nodata=self.nodata)
        valid = usable(values)
        rows, cols = (
            np.minimum(
                (np.arange(part.start, part.stop) * step + step // 2) * count // size, count - 1
            )
            for part, count, size in zip(window, self.valid.shape, self.shape, strict=True)
        )
        valid &= self.valid[np.ix_(rows, cols)]
        return Prepared(self.scale.grey(np.ma.getdata(values), valid), valid, self.scale)


@dataclass(frozen=True, eq=False)
class Tile:
    """A part of a level of a pair.

    Attributes
    ----------
    fixed, moving : Source
    transform : Transform
        Where the tile starts, between the images at full resolution.
    step : int
        Fixed pixels along a side of the level's pixels.
    core : tuple of slice
        Rows and columns of the level.
    device : str
    """

    fixed: Source
    moving: Source
    transform: Transform
    step: int
    core: Window
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class TileFit:
    """What the blocks of a tile say of the displacement, wherever the tile started.

    Attributes
    ----------
    position : ndarray, shape (N, 2)
        (row, col) of the blocks' centres, in fixed pixels at full resolution.
    information : ndarray, shape (N, 2, 2)
        Inverse covariance of the displacement of each block.
    moment : ndarray, shape (N, 2)
        Information times displacement, as of `displaced`.
    agreement : float
        Mean probability that the content of a block lies within 2 px of the level of the fitted
        position, weighted by the blocks' information.
    """

    position: Array
    information: Array
    moment: Array
    agreement: float

    def move(self, since: Transform) -> Array:
        """The mean move (2,) from a transform in fixed pixels, weighted by information."""
        total = self.information.sum(0) + 1e-9 * np.eye(2)
        before = _weighed(self.information, displaced(since, self.position))
        return np.asarray(np.linalg.solve(total, (self.moment - before).sum(0)))


def displaced(transform: Transform, position: Array) -> Array:
    """The displacement (N, 2) at fixed positions (N, 2): ``affine(p + displacement)``."""
    affine = transform.affine
    inner = np.linalg.solve(affine[:2, :2], (transform.points(position) - affine[:2, 2]).T).T
    return np.asarray(inner - position)


def fit_tile(tile: Tile) -> TileFit | None:
    """Compare the two images in a tile.

    Returns
    -------
    TileFit or None
        None where one image has no texture or they do not overlap.
    """
    level = tile.fixed.level(tile.step)
    window = _widened(tile.core, level.shape)
    found = _resampled(tile, level, window)
    if found is None:
        return None
    *pair, textured = found
    import torch

    from napari_busref.geometry import Estimate, identity_theta
    from napari_busref.registration.features import FixedFeatures, MatchingNetworks
    from napari_busref.registration.refine import block_likelihoods, collect_blocks

    with torch.inference_mode():
        networks = MatchingNetworks.load(tile.device)
        fixed, moving = (_tensors(image, tile.device) for image in pair)
        features, same = FixedFeatures(networks, fixed), Estimate(identity_theta(1, fixed.image))
        likelihood, valid = block_likelihoods(
            features, moving, same, fixed.shape, _STRIDE, learned=False
        )
        blocks = collect_blocks(likelihood, valid, networks.likelihood, fixed.shape)
    return _fitted(blocks, textured, fixed.shape, tile, window)


def _widened(core: Window, shape: tuple[int, int]) -> Window:
    rows, cols = (
        slice(max(part.start - MARGIN, 0), min(part.stop + MARGIN, size))
        for part, size in zip(core, shape, strict=True)
    )
    return rows, cols


def _resampled(
    tile: Tile, level: Grid, window: Window
) -> tuple[Prepared, Prepared, NDArray[np.bool_]] | None:
    """Both images on the pixels of the window, and where both have texture; None for nowhere."""
    scale = float(np.sqrt(abs(np.linalg.det(tile.transform.affine[:2, :2]))))
    step = max(round(tile.step * scale), 1)
    local = onto_levels(tile.transform, level, tile.moving.level(step), window)
    read = local.source_window(margin=_REACH)
    if read is None:
        return None
    fixed, content = tile.fixed.prepared(tile.step, window), tile.moving.prepared(step, read)
    if not (fixed.valid.any() and content.valid.any()):
        return None
    shift = np.eye(3)
    shift[:2, 2] = -read[0].start, -read[1].start
    near = replace(local, affine=shift @ local.affine, moving_shape=content.shape)
    seen = near.mask(content.valid)
    grey = near.apply(fill_invalid(content.grey, content.valid), cval=0.0)
    moving = Prepared(np.where(seen, grey, 0), seen, content.scale)
    both = fixed.valid & seen
    if not both.any():
        return None
    textured = texture(fixed, both) & texture(moving, both)
    if textured.mean() < _LEAST_TEXTURED:
        return None
    return fixed, moving, textured


def texture(image: Prepared, valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where an image has texture beyond sensor noise.

    Parameters
    ----------
    image : Prepared
    valid : ndarray of bool
        The pixels that count, in the shape of the image.
    """
    smooth = ndimage.uniform_filter(fill_invalid(image.grey, image.valid), 3)
    mean, square = (ndimage.uniform_filter(one, 15) for one in (smooth, smooth**2))
    varies = square - mean**2 > _TEXTURE**2
    found: NDArray[np.bool_] = varies & ndimage.binary_erosion(valid, iterations=9, border_value=1)
    return found


def _tensors(image: Prepared, device: str) -> MaskedImage:
    """The image, padded to sides that the networks accept."""
    import torch

    from napari_busref.registration.pyramid import MaskedImage

    pads = [
        (0, max(-(-size // _MULTIPLE) * _MULTIPLE, _LEAST_SIDE) - size) for size in image.shape
    ]
    grey = np.pad(fill_invalid(image.grey, image.valid), pads, mode="edge")
    valid = np.pad(image.valid, pads).astype(np.float32)
    return MaskedImage(*(torch.from_numpy(x)[None, None].to(device) for x in (grey, valid)))


def _fitted(
    blocks: BlockLikelihoods,
    textured: NDArray[np.bool_],
    size: tuple[int, int],
    tile: Tile,
    window: Window,
) -> TileFit | None:
    """Fit a field to the blocks with texture, and keep what those of the core say around it."""
    from napari_busref.registration.em_fit import FIELD_BANDWIDTHS, fit_bspline_field

    half = (size[0] / min(size), size[1] / min(size))
    # from (x, y) in halves of the shorter side to (row, col) in pixels of the level
    place = ((blocks.position + half[::-1]) / blocks.pixel - 0.5)[:, ::-1]
    rows, cols = np.minimum(np.rint(place).astype(int), np.array(textured.shape) - 1).T
    shown = textured[rows, cols]  # many blocks of noise would hold the field where it is
    if not shown.any():
        return None
    blocks, place = blocks.part(shown), place[shown]
    bandwidths = tuple(bandwidth * blocks.pixel for bandwidth in FIELD_BANDWIDTHS)
    matrix, field = fit_bspline_field(
        blocks,
        half,
        bandwidths=bandwidths,
    )
    linear = blocks.position @ (matrix[:2, :2] - np.eye(2)).T + matrix[:2, 2]
    around = linear + field.at(blocks.position)
    information, moment = blocks.e_step(around, bandwidths[-1])
    place = place + [part.start for part in window]
    first, stop = ([getattr(part, end) for part in tile.core] for end in ("start", "stop"))
    inside = ((place >= first) & (place < stop)).all(1)
    weight = np.trace(information, axis1=1, axis2=2) * inside
    if not weight.sum() > 0:
        return None
    apart = np.linalg.norm(blocks.offset[None] - around[inside, None], axis=2)
    logs = blocks.log[inside]
    chance = np.exp(logs - logs.max(1, keepdims=True))
    close = (chance * (apart <= _CLOSE_PX * blocks.pixel)).sum(1) / chance.sum(1)
    scale = blocks.pixel / tile.step
    position = place[inside] * tile.step + (tile.step - 1) / 2
    information = information[inside][:, ::-1, ::-1] * scale**2
    # the start is displaced by other values where a block has moved to
    start = displaced(tile.transform, position + around[inside][:, ::-1] / scale)
    return TileFit(
        position,
        information,
        moment[inside][:, ::-1] * scale + _weighed(information, start),
        float(close @ weight[inside] / weight.sum()),
    )


def _weighed(information: Array, values: Array) -> Array:
    return np.asarray((information @ values[..., None])[..., 0])
