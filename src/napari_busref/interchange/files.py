"""`read_transform` and `write_transform`: every format, chosen by the name of the file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_busref.interchange import itk, ngff, table
from napari_busref.interchange.grid import ImageGrid
from napari_busref.interchange.physical import check_grids
from napari_busref.transform import EXTENSION, Transform, read_metadata

__all__ = ["READABLE", "WRITABLE", "TransformFile", "read_transform", "write_transform"]

#: Extensions that can be read. All but the first need to be told the grids of both images.
READABLE = (EXTENSION, *itk.TRANSFORMS, *itk.FIELDS, ".csv")
#: Extensions that can be written.
WRITABLE = (*READABLE, ngff.SUFFIX)

_GRIDS = {"fixed": "fixed_grid", "moving": "moving_grid"}


@dataclass(frozen=True)
class TransformFile:
    """A transform and what its file says about it.

    Attributes
    ----------
    transform : Transform
    fixed, moving : ImageGrid
        Where the pixels of the two images lie, and their units; the unit is ``pixel`` where
        nothing is known.
    metadata : dict
        What else was stored, as JSON holds it. This package writes ``quality``, ``parameters``
        (with the versions that computed it), ``timings``, and the names ``fixed`` and ``moving``.
    """

    transform: Transform
    fixed: ImageGrid
    moving: ImageGrid
    metadata: dict[str, Any] = field(default_factory=dict)


def read_transform(
    path: str | os.PathLike[str],
    *,
    fixed: ImageGrid | tuple[int, int] | None = None,
    moving: ImageGrid | tuple[int, int] | None = None,
) -> TransformFile:
    """Read a transform of this package, of ITK, or a table of an affine.

    Parameters
    ----------
    path : path-like
        Ends in ``.busref.h5``, in ``.tfm``, ``.txt``, ``.mat``, ``.h5``, ``.hdf5`` (ITK
        transforms), in ``.nrrd``, ``.nii``, ``.nii.gz``, ``.mha`` (displacement fields), or in
        ``.csv``.
    fixed, moving : ImageGrid or tuple of int
        The two images, or their ``(rows, cols)`` where pixels are the unit. Needed for all but
        ``.busref.h5``, which knows them; given there, they replace what it says.

    Returns
    -------
    TransformFile

    Raises
    ------
    ValueError
        When the extension is not accepted, the file is damaged, of another program or of another
        dimension, or a grid is missing or does not fit.
    OSError
        When it cannot be read.
    ModuleNotFoundError
        When the format needs a package that is not installed.

    Examples
    --------
    >>> from napari_busref import ImageGrid, read_transform  # doctest: +SKIP
    >>> size = ImageGrid((480, 640), spacing=(0.5, 0.5), unit="mm")
    >>> read_transform("ants.mat", fixed=size, moving=size).transform
    """
    file = Path(path)
    suffix = _suffix(file, READABLE)
    given = {"fixed": _grid(fixed, "fixed"), "moving": _grid(moving, "moving")}
    if suffix == EXTENSION:
        return _read_own(file, given)
    if not file.is_file():
        raise FileNotFoundError(f"path: there is no file {str(file)!r}")
    missing = [name for name, grid in given.items() if grid is None]
    if missing:
        raise ValueError(
            f"{missing[0]}: {file.name} does not say which images it belongs to, need the grid "
            f"of the {missing[0]} image"
        )
    first, second = given["fixed"], given["moving"]
    assert first is not None and second is not None
    read = table.read_csv if suffix == ".csv" else itk.read_itk
    return TransformFile(read(file, first, second), first, second)


def write_transform(
    path: str | os.PathLike[str],
    transform: Transform,
    *,
    fixed: ImageGrid | None = None,
    moving: ImageGrid | None = None,
    metadata: Mapping[str, Any] | None = None,
    affine_only: bool = False,
) -> Path:
    """Write a transform in the format that the name of the file stands for.

    Parameters
    ----------
    path : path-like
        ``.busref.h5``: everything. ``.tfm``, ``.txt``, ``.h5``, ``.hdf5``: an ITK transform,
        affine or composite (``.mat``: affine only). ``.nrrd``, ``.nii``, ``.nii.gz``, ``.mha``:
        the whole map as an ITK displacement field. ``.ome.zarr``: coordinate transformations of
        OME-NGFF 0.6. ``.csv``: the affine. A file of that name is replaced once the new one is
        complete.
    transform : Transform
    fixed, moving : ImageGrid, optional
        Where the pixels of the two images lie; left out, in pixels from the first one on.
    metadata : mapping, optional
        What JSON can hold, see `TransformFile`; kept by ``.busref.h5`` and ``.ome.zarr``.
    affine_only : bool
        Write the affine part of a transform that also has a displacement.

    Returns
    -------
    pathlib.Path
        The file, or for ``.ome.zarr`` the folder.

    Raises
    ------
    ValueError
        When the extension is not accepted, a grid is of another shape, or the format cannot hold
        the displacement.
    OSError
        When it cannot be written.
    ModuleNotFoundError
        When the format needs a package that is not installed.
    """
    file = Path(path)
    suffix = _suffix(file, WRITABLE)
    fixed = ImageGrid(transform.fixed_shape) if fixed is None else fixed
    moving = ImageGrid(transform.moving_shape) if moving is None else moving
    check_grids(transform, fixed, moving)
    grids = {_GRIDS["fixed"]: fixed.as_dict(), _GRIDS["moving"]: moving.as_dict()}
    if suffix == EXTENSION:
        if affine_only:
            transform = Transform(
                transform.affine,
                fixed_shape=transform.fixed_shape,
                moving_shape=transform.moving_shape,
            )
        return transform.save(file, {**(metadata or {}), **grids})
    if suffix == ngff.SUFFIX:
        own = {**(metadata or {}), **grids}
        return ngff.write_ngff(
            file, transform, fixed, moving, affine_only=affine_only, metadata=own
        )
    if suffix == ".csv":
        return table.write_csv(file, transform, fixed, moving, affine_only=affine_only)
    if suffix in itk.FIELDS:
        if affine_only:
            raise ValueError(
                f"affine_only: {file.name} is a displacement field, need .tfm or .csv"
            )
        return itk.write_itk_field(file, transform, fixed, moving)
    return itk.write_itk_transform(file, transform, fixed, moving, affine_only=affine_only)


def _read_own(file: Path, given: Mapping[str, ImageGrid | None]) -> TransformFile:
    transform = Transform.load(file)
    metadata = read_metadata(file)
    grids = {}
    for name, shape in (("fixed", transform.fixed_shape), ("moving", transform.moving_shape)):
        stored = metadata.pop(_GRIDS[name], None)
        grid = given[name]
        if grid is None and stored is not None:
            try:
                grid = ImageGrid.from_dict(stored)
            except ValueError as error:
                raise ValueError(f"path: {str(file)!r} has damaged metadata: {error}") from None
        if grid is None:  # the command line stores what the image files said
            grid = ImageGrid.from_metadata(shape, metadata.get(f"{name}_image"))
        grids[name] = grid
    check_grids(transform, grids["fixed"], grids["moving"])
    return TransformFile(transform, grids["fixed"], grids["moving"], metadata)


def _grid(given: ImageGrid | tuple[int, int] | None, name: str) -> ImageGrid | None:
    if given is None or isinstance(given, ImageGrid):
        return given
    try:
        rows, cols = given
        return ImageGrid((rows, cols))
    except (TypeError, ValueError):
        raise ValueError(f"{name}: got {given!r}, need an ImageGrid or (rows, cols)") from None


def _suffix(file: Path, accepted: tuple[str, ...]) -> str:
    name = file.name.lower()
    matching = [suffix for suffix in accepted if name.endswith(suffix)]
    if not matching:
        raise ValueError(
            f"path: got {file.name!r}, need a name that ends in one of {', '.join(accepted)}"
        )
    return max(matching, key=len)
