"""Transforms of ITK, for SimpleITK, ANTs, elastix (since 5.1) and 3D Slicer.

An ITK transform maps points of the fixed image to points of the moving image, as ours does, but
in physical coordinates ``(x, y)``: columns first. Lengths are in millimetres, ITK's unit for the
pixel size of image files; other units, such as pixels, stay unchanged.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.runtime.atomic_write import replacing
from napari_busref.runtime.file_safety import Refused, check_size, read_text
from napari_busref.runtime.version import package_version
from napari_busref.transforms.formats.elastix import is_elastix, linear_matrix, read_elastix
from napari_busref.transforms.formats.grid import ImageGrid
from napari_busref.transforms.formats.physical import (
    affine_from_physical,
    affine_to_physical,
    check_dense,
    check_grids,
    displacement_grid,
    from_positions,
    positions,
    swapped,
)
from napari_busref.transforms.hdf5 import check_references, check_strings, check_values
from napari_busref.transforms.transform import Transform

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["FIELDS", "TRANSFORMS", "read_itk", "write_itk_field", "write_itk_transform"]

#: Extensions of ITK transform files.
TRANSFORMS = (".tfm", ".txt", ".mat", ".h5", ".hdf5")
#: Extensions of displacement fields, images of vectors.
FIELDS = (".nrrd", ".nii", ".nii.gz", ".mha")

_HEADER = "#Insight Transform File V1.0"
_NAME = re.compile(r"^(\w+?)_(?:double|float)_(\d+)_(\d+)$")
_HINT = "pip install 'napari-busref[itk]'"


def write_itk_transform(
    path: Path,
    transform: Transform,
    fixed: ImageGrid,
    moving: ImageGrid,
    *,
    affine_only: bool = False,
) -> Path:
    """Write an ITK transform file.

    Parameters
    ----------
    path : Path
        Ends in ``.tfm`` or ``.txt`` (text), ``.h5`` or ``.hdf5``; for an affine also in
        ``.mat``.
    transform : Transform
    fixed, moving : ImageGrid
        Grids of its images.
    affine_only : bool
        Omit the displacement.

    Returns
    -------
    Path
        The file, with an ``AffineTransform``, or a ``CompositeTransform`` that applies the
        displacement before the affine, as ours. An affine as text needs no SimpleITK.
    """
    check_grids(transform, fixed, moving)
    fixed, moving = _in_mm(fixed), _in_mm(moving)
    matrix = swapped(affine_to_physical(transform, fixed, moving))
    plain = affine_only or transform.displacement is None
    suffix = path.suffix.lower()
    if plain and suffix in (".tfm", ".txt"):
        with replacing(path) as temporary:
            temporary.write_text(_text(matrix, fixed, moving), encoding="utf-8")
        return path
    if not plain and suffix not in (".tfm", ".txt", ".h5", ".hdf5"):
        raise ValueError(
            f"path: {path.name} holds no displacement field, need .tfm, .txt, .h5 or .hdf5 (or "
            "affine_only=True)"
        )
    sitk = _simpleitk(path)
    affine = sitk.AffineTransform(2)
    affine.SetMatrix(matrix[:2, :2].ravel().tolist())
    affine.SetTranslation(matrix[:2, 2].tolist())
    whole: Any = affine
    if not plain:
        assert transform.displacement is not None
        linear = fixed.matrix[:2, :2]
        field = np.tensordot(linear, transform.displacement.astype(np.float64), 1)
        # ITK interpolates it as we do, and half of its spacing beyond its outermost values
        image = _image(sitk, field, displacement_grid(transform, fixed))
        displacement = sitk.DisplacementFieldTransform(image)
        whole = sitk.CompositeTransform(2)  # it applies the last one first
        whole.AddTransform(affine)
        whole.AddTransform(displacement)
    with replacing(path) as temporary:
        _quietly(path, sitk.WriteTransform, whole, str(temporary))
    return path


def write_itk_field(path: Path, transform: Transform, fixed: ImageGrid, moving: ImageGrid) -> Path:
    """Write the whole map as the displacement field of an ITK ``DisplacementFieldTransform``.

    Parameters
    ----------
    path : Path
        Ends in one of `FIELDS`.
    transform : Transform
    fixed, moving : ImageGrid
        Grids of its images. The fixed one is the grid of the field.

    Returns
    -------
    Path
        The file: an image of vectors ``(x, y)``, float64. They point from the physical position
        of each fixed pixel to its source in the moving image, including the affine part.
    """
    check_grids(transform, fixed, moving)
    check_dense(transform, path)
    fixed, moving = _in_mm(fixed), _in_mm(moving)
    sitk = _simpleitk(path)
    pixels = np.mgrid[: fixed.shape[0], : fixed.shape[1]].astype(np.float64)
    source = np.moveaxis(transform.points(np.moveaxis(pixels, 0, -1)), -1, 0)
    linear, offset = moving.matrix[:2, :2], moving.matrix[:2, 2].reshape(2, 1, 1)
    field = np.tensordot(linear, source, 1) + offset - positions(fixed)
    image = _image(sitk, field, fixed)
    with replacing(path) as temporary:
        _quietly(path, sitk.WriteImage, image, str(temporary), True)
    return path


def read_itk(path: Path, fixed: ImageGrid, moving: ImageGrid) -> Transform:
    """Read a two-dimensional transform or displacement field of ITK, or a file of elastix.

    Parameters
    ----------
    path : Path
        Ends in one of `TRANSFORMS` or `FIELDS`. A parameter file of elastix is text.
    fixed, moving : ImageGrid
        Grids of the two images, which ITK files do not hold.

    Returns
    -------
    Transform
        An affine for translations, rigid, similarity and affine transforms and compositions of
        these; other transforms are sampled at every fixed pixel.

    Raises
    ------
    ValueError
        When the file is damaged, not an ITK transform, or three-dimensional.
    ModuleNotFoundError
        When SimpleITK is needed and not installed.
    """
    fixed, moving = _in_mm(fixed), _in_mm(moving)
    name = path.name.lower()
    matrix = None
    if name.endswith((".tfm", ".txt")):
        text = _text_of(path)
        if is_elastix(text):
            return read_elastix(path, text, fixed, moving)
        matrix = _parse(path, text)
    if matrix is None:
        loaded = _load(path, field=name.endswith(FIELDS))
        if loaded.GetDimension() != 2:
            raise _three_dimensional(path)
        if not loaded.IsLinear():
            return from_positions(_sample(path, loaded, fixed), fixed, moving)
        matrix = _matrix_of(loaded)
    return Transform(
        affine_from_physical(swapped(matrix), fixed, moving),
        fixed_shape=fixed.shape,
        moving_shape=moving.shape,
    )


# -- text, without SimpleITK -------------------------------------------------------------------


def _text(matrix: NDArray[np.float64], fixed: ImageGrid, moving: ImageGrid) -> str:
    parameters = [*matrix[:2, :2].ravel(), *matrix[:2, 2]]
    return "\n".join(
        [
            _HEADER,
            f"# napari-busref {package_version()}: (x, y) of the fixed image in {fixed.unit} to "
            f"(x, y) of the moving image in {moving.unit}",
            "#Transform 0",
            "Transform: AffineTransform_double_2_2",
            "Parameters: " + " ".join(repr(float(value)) for value in parameters),
            "FixedParameters: 0 0",
            "",
        ]
    )


def _text_of(path: Path) -> str:
    try:
        return read_text(path)
    except UnicodeDecodeError:
        raise ValueError(f"path: {path} is no ITK transform: it is not text") from None


def _parse(path: Path, text: str) -> NDArray[np.float64] | None:
    """Read the matrix on ``(x, y, 1)`` of a text file; None where only SimpleITK can."""
    if not text.lstrip().startswith("#Insight Transform File"):
        raise ValueError(f"path: {path} is no ITK transform: it does not start with {_HEADER!r}")
    found: list[dict[str, str]] = []
    for line in text.split("\n"):
        key, colon, value = line.partition(":")
        if line.startswith("#") or not colon:
            continue
        if key.strip() == "Transform":
            found.append({"Transform": value.strip()})
        elif found:
            found[-1][key.strip()] = value
    if not found:
        raise ValueError(f"path: {path} is damaged: it names no transform")
    if any(one["Transform"].endswith(("_3_3", "_4_4")) for one in found):
        raise _three_dimensional(path)
    if len(found) > 1:
        return None
    (transform,) = found
    match = _NAME.match(transform["Transform"])
    if match is None:
        return None
    try:
        parameters, center = (
            np.array(transform.get(key, "").split(), float)
            for key in ("Parameters", "FixedParameters")
        )
        return linear_matrix(match[1], parameters, center if center.size else np.zeros(2))
    except ValueError as error:
        raise ValueError(f"path: {path} is damaged: {match[1]}: {error}") from None


# -- with SimpleITK ----------------------------------------------------------------------------


def _simpleitk(path: Path) -> Any:
    try:
        import SimpleITK
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"path: {path.name} needs SimpleITK: {_HINT}", name="SimpleITK"
        ) from None
    return SimpleITK


def _image(sitk: Any, field: NDArray[np.float64], fixed: ImageGrid) -> SimpleITK.Image:
    """Convert a field (2, H, W) of (row, col) vectors to an ITK image of (x, y) vectors."""
    if not fixed.is_rectangular:
        raise ValueError(
            "fixed: got a sheared grid, need rows and columns at right angles; an ITK image "
            "cannot be sheared"
        )
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.moveaxis(field[::-1], 0, -1)), True)
    image.SetSpacing(fixed.spacing[::-1])
    image.SetOrigin(fixed.origin[::-1])
    image.SetDirection(_direction(fixed))
    return image


def _direction(grid: ImageGrid) -> tuple[float, ...]:
    (a, b), (c, d) = grid.direction
    return d, c, b, a  # both axes swapped, row by row


def _load(path: Path, *, field: bool) -> Any:
    (_check_field_header if field else _check_transform_file)(path)
    sitk = _simpleitk(path)
    if not field:
        return _quietly(path, sitk.ReadTransform, str(path))
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    # by its name alone: another reader would accept the content, unchecked
    reader.SetImageIO(_READERS[path.name.lower().rpartition(".")[2]])
    _quietly(path, reader.ReadImageInformation)
    if reader.GetDimension() != 2:
        raise _three_dimensional(path)
    columns, rows = reader.GetSize()
    check_size(16 * columns * rows, path, "a field")
    if reader.GetNumberOfComponents() != 2:
        raise ValueError(
            f"path: {path} is an image with {reader.GetNumberOfComponents()} values at a pixel, "
            "need a displacement field with two"
        )
    reader.SetOutputPixelType(sitk.sitkVectorFloat64)
    return sitk.DisplacementFieldTransform(_quietly(path, reader.Execute))


_READERS = {
    "nrrd": "NrrdImageIO",
    "mha": "MetaImageIO",
    "nii": "NiftiImageIO",
    "gz": "NiftiImageIO",
}
_MAX_HEADER = 1 << 20  # bytes
_MAX_CONTROL_POINTS = 1 << 24  # of a B-spline, along both sides together
_NRRD_FILE = re.compile(rb"data ?file\s*:", re.IGNORECASE)
_MHA_FILE = re.compile(rb"^ElementDataFile\s*=\s*LOCAL\s*$", re.MULTILINE)
_NIFTI_ALONE = (b"n+1\0", b"n+2\0")


def _check_field_header(path: Path) -> None:
    """Refuse an image whose values are, or may be, in another file."""
    name = path.name.lower()
    with gzip.open(path) if name.endswith(".gz") else path.open("rb") as stream:
        try:
            header = stream.read(_MAX_HEADER)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"path: {path} is damaged: {error}") from None
    if name.endswith(".nrrd"):
        parts = re.split(rb"\r?\n\r?\n", header, maxsplit=1)  # the first empty line ends it
        alone = len(parts) == 2 and not _NRRD_FILE.search(parts[0])
    elif name.endswith(".mha"):
        found = _MHA_FILE.search(header)
        alone = found is not None and found.start() == header.find(b"ElementDataFile")
    else:  # the other kinds keep their values in a file .img
        at = 4 if header[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else 344  # 540 bytes: NIfTI-2
        alone = header[at : at + 4] in _NIFTI_ALONE
    if not alone:
        raise Refused(f"path: {path} keeps its values in another file, which is not opened")


def _check_transform_file(path: Path) -> None:
    """Refuse links to other files, and sizes that would take too much memory."""
    suffix = path.suffix.lower()
    if suffix in (".h5", ".hdf5"):
        _check_hdf5(path)
    elif suffix == ".mat":
        _check_matlab(path)
    else:
        for line in _text_of(path).split("\n"):  # ITK knows no other end of a line
            key, _, value = line.partition(":")
            if key.strip() == "FixedParameters" and len(numbers := value.split()) >= 10:
                _check_grid_of_splines(path, numbers[:2])


def _check_matlab(path: Path) -> None:
    """Compare the sizes of the matrices of a MATLAB 4 file with that of the file."""
    content, at = path.read_bytes(), 0
    while at < len(content):
        try:
            kind, rows, columns, imaginary, length = struct.unpack_from("<5i", content, at)
        except struct.error:
            raise ValueError(f"path: {path} is damaged: it ends early") from None
        itemsize = 4 if kind // 10 % 10 == 1 else 8
        size = rows * columns * itemsize * (2 if imaginary else 1)
        if min(rows, columns, length) < 0 or at + 20 + length + size > len(content):
            raise ValueError(f"path: {path} is damaged: a matrix of {rows} x {columns}")
        name = content[at + 20 : at + 20 + length].rstrip(b"\0")
        if name == b"fixed" and rows * columns >= 10:
            values = np.frombuffer(content, f"<f{itemsize}", 2, at + 20 + length)
            _check_grid_of_splines(path, values.tolist())
        at += 20 + length + size


def _check_grid_of_splines(path: Path, sizes: Sequence[str | float]) -> None:
    # ITK allocates the grid before it reads the parameters, and may abort the process
    try:
        columns, rows = (float(size) for size in sizes)
    except ValueError:
        raise ValueError(f"path: {path} is damaged: FixedParameters {sizes}") from None
    if not (0 <= columns <= _MAX_CONTROL_POINTS and 0 <= rows <= _MAX_CONTROL_POINTS):
        raise ValueError(f"path: {path} is damaged: it declares a grid of {columns} x {rows}")
    check_size(int(16 * columns * rows), path, "a grid")


def _check_hdf5(path: Path) -> None:
    import h5py

    if not h5py.is_hdf5(path):
        raise ValueError(f"path: {path} is no HDF5 file")
    check_strings(path)
    try:
        with h5py.File(path, "r") as file:
            _check_group(file, path)
    except Refused:
        raise
    except Exception as error:  # h5py raises anything from KeyError to MemoryError
        raise ValueError(f"path: {path} is damaged: {error}") from None


def _check_group(group: Any, path: Path, depth: int = 0) -> None:
    """Check links and arrays; refuse soft links, too, which ITK does not write."""
    import h5py

    if depth > 8:
        raise Refused(f"path: {path} is nested too deeply")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise Refused(f"path: {path} holds a link, {name!r}, which is not followed")
        item = group[name]
        if isinstance(item, h5py.Group):
            _check_group(item, path, depth + 1)
        elif isinstance(item, h5py.Dataset):
            check_values(item, name, path)
            if item.dtype.kind == "O":
                check_references(item, name, path)
            if name.endswith("FixedParameters") and item.size and item.size >= 10:
                _check_grid_of_splines(path, item[:2].tolist())


def _matrix_of(transform: Any) -> NDArray[np.float64]:
    """Compute the matrix of a linear transform from three mapped points."""
    origin, along_x, along_y = (
        np.array(transform.TransformPoint(point)) for point in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
    )
    matrix = np.eye(3)
    matrix[:2] = np.stack([along_x - origin, along_y - origin, origin], 1)
    return matrix


def _sample(path: Path, transform: Any, fixed: ImageGrid) -> NDArray[np.float64]:
    """Compute the mapped positions of all fixed pixels, (2, H, W) in (row, col)."""
    sitk = _simpleitk(path)
    if not fixed.is_rectangular:
        raise ValueError("fixed: got a sheared grid, need rows and columns at right angles")
    field = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        fixed.shape[::-1],
        fixed.origin[::-1],
        fixed.spacing[::-1],
        _direction(fixed),
    )
    moved: NDArray[np.float64] = np.moveaxis(sitk.GetArrayFromImage(field), -1, 0)[::-1]
    return moved + positions(fixed)


def _quietly(path: Path, function: Any, *arguments: Any) -> Any:
    """Call SimpleITK for a file, and turn its long RuntimeErrors into one line."""
    try:
        return function(*arguments)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"path: SimpleITK cannot read or write {path}: {lines[-1]}") from None


# -- both --------------------------------------------------------------------------------------


def _in_mm(grid: ImageGrid) -> ImageGrid:
    return grid.to("millimeter") if grid.has_length else grid


def _three_dimensional(path: Path) -> ValueError:
    return ValueError(
        f"path: {path} is a three-dimensional transform, need a two-dimensional one; a slice of "
        "it is in general not a map between two planes"
    )
