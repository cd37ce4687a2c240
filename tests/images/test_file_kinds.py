"""Files that cameras, scanners, GIS and microscopes write, made here and read back."""

from __future__ import annotations

import logging

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from napari_busref.images.io import read_image, read_plane, write_image
from napari_busref.transforms.formats import ImageGrid

GREY = data.camera()[100:164, 200:280]
RGB = data.astronaut()[100:164, 200:280]
DEEP = GREY.astype(np.uint16) * 200 + 11
FLOAT = (GREY / 7).astype(np.float32)
DEEP_RGB = RGB.astype(np.uint16) * 200 + 7


def same(path, expected, **options):
    found = read_image(path, **options).data
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


# -- compression --------------------------------------------------------------------------------


@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("image", [GREY, RGB, DEEP, DEEP_RGB, FLOAT, FLOAT.astype(np.float64)])
@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd", "lzma", "packbits"])
def test_lossless_compression_of_tiff(tmp_path, compression, image, predictor):
    if compression == "packbits" and predictor:
        pytest.skip("has no predictor")
    path = tmp_path / "a.tif"
    photometric = "rgb" if image.ndim == 3 else "minisblack"
    options = {"predictor": True} if predictor else {}
    tifffile.imwrite(path, image, compression=compression, photometric=photometric, **options)
    same(path, image)


@pytest.mark.parametrize("options", [{"tile": (32, 32)}, {"rowsperstrip": 7}, {"bigtiff": True}])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_layouts_of_tiff(tmp_path, options, planar):
    pixels = RGB if planar == "contig" else np.moveaxis(RGB, -1, 0)
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        photometric="rgb",
        planarconfig=planar,
        compression="lzw",
        **options,
    )
    same(tmp_path / "a.tif", RGB)


@pytest.mark.parametrize("compression", ["jpeg", "webp", "jpegxl", "jpeg2000", "lerc", "png"])
def test_other_compression_of_tiff(tmp_path, compression):
    tifffile.imwrite(tmp_path / "a.tif", RGB, compression=compression, photometric="rgb")
    assert np.abs(read_image(tmp_path / "a.tif").data.astype(int) - RGB).mean() < 5


@pytest.mark.parametrize(
    "compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"]
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_files_of_libtiff(tmp_path, mode, compression):
    picture = Image.fromarray(GREY if mode == "L" else RGB)
    picture.save(tmp_path / "a.tif", compression=compression)
    expected = np.array(Image.open(tmp_path / "a.tif"))
    assert np.abs(read_image(tmp_path / "a.tif").data.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("compression", ["raw", "group3", "group4", "tiff_lzw"])
@pytest.mark.parametrize("white", [0, 1])
def test_fax_and_packed_bits(tmp_path, compression, white):
    image = GREY > 99
    Image.fromarray(image).save(
        tmp_path / "a.tif", compression=compression, tiffinfo={262: 1 - white}
    )
    with Image.open(tmp_path / "a.tif") as picture:
        expected = np.array(picture)
    found = read_image(tmp_path / "a.tif").data
    assert found.dtype == bool
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bits", [2, 4, 12])
def test_odd_numbers_of_bits(tmp_path, bits):
    image = (DEEP >> (16 - bits)).astype(np.uint16 if bits > 8 else np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, bitspersample=bits)
    scale = 1 if bits > 8 else 255 / (2**bits - 1)
    same(tmp_path / "a.tif", np.rint(image * scale).astype(image.dtype))


def test_jpeg_of_12_bits_in_tiff(tmp_path):
    path, counts = tmp_path / "a.tif", GREY.astype(np.uint16) * 16
    options = {"level": 98, "bitspersample": 12}
    tifffile.imwrite(path, counts, compression="jpeg", bitspersample=12, compressionargs=options)
    np.testing.assert_allclose(read_image(path).data, counts, atol=8)


@pytest.mark.parametrize("largest", [1023, 4095, 16383, 65534, 65535])
@pytest.mark.parametrize("kind", ["P2", "P5"])
def test_counts_of_a_thermal_camera_in_pgm(tmp_path, largest, kind):
    counts = np.linspace(0, largest, 64 * 80).round().astype(np.uint16).reshape(64, 80)
    head = f"{kind}\n# 14 bits\n80 64 # columns, rows\n{largest}\n".encode()
    text = " ".join(map(str, counts.flat)).encode()
    (tmp_path / "a.pgm").write_bytes(
        head + (text if kind == "P2" else counts.astype(">u2").tobytes())
    )
    same(tmp_path / "a.pgm", counts)


@pytest.mark.parametrize("array", [np.zeros(5), np.zeros((0, 5)), np.full((3, 4), "a")])
def test_npy_without_an_image(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=r"a\.npy holds .* of shape .*, need an image of numbers"):
        read_image(tmp_path / "a.npy")


@pytest.mark.parametrize("text", ["nan", "-9999", "1e400", "none", ""])
def test_a_missing_value_that_no_integer_holds_marks_nothing(tmp_path, monkeypatch, capfd, text):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    tags = [(42113, "s", 0, text, True)]
    tifffile.imwrite(tmp_path / "a.tif", DEEP, extratags=tags)
    same(tmp_path / "a.tif", DEEP)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("image", [GREY, DEEP])
def test_white_is_zero(tmp_path, image):
    inverted = np.iinfo(image.dtype).max - image
    tifffile.imwrite(tmp_path / "a.tif", inverted, photometric="miniswhite")
    same(tmp_path / "a.tif", image)


def test_palette_and_cmyk_become_colour(tmp_path):
    picture = Image.fromarray(RGB)
    palette = picture.quantize(64)
    palette.save(tmp_path / "p.tif")
    same(tmp_path / "p.tif", np.array(palette.convert("RGB")))
    cmyk = picture.convert("CMYK")
    cmyk.save(tmp_path / "c.tif")
    same(tmp_path / "c.tif", np.array(cmyk.convert("RGB")))
    assert np.abs(read_image(tmp_path / "c.tif").data.astype(int) - RGB).max() < 3


# -- orientation --------------------------------------------------------------------------------

#: What a file holds so that the tag turns it into the upright image.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.swapaxes(a[::-1, ::-1], 0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.webp", "a.jpg", "deep.tif"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_every_orientation_in_every_format(tmp_path, tag, name):
    image = DEEP if name == "deep.tif" else RGB
    picture = Image.fromarray(np.ascontiguousarray(STORED[tag](image)))
    exif = Image.Exif()
    exif[274] = tag
    path = tmp_path / name
    if name.endswith("tif"):
        picture.save(path, tiffinfo={274: tag}, dpi=(100, 200))
    else:
        picture.save(path, exif=exif, **({"lossless": True} if name == "a.webp" else {}))
    if name.endswith("tif"):  # Pillow turns TIFF itself
        np.testing.assert_array_equal(tifffile.imread(path), STORED[tag](image))
    found = read_image(path)
    assert found.data.shape == image.shape
    assert np.abs(found.data.astype(float) - image).mean() < (6 if name == "a.jpg" else 1e-9)
    if name == "a.tif":  # the pixel size turns, too
        rows, cols = found.metadata["spacing"]
        assert rows / cols == pytest.approx(2 if tag > 4 else 0.5)


def test_orientation_of_bands_and_alpha(tmp_path):
    alpha = np.where(GREY > 99, 255, 0).astype(np.uint8)
    rgba = np.dstack([RGB, alpha])
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.rot90(rgba).copy(),
        photometric="rgb",
        extrasamples=["unassalpha"],
        extratags=[(274, 3, 1, 6, True)],
    )
    same(tmp_path / "a.tif", rgba)
    bands = np.stack([GREY, GREY // 2, GREY // 3, GREY // 4, GREY // 5])
    tifffile.imwrite(
        tmp_path / "b.tif",
        np.rot90(bands, axes=(1, 2)).copy(),
        photometric="minisblack",
        planarconfig="separate",
        extratags=[(274, 3, 1, 6, True)],
    )
    same(tmp_path / "b.tif", bands)
    same(tmp_path / "b.tif", bands[2], band=3)


# -- alpha and bands ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha"])
def test_alpha_is_what_the_file_calls_alpha(tmp_path, kind):
    rgba = np.dstack([RGB, np.where(GREY > 99, 255, 0).astype(np.uint8)])
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=[kind])
    same(tmp_path / "a.tif", rgba)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("extra", [["unspecified"], ["unspecified", "unspecified"], None])
def test_other_bands_of_colour_are_bands(tmp_path, dtype, extra):
    near = (GREY // 2).astype(dtype)
    count = len(extra or [0])
    pixels = np.dstack([RGB.astype(dtype), *[near] * count])
    options = {"extrasamples": extra} if extra else {"extrasamples": [0]}
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", **options)
    same(tmp_path / "a.tif", RGB.astype(dtype))
    same(tmp_path / "a.tif", near, band=4)
    same(tmp_path / "a.tif", RGB[..., 1].astype(dtype), band=2)
    plane = read_plane(tmp_path / "a.tif")
    assert plane.taken == f"bands 1-3 of {3 + count} as colour"


def test_alpha_beside_near_infrared(tmp_path):
    alpha = np.where(GREY > 99, 255, 0).astype(np.uint8)
    pixels = np.dstack([RGB, GREY, alpha])
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        photometric="rgb",
        extrasamples=["unspecified", "unassalpha"],
    )
    same(tmp_path / "a.tif", np.dstack([RGB, alpha]))
    same(tmp_path / "a.tif", GREY, band=4)


@pytest.mark.parametrize("image", [GREY, DEEP, FLOAT])
def test_grey_with_alpha(tmp_path, image):
    opaque = GREY > 99
    alpha = (opaque * (255 if image.dtype.kind == "u" else 1)).astype(image.dtype)
    pixels = np.dstack([image, alpha])
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"],
    )
    found = read_image(tmp_path / "a.tif").data
    if image.dtype == np.uint8:
        np.testing.assert_array_equal(found, np.dstack([image] * 3 + [alpha]))
    elif image.dtype.kind == "f":
        np.testing.assert_array_equal(found, np.where(opaque, image, np.nan))
    else:
        np.testing.assert_array_equal(np.ma.getmaskarray(found), ~opaque)
        np.testing.assert_array_equal(found.compressed(), image[opaque])


@pytest.mark.parametrize("count", [2, 4, 5, 12])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_bands_of_a_satellite(tmp_path, count, planar):
    bands = np.stack([DEEP // (i + 1) for i in range(count)])
    pixels = bands if planar == "separate" else np.moveaxis(bands, 0, -1)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig=planar)
    same(path, bands)
    for number in (1, count):
        same(path, bands[number - 1], band=number)
        assert read_plane(path, band=number).taken == f"band {number} of {count}"
    assert read_plane(path).taken == f"band 1 of {count}"
    assert ImageGrid.from_image(read_image(path)).shape == GREY.shape
    for wrong in (0, count + 1):
        with pytest.raises(ValueError, match=rf"band: got {wrong}, need 1"):
            read_image(path, band=wrong)
    with pytest.raises(TypeError, match=r"band: got 1\.5, need a whole number"):
        read_image(path, band=1.5)


def test_pages_frames_and_channels(tmp_path):
    stack = np.arange(2 * 3 * 4)[:, None, None] + np.zeros((64, 80))
    stack = stack.reshape(2, 3, 4, 64, 80).astype(np.uint16)
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "TZCYX"})
    same(path, stack)
    same(path, stack[1, 2, 1], page=6, channel=2)
    same(path, stack[0, 1], page=2)
    same(path, stack[:, :, 3], channel=4)
    plane = read_plane(path)
    np.testing.assert_array_equal(plane.data, stack[0, 0, 0])
    assert plane.taken == "page 1 of 6, channel 1 of 4"
    hyper = tmp_path / "ij.tif"
    tifffile.imwrite(hyper, stack, imagej=True, metadata={"axes": "TZCYX", "unit": "um"})
    same(hyper, stack[1, 0, 2], page=4, channel=3)
    film = tmp_path / "film.tif"
    tifffile.imwrite(film, stack[:, 0, 0])
    same(film, stack[1, 0, 0], page=2)
    same(film, stack[1, 0, 0], band=2)  # any name serves where there is one axis
    assert read_plane(film).taken == "page 1 of 2"
    with pytest.raises(ValueError, match="page: got 3, need 1 to 2"):
        read_image(film, page=3)
    write_image(tmp_path / "grey.png", GREY)
    with pytest.raises(ValueError, match="page: got 2, need 1 to 1: it has only one"):
        read_image(tmp_path / "grey.png", page=2)


def test_bands_of_npy(tmp_path):
    bands = np.stack([DEEP, DEEP // 2, DEEP // 3, DEEP // 4, DEEP // 5])
    np.save(tmp_path / "first.npy", bands)
    np.save(tmp_path / "last.npy", np.moveaxis(bands, 0, -1))
    for name in ("first.npy", "last.npy"):
        same(tmp_path / name, bands[3], band=4)
        np.testing.assert_array_equal(read_plane(tmp_path / name).data, bands[0])


# -- other formats ------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [GREY, RGB, GREY > 99])
@pytest.mark.parametrize(
    "name", ["a.bmp", "a.webp", "a.gif", "a.jp2", "a.jpx", "a.ppm", "a.BMP", "a.tga"]
)
def test_pictures_that_pillow_writes(tmp_path, name, image):
    picture = Image.fromarray(image)
    lossless = name in ("a.webp",)
    if name.endswith(("jp2", "jpx", "webp")) and image.dtype == bool:
        pytest.skip("holds no single bits")
    picture.save(tmp_path / name, **({"lossless": True} if lossless else {}))
    with Image.open(tmp_path / name) as opened:
        mode = "1" if opened.mode == "1" else "L" if opened.mode in "L1" else "RGB"
        expected = np.array(opened.convert(mode))
    found = read_image(tmp_path / name).data
    if found.ndim == 3 and expected.ndim == 2:  # a palette of greys
        expected = np.dstack([expected] * 3)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("image", [DEEP, DEEP_RGB])
def test_deep_jpeg_2000(tmp_path, image):
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(image, level=0))
    same(tmp_path / "a.jp2", image)


def test_channels_of_jpeg_2000(tmp_path):
    """Alpha is what the file calls so; other channels are bands, however many."""
    alpha = np.where(GREY > 99, 255, 0).astype(np.uint8)
    path = tmp_path / "a.jp2"
    Image.fromarray(np.dstack([RGB, alpha])).save(path)
    same(path, np.dstack([RGB, alpha]))
    Image.fromarray(np.dstack([GREY, alpha]), "LA").save(path)
    found = read_image(path).data
    np.testing.assert_array_equal(np.ma.getmaskarray(found), alpha == 0)
    np.testing.assert_array_equal(np.ma.getdata(found), GREY)
    for bands in (np.dstack([RGB, GREY]), np.dstack([DEEP_RGB, DEEP, DEEP // 2])):
        path.write_bytes(imagecodecs.jpeg2k_encode(bands, level=0))
        same(path, bands[..., :3])
        same(path, bands[..., -1], band=bands.shape[-1])
        assert read_plane(path).taken == f"bands 1-3 of {bands.shape[-1]} as colour"
    path.write_bytes(imagecodecs.jpeg2k_encode(np.dstack([DEEP, DEEP // 2]), level=0))
    same(path, DEEP // 2, band=2)


def test_frames_of_a_gif_and_of_an_mpo(tmp_path):
    first, second = (Image.fromarray(part) for part in (RGB, RGB[::-1].copy()))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    for name in ("a.gif", "a.jpg"):
        assert read_plane(tmp_path / name).taken == "page 1 of 2"
        last = read_image(tmp_path / name, page=2).data[..., :3].astype(int)
        assert np.abs(last - RGB[::-1]).mean() < 12


def test_transparency_without_an_alpha_channel(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png", transparency=int(GREY[0, 0]))
    found = read_image(tmp_path / "a.png").data
    np.testing.assert_array_equal(found[..., 3] == 0, GREY == GREY[0, 0])


def test_a_grey_value_of_16_bits_that_is_transparent(tmp_path):
    key = int(DEEP[0, 0])
    Image.fromarray(DEEP).save(tmp_path / "a.png", transparency=key)
    found = read_image(tmp_path / "a.png").data
    np.testing.assert_array_equal(np.ma.getmaskarray(found), key == DEEP)
    np.testing.assert_array_equal(np.ma.getdata(found), DEEP)


def test_a_tiff_with_a_palette_and_alpha(tmp_path):
    alpha = np.where(GREY > 99, 255, 0).astype(np.uint8)
    picture = Image.fromarray(RGB).convert("P")
    colours = np.array(picture.getpalette(), np.uint8).reshape(-1, 3)
    with_alpha = picture.convert("PA")
    with_alpha.putalpha(Image.fromarray(alpha))
    with_alpha.save(tmp_path / "pa.tif")
    found = read_image(tmp_path / "pa.tif").data
    np.testing.assert_array_equal(found[..., :3], colours[np.array(picture)])
    np.testing.assert_array_equal(found[..., 3], alpha)


def test_pages_of_other_sizes_and_types(tmp_path):
    """A TIFF of a visible and a thermal page; thumbnails and masks are no pages."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(RGB, photometric="rgb", resolution=(100, 100), resolutionunit="CENTIMETER")
        tiff.write(GREY[::4, ::4], photometric="minisblack", subfiletype=1)
        nodata = [(42113, 2, 0, str(float(FLOAT[0, 0])), True)]
        tiff.write(FLOAT[:40], photometric="minisblack", extratags=nodata)
        tiff.write(np.stack([DEEP, DEEP // 2]), photometric="minisblack")
    same(path, RGB)
    first = read_plane(path)
    assert first.taken == "page 1 of 4" and first.metadata["unit"] == "cm"
    np.testing.assert_array_equal(first.data, RGB)
    second = read_image(path, page=2)
    assert second.taken == "page 2 of 4" and "spacing" not in second.metadata
    missing = FLOAT[:40] == FLOAT[0, 0]  # as this page says, not the first
    np.testing.assert_array_equal(second.data, np.where(missing, np.nan, FLOAT[:40]))
    same(path, DEEP, page=3)
    same(path, DEEP // 2, page=4)
    with pytest.raises(ValueError, match="page: got 5, need 1 to 4"):
        read_image(path, page=5)
    # the first series may be a stack
    tifffile.imwrite(path, np.stack([DEEP, DEEP // 2]), photometric="minisblack")
    tifffile.imwrite(path, RGB, photometric="rgb", append=True)
    same(path, DEEP // 2, page=2)
    same(path, RGB, page=3)
    same(path, RGB[..., 1], page=3, band=2)
    assert read_plane(path).taken == "page 1 of 3"
    same(path, np.stack([DEEP, DEEP // 2]))


def test_an_axis_of_one_is_no_choice(tmp_path):
    for shape in ((64, 80, 1), (1, 64, 80)):
        np.save(tmp_path / "a.npy", GREY.reshape(shape))
        plane = read_plane(tmp_path / "a.npy")
        assert (plane.data.shape, plane.taken) == ((64, 80), "")


def test_dicom(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    path = tmp_path / "a.dcm"

    def write(pixels, **more):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        dataset.SOPClassUID = pydicom.uid.CTImageStorage
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
        dataset.Rows, dataset.Columns = GREY.shape
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated = 8 * pixels.dtype.itemsize
        dataset.BitsStored, dataset.HighBit = dataset.BitsAllocated, dataset.BitsAllocated - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.PixelSpacing = [0.5, 0.25]
        for name, value in more.items():
            setattr(dataset, name, value)
        dataset.PixelData = pixels.tobytes()
        dataset.save_as(path, enforce_file_format=True)

    write(GREY.astype(np.int16) * 9, RescaleSlope=1, RescaleIntercept=-1024)
    same(path, GREY.astype(np.int16) * 9 - 1024)
    assert read_image(path).metadata == {"spacing": (0.5, 0.25), "unit": "mm"}
    write(DEEP, PhotometricInterpretation="MONOCHROME1")
    same(path, 65535 - DEEP)
    write(DEEP, RescaleSlope=0.5, RescaleIntercept=0)
    same(path, (DEEP / 2).astype(np.float32))
    write(DEEP, PixelPaddingValue=int(DEEP[0, 0]))
    padding = np.ma.getmaskarray(read_image(path).data)
    np.testing.assert_array_equal(padding, DEEP == DEEP[0, 0])
    write(np.stack([DEEP, DEEP // 2]), NumberOfFrames=2)
    same(path, DEEP // 2, page=2)
    write(RGB, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    same(path, RGB)


def test_czi(tmp_path):
    pytest.importorskip("czifile")
    writer = pytest.importorskip("pylibCZIrw.czi")
    path = tmp_path / "a.czi"
    with writer.create_czi(str(path)) as czi:
        for channel, image in enumerate([DEEP, DEEP // 2]):
            for z in range(3):
                czi.write(data=(image // (z + 1))[..., None], plane={"C": channel, "Z": z, "T": 0})
        czi.write_metadata("a", scale_x=5e-7, scale_y=2.5e-7)
    same(path, DEEP // 2 // 3, channel=2, page=3)
    assert read_plane(path).taken == "page 1 of 3, channel 1 of 2"
    metadata = read_image(path).metadata
    assert metadata["unit"] == "µm"
    assert metadata["spacing"] == pytest.approx((0.25, 0.5))


@pytest.mark.parametrize(("name", "package"), [("a.dcm", "pydicom"), ("a.czi", "czifile")])
def test_a_missing_library_is_named(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(ValueError, match=rf"{name}: .* needs {package}: pip install 'napari-bus"):
        read_image(tmp_path / name)


# -- tags ---------------------------------------------------------------------------------------


def test_the_place_on_a_map_is_kept(tmp_path):
    keys = (1, 1, 0, 4, 1024, 0, 1, 1, 1025, 0, 1, 1, 1026, 34737, 6, 0, 3072, 0, 1, 32631)
    tags = {
        33550: (12, 3, (0.5, 0.25, 0.0)),
        33922: (12, 6, (0.0, 0.0, 0.0, 5e5, 4.6e6, 0.0)),
        34735: (3, len(keys), keys),
        34737: (2, 0, "UTM31|"),
    }
    extra = [(code, kind, count, value, True) for code, (kind, count, value) in tags.items()]
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", extratags=extra)
    found = read_image(tmp_path / "a.tif")
    assert (found.metadata["spacing"], found.metadata["unit"]) == ((0.25, 0.5), "m")
    for image in (GREY, RGB, FLOAT, DEEP):
        write_image(tmp_path / "b.tif", image, found.metadata)
        with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
            for code, (_, _, value) in tags.items():
                assert tiff.pages[0].tags[code].value == value
        assert read_image(tmp_path / "b.tif").metadata["geotiff"] == found.metadata["geotiff"]


GDAL = (
    "<GDALMetadata>"
    '<Item name="SCALE" sample="0" role="scale">0.01</Item>'
    '<Item name="OFFSET" sample="0" role="offset">-273.15</Item>'
    '<Item name="UNITTYPE" sample="0" role="unittype">degC</Item>'
    '<Item name="SCALE" sample="1" role="scale">2</Item>'
    '<Item name="AREA_OR_POINT">Area</Item></GDALMetadata>'
)


def test_scale_and_offset_of_gdal_give_the_values_that_are_meant(tmp_path):
    path, counts = tmp_path / "a.tif", (29000 + 7 * GREY.astype(np.uint16)).astype(np.uint16)
    counts[0, :9] = 0
    tags = [(42112, 2, 0, GDAL, True), (42113, 2, 0, "0", True)]
    tifffile.imwrite(path, counts, extratags=tags)
    expected = (counts * 0.01 - 273.15).astype(np.float32)
    expected[0, :9] = np.nan
    same(path, expected)
    metadata = read_image(path).metadata
    assert metadata["value_unit"] == "degC" and np.isnan(metadata["nodata"])
    write_image(tmp_path / "b.tif", expected, metadata)
    same(tmp_path / "b.tif", expected)
    bands = np.stack([counts, counts // 2, counts // 3])
    options = {"photometric": "minisblack", "planarconfig": "separate"}
    tifffile.imwrite(path, bands, extratags=tags[:1], **options)
    same(path, (bands[0] * 0.01 - 273.15).astype(np.float32), band=1)
    same(path, bands[1] * np.float32(2), band=2)
    same(path, bands[2].astype(np.float32), band=3)
    plain = GDAL.replace("0.01", "1").replace("-273.15", "0").replace(">2<", ">1<")
    tifffile.imwrite(path, counts, extratags=[(42112, 2, 0, plain, True)])
    same(path, counts)
    tifffile.imwrite(path, counts, extratags=[(42112, 2, 0, "<GDAL", True)])
    same(path, counts)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_a_colour_profile_does_not_change_the_values(tmp_path, name):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(RGB).save(tmp_path / name, icc_profile=profile)
    Image.fromarray(RGB).save(tmp_path / f"plain{name[1:]}")
    same(tmp_path / name, read_image(tmp_path / f"plain{name[1:]}").data)
