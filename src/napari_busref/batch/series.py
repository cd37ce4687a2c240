"""Register a series of files, and write its results."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from napari_busref.batch.files import mask_picture, plain, refuse_existing, write_json
from napari_busref.batch.results import REGISTERED, ResultWriter, fill_value_of, quality_row
from napari_busref.images.dtypes import checked_fill
from napari_busref.images.frames import Frames
from napari_busref.images.io import ImageFile
from napari_busref.runtime.atomic_write import replacing
from napari_busref.runtime.progress import Progress, Reporter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_busref.data.pairing import Pair
    from napari_busref.registration import SeriesResult

__all__ = ["run_series", "series_results"]

_DRIFT = "_drift.csv"
_FUSED = 0.6  # share of the progress at which the fusion begins
_COLUMNS = ("page", "status", "score", "overlap", "drift_row", "drift_col", "message")


def series_results(fuse: bool) -> tuple[str, ...]:
    """What the names of the results of `run_series` have after the stem."""
    return (*REGISTERED, _DRIFT, *(["_fused"] if fuse else []))


def run_series(
    writer: ResultWriter,
    pair: Pair,
    files: tuple[ImageFile | Frames, Frames],
    options: Mapping[str, Any],
    fusion: Mapping[str, Any] | None,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    cancel: Event | None = None,
) -> SeriesResult:
    """Register every frame, fuse it where asked, and write stacks, transforms and the drift.

    Parameters
    ----------
    writer : ResultWriter
    pair : Pair
        Files or folders.
    files : tuple
        One fixed image or a series, and the moving series.
    options : mapping
        Of `napari_busref.register_series`.
    fusion : mapping or None
        Of `napari_busref.fuse`; None to fuse nothing.
    executor : concurrent.futures.Executor, optional
    progress : Progress, optional
    cancel : threading.Event, optional

    Returns
    -------
    SeriesResult

    Raises
    ------
    ValueError
        When no frame can be read, or the series do not fit each other.
    """
    from napari_busref.registration import register_series

    if writer.file_format not in (None, "tif", "npy"):
        raise ValueError(f"--format: {writer.file_format} holds no series, need tif or npy")
    fixed, moving = files
    sample = moving.first
    fill = fill_value_of(sample, options.get("fill_value"))
    checked_fill(fill, sample.data.dtype, "fill_value")
    images = fixed if isinstance(fixed, Frames) else fixed.data
    reporter = Reporter(progress, cancel)
    result = register_series(
        images,
        moving,
        executor=executor,
        progress=reporter.part(0.0, 1.0 if fusion is None else _FUSED),
        cancel=cancel,
        **{name: value for name, value in options.items() if name != "fill_value"},
    )
    warped = result.apply(moving, cval=fill)
    first = fixed.first if isinstance(fixed, Frames) else fixed
    paths = {
        "warped": _write_stack(writer, pair, first, "warped", warped),
        "mask": _write_stack(writer, pair, first, "mask", result.masks),
    }
    if fusion is not None:
        fused = _fused(images, warped, result, fusion, reporter.part(_FUSED, 1.0))
        paths["fused"] = _write_stack(writer, pair, first, "fused", fused)
    paths |= _write_transforms(writer, pair, first, sample, result)
    report = {
        "fixed": pair.fixed,
        "moving": pair.moving,
        "outputs": paths,
        "frames": len(result.transforms),
        "gaps": {str(n + 1): reason for n, reason in result.gaps.items()},
        "parameters": result.parameters,
        "options": writer.all_options(),
    }
    write_json(writer.folder / f"{pair.name}{writer.report_name}", report)
    return result


def _fused(
    fixed: Any,
    warped: NDArray[Any],
    result: SeriesResult,
    options: Mapping[str, Any],
    reporter: Reporter,
) -> list[NDArray[Any]]:
    """Fuse frame by frame; a gap keeps the fixed image."""
    import numpy as np

    from napari_busref.fusion import fuse

    found: list[NDArray[Any] | None] = []
    for n, mask in enumerate(result.masks):
        reporter.step(f"fusing frame {n + 1} of {len(warped)}", n / len(warped))
        if mask.any():
            image = fixed[n] if isinstance(fixed, Frames) else fixed
            found.append(fuse(image, warped[n], mask=mask, **options).fused)
        else:
            found.append(_alone(fixed, n, mask.shape, options))
    empty = np.zeros_like(next(one for one in found if one is not None))
    return [empty if one is None else one for one in found]


def _alone(
    fixed: Any, n: int, shape: tuple[int, ...], options: Mapping[str, Any]
) -> NDArray[Any] | None:
    """The picture of a gap; None where its fixed image cannot be read, or is of another size."""
    from napari_busref.fusion._fuse import unfused
    from napari_busref.images.figures import as_picture

    try:
        image = fixed[n] if isinstance(fixed, Frames) else fixed
        alone = unfused(image, options.get("nodata", "auto")).fused
    except (OSError, ValueError):
        return None
    if alone.shape[:2] != shape:
        return None
    return alone if options.get("style", "natural") == "natural" else as_picture(alone, "fixed")


def _write_stack(
    writer: ResultWriter, pair: Pair, fixed: ImageFile, what: str, frames: Any
) -> Path:
    """Write frames as one TIFF or NPY on the grid of the fixed image."""
    import numpy as np

    from napari_busref.images.io import write_image

    npy = (writer.file_format or pair.fixed.suffix.lower()[1:]) == "npy"
    suffix = ".npy" if npy else ".tif"
    stack = frames if np.ma.isMaskedArray(frames) else np.asarray(frames)
    if stack.dtype == bool:
        stack = mask_picture(stack, suffix)
    path = writer.folder / f"{pair.name}_{what}{suffix}"
    refuse_existing([path], writer.overwrite or writer.resume)
    metadata = {name: value for name, value in fixed.metadata.items() if name != "nodata"}
    return write_image(path, stack, metadata=metadata)


def _write_transforms(
    writer: ResultWriter, pair: Pair, fixed: ImageFile, moving: ImageFile, result: SeriesResult
) -> dict[str, Path]:
    """Write the transforms of all frames into one file, and the drift as a table."""
    from napari_busref.transforms.formats import TransformFile, write_transform
    from napari_busref.transforms.formats.grid import ImageGrid

    paths = {
        "transform": writer.folder / f"{pair.name}.busref.h5",
        "drift": writer.folder / f"{pair.name}{_DRIFT}",
    }
    refuse_existing(paths.values(), writer.overwrite or writer.resume)
    first = result.transforms[0]
    grids = ImageGrid(first.fixed_shape), ImageGrid(first.moving_shape)
    metadata = {
        "fixed": pair.fixed.name,
        "moving": pair.moving.name,
        "fixed_image": plain(fixed.metadata),
        "moving_image": plain(moving.metadata),
        "parameters": plain(result.parameters),
    }
    planes: dict[tuple[int, ...], TransformFile] = {
        (n,): TransformFile(
            transform, grids[0], grids[1], {"quality": plain(replace(quality, map=None))}
        )
        for n, (transform, quality) in enumerate(
            zip(result.transforms, result.qualities, strict=True)
        )
    }
    write_transform(paths["transform"], first, metadata=metadata, planes=planes)
    with (
        replacing(paths["drift"]) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        table = csv.DictWriter(stream, _COLUMNS)
        table.writeheader()
        table.writerows(_rows(result))
    return paths


def _rows(result: SeriesResult) -> Sequence[dict[str, Any]]:
    rows = []
    for n, (quality, (row, col)) in enumerate(zip(result.qualities, result.drift, strict=True)):
        cells = quality_row(quality.score, quality.overlap, quality.reasons)
        status = {"status": "gap"} if n in result.gaps else {}
        drift = {"page": n + 1, "drift_row": f"{row:.3f}", "drift_col": f"{col:.3f}"}
        rows.append(cells | status | drift)
    return rows
