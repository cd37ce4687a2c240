"""Save the result of a run to files, block by block. Needs neither Qt nor a viewer."""

from __future__ import annotations

import errno
import math
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_busref._napari.layers.image_grids import grid_of_plane
from napari_busref._napari.layers.ome_tiff import write_ome_pages
from napari_busref._napari.layers.pair import METADATA_KEY
from napari_busref._napari.layers.plane_image import PlaneImage
from napari_busref._napari.layers.plane_pairs import PlanePairs, Position
from napari_busref._napari.layers.result import LayersResult
from napari_busref._napari.layers.transform_layer import transform_file
from napari_busref._napari.register.result_layers import shared_metadata
from napari_busref._napari.register.run import RegisterRequest
from napari_busref.images.ome_zarr import UNITS
from napari_busref.images.pyramid import Window, write_blocks
from napari_busref.runtime.durations import Stage, stage
from napari_busref.runtime.progress import Plan, Progress, Reporter
from napari_busref.transforms.formats import files
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.transform import EXTENSION

__all__ = ["SaveRequest", "kinds_of", "save"]

_KINDS = {
    "OME-Zarr (*.ome.zarr)": (".ome.zarr", False),
    "TIFF with levels (*.tif)": (".tif", False),
    "Cloud-optimised GeoTIFF (*.tif)": (".tif", True),
}
_STACK_KINDS = {"OME-TIFF (*.ome.tif)": (".ome.tif", False)}

_SUFFIXES = (".ome.zarr", ".ome.tif", ".tif")
_ROLES = ("mask", "warped", "fused")  # in the order of their times


@dataclass(frozen=True, eq=False)
class SaveRequest:
    """What to save, and where.

    Parameters
    ----------
    result : LayersResult
    run : RegisterRequest
        Of the run that gave it. Its settings name the outputs.
    path : Path
        ``NAME.ome.zarr`` or ``NAME.tif`` for a plane, ``NAME.ome.tif`` for a stack. The files are
        ``NAME_warped``, ``NAME_mask`` and ``NAME_fused`` with this extension, and
        ``NAME.busref.h5``.
    cloud : bool
        Write a TIFF as a cloud-optimised GeoTIFF.
    overwrite : bool
        Replace existing files.
    geotags : mapping
        Of the file of the fixed layer.

    Raises
    ------
    ValueError
        When the extension does not fit, or a large picture cannot be fused by these settings.
    FileExistsError
        When a file exists.
    """

    result: LayersResult
    run: RegisterRequest
    path: Path
    cloud: bool = False
    overwrite: bool = False
    geotags: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self._suffix is None:
            accepted = ", ".join(sorted({kind for kind, _ in kinds_of(self.result).values()}))
            what = "a stack" if _is_stack(self.result.pairs) else "a plane"
            raise ValueError(f"path: got {self.path.name!r}, {what} is saved as {accepted}")
        if self.cloud and self._suffix != ".tif":
            raise ValueError(f"cloud: {self.path.name!r} is no .tif, which a GeoTIFF is")
        self._check_fusion()
        taken = [path.name for path in self.files.values() if path.exists()]
        if taken and not self.overwrite:
            raise FileExistsError(f"path: {self.path.parent} already holds {', '.join(taken)}")

    @property
    def files(self) -> dict[str, Path]:
        """The files by role, in the order in which they are written."""
        suffix = self._suffix or ""
        name = self.path.name[: len(self.path.name) - len(suffix)]
        found = {"transform": self.path.with_name(f"{name}{EXTENSION}")}
        for role in _ROLES:
            if role in self.run.settings.roles and getattr(self.result, role, True) is not None:
                found[role] = self.path.with_name(f"{name}_{role}{suffix}")
        return found

    @property
    def fuses(self) -> bool:
        """Whether the picture is fused once more, because that of the viewer is coarser."""
        return not (self.result.fused_grid.full or _is_stack(self.result.pairs))

    @property
    def _suffix(self) -> str | None:
        name = self.path.name.lower()
        suffix = next((one for one in _SUFFIXES if name.endswith(one)), None)
        return suffix if suffix in {kind for kind, _ in kinds_of(self.result).values()} else None

    def _check_fusion(self) -> None:
        options = self.run.fusion()
        plain = options["infrared"] == 0.5 and options.get("style", "natural") == "natural"
        if "fused" in self.files and self.fuses and not plain:
            raise ValueError(
                "a picture of this size is fused block by block, with Brightness in the middle "
                "and the style natural; set these, or untick the output 'fused', and fuse again"
            )


def kinds_of(result: LayersResult) -> Mapping[str, tuple[str, bool]]:
    """The kinds of files that hold a result, as a file dialog offers them.

    Returns
    -------
    mapping
        From the text of a kind to its extension, and whether it is a COG.
    """
    return _STACK_KINDS if _is_stack(result.pairs) else _KINDS


def _is_stack(pairs: PlanePairs) -> bool:
    """Whether results have several planes."""
    return math.prod(pairs.sizes[axis] for axis in pairs.hidden) > 1


def save(request: SaveRequest, *, progress: Progress, cancel: threading.Event) -> list[Path]:
    """Write the files of a result, one after the other.

    A plane is written in blocks with coarser levels. A picture above 4096 x 4096 pixels is fused
    at full resolution. A stack is written plane by plane, as the viewer shows it.

    Parameters
    ----------
    request : SaveRequest
    progress : Progress
    cancel : threading.Event
        Set it to stop. Files that are complete stay, and nothing of the others.

    Returns
    -------
    list of Path

    Raises
    ------
    Cancelled, ValueError, OSError, MemoryError, ModuleNotFoundError
        As `napari_busref.write_warped` and `napari_busref.write_fused`.
    """
    saver = _Saver(request, cancel)
    plan = Plan(Reporter(progress, cancel), _stages(request))
    for role, path in request.files.items():
        part = plan.begin(_stage_name(request, role))
        if role == "transform":
            saver.write_transform(path)
            continue
        with _nothing_unfinished(path):
            saver.write(role, path, part)
    plan.end("saved")
    return list(request.files.values())


def _stage_name(request: SaveRequest, role: str) -> str:
    return "fuse blocks" if role == "fused" and request.fuses else f"save {role}"


def _stages(request: SaveRequest) -> list[Stage]:
    """The stages, with the pixels of all planes."""
    pixels = float(math.prod(request.result.pairs.sizes))
    model = str(request.run.fusion()["model"])
    names = [_stage_name(request, role) for role in request.files]
    return [stage(name, pixels, kind=model if name.startswith("fuse") else "") for name in names]


@contextmanager
def _nothing_unfinished(path: Path) -> Iterator[None]:
    """Remove what a cancelled or failed call leaves beside a file."""
    try:
        yield
    except (FileExistsError, BlockingIOError):  # the unfinished file is another run's
        raise
    except BaseException as error:
        shutil.rmtree(path.with_name(f"{path.name}.part"), ignore_errors=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            text = "the disk is full; the unfinished file was removed"
            raise OSError(errno.ENOSPC, text, str(path)) from error
        raise


class _Saver:
    """Writes the files of a request."""

    def __init__(self, request: SaveRequest, cancel: threading.Event) -> None:
        self._request, self._cancel = request, cancel
        self._result = request.result
        self._fixed, self._moving = self._result.pairs.by_position[self._result.pairs.shown]

    def write_transform(self, path: Path) -> None:
        """Write the transforms, with quality, parameters and pixel sizes."""
        record = shared_metadata(self._result, self._fixed, self._moving)
        meta = {**self._result.pairs.spatial, "metadata": {METADATA_KEY: record}}
        content = transform_file(meta)
        files.write_transform(
            path,
            content.transform,
            fixed=content.fixed,
            moving=content.moving,
            metadata=content.metadata,
            planes=content.planes,
        )

    def write(self, role: str, path: Path, reporter: Reporter) -> None:
        """Write an image."""
        if _is_stack(self._result.pairs):
            self._write_stack(role, path, reporter)
        elif role == "fused" and self._request.fuses:
            self._fuse(path, reporter)
        else:
            self._write_plane(role, path, reporter)

    def _write_plane(self, role: str, path: Path, reporter: Reporter) -> None:
        image, tags = self._image(role), self._tags()
        if image.dtype.kind == "f":
            tags["nodata"] = np.nan
        write_blocks(
            path,
            (*image.shape_of_plane, *image.channels),
            image.dtype,
            lambda window: image.read(image.first, window),
            key={},
            metadata=tags,
            words="",
            nearest=role == "mask",
            cloud=self._request.cloud,
            overwrite=self._request.overwrite,
            reporter=reporter,
        )

    def _write_stack(self, role: str, path: Path, reporter: Reporter) -> None:
        image = self._image(role)
        rows, cols = image.shape_of_plane
        window = slice(0, rows), slice(0, cols)
        count = max(math.prod(image.sizes), 1)

        def pages() -> Iterator[NDArray[Any]]:
            for number, position in enumerate(np.ndindex(*image.sizes)):
                reporter.step("", number / count)
                yield image.read(position, window)

        meta = {**image.spatial, "rgb": bool(image.channels), "name": path.stem}
        shape = (*image.sizes, rows, cols, *image.channels)
        write_ome_pages(str(path), pages(), shape, image.dtype, meta)

    def _fuse(self, path: Path, reporter: Reporter) -> None:
        from napari_busref.fusion.streaming import write_fused

        options = self._request.run.fusion()
        chosen = {name: options[name] for name in ("model", "task", "detail")}
        write_fused(
            path,
            PlaneImage(self._fixed),
            PlaneImage(self._moving),
            transform=self._result.transform,
            mask=_WholeMask(self._image("mask")),
            device=self._request.run.settings.device,
            metadata=self._tags(),
            cloud=self._request.cloud,
            overwrite=self._request.overwrite,
            progress=reporter,
            cancel=self._cancel,
            **chosen,
        )

    def _image(self, role: str) -> _Image:
        result = self._result
        if role == "mask":
            return _Mask(result)
        if role == "fused":
            return _Image(result.fused, result.fused_pairs, result.fused_grid)
        return _Image(result.warped, result.pairs, Grid(self._fixed.shape))

    def _tags(self) -> dict[str, Any]:
        """Pixel size and map position of the fixed layer."""
        tags: dict[str, Any] = {}
        grid = grid_of_plane(self._fixed)
        if grid.has_length:
            known = grid if grid.unit in UNITS else grid.to("meter")
            tags = {"spacing": known.spacing, "unit": UNITS[known.unit]}
        return tags | ({"geotiff": dict(self._request.geotags)} if self._request.geotags else {})


class _Image:
    """The planes of a result, which are read window by window."""

    def __init__(self, data: Any, pairs: PlanePairs, grid: Grid) -> None:
        self._data = data[0] if isinstance(data, list) else data
        self._pairs, self._grid, self.shape_of_plane = pairs, grid, grid.shape
        self.sizes = tuple(pairs.sizes[axis] for axis in pairs.hidden)
        self.first: Position = (0,) * len(self.sizes)
        self.dtype = np.dtype(self._data.dtype).newbyteorder("=")
        self.channels = tuple(self._data.shape[len(pairs.sizes) :])

    @property
    def spatial(self) -> dict[str, Any]:
        """Position of the planes, with rows and columns last."""
        spatial, pairs = self._pairs.spatial_on(self._grid), self._pairs
        order = [*pairs.hidden, *pairs.axes]
        if order == sorted(order):
            return spatial
        kept = {name: [spatial[name][axis] for axis in order] for name in ("units", "axis_labels")}
        return kept | {"scale": np.asarray(spatial["scale"])[order]}

    def read(self, position: Position, window: Window) -> NDArray[Any]:
        """Read (rows, cols) or (rows, cols, C)."""
        index: list[Any] = [slice(None)] * len(self._pairs.sizes)
        for axis, number in zip(self._pairs.hidden, position, strict=True):
            index[axis] = number
        for axis, part in zip(self._pairs.axes, window, strict=True):
            index[axis] = part
        return np.asarray(self._data[tuple(index)]).astype(self.dtype, copy=False)


class _Mask(_Image):
    """The reconstructible mask at full resolution: 255 where the moving image has content."""

    def __init__(self, result: LayersResult) -> None:
        (rows, cols), pairs = result.transform.fixed_shape, result.pairs
        super().__init__(np.empty((0,) * len(pairs.sizes), np.uint8), pairs, Grid((rows, cols)))
        self._result = result

    def read(self, position: Position, window: Window) -> NDArray[Any]:
        result, grid = self._result, self._result.fixed_grid
        found = result.planes.get(position)
        if found is None and result.mode != "each":
            found = result.planes[result.pairs.shown]
        shape = [part.stop - part.start for part in window]
        if found is None:
            return np.zeros(shape, np.uint8)
        places = (
            np.minimum((np.arange(part.start, part.stop) / step).astype(int), size - 1)
            for part, step, size in zip(window, grid.step, grid.shape, strict=True)
        )
        mask = found.mask[np.ix_(*places)]
        if not grid.full:
            mask = mask & found.transform.mask(window=window)
        return mask.astype(np.uint8) * 255


@dataclass(frozen=True, eq=False)
class _WholeMask:
    """The mask of one plane, as `write_fused` takes it."""

    mask: _Image
    identity: str = "mask"

    @property
    def shape(self) -> tuple[int, int]:
        return self.mask.shape_of_plane

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.mask.dtype

    def __getitem__(self, window: Window) -> NDArray[Any]:
        return self.mask.read(self.mask.first, window)
