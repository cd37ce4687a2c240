"""The one place that converts between sampling grids, normalised coordinates and pixels.

Inside models a position is ``(x, y)`` in the normalised coordinates of
:func:`torch.nn.functional.grid_sample` with ``align_corners=False``: the image spans [-1, 1] from
border to border, pixel ``i`` of ``n`` lies at ``(2 i + 1) / n - 1``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Estimate:
    """Result of a registration model: fixed -> moving, in normalised coordinates.

    The source of fixed position ``x`` is ``theta @ [x + phi(x), 1]``. As in BusReF the affine
    resamples first and the deformation resamples the result; both are composed into one grid.

    Attributes
    ----------
    theta : Tensor
        Affine, shape (B, 2, 3).
    phi : Tensor or None
        Displacement, shape (B, 2, h, w) in (x, y) order, at any resolution.
    backward : Estimate, optional
        moving -> fixed, of a model that estimates both directions. Both images then have one
        shape.
    """

    theta: Tensor
    phi: Tensor | None = None
    backward: Estimate | None = None


def identity_theta(batch: int, like: Tensor) -> Tensor:
    """Identity affine, shape (batch, 2, 3), with the device and a floating dtype of ``like``."""
    return torch.eye(2, 3, device=like.device, dtype=torch.float32).repeat(batch, 1, 1)


def base_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Normalised pixel centres, shape (1, height, width, 2), float32 on the device of ``like``."""
    y = (2 * torch.arange(height, device=like.device, dtype=torch.float32) + 1) / height - 1
    x = (2 * torch.arange(width, device=like.device, dtype=torch.float32) + 1) / width - 1
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([xx, yy], -1)[None]


def transform_points(theta: Tensor, points: Tensor) -> Tensor:
    """Apply affines (B, 2, 3) to points (B or 1, h, w, 2).

    Written without a matrix product: autocast would round positions to bfloat16.
    """
    matrix = theta[:, None, None]
    return matrix[..., 0] * points[..., :1] + matrix[..., 1] * points[..., 1:] + matrix[..., 2]


def compose_affine(outer: Tensor, inner: Tensor) -> Tensor:
    """``x -> outer(inner(x))`` for affines of shape (B, 2, 3)."""
    product = outer[:, :, :1] * inner[:, :1] + outer[:, :, 1:2] * inner[:, 1:]
    return torch.cat([product[:, :, :2], product[:, :, 2:] + outer[:, :, 2:]], 2)


def sample_field(field: Tensor, grid: Tensor) -> Tensor:
    """Evaluate a field (B, C, h, w) at grid (B, H, W, 2); edge values continue outside."""
    return F.grid_sample(field, grid, padding_mode="border", align_corners=False)


def invert_affine(theta: Tensor) -> Tensor:
    """``[A^-1 | -A^-1 d]`` for affines (B, 2, 3)."""
    inverse = torch.linalg.inv(theta[:, :, :2])
    # no matrix product: autocast would round it to bfloat16
    shift = -(inverse * theta[:, None, :, 2]).sum(2, keepdim=True)
    return torch.cat([inverse, shift], 2)


def pixel_distance(first: Tensor, second: Tensor, shape: tuple[int, int]) -> Tensor:
    """Distances of normalised positions (..., 2), in pixels of an image of ``shape``: (...)."""
    scale = torch.tensor([shape[1] / 2, shape[0] / 2], device=first.device, dtype=first.dtype)
    return ((first - second) * scale).square().sum(-1).sqrt()


def mean_distance(first: Tensor, second: Tensor, shape: tuple[int, int]) -> float:
    """Mean distance between the positions of two affines (1, 2, 3), in pixels of ``shape``."""
    points = base_grid(4, 4, first)
    one, other = (transform_points(theta, points) for theta in (first, second))
    return float(pixel_distance(one, other, shape).mean())


def compose_displacement(outer: Tensor, inner: Tensor) -> Tensor:
    """``x -> inner(x) + outer(x + inner(x))`` for fields (B, 2, h, w) of one size."""
    grid = base_grid(inner.shape[-2], inner.shape[-1], inner) + inner.permute(0, 2, 3, 1)
    return inner + sample_field(outer, grid)


def sampling_grid(estimate: Estimate, height: int, width: int) -> Tensor:
    """Grid (B, height, width, 2) at which the moving image is interpolated, once."""
    grid = base_grid(height, width, estimate.theta)
    if estimate.phi is not None:
        phi = estimate.phi
        if phi.shape[-2:] != (height, width):
            phi = F.interpolate(phi, (height, width), mode="bicubic", align_corners=False)
        grid = grid + phi.permute(0, 2, 3, 1)
    return transform_points(estimate.theta, grid)


def warp(image: Tensor, grid: Tensor, *, padding: str = "zeros", mode: str = "bilinear") -> Tensor:
    """Resample ``image`` (B, C, h, w) at ``grid`` (B, H, W, 2) -> (B, C, H, W)."""
    return F.grid_sample(
        image, grid.to(image.dtype), mode=mode, padding_mode=padding, align_corners=False
    )


def inside(grid: Tensor, height: int, width: int) -> Tensor:
    """Mask of the positions (B, H, W, 2) within an image's pixel centres: (B, 1, H, W)."""
    limit = torch.tensor([1 - 1 / width, 1 - 1 / height], device=grid.device, dtype=grid.dtype)
    return ((grid.abs() <= limit + 1e-5).all(-1))[:, None]


def isotropic_to_normalised(delta: Tensor, height: int, width: int) -> Tensor:
    """Affine given in units of half the shorter side, as ``identity + delta`` -> theta (B, 2, 3).

    In isotropic units a rotation has the same matrix at every aspect ratio.
    """
    side = min(height, width)
    scale = torch.tensor([width / side, height / side], device=delta.device, dtype=delta.dtype)
    linear = torch.eye(2, device=delta.device, dtype=delta.dtype) + delta[:, :, :2]
    linear = linear * scale[None, None, :] / scale[None, :, None]
    return torch.cat([linear, delta[:, :, 2:] / scale[None, :, None]], 2)


def estimate_to_pixels(
    estimate: Estimate, shape: tuple[int, int], moving_shape: tuple[int, int] | None = None
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Convert to (row, col) pixels, one entry per batch element.

    Parameters
    ----------
    estimate : Estimate
        Fixed -> moving.
    shape : tuple of int
        Shape of the fixed image.
    moving_shape : tuple of int, optional
        Shape of the moving image; by default that of the fixed one.

    Returns
    -------
    list of (affine, displacement)
        ``affine`` float64 (3, 3) and ``displacement`` float32 (2, H, W) or None. The source of
        fixed pixel ``p`` is ``affine @ [p + displacement(p), 1]``.
    """
    height, width = shape
    to_pixel, to_normal = _to_pixel(moving_shape or shape), np.linalg.inv(_to_pixel(shape))
    result: list[tuple[np.ndarray, np.ndarray | None]] = []
    theta = estimate.theta.detach().double().cpu().numpy()
    for index, matrix in enumerate(theta):
        affine = to_pixel @ np.vstack([matrix, [0, 0, 1]]) @ to_normal
        displacement = None
        if estimate.phi is not None:
            displacement = np.empty((2, height, width), np.float32)
            phi = estimate.phi[index : index + 1].detach().float()
            # one part at a time: a field of 12 megapixels has 92 MiB
            for part, channel, half in ((0, 1, height / 2), (1, 0, width / 2)):
                dense = F.interpolate(
                    phi[:, channel : channel + 1], shape, mode="bicubic", align_corners=False
                )
                np.multiply(dense.cpu().numpy()[0, 0], half, out=displacement[part])
        result.append((affine, displacement))
    return result


def pixels_to_estimate(
    affine: np.ndarray,
    displacement: np.ndarray | None,
    shape: tuple[int, int],
    moving_shape: tuple[int, int],
    device: torch.device,
) -> Estimate:
    """Invert `estimate_to_pixels` for a batch of one."""
    theta = np.linalg.inv(_to_pixel(moving_shape)) @ affine @ _to_pixel(shape)
    phi = None
    if displacement is not None:
        rows, cols = displacement
        normalised = np.stack([cols / (shape[1] / 2), rows / (shape[0] / 2)])[None]
        phi = torch.tensor(normalised, dtype=torch.float32, device=device)
    return Estimate(torch.tensor(theta[None, :2], dtype=torch.float32, device=device), phi)


def compose(outer: Estimate, inner: Estimate) -> Estimate:
    """``x -> outer(inner(x))``, one interpolation of the outer displacement."""
    theta = compose_affine(outer.theta, inner.theta)
    if outer.phi is None:
        return Estimate(theta, inner.phi)
    # outer.theta(q + phi(q)) with q = inner(x): phi pulled back through inner's affine
    size = outer.phi.shape[-2:] if inner.phi is None else inner.phi.shape[-2:]
    added = sample_field(outer.phi, sampling_grid(inner, size[0], size[1]))
    linear = torch.linalg.inv(inner.theta[:, :, :2])
    phi = (linear[..., None, None] * added[:, None]).sum(2)
    return Estimate(theta, phi if inner.phi is None else inner.phi + phi)


def _to_pixel(shape: tuple[int, int]) -> np.ndarray:
    """Normalised (x, y) -> pixel (row, col)."""
    height, width = shape
    return np.array(
        [[0, height / 2, (height - 1) / 2], [width / 2, 0, (width - 1) / 2], [0, 0, 1]]
    )


def offsets(radius: int, like: Tensor) -> Tensor:
    """Offsets (x, y) of the channels of a local correlation, ((2 radius + 1)**2, 2)."""
    axis = torch.arange(-radius, radius + 1, device=like.device, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)
