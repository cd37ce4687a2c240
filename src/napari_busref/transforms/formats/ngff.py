"""OME-NGFF (OME-Zarr) 0.6: the coordinate transformations of RFC-5, in a scene.

It follows the released specification 0.6 (https://ngff.openmicroscopy.org/0.6). The "scene"
metadata joins two coordinate systems by a ``sequence`` of ``displacements`` and ``affine``. The
displacements are a multiscale image whose first axis has the type ``displacement``.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_busref.runtime.atomic_write import replacing
from napari_busref.runtime.file_safety import (
    Refused,
    check_inside,
    check_size,
    read_text,
)
from napari_busref.runtime.version import package_version
from napari_busref.transforms.formats.grid import METRES, ImageGrid
from napari_busref.transforms.formats.physical import (
    affine_from_physical,
    affine_to_physical,
    apply_to,
    check_grids,
    from_positions,
    in_unit,
    inverted,
    positions,
)
from napari_busref.transforms.transform import Transform

__all__ = ["SUFFIX", "VERSION", "is_scene", "own_metadata", "read_ngff", "write_ngff"]

VERSION = "0.6"
SUFFIX = ".ome.zarr"

_OWN = "napari-busref"
_FIELD = "coordinateTransformations/displacement"
_CHUNK = 512
_HINT = "pip install 'napari-busref[large]'"


def write_ngff(
    path: Path,
    transform: Transform,
    fixed: ImageGrid,
    moving: ImageGrid,
    *,
    affine_only: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a scene, which joins the coordinate systems ``fixed`` and ``moving``.

    Parameters
    ----------
    path : Path
        Ends in ``.ome.zarr``.
    transform : Transform
    fixed, moving : ImageGrid
        Grids of its images. Each coordinate system has axes ``y`` and ``x`` in the grid's unit.
    affine_only : bool
        Omit the displacement.
    metadata : mapping, optional
        Stored under ``attributes["napari-busref"]``, outside the specified metadata.

    Returns
    -------
    Path
        The folder. Its ``zarr.json`` holds the affine. A displacement is an array beside it,
        which needs zarr.

    Raises
    ------
    FileExistsError
        When the folder exists and this program did not write it.
    ModuleNotFoundError
        When zarr is needed and not installed.
    """
    check_grids(transform, fixed, moving)
    _check_ours(path)
    field, before = None, None
    if not affine_only:
        field = transform.displacement
    if field is not None:
        before = None if fixed.is_upright else inverted(_frame(fixed))
    scene = _scene(transform, fixed, moving, before, has_field=field is not None)
    own = {"version": package_version(), **(metadata or {})}
    with replacing(path) as temporary:
        _write_group(temporary, {"ome": {"version": VERSION, "scene": scene}, _OWN: own})
        if field is not None:
            _write_field(temporary, field, transform.spacing, fixed, path)
        if path.is_dir():
            shutil.rmtree(path)
    return path


def is_scene(path: Path) -> bool:
    """Whether a folder holds transformations between coordinate systems, rather than an image."""
    try:
        return "coordinateTransformations" in _attributes(path)["ome"]["scene"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def own_metadata(path: Path) -> dict[str, Any]:
    """Read the `metadata` of `write_ngff`; empty for the folder of another program.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no such folder, or it does not hold a scene.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"path: there is no folder {str(path)!r}")
    if not is_scene(path):
        raise ValueError(
            f"path: {path} holds no scene of OME-NGFF {VERSION} with coordinate transformations"
        )
    own = _attributes(path).get(_OWN, {})
    return {key: value for key, value in own.items() if key != "version"}


def read_ngff(path: Path, fixed: ImageGrid, moving: ImageGrid) -> Transform:
    """Read the transformation between two coordinate systems of a scene.

    Parameters
    ----------
    path : Path
        A folder that `write_ngff` or another program wrote. Among several transformations it
        takes the one from ``fixed`` to ``moving``.
    fixed, moving : ImageGrid
        Grids of the two images. Units that the axes name are converted.

    Returns
    -------
    Transform
        An affine for ``identity``, ``scale``, ``translation``, ``rotation``, ``affine`` and
        sequences of them; with ``displacements`` the map is sampled at every fixed pixel.

    Raises
    ------
    ValueError
        When the scene is damaged, not two-dimensional, or has another type of transformation.
    ModuleNotFoundError
        When there is a displacement field and zarr is not installed.
    """
    scene = _attributes(path)["ome"]["scene"]
    with _damage(path):
        step = _between(scene["coordinateTransformations"])
        for system in scene["coordinateSystems"]:
            units = _units(system["axes"])
            if units and system["name"] == step["input"]["name"]:
                fixed = in_unit(fixed, units, path)
            if units and system["name"] == step["output"]["name"]:
                moving = in_unit(moving, units, path)
        steps = list(_steps(step))
        matrix = np.eye(3)
        for one in steps:
            if one["type"] != "displacements":
                matrix = _matrix(one, ("y", "x")) @ matrix
        affine = affine_from_physical(matrix, fixed, moving)
        if all(one["type"] != "displacements" for one in steps):
            return Transform(affine, fixed_shape=fixed.shape, moving_shape=moving.shape)
        mapped = positions(fixed)
        for one in steps:
            if one["type"] == "displacements":
                mapped = mapped + _displaced(path, one, mapped)
            else:
                mapped = apply_to(_matrix(one, ("y", "x")), mapped)
        return from_positions(mapped, fixed, moving, affine)


def _scene(
    transform: Transform,
    fixed: ImageGrid,
    moving: ImageGrid,
    before: NDArray[np.float64] | None,
    *,
    has_field: bool,
) -> dict[str, Any]:
    affine = affine_to_physical(transform, fixed, moving)
    steps: list[dict[str, Any]] = []
    if has_field:
        if before is not None:
            # a field's grid may be scaled and translated, but not rotated: the field is in a
            # frame along the pixels, and the affine starts there
            steps.append(_affine(before))
            affine = affine @ inverted(before)
        steps.append({"type": "displacements", "path": _FIELD, "interpolation": "linear"})
    steps.append(_affine(affine))
    ends = {
        "name": "fixed to moving",
        "input": {"name": "fixed"},
        "output": {"name": "moving"},
    }
    step = steps[0] if len(steps) == 1 else {"type": "sequence", "transformations": steps}
    return {
        "coordinateSystems": [
            {"name": name, "axes": _space(grid)}
            for name, grid in (("fixed", fixed), ("moving", moving))
        ],
        "coordinateTransformations": [ends | step],
    }


def _write_field(
    folder: Path,
    field: NDArray[np.float32],
    step: tuple[float, float],
    fixed: ImageGrid,
    path: Path,
) -> None:
    """Write a field whose values are `step` pixels of the fixed image apart."""
    zarr = _zarr(path)
    pixel, origin = np.array(fixed.spacing), fixed.origin if fixed.is_upright else (0.0, 0.0)
    spacing, origin = pixel * step, origin + (np.array(step) - 1) / 2 * pixel
    linear = np.diag(fixed.spacing)  # from pixels to the frame of the field
    vectors = np.tensordot(linear, field.astype(np.float64), 1)
    level = {
        "type": "sequence",
        "input": {"path": "0"},
        "output": {"name": "field"},
        "transformations": [
            {"type": "scale", "scale": [1.0, *spacing.tolist()]},
            {"type": "translation", "translation": [0.0, *origin.tolist()]},
        ],
    }
    axes = [{"name": "c", "type": "displacement", "discrete": True}, *_space(fixed)]
    multiscale = {
        "name": "displacement",
        "coordinateSystems": [{"name": "field", "axes": axes}],
        "datasets": [{"path": "0", "coordinateTransformations": [level]}],
    }
    group = folder / _FIELD
    _write_group(group.parent, {})
    _write_group(group, {"ome": {"version": VERSION, "multiscales": [multiscale]}})
    height, width = field.shape[1:]
    zarr.create_array(
        store=str(group / "0"),
        data=vectors,
        chunks=(2, min(height, _CHUNK), min(width, _CHUNK)),
        dimension_names=["c", "y", "x"],
        zarr_format=3,
    )


def _write_group(folder: Path, attributes: dict[str, Any]) -> None:
    folder.mkdir()
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    text = json.dumps(group, indent=2, allow_nan=False, ensure_ascii=False)
    (folder / "zarr.json").write_text(text + "\n", encoding="utf-8")


def _affine(matrix: NDArray[np.float64]) -> dict[str, Any]:
    return {"type": "affine", "affine": matrix[:2].tolist()}


def _space(grid: ImageGrid) -> list[dict[str, Any]]:
    unit = {"unit": grid.unit} if grid.unit in METRES else {}  # NGFF has no unit for pixels
    return [{"name": name, "type": "space", **unit} for name in ("y", "x")]


def _frame(grid: ImageGrid) -> NDArray[np.float64]:
    """Matrix from the frame of a rotated grid, pixels times their size, to physical space."""
    matrix = np.eye(3)
    matrix[:2, :2] = grid.direction
    matrix[:2, 2] = grid.origin
    return matrix


def _attributes(folder: Path) -> dict[str, Any]:
    file = folder / "zarr.json"
    if file.is_symlink():
        raise Refused(f"path: {file} is a symbolic link, which is not followed")
    try:
        group = json.loads(read_text(file))
    except RecursionError:
        raise ValueError(f"path: {file} is nested too deeply") from None
    attributes: dict[str, Any] = group["attributes"]
    return attributes


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Report missing or invalid values as a damaged folder."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, OSError) as error:
        raise ValueError(
            f"path: {path} is damaged ({type(error).__name__}: {error}), need a scene of OME-NGFF "
            f"{VERSION}"
        ) from error
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith("path") else f"path: {path}: {text}") from None


def _between(offered: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Choose the transformation from the fixed to the moving image."""
    ways = {(one["input"]["name"], one["output"]["name"]): one for one in offered}
    if len(ways) == 1:
        return next(iter(ways.values()))
    if ("fixed", "moving") in ways:
        return ways["fixed", "moving"]
    names = ", ".join(f"{start} to {end}" for start, end in ways)
    raise ValueError(f"has transformations {names}, need one from fixed to moving")


def _units(axes: Sequence[Mapping[str, Any]]) -> str:
    """Return the unit of two axes y and x; empty if they name none."""
    names = [axis["name"] for axis in axes]
    if names != ["y", "x"]:
        raise ValueError(f"has axes {', '.join(names)}, need y, x")
    units = {axis.get("unit", "") for axis in axes}
    if len(units) > 1:
        raise ValueError(f"has axes in {' and '.join(sorted(units))}, need one unit")
    return str(units.pop())


def _steps(step: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Iterate over the steps of a nested sequence, in the order of application."""
    if step["type"] == "sequence":
        for one in step["transformations"]:
            yield from _steps(one)
    else:
        yield step


def _matrix(step: Mapping[str, Any], axes: Sequence[str]) -> NDArray[np.float64]:
    """Compute the homogeneous matrix of a linear step between spaces of these axes."""
    kind, ndim = step["type"], len(axes)
    matrix = np.eye(ndim + 1)
    if kind == "sequence":
        for one in step["transformations"]:
            matrix = _matrix(one, axes) @ matrix
    elif kind == "identity":
        pass
    elif kind in ("scale", "translation", "rotation", "affine"):
        if kind not in step:
            raise ValueError(f"keeps its {kind} in an array, need it in zarr.json")
        given = np.asarray(step[kind], float)
        shapes = {"affine": (ndim, ndim + 1), "rotation": (ndim, ndim)}
        if given.shape != shapes.get(kind, (ndim,)) or not np.isfinite(given).all():
            raise ValueError(f"has a {kind} of shape {given.shape}, which is not for {ndim} axes")
        if kind == "affine":
            matrix[:ndim] = given
        elif kind == "translation":
            matrix[:ndim, ndim] = given
        else:
            matrix[:ndim, :ndim] = np.diag(given) if kind == "scale" else given
    else:
        raise ValueError(
            f"has a transformation of type {kind!r}; read are identity, scale, translation, "
            "rotation, affine, displacements and sequences of them"
        )
    return matrix


def _displaced(
    path: Path, step: Mapping[str, Any], where: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate a displacement field at positions, (2, H, W)."""
    if step.get("interpolation", "linear") != "linear":
        raise ValueError(f"interpolates {step['interpolation']!r}, need linear")
    group = check_inside(path, step["path"], path)
    multiscale = _attributes(group)["ome"]["multiscales"][0]
    names = [axis["name"] for axis in multiscale["coordinateSystems"][0]["axes"]]
    if len(names) != 3 or names[1:] != ["y", "x"]:
        raise ValueError(f"has displacements along axes {', '.join(names)}, need c, y, x")
    dataset = multiscale["datasets"][0]
    matrix = _matrix(dataset["coordinateTransformations"][0], names)
    if np.any(matrix[0, 1:]) or np.any(matrix[1:, 0]):
        raise ValueError("has displacements whose grid mixes components and places")
    folder = check_inside(group, dataset["path"], path)
    _zarr(path)
    from napari_busref.images.zarr_store import open_folder

    try:
        stored, store = open_folder(folder, path)
        if len(stored.shape) != 3 or stored.shape[0] != 2:
            raise ValueError(f"has displacements of shape {stored.shape}, need (2, rows, cols)")
        check_size(8 * math.prod(int(n) for n in stored.shape), path)
        store.admit(stored)
        field = np.asarray(stored, float)
    except (Refused, ModuleNotFoundError):
        raise
    except Exception as error:  # zarr and its codecs raise anything
        raise ValueError(f"is damaged: {error}") from None
    pixels = apply_to(inverted(matrix[1:, 1:]), where)
    return np.stack(
        [ndimage.map_coordinates(part, pixels, order=1, mode="nearest") for part in field]
    )


def _zarr(path: Path) -> Any:
    try:
        import zarr
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"path: a displacement field in {path.name} needs zarr: {_HINT}", name="zarr"
        ) from None
    return zarr


def _check_ours(path: Path) -> None:
    """Refuse to replace a folder that may hold images."""
    if not path.exists():
        return
    if is_scene(path) and _OWN in _attributes(path):
        return
    raise FileExistsError(
        f"path: {path} exists and is no transform of napari-busref; choose another name"
    )
