"""OME-NGFF (OME-Zarr) 0.6: the coordinate transformations of RFC-5, in a scene of their own.

Written from the specification 0.6 as released (https://ngff.openmicroscopy.org/0.6): "scene"
metadata that joins two coordinate systems by a ``sequence`` of ``displacements`` and ``affine``,
and the displacements as a multiscale image whose first axis is of the type ``displacement``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_busref._version import package_version
from napari_busref.interchange._write import replacing
from napari_busref.interchange.grid import METRES, ImageGrid
from napari_busref.interchange.physical import affine_to_physical, check_grids, inverted
from napari_busref.transform import Transform

__all__ = ["SUFFIX", "VERSION", "write_ngff"]

VERSION = "0.6"
SUFFIX = ".ome.zarr"

_OWN = "napari-busref"
_FIELD = "coordinateTransformations/displacement"
_CHUNK = 512
_HINT = "pip install 'napari-busref[ngff]'"


def write_ngff(
    path: Path,
    transform: Transform,
    fixed: ImageGrid,
    moving: ImageGrid,
    *,
    affine_only: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a folder with a scene: its coordinate systems ``fixed`` and ``moving``, joined.

    Parameters
    ----------
    path : Path
        Ends in ``.ome.zarr``.
    transform : Transform
    fixed, moving : ImageGrid
        Of its images. Each coordinate system has axes ``y`` and ``x`` in the grid's unit.
    affine_only : bool
        Leave the displacement out.
    metadata : mapping, optional
        Kept under ``attributes["napari-busref"]``, outside the specified metadata.

    Returns
    -------
    Path
        The folder. The affine is in its ``zarr.json``; a displacement is an array beside, for
        which zarr is needed.

    Raises
    ------
    ValueError
        When the folder exists and is not of this program.
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
            _write_field(temporary, field, fixed, path)
        if path.is_dir():
            shutil.rmtree(path)
    return path


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
            # the specification lets a field's grid be scaled and shifted, but not turned: so the
            # field is in a frame along the pixels, and the affine comes from there
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


def _write_field(folder: Path, field: NDArray[np.float32], fixed: ImageGrid, path: Path) -> None:
    try:
        import zarr
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"path: a displacement field in {path.name} needs zarr: {_HINT} (or affine_only=True)",
            name="zarr",
        ) from None
    origin = fixed.origin if fixed.is_upright else (0.0, 0.0)
    linear = np.diag(fixed.spacing)  # from pixels to the frame of the field
    vectors = np.tensordot(linear, field.astype(np.float64), 1)
    level = {
        "type": "sequence",
        "input": {"path": "0"},
        "output": {"name": "field"},
        "transformations": [
            {"type": "scale", "scale": [1.0, *fixed.spacing]},
            {"type": "translation", "translation": [0.0, *origin]},
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
    height, width = fixed.shape
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
    unit = {"unit": grid.unit} if grid.unit in METRES else {}  # pixels are no unit there
    return [{"name": name, "type": "space", **unit} for name in ("y", "x")]


def _frame(grid: ImageGrid) -> NDArray[np.float64]:
    """From the frame of a turned grid, pixels times their size, to physical space."""
    matrix = np.eye(3)
    matrix[:2, :2] = grid.direction
    matrix[:2, 2] = grid.origin
    return matrix


def _check_ours(path: Path) -> None:
    """Refuse to replace a folder that may hold somebody's images."""
    if not path.exists():
        return
    try:
        attributes = json.loads((path / "zarr.json").read_text("utf-8"))["attributes"]
        if _OWN in attributes and "scene" in attributes["ome"]:
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise FileExistsError(
        f"path: {path} exists and is no transform of napari-busref; choose another name"
    )
