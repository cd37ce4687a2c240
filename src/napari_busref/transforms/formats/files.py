"""`read_transform` and `write_transform`: the file name selects the format."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_busref.runtime.file_safety import check_file, memory_limited
from napari_busref.transforms import hdf5
from napari_busref.transforms.formats import affine_csv, itk, landmark_files, ngff
from napari_busref.transforms.formats.grid import ImageGrid
from napari_busref.transforms.formats.physical import check_grids, inverted
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.levels import from_levels
from napari_busref.transforms.transform import EXTENSION, Transform

__all__ = [
    "COMPLETE",
    "READABLE",
    "WRITABLE",
    "TransformFile",
    "read_transform",
    "write_transform",
]

#: Extensions of files that hold the grids of their images.
COMPLETE = (EXTENSION, ngff.SUFFIX)
#: Extensions that can be read. All but those of `COMPLETE` need both grids as arguments.
READABLE = (*COMPLETE, *itk.TRANSFORMS, *itk.FIELDS, ".csv", landmark_files.POINTS)
#: Extensions that can be written.
WRITABLE = READABLE[:-1]

#: Metadata keys for the grids of the images, where `_GRIDS` are coarser: in files of versions 1
#: and 2.
_FULL = {"fixed": "fixed_full", "moving": "moving_full"}
_GRIDS = {"fixed": "fixed_grid", "moving": "moving_grid"}
_Grids = Mapping[str, ImageGrid | None]


@dataclass(frozen=True)
class TransformFile:
    """A transform and the metadata of its file.

    Attributes
    ----------
    transform : Transform
    fixed, moving : ImageGrid
        Pixel positions and units of the two images; the unit is ``pixel`` if the file holds
        none.
    metadata : dict
        Other stored values, as JSON. This package writes ``quality``, ``parameters`` (with the
        package versions), ``timings``, and the file names ``fixed`` and ``moving``.
    planes : dict
        For a stack that was registered plane by plane: from the position along the other
        dimensions to the transform there, with its grids and metadata. `transform` is then that
        of the displayed plane. Otherwise empty.
    """

    transform: Transform
    fixed: ImageGrid
    moving: ImageGrid
    metadata: dict[str, Any] = field(default_factory=dict)
    planes: dict[tuple[int, ...], TransformFile] = field(default_factory=dict)

    def __repr__(self) -> str:
        grids = (
            f"{name} {grid.shape} of {grid.spacing[0]:.4g} x {grid.spacing[1]:.4g} {grid.unit}"
            for name, grid in (("fixed", self.fixed), ("moving", self.moving))
        )
        planes = f"; {len(self.planes)} planes" if self.planes else ""
        return f"<TransformFile: {', '.join(grids)}; {len(self.metadata)} metadata{planes}>"


def read_transform(
    path: str | os.PathLike[str],
    *,
    fixed: ImageGrid | tuple[int, int] | None = None,
    moving: ImageGrid | tuple[int, int] | None = None,
    memory_limit: float | None = None,
) -> TransformFile:
    """Read a transform of this package, of ITK, elastix or OME-NGFF, an affine or landmarks.

    Parameters
    ----------
    path : path-like
        Ends in ``.busref.h5``, in ``.tfm``, ``.txt``, ``.mat``, ``.h5``, ``.hdf5`` (ITK
        transforms; ``.txt`` also parameters of elastix), in ``.nrrd``, ``.nii``, ``.nii.gz``,
        ``.mha`` (displacement fields), in ``.ome.zarr`` (a folder, OME-NGFF 0.6), in ``.csv`` (an
        affine, or landmarks of BigWarp), or in ``.points`` (landmarks of QGIS).
    fixed, moving : ImageGrid or tuple of int
        Grids of the two images, or their ``(rows, cols)`` in pixels. The ``.busref.h5`` and
        ``.ome.zarr`` of this package hold them; there, arguments replace the stored grids. All
        other files need them.
    memory_limit : float, optional
        Largest size in GiB that the file may declare for its values. By default 2, or the
        environment variable NAPARI_BUSREF_MEMORY.

    Returns
    -------
    TransformFile

    Raises
    ------
    ValueError
        When the extension is not accepted, or the file is damaged, of another program or not
        two-dimensional. Also when a grid is missing or does not fit, and when the file keeps
        its values elsewhere or declares more than `memory_limit`.
    OSError
        When the file cannot be read.
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
    with memory_limited(memory_limit):
        return _read(file, suffix, given)


def _read(file: Path, suffix: str, given: dict[str, ImageGrid | None]) -> TransformFile:
    if suffix == EXTENSION:
        return _read_own(file, given)
    metadata: dict[str, Any] = {}
    if suffix == ngff.SUFFIX:
        metadata = ngff.own_metadata(file)
        given = {name: given[name] or _stored_grid(metadata, name, file) for name in given}
    elif not file.exists():
        raise FileNotFoundError(f"path: there is no file {str(file)!r}")
    else:
        check_file(file)
    missing = [name for name, grid in given.items() if grid is None]
    if missing:
        raise ValueError(
            f"{missing[0]}: {file.name} does not hold the grids of its images, need the grid of "
            f"the {missing[0]} image"
        )
    first, second = given["fixed"], given["moving"]
    assert first is not None and second is not None
    readers = {
        ".csv": affine_csv.read_csv,
        landmark_files.POINTS: landmark_files.read_landmark_transform,
        ngff.SUFFIX: ngff.read_ngff,
    }
    read = readers.get(suffix, itk.read_itk)
    known = {key: value for key, value in metadata.items() if key not in _GRIDS.values()}
    with _damage(file):
        return TransformFile(read(file, first, second), first, second, known)


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    """Name the file in every error of its content; arguments name themselves."""
    try:
        yield
    except (OSError, ModuleNotFoundError):
        raise
    except ValueError as error:
        text = str(error)
        if text.startswith(("path: ", "fixed: ", "moving: ")):
            raise
        raise ValueError(f"path: {file} is damaged: {text}") from None
    except Exception as error:  # the libraries raise anything from KeyError to MemoryError
        kind = type(error).__name__
        raise ValueError(f"path: {file} is damaged ({kind}: {error})") from None


def write_transform(
    path: str | os.PathLike[str],
    transform: Transform,
    *,
    fixed: ImageGrid | None = None,
    moving: ImageGrid | None = None,
    metadata: Mapping[str, Any] | None = None,
    affine_only: bool = False,
    planes: Mapping[tuple[int, ...], TransformFile] | None = None,
) -> Path:
    """Write a transform in the format that the file name selects.

    Parameters
    ----------
    path : path-like
        ``.busref.h5``: everything. ``.tfm``, ``.txt``, ``.h5``, ``.hdf5``: an ITK transform,
        affine or composite (``.mat``: affine only). ``.nrrd``, ``.nii``, ``.nii.gz``, ``.mha``:
        the whole map as an ITK displacement field. ``.ome.zarr``: coordinate transformations of
        OME-NGFF 0.6. ``.csv``: the affine. An existing file is replaced once the new one is
        complete.
    transform : Transform
    fixed, moving : ImageGrid, optional
        Grids of the two images; by default, the unit is the pixel.
    metadata : mapping, optional
        Serialisable as JSON, see `TransformFile`; only ``.busref.h5`` and ``.ome.zarr`` hold it.
    affine_only : bool
        Omit the displacement.
    planes : mapping, optional
        For a stack, see `TransformFile`; only ``.busref.h5`` holds them.

    Returns
    -------
    pathlib.Path
        The file, or for ``.ome.zarr`` the folder.

    Raises
    ------
    ValueError
        When the extension is not accepted, a grid is of another shape, or the format cannot hold
        the displacement or the planes.
    OSError
        When the file cannot be written.
    ModuleNotFoundError
        When the format needs a package that is not installed.
    """
    file = Path(path)
    suffix = _suffix(file, WRITABLE)
    fixed = ImageGrid(transform.fixed_shape) if fixed is None else fixed
    moving = ImageGrid(transform.moving_shape) if moving is None else moving
    if planes and suffix != EXTENSION:
        raise ValueError(f"planes: {file.name} holds one transform, need a name in {EXTENSION}")
    own = _grids_in_metadata(TransformFile(transform, fixed, moving, dict(metadata or {})))
    if suffix == EXTENSION:
        several = {
            position: (_affine(one.transform, affine_only), _grids_in_metadata(one))
            for position, one in (planes or {}).items()
        }
        hdf5.save(file, _affine(transform, affine_only), own, several)
        return file
    if suffix == ngff.SUFFIX:
        return ngff.write_ngff(
            file, transform, fixed, moving, affine_only=affine_only, metadata=own
        )
    if suffix == ".csv":
        return affine_csv.write_csv(file, transform, fixed, moving, affine_only=affine_only)
    if suffix in itk.FIELDS:
        if affine_only:
            raise ValueError(
                f"affine_only: {file.name} is a displacement field, need .tfm or .csv"
            )
        return itk.write_itk_field(file, transform, fixed, moving)
    return itk.write_itk_transform(file, transform, fixed, moving, affine_only=affine_only)


def _read_own(file: Path, given: _Grids) -> TransformFile:
    with hdf5.open_file(file) as opened, _damage(file):
        metadata = hdf5.read_json(opened)
        stored = {name: metadata.pop(key, None) for name, key in _FULL.items()}
        read = _with_stored_grids(Transform(**hdf5.read(opened)), metadata, file)
        fixed, moving = (
            own if stored[name] is None else ImageGrid.from_dict(stored[name])
            for name, own in (("fixed", read.fixed), ("moving", read.moving))
        )
        several = {
            position: _at_full_resolution(
                _with_stored_grids(Transform(**hdf5.read(group)), hdf5.read_json(group), file),
                fixed,
                moving,
            )
            for position, group in hdf5.read_planes(opened)
        }
    one = _at_full_resolution(read, fixed, moving)
    now_fixed, now_moving = given["fixed"] or fixed, given["moving"] or moving
    planes = {
        position: replace(
            plane,
            fixed=_moved(plane.fixed, fixed, now_fixed),
            moving=_moved(plane.moving, moving, now_moving),
        )
        for position, plane in several.items()
    }
    check_grids(one.transform, now_fixed, now_moving)
    return replace(one, fixed=now_fixed, moving=now_moving, planes=planes)


def _at_full_resolution(one: TransformFile, fixed: ImageGrid, moving: ImageGrid) -> TransformFile:
    """Convert a transform on coarser levels of the images, as files before version 3 hold it."""
    first, second = _level_of(one.fixed, fixed), _level_of(one.moving, moving)
    if first is None or second is None:
        return one
    transform = from_levels(one.transform, first, second, fixed.shape, moving.shape)
    return replace(one, transform=transform, fixed=fixed, moving=moving)


def _level_of(own: ImageGrid, image: ImageGrid) -> Grid | None:
    """The level of an image on which a grid lies, if any."""
    matrix = np.linalg.solve(image.matrix, own.matrix)
    step = (round(matrix[0, 0], 9), round(matrix[1, 1], 9))
    level = Grid(own.shape, step)
    if min(step) < 1 or not np.allclose(level.matrix, matrix, atol=1e-6):
        return None
    return level if Grid.covering(image.shape, step) == level else None


def _moved(own: ImageGrid, before: ImageGrid, now: ImageGrid) -> ImageGrid:
    """Adapt a grid over an image to a change of the image's grid."""
    if own == before:
        return now
    if before == now or before.shape != now.shape:
        return own
    return ImageGrid.from_matrix(
        own.shape, now.matrix @ inverted(before.matrix) @ own.matrix, now.unit
    )


def _with_stored_grids(
    transform: Transform, metadata: dict[str, Any], file: Path
) -> TransformFile:
    """Combine a transform with the grids of its metadata."""
    grids = {}
    for name, shape in (("fixed", transform.fixed_shape), ("moving", transform.moving_shape)):
        grid = _stored_grid(metadata, name, file)
        if grid is None:  # the command line stores the metadata of the image files
            grid = ImageGrid.from_metadata(shape, metadata.get(f"{name}_image"))
        grids[name] = grid
    check_grids(transform, grids["fixed"], grids["moving"])
    known = {key: value for key, value in metadata.items() if key not in _GRIDS.values()}
    return TransformFile(transform, grids["fixed"], grids["moving"], known)


def _stored_grid(metadata: Mapping[str, Any], name: str, file: Path) -> ImageGrid | None:
    stored = metadata.get(_GRIDS[name])
    if stored is None:
        return None
    try:
        return ImageGrid.from_dict(stored)
    except ValueError as error:
        raise ValueError(f"path: {str(file)!r} is damaged: metadata: {error}") from None


def _grids_in_metadata(one: TransformFile) -> dict[str, Any]:
    check_grids(one.transform, one.fixed, one.moving)
    return {
        **one.metadata,
        _GRIDS["fixed"]: one.fixed.as_dict(),
        _GRIDS["moving"]: one.moving.as_dict(),
    }


def _affine(transform: Transform, affine_only: bool) -> Transform:
    """Return the transform, or only its affine part."""
    if not affine_only:
        return transform
    return replace(transform, displacement=None)


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
