"""Synthetic pairs with a known transform, for the tests of registration."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from napari_busref import Transform
from napari_busref.geometry import (
    Estimate,
    estimate_to_pixels,
)
from napari_busref.registration.pyramid import (
    MaskedImage,
)

SHAPE = (144, 192)


def texture(shape=SHAPE, seed=0):
    """Blobs of several sizes: something to see at every resolution."""
    rng = np.random.default_rng(seed)
    image = sum(
        sigma * ndimage.gaussian_filter(rng.standard_normal(shape), sigma) for sigma in (1.5, 4, 9)
    )
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def view(image, valid=None):
    tensor = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
    known = torch.ones_like(tensor) if valid is None else torch.from_numpy(valid)[None, None]
    return MaskedImage(tensor, known.float())


def moved(shape=SHAPE, row=0.0, col=0.0, angle=0.0, scale=1.0, displacement=None):
    """Fixed -> moving positions: turned and scaled about the centre, then shifted."""
    radians = np.deg2rad(angle)
    cos, sin = scale * np.cos(radians), scale * np.sin(radians)
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], float)
    centre = (np.array(shape) - 1) / 2
    matrix[:2, 2] = centre - matrix[:2, :2] @ centre + (row, col)
    return Transform(matrix, displacement, fixed_shape=shape, moving_shape=shape)


def pair(truth, seed=0):
    """A fixed image, and an inverted, bent one that ``truth`` leads to."""
    image = texture(seed=seed)
    moving = truth.inverse().apply(1 - image**0.7, cval=0)
    return view(image), view(moving, truth.inverse().mask())


def error(estimate, truth):
    """Mean distance in fixed pixels on a grid over the overlap."""
    affine, displacement = estimate_to_pixels(estimate, SHAPE)[0]
    found = Transform(affine, displacement, fixed_shape=SHAPE, moving_shape=SHAPE)
    points = np.argwhere(truth.mask())[::53]
    return np.hypot(*(found.points(points) - truth.points(points)).T).mean()


def start():
    return Estimate(torch.eye(2, 3)[None])
