"""Open zarr stores of others: nothing outside them, and no more memory than they declare."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_busref.images.uri import local_path
from napari_busref.runtime.file_safety import Refused, check_size

try:
    import zarr
    from zarr.storage import FsspecStore, LocalStore, WrapperStore
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "OME-Zarr and windows of large images need zarr: pip install 'napari-busref[large]'",
        name="zarr",
    ) from None

__all__ = ["BoundedStore", "open_array", "open_folder", "open_group"]

_COMPRESSORS = ("blosc", "gzip", "zlib", "zstd")
_OTHERS = ("bytes", "crc32c", "transpose")
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
_CHECKSUM = 8  # bytes that may follow the values of a chunk


@dataclass(frozen=True)
class _Encoding:
    """How the chunks of an array are stored: compression, bytes of a chunk, chunks of a file."""

    compressor: str | None
    size: int
    count: int = 1

    def check(self, content: bytes, path: str, key: str, *, whole: bool) -> None:
        """Refuse content that a codec would inflate to more than a chunk."""
        pieces = [content]
        if whole and self.count > 1:
            # the index of a shard: offset and length of each chunk, and a checksum
            table = content[-16 * self.count - 4 : -4]
            numbers = [int.from_bytes(table[i : i + 8], "little") for i in range(0, len(table), 8)]
            places = zip(numbers[::2], numbers[1::2], strict=False)
            pieces = [content[at : at + length] for at, length in places if at < len(content)]
        if any(self._inflated(piece) > self.size + _CHECKSUM for piece in pieces):
            raise Refused(f"path: {path}: {key} holds more than a chunk declares")

    def _inflated(self, piece: bytes) -> int:
        """The size that the content declares; of a stream, one that is too large.

        The index of a shard, which is read like a chunk, declares none.
        """
        if self.compressor is None and self.count == 1:
            return len(piece)
        if self.compressor == "blosc" and piece[:1] <= b"\x02":  # the version of its format
            return int.from_bytes(piece[4:8], "little")
        if self.compressor in ("gzip", "zlib"):
            try:
                inflater = zlib.decompressobj(47)
                return len(inflater.decompress(piece, self.size + _CHECKSUM + 1))
            except zlib.error:  # zarr reports the cause
                return 0
        if self.compressor == "zstd" and piece[:4] == b"\x28\xb5\x2f\xfd":
            return self._zstd(piece)
        return 0

    def _zstd(self, piece: bytes) -> int:
        import imagecodecs

        flags = piece[4]  # RFC 8878, 3.1.1.1
        single, wide = flags >> 5 & 1, flags >> 6
        at = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
        length = (single, 2, 4, 8)[wide]
        if length:
            return int.from_bytes(piece[at : at + length], "little") + (256 if wide == 1 else 0)
        try:
            imagecodecs.zstd_decode(piece, out=self.size + _CHECKSUM)
        except imagecodecs.ZstdError:  # of other damage zarr reports the cause
            return self.size + _CHECKSUM + 1
        return 0


class BoundedStore(WrapperStore[Any]):
    """Reads a store, and checks each chunk before a codec inflates it.

    Parameters
    ----------
    store : zarr.abc.store.Store
    path : str
        Named in errors.
    folder : Path, optional
        Of a local store. Symbolic links inside are not followed.
    """

    def __init__(self, store: Any, path: str = "", folder: Path | None = None) -> None:
        super().__init__(store)
        self._path, self._folder = path, folder
        self._arrays: dict[str, _Encoding] = {}

    def _with_store(self, store: Any) -> BoundedStore:
        copied = BoundedStore(store, self._path, self._folder)
        copied._arrays = self._arrays
        return copied

    def admit(self, array: Any) -> None:
        """Check what an array declares, and allow to read its chunks.

        Raises
        ------
        Refused
            When a chunk exceeds the limit of memory, or has another encoding.
        """
        item = array.dtype.itemsize
        shards = getattr(array, "shards", None)
        outer = shards or array.chunks
        check_size(math.prod(map(int, outer)) * item, self._path, "a chunk")
        names = _codecs(array, sharded=shards is not None)
        used = [name for name in names if name in _COMPRESSORS]
        if not set(names) <= {*_COMPRESSORS, *_OTHERS} or len(used) > 1:
            raise Refused(
                f"path: {self._path} encodes its pixels by {', '.join(names)}; read are "
                f"{', '.join(sorted((*_COMPRESSORS, *_OTHERS)))}, with one compression"
            )
        count = math.prod(o // c for o, c in zip(outer, array.chunks, strict=True))
        size = math.prod(map(int, array.chunks)) * item
        self._arrays[array.path] = _Encoding(used[0] if used else None, size, count)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return the content of a key, checked."""
        self._check_file(key)
        found = await super().get(key, prototype, byte_range)
        if found is not None and key.rpartition("/")[2] not in _METADATA:
            encoding = self._encoding(key)
            if encoding is not None:
                encoding.check(found.to_bytes(), self._path, key, whole=byte_range is None)
        return found

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> list[Any]:
        """Return the contents of parts of keys, checked."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    def _encoding(self, key: str) -> _Encoding | None:
        fitting = [path for path in self._arrays if not path or key.startswith(f"{path}/")]
        return self._arrays[max(fitting, key=len)] if fitting else None

    def _check_file(self, key: str) -> None:
        if self._folder is None:
            return
        file = self._folder
        for name in key.split("/"):
            file = file / name
            if name == ".." or file.is_symlink():
                raise Refused(
                    f"path: {self._path} holds a symbolic link, {key!r}, which is not followed"
                )
        if file.is_file():
            check_size(file.stat().st_size, file, "a file")


def _codecs(array: Any, *, sharded: bool) -> list[str]:
    """Names of the codecs of the chunks."""
    metadata = array.metadata
    if metadata.zarr_format == 2:
        stages = [*(metadata.filters or ()), *filter(None, [metadata.compressor])]
        return [str(stage.codec_id) for stage in stages]
    codecs = metadata.codecs
    if sharded:
        shard = codecs[0].to_dict()["configuration"]
        index = [codec["name"] for codec in shard["index_codecs"]]
        if shard["index_location"] != "end" or index != ["bytes", "crc32c"]:
            return [f"shards with an index of {index} at the {shard['index_location']}"]
        codecs = codecs[0].codecs
    return [str(codec.to_dict()["name"]) for codec in codecs]


def open_group(uri: str) -> tuple[Any, BoundedStore]:
    """Open a zarr group to read.

    Parameters
    ----------
    uri : str
        Local folder, or a URL that fsspec opens.

    Returns
    -------
    group : zarr.Group
    store : BoundedStore
        Whose `admit` must see each array before its chunks are read.

    Raises
    ------
    FileNotFoundError
        When there is no such folder.
    ValueError
        When it is no zarr group.
    """
    folder = local_path(uri)
    if folder is None:
        try:
            inner: Any = FsspecStore.from_url(uri, read_only=True)
        except ImportError as error:  # fsspec names the package, such as s3fs
            raise ModuleNotFoundError(f"path: {uri}: {error}") from None
    else:
        if not folder.exists():
            raise FileNotFoundError(f"no such file: {folder}")
        inner = LocalStore(folder, read_only=True)
    store = BoundedStore(inner, uri, folder)
    try:
        return zarr.open_group(store, mode="r", use_consolidated=False), store
    except Refused:
        raise
    except FileNotFoundError:
        raise ValueError(f"path: {uri} is no zarr group, need the folder of an OME-Zarr") from None


def open_folder(folder: Path, path: Path) -> tuple[Any, BoundedStore]:
    """Open the zarr 3 array in a local folder to read; `BoundedStore.admit` must see it first.

    Parameters
    ----------
    folder : Path
    path : Path
        Named in errors.
    """
    store = BoundedStore(LocalStore(folder, read_only=True), str(path), folder)
    return zarr.open_array(store, mode="r", zarr_format=3), store


def open_array(store: Any) -> Any:
    """Open the array of a store of this program or tifffile to read."""
    return zarr.open_array(store, mode="r")
