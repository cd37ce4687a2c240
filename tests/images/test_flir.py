"""Thermal JPEG of FLIR, written here after the documented layout."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image
from skimage import data

from napari_busref.images import flir
from napari_busref.images.io import read_image, read_plane

VISIBLE = data.astronaut()[100:196, 200:328]
SHOWN = data.camera()[100:148, 200:264]
RAW = (13000 + 9 * data.camera()[100:148, 200:264].astype(np.uint16)).astype(np.uint16)
CAMERA = {
    "emissivity": 0.95,
    "object_distance": 2.0,
    "reflected_temperature": 293.15,
    "atmospheric_temperature": 291.15,
    "window_temperature": 292.15,
    "window_transmission": 0.97,
    "relative_humidity": 0.5,
    "planck_r1": 16556.0,
    "planck_b": 1428.0,
    "planck_f": 1.0,
    "atmospheric_alpha1": 0.006569,
    "atmospheric_alpha2": 0.01262,
    "atmospheric_beta1": -0.002276,
    "atmospheric_beta2": -0.00667,
    "atmospheric_x": 1.9,
    "planck_r2": 0.0125,
    "planck_o": -342,
}


def encode(image, kind):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return stream.getvalue()


def raw_record(kind, order):
    head = struct.pack(f"{order}HHH", 2, RAW.shape[1], RAW.shape[0]).ljust(32, b"\0")
    if kind == "bytes":
        return head + RAW.astype(f"{order}u2").tobytes()
    pixels = RAW.byteswap() if kind == "swapped png" else RAW
    return head + encode(pixels, "PNG")


def thermal_jpeg(kind="bytes", order="<", *, visible=True, segments=1, exif=None, camera=CAMERA):
    record = bytearray(0x400)
    struct.pack_into(f"{order}H", record, 0, 2)
    for name, offset in flir._PARAMETERS.items():
        struct.pack_into(f"{order}f", record, offset, camera[name])
    struct.pack_into(f"{order}i", record, 0x308, int(camera["planck_o"]))
    records = {1: raw_record(kind, order), 32: bytes(record)}
    if visible:
        shape = struct.pack(f"{order}HHH", 3, VISIBLE.shape[1], VISIBLE.shape[0])
        records[14] = shape.ljust(32, b"\0") + encode(VISIBLE, "JPEG")
    directory, body = b"", b""
    start = 64 + 32 * (len(records) + 2)
    for number, content in records.items():
        where = start + len(body)
        directory += struct.pack(">HHIIII", number, 1, 100, 1, where, len(content)).ljust(
            32, b"\0"
        )
        body += content
    directory += bytes(64)  # two unused entries, as cameras write
    head = b"FFF\0".ljust(20, b"\0") + struct.pack(">III", 101, 64, len(records) + 2)
    content = head.ljust(64, b"\0") + directory + body
    size = -(-len(content) // segments)
    size = min(size, 60000)
    parts = [content[i : i + size] for i in range(0, len(content), size)]
    stream = io.BytesIO()
    options = {"exif": exif} if exif is not None else {}
    Image.fromarray(SHOWN).save(stream, "JPEG", quality=95, **options)
    jpeg = stream.getvalue()
    inserted = b""
    for number, part in enumerate(parts):
        data_ = b"FLIR\0\x01" + bytes([number, len(parts) - 1]) + part
        inserted += b"\xff\xe1" + struct.pack(">H", len(data_) + 2) + data_
    return jpeg[:2] + inserted + jpeg[2:]


def by_hand(raw, camera):
    """Planck's law and the losses, step by step with plain numbers."""
    from math import exp, log, sqrt

    def counts(kelvin):
        planck = exp(camera["planck_b"] / kelvin) - camera["planck_f"]
        return camera["planck_r1"] / (camera["planck_r2"] * planck) - camera["planck_o"]

    air = camera["atmospheric_temperature"] - 273.15
    h2o = camera["relative_humidity"] * exp(
        1.5587 + 0.06939 * air - 0.00027816 * air**2 + 0.00000068455 * air**3
    )
    half = sqrt(camera["object_distance"] / 2)
    first = exp(-half * (camera["atmospheric_alpha1"] + camera["atmospheric_beta1"] * sqrt(h2o)))
    second = exp(-half * (camera["atmospheric_alpha2"] + camera["atmospheric_beta2"] * sqrt(h2o)))
    tau = camera["atmospheric_x"] * first + (1 - camera["atmospheric_x"]) * second
    e, w = camera["emissivity"], camera["window_transmission"]
    emitted = raw / e / tau / w / tau
    emitted -= (1 - tau) / e / tau * counts(camera["atmospheric_temperature"])
    emitted -= (1 - tau) / e / tau / w / tau * counts(camera["atmospheric_temperature"])
    emitted -= (1 - w) / e / tau / w * counts(camera["window_temperature"])
    emitted -= (1 - e) / e * counts(camera["reflected_temperature"])
    ratio = camera["planck_r1"] / (camera["planck_r2"] * (emitted + camera["planck_o"]))
    return camera["planck_b"] / log(ratio + camera["planck_f"]) - 273.15


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize(
    ("kind", "order"), [("bytes", "<"), ("bytes", ">"), ("swapped png", "<"), ("png", "<")]
)
def test_temperatures_and_the_visible_picture(tmp_path, kind, order, segments):
    path = tmp_path / "FLIR0001.jpg"
    path.write_bytes(thermal_jpeg(kind, order, segments=segments))
    found = read_image(path)
    assert found.data.dtype == np.float32
    assert found.data.shape == RAW.shape
    for row, col in ((0, 0), (20, 30), (47, 63)):
        expected = by_hand(float(RAW[row, col]), CAMERA)
        assert found.data[row, col] == pytest.approx(expected, abs=2e-3)
    assert found.metadata["value_unit"] == "°C"
    assert found.metadata["thermal"]["emissivity"] == pytest.approx(0.95)
    assert found.metadata["thermal"]["reflected_temperature"] == 20
    assert "page 2" in found.note
    visible = read_image(path, page=2).data
    assert not read_image(path, page=2).metadata  # it is in no °C
    assert visible.shape == VISIBLE.shape
    assert np.abs(visible.astype(int) - VISIBLE).mean() < 5
    shown = read_image(path, page=3).data
    assert np.abs(shown.astype(int) - SHOWN).mean() < 5
    assert read_plane(path).taken == "page 1 of 3"


def test_numbers_agree_with_another_reader(tmp_path):
    other = pytest.importorskip("flyr")
    path = tmp_path / "a.jpg"
    path.write_bytes(thermal_jpeg("swapped png"))
    np.testing.assert_allclose(read_image(path).data, other.unpack(str(path)).celsius, atol=0.01)


def test_without_a_visible_picture(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(thermal_jpeg(visible=False))
    assert "visible" not in read_image(path).note
    assert read_image(path, page=2).data.shape == SHOWN.shape
    with pytest.raises(ValueError, match="page: got 3, need 1 to 2"):
        read_image(path, page=3)


def test_a_sideways_camera(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "a.jpg"
    path.write_bytes(thermal_jpeg(exif=exif))
    for page in (1, 2, 3):
        rows, cols = read_image(path, page=page).data.shape[:2]
        assert rows > cols


@pytest.mark.parametrize("damage", ["no records", "no camera", "cut"])
def test_damaged_thermal_data_leave_the_picture(tmp_path, damage):
    content = thermal_jpeg()
    if damage == "no records":
        content = content.replace(b"FFF\0", b"XXX\0")
    elif damage == "no camera":
        content = thermal_jpeg(camera=dict.fromkeys(CAMERA, 0.0))
    else:
        at = content.index(b"FFF\0")
        content = content[: at + 24] + b"\xff" * 8 + content[at + 32 :]
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert read_image(path).data.shape == SHOWN.shape
    assert read_image(path).data.dtype == np.uint8


def dji_jpeg(counts, displayed, orientation=1):
    """A JPEG with counts in APP3 segments, as DJI's cameras write it."""
    exif = Image.Exif()
    exif[271], exif[274] = "DJI", orientation
    stream = io.BytesIO()
    Image.fromarray(displayed).save(stream, "JPEG", quality=95, exif=exif)
    jpeg, raw = stream.getvalue(), counts.astype("<u2").tobytes()
    parts = [raw[i : i + 65000] for i in range(0, len(raw), 65000)]
    segments = b"".join(b"\xff\xe3" + struct.pack(">H", len(one) + 2) + one for one in parts)
    first = 4 + struct.unpack(">H", jpeg[4:6])[0]  # after the first segment
    return jpeg[:first] + segments + jpeg[first:]


@pytest.mark.parametrize(("enlarged", "orientation"), [(1, 1), (2, 1), (1, 6)])
def test_the_raw_counts_of_dji_are_the_last_page(tmp_path, enlarged, orientation):
    rng = np.random.default_rng(0)
    counts = rng.integers(16000, 19000, (256, 320)).astype(np.uint16)
    shown = np.full((256 * enlarged, 320 * enlarged), 90, np.uint8)
    path = tmp_path / "DJI_0001_T.JPG"
    path.write_bytes(dji_jpeg(counts, shown, orientation))
    first = read_image(path)
    assert first.data.dtype == np.uint8 and "no temperatures" in first.note
    found = read_image(path, page=2)
    expected = np.rot90(counts, -1) if orientation == 6 else counts
    np.testing.assert_array_equal(found.data, expected)
    assert "value_unit" not in found.metadata
    # another size leaves the picture alone
    path.write_bytes(dji_jpeg(counts[:-1], shown, orientation))
    assert "counts" not in read_image(path).note
    with pytest.raises(ValueError, match="it has only one"):
        read_image(path, page=2)


def test_thermal_jpeg_of_dji_says_what_is_read(tmp_path):
    exif = Image.Exif()
    exif[271] = "DJI"
    stream = io.BytesIO()
    Image.fromarray(SHOWN).save(stream, "JPEG", exif=exif)
    jpeg = stream.getvalue()
    at = 4 + int.from_bytes(jpeg[4:6], "big")  # after the first segment
    raw = b"\xff\xe3" + struct.pack(">H", 60002) + bytes(60000)
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg[:at] + raw + jpeg[at:])
    found = read_image(path)
    assert found.data.shape == SHOWN.shape
    assert "DJI" in found.note
