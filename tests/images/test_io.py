from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_busref.images import io

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
RGBA = RNG.integers(0, 256, (20, 30, 4), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".npy", ".TIF"])
@pytest.mark.parametrize(
    "data",
    [
        GREY,
        RGB,
        RGBA,
        DEEP,
        GREY > 100,
        DEEP.astype(np.int16),
        DEEP.astype(np.float32) / 7,
        DEEP.astype(np.float64) / 7,
        DEEP.astype(">u2"),
        np.stack([GREY, GREY]).astype(np.float32),
    ],
    ids=lambda data: f"{data.dtype}-{data.ndim}d",
)
def test_tiff_and_npy_hold_every_type(tmp_path, suffix, data):
    path = tmp_path / f"image{suffix}"
    assert io.write_image(path, data) == path
    back = io.read_image(path)
    np.testing.assert_array_equal(back.data, data)
    assert back.data.dtype == data.dtype.newbyteorder("=")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("data", [GREY, RGB, RGBA, DEEP, GREY > 100])
def test_png_is_lossless(tmp_path, data):
    path = tmp_path / "image.png"
    io.write_image(path, data)
    back = io.read_image(path).data
    np.testing.assert_array_equal(back, data)
    assert back.dtype == data.dtype


@pytest.mark.parametrize("data", [GREY, RGB])
def test_jpeg_is_close(tmp_path, data):
    smooth = np.full_like(data, 90)
    smooth[5:, 8:] = 150
    io.write_image(tmp_path / "image.jpg", smooth)
    back = io.read_image(tmp_path / "image.jpg").data
    assert back.shape == data.shape
    assert np.abs(back.astype(int) - smooth).max() <= 6


def test_jpeg_comes_upright(tmp_path):
    picture = Image.fromarray(GREY)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "image.jpg", exif=exif)
    assert io.read_image(tmp_path / "image.jpg").data.shape == (30, 20)


@pytest.mark.parametrize("name", ["a.JPG", "a.jpe", "a.jfif"])
def test_jpeg_has_many_extensions(tmp_path, name):
    back = io.read_image(io.write_image(tmp_path / name, GREY)).data
    assert np.abs(back.astype(int) - GREY).mean() < 10


def test_palette_and_grey_alpha_png_become_colour(tmp_path):
    Image.fromarray(RGB).quantize(16).save(tmp_path / "palette.png")
    assert io.read_image(tmp_path / "palette.png").data.shape == (20, 30, 3)
    Image.fromarray(RGBA).convert("LA").save(tmp_path / "alpha.png")
    back = io.read_image(tmp_path / "alpha.png").data
    np.testing.assert_array_equal(back[..., 3], RGBA[..., 3])


def test_deep_colour_png_keeps_its_16_bits(tmp_path):
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    pixels = RNG.integers(0, 65536, (2, 2, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    back = io.read_image(path).data
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, pixels)


def test_resolution_tags_survive_a_round_trip(tmp_path):
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(source, RGB, resolution=((3000, 7), (5000, 11)), resolutionunit=3)
    first = io.read_image(source)
    assert first.metadata["unit"] == "cm"
    assert first.metadata["spacing"] == pytest.approx((11 / 5000, 7 / 3000))
    io.write_image(target, first.data[..., 0].astype(np.float32), first.metadata)
    assert io.read_image(target).metadata == first.metadata
    with tifffile.TiffFile(target) as tiff:
        tags = tiff.pages.first.tags
        assert tags["XResolution"].value == (3000, 7)
        assert tags["YResolution"].value == (5000, 11)
        assert tags["ResolutionUnit"].value == 3


def test_imagej_unit_survives_a_round_trip(tmp_path):
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(
        source, DEEP, imagej=True, resolution=(4.0, 2.0), metadata={"unit": "um", "axes": "YX"}
    )
    first = io.read_image(source)
    assert first.metadata["unit"] == "um"
    assert first.metadata["spacing"] == pytest.approx((0.5, 0.25))
    for data in (GREY, DEEP, RGB, DEEP.astype(np.float32)):
        io.write_image(target, data, first.metadata)
        back = io.read_image(target)
        np.testing.assert_array_equal(back.data, data)
        assert back.metadata == first.metadata
    # a type that ImageJ cannot open keeps its size in centimetres
    io.write_image(target, GREY > 9, first.metadata)
    back = io.read_image(target)
    assert back.metadata["unit"] == "cm"
    assert back.metadata["spacing"] == pytest.approx((0.5e-4, 0.25e-4))


def test_ome_spacing_is_read_and_written_as_tags(tmp_path):
    source = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        source,
        DEEP,
        ome=True,
        metadata={
            "axes": "YX",
            "PhysicalSizeX": 0.5,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 0.75,
            "PhysicalSizeYUnit": "µm",
        },
    )
    first = io.read_image(source)
    assert (first.metadata["spacing"], first.metadata["unit"]) == ((0.75, 0.5), "µm")
    for metadata in ({"spacing": (0.75, 0.5), "unit": "µm"}, first.metadata):
        io.write_image(tmp_path / "b.tif", GREY, metadata)
        back = io.read_image(tmp_path / "b.tif").metadata
        assert back["spacing"] == pytest.approx((0.75e-4, 0.5e-4), rel=1e-6)
        assert back["unit"] == "cm"


def test_planar_colour_comes_with_channels_last(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate"
    )
    np.testing.assert_array_equal(io.read_image(tmp_path / "a.tif").data, RGB)


def test_unknown_units_are_left_out(tmp_path):
    io.write_image(tmp_path / "a.tif", GREY, {"spacing": (1, 1), "unit": "furlong"})
    assert "spacing" not in io.read_image(tmp_path / "a.tif").metadata


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg", "a.npy"])
def test_damaged_files_are_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"this is no image" * 4)
    with pytest.raises(ValueError, match=rf"{name} cannot be read as .*accepted"):
        io.read_image(path)
    whole = tmp_path / f"whole-{name}"
    io.write_image(whole, GREY)
    path.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(ValueError, match=rf"{name} cannot be read as"):
        io.read_image(path)


def test_pickles_are_not_loaded(tmp_path):
    path = tmp_path / "evil.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"evil.npy cannot be read as NPY.*Python objects"):
        io.read_image(path)


def test_wrong_paths_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        io.read_image(tmp_path / "none.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder.png is a folder"):
        io.read_image(tmp_path / "folder.png")
    with pytest.raises(ValueError, match=r"image.xyz: extension '.xyz' is not accepted.*\.tif"):
        io.read_image(tmp_path / "image.xyz")
    with pytest.raises(ValueError, match=r"extension '.gif' is not accepted, need .tif, .tiff"):
        io.write_image(tmp_path / "image.gif", GREY)
    with pytest.raises(ValueError, match=r"extension '' is not accepted"):
        io.write_image(tmp_path / "image", GREY)
    with pytest.raises(FileNotFoundError, match=r"nowhere.*does not exist"):
        io.write_image(tmp_path / "nowhere" / "a.png", GREY)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.png", GREY.astype(np.float32), "PNG holds uint8.*got float32"),
        ("a.png", DEEP[..., None].repeat(3, 2), "PNG holds uint8.*got uint16"),
        ("a.jpg", RGBA, r"JPEG holds uint8.*\(20, 30, 4\)"),
        ("a.jpg", DEEP, "JPEG holds uint8.*got uint16"),
        ("a.npy", GREY.astype(complex), "data: got shape .* complex128"),
        ("a.tif", GREY[:0], "data: got shape"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path, name, data, message):
    with pytest.raises(ValueError, match=message):
        io.write_image(tmp_path / name, data)
    assert not list(tmp_path.iterdir())


def test_an_extension_in_capitals_is_kept(tmp_path):
    for name in ("a.NPY", "a.PNG", "a.TIF"):
        io.write_image(tmp_path / name, GREY)
        np.testing.assert_array_equal(io.read_image(tmp_path / name).data, GREY)


@pytest.mark.parametrize(
    ("suffix", "writer"),
    [
        (".npy", (io.np, "save")),
        (".tif", (io, "write_tiff")),
        (".png", (io.Image.Image, "save")),
        (".jpg", (io.Image.Image, "save")),
    ],
)
def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, suffix, writer):
    path = tmp_path / f"a{suffix}"
    io.write_image(path, GREY)
    old = path.read_bytes()
    write = getattr(*writer)

    def fail(*args, **kwargs):
        write(*args, **kwargs)
        raise OSError("disk full")

    monkeypatch.setattr(*writer, fail)
    with pytest.raises(OSError, match="disk full"):
        io.write_image(path, RGB)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
