"""Read the temperatures and the visible picture that a JPEG of a FLIR camera embeds.

The layout is that of ExifTool's documentation (https://exiftool.org/TagNames/FLIR.html): APP1
segments hold a file of records, among them raw counts, camera parameters and a second picture.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_busref.images.arrays import picture_array
from napari_busref.images.declared import segments

__all__ = [
    "NOTE_DJI",
    "NOTE_DJI_COUNTS",
    "Thermal",
    "celsius",
    "dji_counts",
    "find_thermal",
    "is_dji_thermal",
]

NOTE_DJI = (
    "a thermal JPEG of DJI: the picture as displayed is read; for temperatures, export TIFF with "
    "the tools of DJI"
)
NOTE_DJI_COUNTS = (
    "a thermal JPEG of DJI: the picture as displayed is read, and its last page holds the raw "
    "counts of the sensor. They are no temperatures; for those, export TIFF with the tools of DJI"
)
_SEGMENT = b"FLIR\0"
_DJI_COUNTS = 0xE3  # APP3
_RAW, _VISIBLE, _CAMERA = 1, 14, 32  # types of records
_MAX_PIXELS = 1 << 26
_ZERO = 273.15  # 0 °C in kelvin
#: Offsets of the float32 parameters in the camera's record.
_PARAMETERS = {
    "emissivity": 0x20,
    "object_distance": 0x24,  # m
    "reflected_temperature": 0x28,  # K
    "atmospheric_temperature": 0x2C,  # K
    "window_temperature": 0x30,  # K
    "window_transmission": 0x34,
    "relative_humidity": 0x3C,  # 0 to 1
    "planck_r1": 0x58,
    "planck_b": 0x5C,
    "planck_f": 0x60,
    "atmospheric_alpha1": 0x70,
    "atmospheric_alpha2": 0x74,
    "atmospheric_beta1": 0x78,
    "atmospheric_beta2": 0x7C,
    "atmospheric_x": 0x80,
    "planck_r2": 0x30C,
}
_PLANCK_O = 0x308  # int32


@dataclass(frozen=True, eq=False)
class Thermal:
    """The thermal part of a JPEG.

    Attributes
    ----------
    celsius : ndarray of float32, shape (H, W)
    parameters : dict
        Emissivity, distance, temperatures in °C, humidity and Planck constants of the camera.
    visible : bytes or None
        The embedded visible picture, a JPEG or PNG.
    orientation : int
        EXIF orientation of the file, already applied to `celsius`.
    """

    celsius: NDArray[np.float32]
    parameters: dict[str, float]
    visible: bytes | None
    orientation: int = 1

    def read_visible(self) -> NDArray[Any]:
        """Read the visible picture, upright as `celsius`."""
        from napari_busref.images.tiff import upright

        with Image.open(io.BytesIO(self.visible or b"")) as picture:
            return upright(picture_array(picture), self.orientation)


def find_thermal(file: Path) -> Thermal | None:
    """Find the thermal data of a JPEG; None in any other."""
    from napari_busref.images.tiff import upright

    content = file.read_bytes()
    if _SEGMENT not in content[: 1 << 20]:
        return None
    try:
        records = _records(_joined_segments(content))
        raw, camera = _raw(records[_RAW]), _camera(records[_CAMERA])
        temperatures = celsius(raw, camera)
        with Image.open(io.BytesIO(content)) as picture:
            orientation = int(picture.getexif().get(0x0112, 1) or 1)
    except (KeyError, IndexError, ValueError, OSError, struct.error, ArithmeticError):
        return None
    kelvin = [name for name in camera if name.endswith("temperature")]
    parameters = camera | {name: round(camera[name] - _ZERO, 2) for name in kelvin}
    return Thermal(upright(temperatures, orientation), parameters, _embedded(records), orientation)


def celsius(raw: NDArray[Any], camera: Mapping[str, float]) -> NDArray[np.float32]:
    """Convert raw counts to °C.

    Planck's law with the camera's constants, after the radiation that the object reflects and
    that the air and the window emit and absorb, as in Thermimage (Tattersall,
    https://doi.org/10.5281/zenodo.1069704).

    Parameters
    ----------
    raw : ndarray, shape (H, W)
    camera : mapping
        The names of the parameters; temperatures in kelvin.
    """
    emissivity, window = camera["emissivity"], camera["window_transmission"]
    air = camera["atmospheric_temperature"] - _ZERO
    water = camera["relative_humidity"] * np.exp(
        1.5587 + 0.06939 * air - 2.7816e-4 * air**2 + 6.8455e-7 * air**3
    )
    path = np.sqrt(max(camera["object_distance"], 0) / 2)
    losses = []
    for i in (1, 2):
        alpha, beta = camera[f"atmospheric_alpha{i}"], camera[f"atmospheric_beta{i}"]
        losses.append(np.exp(-path * (alpha + beta * np.sqrt(water))))
    share = camera["atmospheric_x"]
    tau = share * losses[0] + (1 - share) * losses[1]  # of either side of the window

    def counts(kelvin: float) -> float:
        planck = np.exp(camera["planck_b"] / kelvin) - camera["planck_f"]
        return float(camera["planck_r1"] / (camera["planck_r2"] * planck) - camera["planck_o"])

    through = emissivity * tau * window
    others = (
        (1 - emissivity) / emissivity * counts(camera["reflected_temperature"])
        + (1 - tau) / (emissivity * tau) * counts(camera["atmospheric_temperature"])
        + (1 - window) / through * counts(camera["window_temperature"])
        + (1 - tau) / (through * tau) * counts(camera["atmospheric_temperature"])
    )
    emitted = raw.astype(np.float64) / (through * tau) - others + camera["planck_o"]
    with np.errstate(divide="ignore", invalid="ignore"):
        kelvin = camera["planck_b"] / np.log(
            camera["planck_r1"] / (camera["planck_r2"] * emitted) + camera["planck_f"]
        )
    kelvin[~np.isfinite(kelvin) | (kelvin <= 0)] = np.nan
    if not np.isfinite(kelvin).any():
        raise ArithmeticError("the camera's parameters give no temperature")
    return (kelvin - _ZERO).astype(np.float32)


def is_dji_thermal(file: Path, format_: str | None) -> bool:
    """Whether a JPEG holds thermal data of DJI (APP3 segments, and DJI's name in its text)."""
    if format_ not in ("JPEG", "MPO"):
        return False
    content = file.read_bytes()
    size = sum(len(data) for marker, data in segments(content) if marker == _DJI_COUNTS)
    return size > 4096 and b"DJI" in content[: 1 << 17].upper()


def dji_counts(file: Path) -> NDArray[np.uint16] | None:
    """Read the raw counts of a thermal JPEG of DJI, upright; None where they have another size.

    The APP3 segments hold one number of 16 bits, little-endian, for each pixel of the sensor.
    Some cameras display twice as many rows and columns.
    """
    from napari_busref.images.tiff import upright

    content = file.read_bytes()
    data = b"".join(part for marker, part in segments(content) if marker == _DJI_COUNTS)
    with Image.open(io.BytesIO(content)) as picture:
        cols, rows = picture.size
        orientation = int(picture.getexif().get(0x0112, 1) or 1)
    for part in (1, 2):
        shape = rows // part, cols // part
        if len(data) == 2 * shape[0] * shape[1]:
            counts = np.frombuffer(data, "<u2").reshape(shape).astype(np.uint16)
            return upright(counts, orientation)
    return None


# -- the records --------------------------------------------------------------------------------


def _joined_segments(content: bytes) -> bytes:
    parts: dict[int, bytes] = {}
    for marker, data in segments(content):
        if marker == 0xE1 and data.startswith(_SEGMENT) and len(data) > 8:
            parts.setdefault(data[6], data[8:])
    return b"".join(parts[number] for number in sorted(parts))


def _records(content: bytes) -> dict[int, bytes]:
    """The first record of each type."""
    if content[:4] not in (b"FFF\0", b"AFF\0"):
        raise ValueError("no records")
    order = ">"
    (version,) = struct.unpack_from(">I", content, 0x14)
    if not 100 <= version < 200:
        order = "<"
    start, count = struct.unpack_from(f"{order}II", content, 0x18)
    records: dict[int, bytes] = {}
    for number in range(min(count, 256)):
        at = start + 32 * number
        if at + 32 > len(content):
            break
        (kind,) = struct.unpack_from(f"{order}H", content, at)
        offset, length = struct.unpack_from(f"{order}II", content, at + 12)
        if kind and length:
            records.setdefault(kind, content[offset : offset + length])
    return records


def _order(record: bytes) -> str:
    """Byte order of a record: its first number is 2, or small."""
    return "<" if struct.unpack_from("<H", record)[0] <= 0xFF else ">"


def _raw(record: bytes) -> NDArray[Any]:
    order = _order(record)
    width, height = struct.unpack_from(f"{order}HH", record, 2)
    if not 0 < width * height <= _MAX_PIXELS:
        raise ValueError("no pixels")
    data = record[32:]
    if data[:4] == b"\x89PNG" or data[:4] in (b"II*\0", b"MM\0*"):
        with Image.open(io.BytesIO(data)) as picture:
            if picture.size != (width, height):
                raise ValueError("the raw data have another size")
            pixels = np.array(picture).astype(np.uint16)
        swapped = pixels.byteswap()
        # most cameras write their PNG in the wrong byte order; that one is rough
        if _roughness(swapped) < _roughness(pixels):
            pixels = swapped
    else:
        pixels = np.frombuffer(data, f"{order}u2", width * height).reshape(height, width)
    if pixels.shape != (height, width):
        raise ValueError("the raw data are no grey picture")
    return pixels


def _roughness(pixels: NDArray[Any]) -> float:
    return float(np.abs(np.diff(pixels.astype(np.int64), axis=-1)).mean())


def _camera(record: bytes) -> dict[str, float]:
    order = _order(record)
    values = {
        name: float(struct.unpack_from(f"{order}f", record, offset)[0])
        for name, offset in _PARAMETERS.items()
    }
    values["planck_o"] = float(struct.unpack_from(f"{order}i", record, _PLANCK_O)[0])
    return values


def _embedded(records: Mapping[int, bytes]) -> bytes | None:
    data = records.get(_VISIBLE, b"")[32:]
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
    except Exception:  # Pillow raises anything for damaged data
        return None
    return data
