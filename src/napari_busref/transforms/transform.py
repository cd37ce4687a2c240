"""`Transform`: the position in the moving image of every pixel of the fixed image."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_busref.images.arrays import to_array, to_numbers
from napari_busref.images.blocks import row_blocks
from napari_busref.images.dtypes import checked_fill, default_fill, frozen, native
from napari_busref.images.figures import new_axes
from napari_busref.runtime.file_safety import memory_limited
from napari_busref.runtime.threads import pool_threads
from napari_busref.transforms import hdf5
from napari_busref.transforms.grids import Grid, Window, as_spacing, checked_window
from napari_busref.transforms.hdf5 import EXTENSION
from napari_busref.transforms.resampling import EDGE, Plane, touches

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["EXTENSION", "Transform", "Window", "read_metadata"]

_GRID_CELLS = 12  # along each side of a plotted grid
_POINTS_OF_LINE = 49
_MARGIN = 1  # px around its source that bilinear interpolation reads
_SPLINE_MARGIN = 24  # px within which a spline of order 5 forgets all but 1e-8 of a step
_NUMBERS = "an array of numbers"


@dataclass(frozen=True, eq=False)
class Transform:
    """A map from the pixels of the fixed image to those of the moving image.

    It maps a fixed pixel ``p = (row, col)`` to ``q = A(p + u(p))`` in the moving image: first the
    displacement, then the affine. Pixel centres are at integers.

    Parameters
    ----------
    affine : array_like, shape (3, 3)
        Homogeneous matrix ``A`` acting on ``(row, col, 1)``, in pixels. Invertible, last row
        ``(0, 0, 1)``.
    displacement : array_like, shape (2, H, W), optional
        ``u``, in fixed pixels, ``(Δrow, Δcol)`` at every fixed pixel, stored as float32. Bilinear
        between pixels, constant outside the grid. With a `spacing` of ``(s, t)`` its shape is
        ``(2, ceil(H / s), ceil(W / t))``, and each value stands for ``s x t`` px.
    fixed_shape : tuple of int
        ``(H, W)`` of the fixed image.
    moving_shape : tuple of int
        ``(h, w)`` of the moving image.
    spacing : float or tuple of float
        Distance of the values of the displacement along rows and columns, in fixed pixels, at
        least 1. Value ``i`` stands at the middle of the pixels that it covers, ``i s + (s - 1) /
        2``. 1 is a value at every pixel. Stored as a tuple; ``(1, 1)`` without a displacement.

    Raises
    ------
    ValueError
        When a shape does not fit, a value is not finite or the affine is singular.

    Notes
    -----
    Objects are immutable: the arrays are read-only copies, and two transforms are equal when
    their contents are. `fixed_shape`, `moving_shape` and `spacing` are keyword-only.

    The methods that compute an array for the fixed image also compute a window of it. Of an image
    in a file (a zarr, dask or memory-mapped array) `apply` then reads the needed part only.

    Examples
    --------
    >>> down = [[1, 0, 2], [0, 1, 0], [0, 0, 1]]
    >>> shift = Transform(down, fixed_shape=(4, 4), moving_shape=(4, 4))
    >>> shift.points([[1, 1]])
    array([[3., 1.]])
    """

    affine: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))
    displacement: NDArray[np.float32] | None = None
    fixed_shape: tuple[int, int] = field(kw_only=True)
    moving_shape: tuple[int, int] = field(kw_only=True)
    spacing: tuple[float, float] = field(default=(1.0, 1.0), kw_only=True)

    def __post_init__(self) -> None:
        for name in ("fixed_shape", "moving_shape"):
            object.__setattr__(self, name, _shape(getattr(self, name), name))
        try:
            affine = frozen(to_array(self.affine, "affine", _NUMBERS)[0], np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{error} of shape (3, 3)") from None
        if affine.shape != (3, 3):
            raise ValueError(f"affine: got shape {affine.shape}, need (3, 3)")
        if not np.isfinite(affine).all():
            raise ValueError("affine: got NaN or infinite values, need finite ones")
        if not np.array_equal(affine[2], (0.0, 0.0, 1.0)):
            raise ValueError(f"affine: got last row {affine[2].tolist()}, need [0, 0, 1]")
        with np.errstate(over="ignore", invalid="ignore"):
            determinant = abs(np.linalg.det(affine[:2, :2]))
        if not 1e-9 <= determinant < np.inf:
            raise ValueError("affine: got a matrix that cannot be inverted")
        object.__setattr__(self, "affine", affine)
        spacing = as_spacing(self.spacing, "spacing")
        if self.displacement is None:
            spacing = (1.0, 1.0)
        object.__setattr__(self, "spacing", spacing)
        if self.displacement is not None:
            object.__setattr__(self, "displacement", self._checked_displacement())

    def _checked_displacement(self) -> NDArray[np.float32]:
        displacement = to_array(self.displacement, "displacement", _NUMBERS)[0]
        with np.errstate(over="ignore"):  # checked below
            displacement = frozen(displacement, np.float32)
        need = (2, *self._nodes.shape)
        if displacement.shape != need:
            where = "on the grid of the fixed image"
            if not self._nodes.full:
                where = f"every {self.spacing[0]:g} rows and {self.spacing[1]:g} columns"
            raise ValueError(
                f"displacement: got shape {displacement.shape}, need {need} "
                f"(row and column part {where})"
            )
        if not np.isfinite(displacement).all():
            raise ValueError("displacement: got NaN or infinite values, need finite ones")
        return displacement

    # -- construction -------------------------------------------------------------------------

    @classmethod
    def identity(
        cls, fixed_shape: tuple[int, int], moving_shape: tuple[int, int] | None = None
    ) -> Transform:
        """Map pixel ``(r, c)`` of the fixed image to pixel ``(r, c)`` of the moving image.

        Parameters
        ----------
        fixed_shape, moving_shape : tuple of int
            ``(rows, cols)``; `moving_shape` is `fixed_shape` by default.
        """
        return cls(fixed_shape=fixed_shape, moving_shape=moving_shape or fixed_shape)

    @classmethod
    def from_points(
        cls,
        fixed_points: ArrayLike,
        moving_points: ArrayLike,
        *,
        fixed_shape: tuple[int, int],
        moving_shape: tuple[int, int],
    ) -> Transform:
        """Fit an affine to corresponding points by least squares.

        Parameters
        ----------
        fixed_points, moving_points : array_like, shape (N, 2)
            (row, col) positions of the same N >= 3 points, not all on one line.
        fixed_shape, moving_shape : tuple of int
            Shapes of both images.

        Raises
        ------
        ValueError
            When the points do not determine an affine.
        """
        first, second = (to_numbers(p, "points") for p in (fixed_points, moving_points))
        if first.shape != second.shape or first.ndim != 2 or first.shape[1] != 2:
            raise ValueError(
                f"points: got shapes {first.shape} and {second.shape}, need twice the same (N, 2)"
            )
        if not (np.isfinite(first).all() and np.isfinite(second).all()):
            raise ValueError("points: some are not finite")
        design = np.column_stack([first, np.ones(len(first))])
        if len(first) < 3 or np.linalg.matrix_rank(design - design.mean(0)) < 2:
            raise ValueError(
                f"points: got {len(first)}, need at least three that do not lie on one line"
            )
        affine = np.eye(3)
        affine[:2] = np.linalg.lstsq(design, second, rcond=None)[0].T
        return cls(affine, fixed_shape=fixed_shape, moving_shape=moving_shape)

    @classmethod
    def equal_field_of_view(
        cls, fixed_shape: tuple[int, int], moving_shape: tuple[int, int]
    ) -> Transform:
        """Map two images of the same field of view, sampled by different numbers of pixels.

        Their centres coincide. One scale serves both axes: the geometric mean of the ratios of
        sizes, which is exact when the aspect ratios agree.

        Parameters
        ----------
        fixed_shape, moving_shape : tuple of int
            ``(rows, cols)``. Equal shapes give the identity.
        """
        fixed = np.array(_shape(fixed_shape, "fixed_shape"), float)
        moving = np.array(_shape(moving_shape, "moving_shape"), float)
        scale = float(np.sqrt(np.prod(moving / fixed)))
        affine = np.diag([scale, scale, 1.0])
        affine[:2, 2] = (moving - 1) / 2 - scale * (fixed - 1) / 2
        return cls(affine, fixed_shape=fixed_shape, moving_shape=moving_shape)

    # -- application --------------------------------------------------------------------------

    def points(
        self, points: ArrayLike, inverse: bool = False, *, tolerance: float = 0.05
    ) -> NDArray[np.float64]:
        """Map points from the fixed image to the moving image, or back.

        Parameters
        ----------
        points : array_like, shape (..., 2)
            ``(row, col)`` in pixels; inside or outside the image.
        inverse : bool
            False: fixed to moving. True: moving to fixed.
        tolerance : float
            Largest accepted error of the inverse, in fixed pixels. The iteration normally ends
            at 1e-5 px.

        Returns
        -------
        ndarray of float64, shape (..., 2)

        Raises
        ------
        ValueError
            When the shape is wrong, a value is not finite, or the displacement folds and a point
            has no unique inverse.
        """
        check_tolerance(tolerance)
        given = to_numbers(points, "points")
        if given.ndim == 0 or given.shape[-1] != 2:
            raise ValueError(f"points: got shape {given.shape}, need (..., 2): row and column")
        if not np.isfinite(given).all():
            raise ValueError("points: got NaN or infinite values, need finite ones")
        coords = np.ascontiguousarray(given.reshape(-1, 2).T)
        mapped = self._backward(coords, tolerance) if inverse else self._forward(coords)
        return np.ascontiguousarray(mapped.T).reshape(given.shape)

    def flow(self, window: Window | None = None) -> NDArray[np.float32]:
        """Compute the displacement from each fixed pixel to its source in the moving image.

        Parameters
        ----------
        window : tuple of slice, optional
            Rows and columns of the fixed image; all by default.

        Returns
        -------
        ndarray of float32, shape (2, H, W)
            ``(Δrow, Δcol)`` in pixels: ``warped[r, c] = moving[r + flow[0, r, c], c + flow[1, r,
            c]]``, the convention of `skimage.registration`.
        """
        part = self._part(window)
        flow = np.empty((2, *part.shape), np.float32)

        def work(rows: slice, source: NDArray[np.float64]) -> None:
            for out, there, here in zip(flow, source, part.ticks(rows), strict=True):
                np.subtract(there, here, out=out[rows], casting="same_kind")

        self._in_blocks(work, part)
        return flow

    def source_window(self, window: Window | None = None, margin: int = 1) -> Window | None:
        """Find the part of the moving image that a window of the fixed image needs.

        Parameters
        ----------
        window : tuple of slice, optional
            Rows and columns of the fixed image; all by default.
        margin : int
            Pixels around the sources; 1 is enough for bilinear interpolation.

        Returns
        -------
        tuple of slice or None
            Rows and columns of the moving image; None where the sources lie outside it.
        """
        part = self._part(window)
        least, most = np.full(2, np.inf), np.full(2, -np.inf)
        for rows in row_blocks(part.shape):
            source = self._sources(part.ticks(rows))
            np.minimum(least, source.min((1, 2)), out=least)
            np.maximum(most, source.max((1, 2)), out=most)
        first = np.maximum(np.floor(least).astype(int) - margin, 0)
        stop = np.minimum(np.ceil(most).astype(int) + margin + 1, self.moving_shape)
        if (first >= stop).any():
            return None
        rows, cols = (slice(int(a), int(b)) for a, b in zip(first, stop, strict=True))
        return rows, cols

    def mask(
        self, valid: NDArray[np.bool_] | None = None, window: Window | None = None
    ) -> NDArray[np.bool_]:
        """Compute the reconstructible mask: fixed pixels whose content the moving image holds.

        Parameters
        ----------
        valid : ndarray of bool, shape (h, w), optional
            Valid pixels of the moving image; all by default.
        window : tuple of slice, optional
            Rows and columns of the fixed image; all by default.

        Returns
        -------
        ndarray of bool, shape (H, W)
            True where the source lies inside the moving image and bilinear interpolation there
            uses only valid pixels.
        """
        lost = None
        if valid is not None:
            valid = to_array(valid, "valid", "an array (h, w) of bool")[0]
            if valid.shape != self.moving_shape:
                raise ValueError(f"valid: got shape {valid.shape}, need {self.moving_shape}")
            if not valid.all():
                lost = (valid == 0).astype(np.uint8)
        part = self._part(window)
        mask = np.empty(part.shape, bool)

        def work(rows: slice, source: NDArray[np.float64]) -> None:
            mask[rows] = self._inside(source)
            if lost is not None:
                mask[rows] &= ~touches(lost, source)

        self._in_blocks(work, part)
        return mask

    def apply(
        self,
        image: ArrayLike,
        order: int = 1,
        cval: float | None = None,
        window: Window | None = None,
    ) -> NDArray[Any]:
        """Resample a moving image, channel or label image onto the fixed grid.

        One interpolation, whatever was composed.

        Parameters
        ----------
        image : array_like, shape (h, w) or (h, w, C)
            Any real number type or bool, any byte order. Masked pixels of a numpy masked array
            are missing. Not changed.
        order : int
            Spline order, 0 to 5. 0 (nearest pixel) preserves labels, 1 is bilinear.
        cval : float, optional
            Value of fixed pixels whose source lies outside the moving image; NaN for floats only.
            By default NaN for floats, because any number would be content that nobody measured,
            and 0 for integers and bool. A masked array has its fill value there.
        window : tuple of slice, optional
            Rows and columns of the fixed image; all by default.

        Returns
        -------
        ndarray, shape (H, W) or (H, W, C)
            The type of `image` in native byte order; integers rounded and clipped, bool cut at
            one half. Whole-pixel shifts change no value, also none of 64-bit integers. NaN where
            interpolation uses a NaN or infinite pixel (with ``order=0``: the pixel itself). A
            masked array is masked where interpolation uses a masked pixel, and holds its fill
            value there. So it is outside the moving image, unless `cval` is given.

        Raises
        ------
        ValueError
            When the image does not have the transform's `moving_shape`, `order` is not 0..5, or
            the image's type cannot hold `cval`.
        TypeError
            When the image does not hold real numbers.
        """
        if order not in range(6):
            raise ValueError(f"order: got {order!r}, need 0, 1, 2, 3, 4 or 5")
        if window is None and _is_unread(image):
            window = slice(None), slice(None)  # the fixed image may be a window of a slide
        part = self._part(window)
        image, origin = self._needed(image, window, _MARGIN if order < 2 else _SPLINE_MARGIN)
        if isinstance(image, np.ma.MaskedArray):
            local = self if window is None else self._cropped(part, origin, image.shape[:2])
            return local._apply_masked(image, order, cval)
        image = native(image)
        cval = checked_fill(cval, image.dtype, "cval")
        if order == 0:
            return self._nearest(image, cval, part, origin)
        channels = image[..., None] if image.ndim == 2 else image
        planes = [Plane(channels[..., index], order) for index in range(channels.shape[-1])]
        warped = np.empty((*part.shape, len(planes)), image.dtype)

        def work(rows: slice, source: NDArray[np.float64]) -> None:
            outside = ~self._inside(source)
            for index, plane in enumerate(planes):
                values = plane.sample(source - origin)
                values[outside] = cval
                warped[rows, :, index] = values

        self._in_blocks(work, part)
        return warped[..., 0] if image.ndim == 2 else warped

    def _apply_masked(self, image: Any, order: int, cval: float | None) -> Any:
        """`apply` for a masked array: a masked pixel is never blended with another."""
        masked = np.ma.getmaskarray(image)
        missing = np.array(masked.any(-1) if image.ndim == 3 else masked, bool)
        plain = np.ma.getdata(image)
        unset = getattr(image, "_fill_value", None) is None
        fill = default_fill(plain.dtype) if unset else image.fill_value
        if missing.all():
            plain = np.full_like(plain, fill)
        elif missing.any():
            rows, cols = ndimage.distance_transform_edt(
                missing, return_distances=False, return_indices=True
            )
            plain = plain[rows, cols]
        warped = self.apply(plain, order, fill if cval is None else cval)
        if order == 0:
            lost = self.apply(missing, 0, 1.0)
        else:
            lost = ~self.mask(~missing)
        if cval is not None:
            lost &= self.mask()
        warped[lost] = fill
        mask = np.broadcast_to(lost.reshape(lost.shape + (1,) * (warped.ndim - 2)), warped.shape)
        return np.ma.MaskedArray(warped, mask=mask.copy(), fill_value=fill)

    def jacobian_determinant(self, window: Window | None = None) -> NDArray[np.float32]:
        """Compute the local change of area from the fixed to the moving image.

        Parameters
        ----------
        window : tuple of slice, optional
            Rows and columns of the fixed image; all by default.

        Returns
        -------
        ndarray of float32, shape (H, W)
            Moving pixels per fixed pixel. Zero, or a sign that differs from the affine's, marks
            a fold. Derivatives are differences of neighbouring values of the displacement.
        """
        determinant = np.float32(np.linalg.det(self.affine[:2, :2]))
        part, nodes = self._part(window), self._nodes
        if self.displacement is None:
            return np.full(part.shape, determinant)
        if nodes.full:
            found = _changed_area(self.displacement, part)
        else:
            everywhere = _Part((0, 0), nodes.shape)
            change = _changed_area(self.displacement, everywhere, nodes.step)
            found = np.empty(part.shape, np.float32)
            for rows in row_blocks(part.shape):
                found[rows] = nodes.interpolate(change, *part.ticks(rows))
        with np.errstate(over="ignore", invalid="ignore"):
            return determinant * found

    # -- algebra ------------------------------------------------------------------------------

    def inverse(self, *, tolerance: float = 0.05) -> Transform:
        """Return the transform from the moving to the fixed image.

        Parameters
        ----------
        tolerance : float
            Largest accepted error at any moving pixel, in fixed pixels.

        Returns
        -------
        Transform
            Exact without a displacement. Otherwise the displacement is inverted numerically at
            each moving pixel and bilinear between them. A coarser `spacing` stays as coarse, in
            moving pixels.

        Raises
        ------
        ValueError
            When the displacement folds and has no inverse.
        """
        check_tolerance(tolerance)
        affine = self._inverse_affine()
        if self.displacement is None:
            return Transform(affine, fixed_shape=self.moving_shape, moving_shape=self.fixed_shape)
        nodes = Grid.covering(self.moving_shape, self._scaled_spacing(self._scale))
        displacement = np.empty((2, *nodes.shape), np.float32)
        for rows in row_blocks(nodes.shape):
            grid = np.stack(np.broadcast_arrays(*nodes.positions(rows)))
            back = self._backward(grid.reshape(2, -1), tolerance)
            displacement[:, rows] = _affine(self.affine, back).reshape(grid.shape) - grid
        displacement.flags.writeable = False
        return Transform(
            affine,
            displacement,
            fixed_shape=self.moving_shape,
            moving_shape=self.fixed_shape,
            spacing=nodes.step,
        )

    def compose(self, other: Transform) -> Transform:
        """Return this transform followed by `other`, as one transform.

        Parameters
        ----------
        other : Transform
            From this transform's moving image to a third image.

        Returns
        -------
        Transform
            From this transform's fixed image to `other`'s moving image: ``q = other(self(p))``,
            exact at the pixels of the fixed grid, or at the values of its displacement. These
            have the finer spacing of the two.

        Raises
        ------
        ValueError
            When the fixed grid of `other` is not this transform's moving grid.
        """
        if not isinstance(other, Transform):
            raise TypeError(f"other: got {type(other).__name__}, need a Transform")
        if other.fixed_shape != self.moving_shape:
            raise ValueError(
                f"other: starts on a grid of shape {other.fixed_shape}, but this transform ends "
                f"on one of shape {self.moving_shape}"
            )
        affine = other.affine @ self.affine
        affine[2] = (0.0, 0.0, 1.0)
        displacement, nodes = self.displacement, self._nodes
        if other.displacement is not None:
            nodes = Grid.covering(self.fixed_shape, self._finer_spacing(other))
            displacement = self._composed_displacement(other, nodes)
        return Transform(
            affine,
            displacement,
            fixed_shape=self.fixed_shape,
            moving_shape=other.moving_shape,
            spacing=nodes.step,
        )

    def _finer_spacing(self, other: Transform) -> tuple[float, float]:
        """The finer one of both spacings, in pixels of this fixed image."""
        theirs = other._scaled_spacing(1 / self._scale)
        if self.displacement is None:
            return theirs
        return min(theirs[0], self.spacing[0]), min(theirs[1], self.spacing[1])

    def _composed_displacement(self, other: Transform, nodes: Grid) -> NDArray[np.float32]:
        # q = A2 (m + u2(m)) with m = A1 (p + u1(p)), so q = A2 A1 (p + u1(p) + L1^-1 u2(m))
        linear = np.linalg.inv(self.affine[:2, :2])
        total = np.empty((2, *nodes.shape), np.float32)

        def work(rows: slice) -> None:
            grid = nodes.positions(rows)
            middle = self._sources(grid)
            total[:, rows] = np.tensordot(linear, other._displacement_at(middle), 1)
            if self.displacement is not None:
                total[:, rows] += self._displaced(*grid)

        _in_parallel(work, nodes.shape)
        total.flags.writeable = False
        return total

    def with_spacing(self, spacing: float | tuple[float, float]) -> Transform:
        """Return the same map with the displacement at another spacing.

        Parameters
        ----------
        spacing : float or tuple of float
            Rows and columns in fixed pixels, at least 1.

        Returns
        -------
        Transform
            The values of its displacement are bilinear between those of this one.
        """
        nodes = Grid.covering(self.fixed_shape, as_spacing(spacing, "spacing"))
        if self.displacement is None or nodes == self._nodes:
            return self
        displacement = np.empty((2, *nodes.shape), np.float32)
        for rows in row_blocks(nodes.shape):
            where = nodes.positions(rows)
            displacement[:, rows] = self._nodes.interpolate(self.displacement, *where)
        displacement.flags.writeable = False
        return replace(self, displacement=displacement, spacing=nodes.step)

    # -- display ------------------------------------------------------------------------------

    def __repr__(self) -> str:
        rows = ", ".join(f"[{a:.5g}, {b:.5g}, {c:.5g}]" for a, b, c in self.affine[:2])
        bend = "no displacement"
        if self.displacement is not None:
            bend = f"displacement up to {np.hypot(*self.displacement).max():.1f} px"
            if not self._nodes.full:
                bend += f", every {self.spacing[0]:g} x {self.spacing[1]:g} px"
        return (
            f"<Transform: fixed {self.fixed_shape}, moving {self.moving_shape}; "
            f"affine {rows}; {bend}>"
        )

    def plot(self, *, axes: Axes | None = None) -> Axes:
        """Plot the grid of the fixed image where it lies on the moving image.

        Needs ``napari-busref[plot]``.

        Parameters
        ----------
        axes : matplotlib.axes.Axes, optional
            By default those of a new figure.

        Returns
        -------
        matplotlib.axes.Axes
            In pixels of the moving image, whose border is drawn. Nothing is shown.

        Raises
        ------
        ModuleNotFoundError
            Without matplotlib.
        """
        (drawn,) = new_axes(1, axes)
        for path in _grid_lines(self.fixed_shape):
            rows, cols = self.points(path).T
            drawn.plot(cols, rows, color="tab:purple", linewidth=0.8)
        height, width = self.moving_shape
        corners = np.array([(0, 0), (0, height), (width, height), (width, 0), (0, 0)]) - 0.5
        drawn.plot(*corners.T, color="black", linewidth=1)
        drawn.set_aspect("equal")
        drawn.invert_yaxis()
        drawn.set_title("fixed grid on the moving image")
        return drawn

    # -- comparison ---------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Transform):
            return NotImplemented
        if (self.fixed_shape, self.moving_shape) != (other.fixed_shape, other.moving_shape):
            return False
        if self.spacing != other.spacing or not np.array_equal(self.affine, other.affine):
            return False
        if self.displacement is None or other.displacement is None:
            return self.displacement is other.displacement
        return np.array_equal(self.displacement, other.displacement)

    def __hash__(self) -> int:
        # + 0.0 because -0.0 equals 0.0
        return hash((self.fixed_shape, self.moving_shape, (self.affine + 0.0).tobytes()))

    # -- files --------------------------------------------------------------------------------

    def save(
        self, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None
    ) -> Path:
        """Write the transform to an HDF5 file (see ``docs/reference/formats.md``).

        Parameters
        ----------
        path : path-like
            Must end in ``.busref.h5``. An existing file is replaced once the new one is
            complete.
        metadata : mapping, optional
            Serialisable as JSON, for example spacing, units and quality; `read_metadata` reads
            it.

        Returns
        -------
        pathlib.Path
            The file.
        """
        path = Path(path)
        hdf5.save(path, self, metadata or {})
        return path

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        window: Window | None = None,
        memory_limit: float | None = None,
    ) -> Transform:
        """Read a transform that `save` wrote.

        Parameters
        ----------
        path : path-like
            The ``.busref.h5`` file.
        window : tuple of slice, optional
            Rows and columns of the fixed image. The result is the transform of this window as
            an image of its own, and nothing else of the displacement is read.
        memory_limit : float, optional
            As of `napari_busref.read_transform`.

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        ValueError
            When it is not a complete transform file of this package.

        Notes
        -----
        From the file of a stack it reads the transform of the displayed plane;
        `napari_busref.read_transform` reads all.
        """
        opened = hdf5.open_file(path, whole=window is None)
        with memory_limited(memory_limit), opened as file:
            return cls(**hdf5.read(file, window))

    # -- internals ----------------------------------------------------------------------------

    @property
    def _nodes(self) -> Grid:
        """The grid of the displacement's values."""
        return Grid.covering(self.fixed_shape, self.spacing)

    @property
    def _scale(self) -> float:
        """Moving pixels that a fixed pixel spans by the affine."""
        return float(np.sqrt(abs(np.linalg.det(self.affine[:2, :2]))))

    def _scaled_spacing(self, scale: float) -> tuple[float, float]:
        """The spacing where a pixel becomes `scale` pixels; a dense displacement stays dense."""
        if self._nodes.full:
            return 1.0, 1.0
        rows, cols = (max(step * scale, 1.0) for step in self.spacing)
        return rows, cols

    def _part(self, window: Window | None) -> _Part:
        """Check a window of the fixed image."""
        if window is None:
            return _Part((0, 0), self.fixed_shape)
        rows, cols = checked_window(window, self.fixed_shape)
        return _Part((rows.start, cols.start), (len(rows), len(cols)))

    def _needed(
        self, image: Any, window: Window | None, margin: int
    ) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """The part of a moving image that a window needs, and its first row and column.

        Nothing else is read of an image in a file.
        """
        accepted, origin = "an array (h, w) or (h, w, C)", np.zeros((2, 1, 1))
        # xarray may have other dimensions first
        if window is None or not hasattr(image, "shape") or hasattr(image, "dims"):
            image, _ = to_array(image, "image", accepted)
        if len(image.shape) not in (2, 3) or tuple(image.shape[:2]) != self.moving_shape:
            raise ValueError(
                f"image: got shape {image.shape}, need {self.moving_shape} (or that and "
                "channels): the transform was made for a moving image of this size"
            )
        if window is not None:
            read = self.source_window(window, margin) or (slice(0, 1), slice(0, 1))
            image, _ = to_array(image[read], "image", accepted)
            origin[:, 0, 0] = [one.start for one in read]
        return image, origin

    def _cropped(
        self, part: _Part, origin: NDArray[np.float64], shape: tuple[int, int]
    ) -> Transform:
        """The same map from a part of the fixed to a part of the moving image."""
        enter, leave, displacement = np.eye(3), np.eye(3), None
        enter[:2, 2], leave[:2, 2] = part.first, -origin[:, 0, 0]
        if self.displacement is not None:
            displacement = self._displaced(*part.ticks(slice(0, part.shape[0])))
        affine = leave @ self.affine @ enter
        return Transform(affine, displacement, fixed_shape=part.shape, moving_shape=shape)

    def _sources(self, ticks: tuple[NDArray[Any], NDArray[Any]]) -> NDArray[np.float64]:
        """Sources (2, R, C) of the pixels in rows (R, 1) and columns (1, C)."""
        row, col = ticks
        if self.displacement is not None:
            down, right = self._displaced(row, col)
            row, col = row + down, col + right
        return _affine(self.affine, (row, col))

    def _displaced(self, row: NDArray[Any], col: NDArray[Any]) -> NDArray[Any]:
        """Displacement (2, R, C) in rows (R, 1) and columns (1, C); whole ones, if dense."""
        assert self.displacement is not None
        if not self._nodes.full:
            return self._nodes.interpolate(self.displacement, row, col)
        rows, cols = (slice(int(ticks.flat[0]), int(ticks.flat[-1]) + 1) for ticks in (row, col))
        return self.displacement[:, rows, cols]

    def _in_blocks(self, work: Callable[[slice, NDArray[np.float64]], None], part: _Part) -> None:
        """Call `work` for blocks of rows of a part and their sources, in parallel."""
        _in_parallel(lambda rows: work(rows, self._sources(part.ticks(rows))), part.shape)

    def _displacement_at(self, coords: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolate the displacement at (2, ...) positions."""
        if self.displacement is None:
            return np.zeros_like(coords)
        if not self._nodes.full:
            step = np.array(self.spacing).reshape(2, *[1] * (coords.ndim - 1))
            coords = (coords - (step - 1) / 2) / step
        return np.stack(
            [
                ndimage.map_coordinates(part, coords, np.float64, order=1, mode="nearest")
                for part in self.displacement
            ]
        )

    def _forward(self, coords: NDArray[np.float64]) -> NDArray[np.float64]:
        return _affine(self.affine, coords + self._displacement_at(coords))

    def _inverse_affine(self) -> NDArray[np.float64]:
        affine = np.eye(3)
        affine[:2] = np.linalg.inv(self.affine)[:2]
        return affine

    def _backward(self, coords: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
        """Solve ``A(p + u(p)) = q`` for (2, N) points by fixed-point iteration."""
        target = _affine(self._inverse_affine(), coords)
        if self.displacement is None or not target.size:
            return target
        solution = target - self._displacement_at(target)
        residual = np.full(target.shape[1], np.inf)
        active = np.arange(target.shape[1])
        for iteration in range(200):
            now = solution[:, active]
            error = now + self._displacement_at(now) - target[:, active]
            residual[active] = np.hypot(*error)
            moving = residual[active] > 1e-5
            active = active[moving]
            if not active.size:
                break
            # half steps also converge where the field stretches more than twofold
            step = 1.0 if iteration < 20 else 0.5
            solution[:, active] -= step * error[:, moving]
        lost = residual > tolerance
        if lost.any():
            raise ValueError(
                f"transform cannot be inverted: its displacement folds over itself at "
                f"{lost.sum()} of {lost.size} positions (error up to {residual.max():.3g} px)"
            )
        return solution

    def _inside(self, source: NDArray[np.float64]) -> NDArray[np.bool_]:
        height, width = self.moving_shape
        return (
            (source[0] >= -EDGE)
            & (source[0] <= height - 1 + EDGE)
            & (source[1] >= -EDGE)
            & (source[1] <= width - 1 + EDGE)
        )

    def _nearest(
        self, image: NDArray[Any], cval: float | int, part: _Part, origin: NDArray[np.float64]
    ) -> NDArray[Any]:
        # by index, because map_coordinates computes in float64 and would change 64-bit labels
        warped = np.empty(part.shape + image.shape[2:], image.dtype)
        height, width = image.shape[:2]

        def work(rows: slice, source: NDArray[np.float64]) -> None:
            there = source - origin
            row = np.clip(np.floor(there[0] + 0.5), 0, height - 1).astype(np.intp)
            col = np.clip(np.floor(there[1] + 0.5), 0, width - 1).astype(np.intp)
            warped[rows] = image[row, col]
            warped[rows][~self._inside(source)] = cval

        self._in_blocks(work, part)
        return warped


@dataclass(frozen=True)
class _Part:
    """A window of the fixed image: its first pixel, and its shape."""

    first: tuple[int, int]
    shape: tuple[int, int]

    def ticks(self, rows: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rows (R, 1) and columns (1, W) in the image, for rows of the window."""
        top, left = self.first
        row, col = np.ogrid[top + rows.start : top + rows.stop, left : left + self.shape[1]]
        return row.astype(np.float64), col.astype(np.float64)


def _in_parallel(work: Callable[[slice], None], shape: tuple[int, int]) -> None:
    """Call `work` for blocks of rows of an array."""
    blocks = list(row_blocks(shape))
    if len(blocks) == 1:
        work(blocks[0])
        return
    with ThreadPoolExecutor(min(len(blocks), pool_threads())) as pool:
        list(pool.map(work, blocks))  # `list` raises the errors


def _changed_area(
    displacement: NDArray[np.float32], part: _Part, step: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.float32]:
    """Determinant of the derivative of ``p + displacement(p)`` in a part of its grid."""
    # read one more value on each side, for central differences
    read = tuple(
        slice(max(first - 1, 0), first + size + 1)
        for first, size in zip(part.first, part.shape, strict=True)
    )
    kept = tuple(
        slice(first - one.start, first - one.start + size)
        for one, first, size in zip(read, part.first, part.shape, strict=True)
    )
    (rr, rc), (cr, cc) = (
        [_derivative(one[read], axis, step[axis])[kept] for axis in (0, 1)] for one in displacement
    )
    with np.errstate(over="ignore", invalid="ignore"):
        found: NDArray[np.float32] = (1 + rr) * (1 + cc) - rc * cr
    return found


def _derivative(values: NDArray[np.float32], axis: int, step: float) -> NDArray[np.float32]:
    if values.shape[axis] < 2:
        return np.zeros_like(values)
    return cast(NDArray[np.float32], np.gradient(values, np.float32(step), axis=axis))


def _is_unread(image: Any) -> bool:
    """Whether an image is in a file, and can be read in part: dask, zarr, HDF5, a large image."""
    if not hasattr(image, "shape") or hasattr(image, "dims"):
        return False
    lazy = hasattr(image, "chunks") or hasattr(image, "levels")
    return lazy or not hasattr(image, "__array__")


def _affine(
    affine: NDArray[np.float64],
    coords: NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Apply a (3, 3) matrix to (2, ...) positions, or to rows and columns that broadcast."""
    row, col = coords
    there = np.empty((2, *np.broadcast_shapes(row.shape, col.shape)))
    for out, (a, b, c) in zip(there, affine[:2], strict=True):
        np.add(a * row, b * col, out=out)
        out += c
    return there


def _grid_lines(shape: tuple[int, int]) -> Iterator[NDArray[np.float64]]:
    """Rows and columns of an image, from border to border, as (N, 2) positions."""
    ends = [np.linspace(0, size - 1, 1 + min(_GRID_CELLS, size - 1)) for size in shape]
    along = [np.linspace(0, size - 1, _POINTS_OF_LINE) for size in shape]
    for axis in (0, 1):
        for position in ends[axis]:
            path = np.empty((_POINTS_OF_LINE, 2))
            path[:, axis], path[:, 1 - axis] = position, along[1 - axis]
            yield path


def check_tolerance(value: Any) -> None:
    """Check the largest accepted error of an inverse.

    Raises
    ------
    ValueError
        When it is no positive number.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not float(value) > 0:
        raise ValueError(f"tolerance: got {value!r}, need pixels above 0")


def _shape(shape: Any, name: str) -> tuple[int, int]:
    try:
        rows, cols = (int(size) for size in shape)
        valid = rows > 0 and cols > 0 and (rows, cols) == tuple(shape)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(f"{name}: got {shape!r}, need (rows, cols), both at least 1")
    return rows, cols


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the `metadata` that `Transform.save` stored.

    Parameters
    ----------
    path : path-like
        The ``.busref.h5`` file.

    Returns
    -------
    dict
        Empty without metadata.

    Raises
    ------
    FileNotFoundError, ValueError
        As `Transform.load`.
    """
    with hdf5.open_file(path) as file:
        return hdf5.read_json(file)
