"""Write images of any size block by block: OME-Zarr 0.5 or TIFF, with the levels of a pyramid."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_busref.images.dtypes import cast
from napari_busref.images.labels import count_labels
from napari_busref.images.nodata import match_nodata
from napari_busref.images.ome_zarr import COLOURS, OWN, UNITS
from napari_busref.images.uri import is_ome_zarr
from napari_busref.runtime.atomic_write import check_writable
from napari_busref.runtime.holding import held
from napari_busref.runtime.progress import Reporter
from napari_busref.runtime.version import package_version

__all__ = [
    "BLOCK",
    "STREAMED",
    "PyramidWriter",
    "Unfinished",
    "blocks_of",
    "input_key",
    "unfinished",
    "write_array",
    "write_blocks",
]

#: Rows and columns that are computed, and stored in one file, at a time.
BLOCK = 2048
_CHUNK = 512  # rows and columns that are compressed together
_TIFF = (".tif", ".tiff", ".btf")
#: Extensions of images that are written block by block.
STREAMED = (".ome.zarr", *_TIFF)

Window = tuple[slice, slice]


def blocks_of(shape: Sequence[int], side: int | None = None) -> list[Window]:
    """The blocks of an image (H, W, …), row by row; `BLOCK` is their side by default."""
    side = side or BLOCK
    return [
        (slice(row, min(row + side, shape[0])), slice(col, min(col + side, shape[1])))
        for row in range(0, shape[0], side)
        for col in range(0, shape[1], side)
    ]


class Unfinished:
    """The folder of an output before it is complete: ``NAME.part``.

    Attributes
    ----------
    folder : Path
    resumed : bool
        Whether an earlier run has begun it.
    """

    def __init__(self, folder: Path, resumed: bool) -> None:
        self.folder, self.resumed = folder, resumed
        self._log = folder / "done.txt"
        self._done = (
            set(self._log.read_text("utf-8").splitlines()) if self._log.exists() else set()
        )

    def is_done(self, step: str) -> bool:
        """Whether a step is done, in this run or an earlier one."""
        return step in self._done

    def mark(self, step: str) -> None:
        """Remember that a step is done."""
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{step}\n")
        self._done.add(step)

    def left(self, stage: str, blocks: Sequence[Window]) -> Iterator[tuple[int, Window]]:
        """The blocks of a stage that are left; each counts as done once the next is taken."""
        for number, window in enumerate(blocks):
            step = f"{stage} {number}"
            if not self.is_done(step):
                yield number, window
                self.mark(step)

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """A zarr array (H, W, …) for values between two stages."""
        import zarr

        place = self.folder / name
        if place.exists():
            return zarr.open_array(place, mode="r+")
        sides = tuple(min(BLOCK // 2, side) for side in shape[:2])
        return zarr.create_array(
            store=place, shape=shape, dtype=dtype, chunks=(*sides, *shape[2:]), fill_value=0
        )


@contextmanager
def unfinished(
    path: Path, key: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
) -> Iterator[Unfinished]:
    """Make an output in a folder beside it, and rename it when the body ends without an error.

    Parameters
    ----------
    path : Path
        Ends in one of `STREAMED`. The body makes ``image.ome.zarr`` or ``image.tif`` in the
        folder.
    key : mapping
        What the output depends on, for JSON.
    resume : bool
        Continue what an earlier run with the same key has begun.
    overwrite : bool
        Replace an existing output.

    Raises
    ------
    FileExistsError
        When `path` exists.
    BlockingIOError
        When another run writes it.
    OSError
        When the disk is full or cannot be written; what is done stays for `resume`.
    """
    if not path.name.lower().endswith(STREAMED):
        raise ValueError(f"path: got {path.name}, need a name that ends in {', '.join(STREAMED)}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"path: {path} exists; use overwrite (--overwrite) to replace it")
    check_writable(path)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    folder = path.with_name(f"{path.name}.part")
    folder.mkdir(exist_ok=True)
    with held(folder, argument="path"):
        kept = folder / "key.txt"
        same = kept.exists() and kept.read_text("utf-8") == digest
        if not (resume and same):
            for left in folder.iterdir():
                if "-lock-" not in left.name:
                    _remove(left)
            kept.write_text(digest, encoding="utf-8")
        try:
            yield Unfinished(folder, resume and same)
            made = folder / ("image.ome.zarr" if is_ome_zarr(path) else "image.tif")
            _remove(path)
            made.rename(path)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise OSError(
                    errno.ENOSPC,
                    f"the disk is full; {folder.name} keeps what is done, and resume (--resume) "
                    "continues there",
                    str(path),
                ) from error
            raise
    shutil.rmtree(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


class PyramidWriter:
    """Writes an OME-Zarr 0.5 image: level 0 block by block, then the coarser levels.

    Parameters
    ----------
    work : Unfinished
        Whose ``image.ome.zarr`` it makes.
    shape : tuple of int
        (H, W) or (H, W, 3 or 4).
    dtype : dtype
    metadata : mapping
        As of `napari_busref.images.io.ImageFile`.
    made : mapping
        How it was made, for JSON.
    nearest : bool
        Coarser levels take the nearest pixel, as labels need, and not means.
    """

    def __init__(
        self,
        work: Unfinished,
        shape: tuple[int, ...],
        dtype: Any,
        metadata: Mapping[str, Any],
        made: Mapping[str, Any] | None = None,
        *,
        nearest: bool = False,
    ) -> None:
        import zarr

        self._work, self._nearest = work, nearest
        self.shape, self.dtype, self.metadata = shape, np.dtype(dtype), dict(metadata)
        value = metadata.get("nodata")
        self._nodata = None if value is None else float(value)
        self.sides = [(shape[0], shape[1])]
        while max(self.sides[-1]) > _CHUNK:
            rows, cols = self.sides[-1]
            self.sides.append((-(-rows // 2), -(-cols // 2)))
        self.path = work.folder / "image.ome.zarr"
        fresh = not self.path.exists()
        group = zarr.open_group(self.path, mode="a", zarr_format=3)
        self._arrays: list[Any] = [
            self._create(group, level) if fresh else group[str(level)]
            for level in range(len(self.sides))
        ]
        if fresh:
            group.attrs.update(self._attributes(made or {}))

    @property
    def blocks(self) -> list[Window]:
        """The blocks of level 0."""
        return blocks_of(self.shape)

    def write(self, window: Window, pixels: NDArray[Any]) -> None:
        """Write a block of level 0; masked pixels as their fill value."""
        self._put(0, window, np.ma.filled(pixels) if np.ma.isMaskedArray(pixels) else pixels)

    def read(self, window: Window, level: int = 0) -> NDArray[Any]:
        """Read (rows, cols) or (rows, cols, C)."""
        rows, cols = window
        if len(self.shape) == 2:
            return np.asarray(self._arrays[level][rows, cols])
        return np.moveaxis(np.asarray(self._arrays[level][:, rows, cols]), 0, -1)

    def _build(self, reporter: Reporter) -> None:
        """Compute the coarser levels, each from the one before."""
        count = len(self.sides)
        for level in range(1, count):
            part = reporter.part(1 - 0.25 ** (level - 1), 1 - 0.25**level)
            blocks = blocks_of(self.sides[level])
            for number, window in self._work.left(f"level {level}", blocks):
                part.step(f"level {level} of {count - 1}", number / len(blocks))
                self._put(level, window, self._reduced(level, window))

    def finish(self, path: Path, reporter: Reporter, *, cloud: bool = False) -> None:
        """Compute the coarser levels, and the TIFF if `path` is one."""
        tiff = not is_ome_zarr(path)
        if cloud and not tiff:
            raise ValueError(f"path: got {path.name}, a cloud-optimised GeoTIFF ends in .tif")
        self._build(reporter.part(0.0, 0.5 if tiff else 1.0))
        if tiff:
            self._to_tiff(reporter.part(0.5, 1.0), cloud=cloud)

    def _to_tiff(self, reporter: Reporter, *, cloud: bool) -> None:
        """Convert the levels to ``image.tif``: a pyramid in tiles, or a COG."""
        from napari_busref.images.tiff import write_tiff_pyramid

        steps = [len(blocks_of(side, _CHUNK)) for side in self.sides]
        done = 0

        def tiles(level: int) -> Iterator[NDArray[Any]]:
            nonlocal done
            for window in blocks_of(self.sides[level], _CHUNK):
                reporter.step("writing TIFF", done / sum(steps))
                done += 1
                yield self.read(window, level)

        target = self._work.folder / "image.tif"
        shapes = [(*side, *self.shape[2:]) for side in self.sides]
        if not cloud:
            write_tiff_pyramid(target, shapes, self.dtype, tiles, _CHUNK, self.metadata)
            return
        from napari_busref.images.cog import copy_to_cog

        plain = self._work.folder / "plain.tif"
        write_tiff_pyramid(plain, shapes[:1], self.dtype, tiles, _CHUNK, self.metadata)
        copy_to_cog(plain, target, nearest=self._nearest)

    def _create(self, group: Any, level: int) -> Any:
        side, channels = self.sides[level], self.shape[2:]
        chunk = min(_CHUNK, 16 * -(-max(side) // 16))
        shard = min(BLOCK, chunk * -(-max(side) // chunk))
        names = ["c", "y", "x"][-len(self.shape) :]
        return group.create_array(
            str(level),
            shape=(*channels, *side),
            dtype=self.dtype,
            chunks=(*channels, chunk, chunk),
            shards=(*channels, shard, shard),
            dimension_names=names,
            fill_value=0,
        )

    def _put(self, level: int, window: Window, pixels: NDArray[Any]) -> None:
        rows, cols = window
        if len(self.shape) == 2:
            self._arrays[level][rows, cols] = pixels
        else:
            self._arrays[level][:, rows, cols] = np.moveaxis(pixels, -1, 0)

    def _reduced(self, level: int, window: Window) -> NDArray[Any]:
        """A block of a coarser level, in strips of the finer one."""
        rows, cols = window
        height, width = self.sides[level - 1]
        strips = []
        for top in range(rows.start, rows.stop, _CHUNK):
            lines = slice(2 * top, min(2 * min(top + _CHUNK, rows.stop), height))
            fine = self.read((lines, slice(2 * cols.start, min(2 * cols.stop, width))), level - 1)
            strips.append(fine[::2, ::2] if self._nearest else _halved(fine, self._nodata))
        return np.concatenate(strips)

    def _attributes(self, made: Mapping[str, Any]) -> dict[str, Any]:
        """Metadata of OME-Zarr 0.5, and of this program."""
        colour = len(self.shape) == 3
        unit = {text: name for name, text in UNITS.items()}.get(str(self.metadata.get("unit")))
        spacing = self.metadata.get("spacing") if unit else None
        steps = [float(one) for one in spacing or (1.0, 1.0)]
        space = {"type": "space"} | ({"unit": unit} if spacing else {})
        axes: list[dict[str, Any]] = [{"name": name, **space} for name in ("y", "x")]
        first = [{"name": "c", "type": "channel"}] if colour else []
        datasets = []
        for level in range(len(self.sides)):
            scale = [step * 2**level for step in steps]
            shift = [step * (2**level - 1) / 2 for step in steps]
            changes = [
                {"type": "scale", "scale": [1.0] * colour + scale},
                {"type": "translation", "translation": [0.0] * colour + shift},
            ]
            datasets.append({"path": str(level), "coordinateTransformations": changes})
        image = {
            "name": "image",
            "axes": first + axes,
            "datasets": datasets,
            "type": "nearest" if self._nearest else "mean",
        }
        ome: dict[str, Any] = {"version": "0.5", "multiscales": [image]}
        if colour:
            ome["omero"] = _colours(self.shape[2], self.dtype)
        own: dict[str, Any] = {"version": package_version(), **made}
        if "geotiff" in self.metadata:
            own["geotiff"] = self.metadata["geotiff"]
        if self._nodata is not None:
            own["nodata"] = self._nodata if np.isfinite(self._nodata) else "NaN"
        return {"ome": ome, OWN: own}


def write_blocks(
    path: Path,
    shape: tuple[int, ...],
    dtype: Any,
    compute: Callable[[Window], NDArray[Any]],
    *,
    key: Mapping[str, Any],
    metadata: Mapping[str, Any],
    words: str,
    nearest: bool = False,
    cloud: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Write an image block by block.

    Parameters
    ----------
    path : Path
        Ends in one of `STREAMED`.
    shape : tuple of int
        (H, W) or (H, W, 3 or 4).
    dtype : dtype
    compute : callable
        From a block to its pixels.
    key, resume, overwrite
        As of `unfinished`.
    metadata : mapping
        As of `PyramidWriter`.
    words : str
        Of the step, for the progress.
    nearest : bool
        As of `PyramidWriter`.
    cloud : bool
        Write a TIFF as a COG.
    reporter : Reporter, optional

    Raises
    ------
    Cancelled
        What is done stays for `resume`.
    ValueError, OSError
        As of `unfinished`.
    """
    reporter = reporter or Reporter()
    with unfinished(path, key, resume=resume, overwrite=overwrite) as work:
        writer = PyramidWriter(work, shape, dtype, metadata, key, nearest=nearest)
        part = reporter.part(0.0, 0.85)
        for number, window in work.left("level 0", writer.blocks):
            part.step(words, number / len(writer.blocks))
            writer.write(window, compute(window))
        writer.finish(path, reporter.part(0.85, 1.0), cloud=cloud)
    reporter.step("done", 1.0)
    return path


def write_array(path: Path, image: NDArray[Any], metadata: Mapping[str, Any]) -> Path:
    """Write an image in memory as OME-Zarr; an existing one is replaced once it is complete."""
    if image.ndim > 3 or (image.ndim == 3 and image.shape[-1] not in (3, 4)):
        raise ValueError(f"data: got shape {image.shape}, need (H, W), (H, W, 3) or (H, W, 4)")
    return write_blocks(
        path,
        image.shape,
        image.dtype,
        lambda window: image[window],
        key={},
        metadata=metadata,
        words="writing",
        nearest=count_labels(image) is not None,
        overwrite=True,
    )


def _colours(count: int, dtype: np.dtype[Any]) -> dict[str, Any]:
    """Names and colours of red, green, blue and alpha, for viewers."""
    top = float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0
    window = {"min": 0.0, "max": top, "start": 0.0, "end": top}
    names = ("red", "green", "blue", "alpha")[:count]
    shades = (*COLOURS, "FFFFFF")[:count]
    return {
        "channels": [
            {"label": name, "color": shade, "active": name != "alpha", "window": window}
            for name, shade in zip(names, shades, strict=True)
        ],
        "rdefs": {"model": "color"},
    }


def _halved(fine: NDArray[Any], nodata: float | None) -> NDArray[Any]:
    """Means of 2 x 2 px; at the end of the image of fewer, and without missing pixels."""
    rows, cols = fine.shape[:2]
    pad = [(0, rows % 2), (0, cols % 2), *[(0, 0)] * (fine.ndim - 2)]
    if rows % 2 or cols % 2:
        fine = np.pad(fine, pad, "edge")
    pieces = [fine[i::2, j::2] for i in (0, 1) for j in (0, 1)]
    if fine.dtype.kind == "b":
        return np.asarray(np.sum(pieces, axis=0, dtype=np.uint8) >= 2)
    work = np.float32 if fine.dtype.itemsize <= 2 else np.float64
    if nodata is None and fine.dtype.kind != "f":
        if fine.dtype.itemsize <= 2 and fine.dtype.kind == "u":  # exact, and four times as fast
            whole = np.sum(pieces, axis=0, dtype=np.uint32)
            return np.asarray((whole + 2) >> 2).astype(fine.dtype)
        return cast(np.asarray(np.mean(pieces, axis=0, dtype=work)), fine.dtype)
    total, count = np.zeros(pieces[0].shape, work), np.zeros(pieces[0].shape, np.uint8)
    for piece in pieces:
        lost = ~np.isfinite(piece) if piece.dtype.kind == "f" else np.zeros(piece.shape, bool)
        if nodata is not None and np.isfinite(nodata):
            gone = match_nodata(piece, nodata)
            lost |= gone if piece.ndim == 2 else gone[..., None]
        total += np.where(lost, 0, piece)
        count += ~lost
    fill = np.nan if fine.dtype.kind == "f" else nodata
    means = np.divide(total, count, out=np.full(total.shape, fill, work), where=count > 0)
    return cast(means, fine.dtype)


def input_key(image: Any) -> Any:
    """What identifies an input: place and time of a file, its own word, or an array's content."""
    if hasattr(image, "uri"):
        path = Path(image.uri)
        status = path.stat() if path.exists() else None
        changed = (status.st_mtime_ns, status.st_size) if status else ()
        return [image.uri, image.taken, *changed]
    if hasattr(image, "identity"):
        return image.identity
    array = np.ma.getdata(image) if np.ma.isMaskedArray(image) else np.asarray(image)
    return [array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).hexdigest()]
