"""Windows and levels of images that are not read whole: OME-Zarr, TIFF, local and at URLs."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from napari_busref import open_image, read_image
from napari_busref.images.large import LargeImage
from napari_busref.images.uri import local_path, to_uri
from napari_busref.runtime.file_safety import Refused
from ome_zarr_files import write

pytest.importorskip("zarr", reason="needs napari-busref[large]")

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 255, (150, 201), np.uint8)
LEVELS = [PICTURE, PICTURE[::2, ::2], PICTURE[::4, ::4]]
WINDOW = (slice(100, 140), slice(3, 190))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_is_read_by_window_and_level(tmp_path, version):
    path = write(tmp_path / "a.ome.zarr", LEVELS, version=version, scale=0.25)
    image = open_image(path)
    assert (image.shape, image.dtype, len(image.levels)) == ((150, 201), np.uint8, 3)
    assert image.metadata == {"spacing": (0.25, 0.25), "unit": "µm"}
    np.testing.assert_array_equal(image.read(WINDOW), PICTURE[WINDOW])
    np.testing.assert_array_equal(image[100:140, 3:190], PICTURE[WINDOW])
    np.testing.assert_array_equal(
        image.read((slice(5, 60), slice(90, 101)), 1), LEVELS[1][5:60, 90:]
    )
    np.testing.assert_array_equal(image.levels[2][::3, 7], LEVELS[2][::3, 7])
    whole = read_image(path, level=1)
    np.testing.assert_array_equal(whole.data, LEVELS[1])
    np.testing.assert_allclose(whole.metadata["spacing"], [0.5, 0.25 * 201 / 101])


def test_what_travels_is_small_and_opens_where_it_is_read(tmp_path):
    path = write(tmp_path / "a.ome.zarr", LEVELS)
    image = open_image(path)
    image.read(WINDOW)
    sent = pickle.dumps(image)
    assert len(sent) < 1000
    assert pickle.loads(sent) == image
    program = (
        "import pickle, sys; image = pickle.loads(sys.stdin.buffer.read());"
        "print(int(image[100:140, 3:190].astype(int).sum()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], input=sent, capture_output=True, cwd="/", check=True
    )
    assert int(found.stdout) == PICTURE[WINDOW].astype(int).sum()


def test_a_channel_and_a_plane_are_chosen(tmp_path):
    stack = RNG.integers(0, 255, (2, 3, 40, 50), np.uint16)
    path = write(tmp_path / "a.zarr", [stack, stack[:, :, ::2, ::2]], axes="tcyx")
    first = open_image(path)
    assert first.taken == "page 1 of 2, channel 1 of 3"
    np.testing.assert_array_equal(first[:, :], stack[0, 0])
    chosen = open_image(path, channel=2, page=2)
    np.testing.assert_array_equal(chosen.read(level=1), stack[1, 1, ::2, ::2])
    with pytest.raises(ValueError, match="channel: got 4, need 1 to 3"):
        open_image(path, channel=4)


def test_channels_with_the_colours_of_light_are_a_colour_picture(tmp_path):
    colour = RNG.integers(0, 255, (3, 40, 50), np.uint8)
    names = {"channels": [{"color": code} for code in ("FF0000", "00FF00", "0000FF")]}
    path = write(tmp_path / "a.zarr", [colour], axes="cyx", omero=names)
    image = open_image(path)
    assert image.shape == (40, 50, 3)
    np.testing.assert_array_equal(image[5:9, 7:20, 1:], np.moveaxis(colour, 0, -1)[5:9, 7:20, 1:])
    assert open_image(path, channel=3).shape == (40, 50)


@pytest.mark.parametrize("compression", [None, "lzw", "zstd", "jpeg"])
def test_a_pyramid_in_a_tiff_is_read_by_window_and_level(tmp_path, compression):
    path, options = tmp_path / "a.ome.tif", {"tile": (64, 64), "compression": compression}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(PICTURE, subifds=2, metadata={"axes": "YX"}, **options)
        for level in LEVELS[1:]:
            writer.write(level, subfiletype=1, **options)
    image = open_image(path)
    assert [level.shape for level in image.levels] == [level.shape for level in LEVELS]
    whole = read_image(path).data
    np.testing.assert_array_equal(image.read(WINDOW), whole[WINDOW])
    np.testing.assert_array_equal(read_image(path, level=2).data, image.read(level=2))


def test_a_window_of_a_tiff_means_what_the_whole_means(tmp_path):
    bands = RNG.integers(0, 255, (5, 40, 50), np.uint16)
    tifffile.imwrite(
        tmp_path / "bands.tif", bands, planarconfig="separate", photometric="minisblack"
    )
    np.testing.assert_array_equal(open_image(tmp_path / "bands.tif", band=4)[:, :], bands[3])
    grey = RNG.integers(0, 255, (40, 50), np.uint8)
    tifffile.imwrite(tmp_path / "white.tif", grey, photometric="miniswhite")
    np.testing.assert_array_equal(open_image(tmp_path / "white.tif")[3:9, 4:], 255 - grey[3:9, 4:])
    tifffile.imwrite(tmp_path / "gone.tif", grey, extratags=[(42113, 2, 0, "7", True)])
    marked = open_image(tmp_path / "gone.tif").read()
    np.testing.assert_array_equal(np.ma.getmaskarray(marked), grey == 7)
    turned = [(274, 3, 1, 6, True)]
    tifffile.imwrite(tmp_path / "turned.tif", grey, extratags=turned)
    with pytest.raises(ValueError, match="orientation tag"):
        open_image(tmp_path / "turned.tif")


def test_a_window_of_plain_pixels_reads_only_itself(tmp_path):
    large = np.zeros((1000, 2000), np.uint16)
    large[500:520, 600:640] = 7
    tifffile.imwrite(tmp_path / "a.tif", large, byteorder=">")
    image = open_image(tmp_path / "a.tif", memory_limit=0.001)
    assert image[490:530, 590:650].sum() == 7 * 20 * 40
    assert image.dtype == np.uint16


def test_a_cog_keeps_its_place_on_the_map_at_every_level(tmp_path):
    pytest.importorskip("rasterio", reason="needs napari-busref[geo]")
    from napari_busref import write_image

    keys = [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632]
    geo = {"33550": [2.0, 2.0, 0.0], "33922": [0, 0, 0, 5e5, 5e6, 0], "34735": keys}
    picture = RNG.integers(0, 255, (1100, 1300), np.uint8)
    path = write_image(tmp_path / "a.tif", picture, {"geotiff": geo}, cloud=True)
    image = open_image(path)
    assert image.map_position.geotransform == (5e5, 2, 0, 5e6, 0, -2)
    coarse = read_image(path, level=1)
    assert coarse.data.shape == (550, 650)
    assert coarse.map_position.geotransform == (5e5, 4, 0, 5e6, 0, -4)


def test_urls_are_opened_through_fsspec(tmp_path):
    fsspec = pytest.importorskip("fsspec", reason="needs napari-busref[large]")
    local = write(tmp_path / "a.ome.zarr", LEVELS)
    memory = fsspec.filesystem("memory")
    memory.put(str(local), "/bucket/a.ome.zarr", recursive=True)
    for uri in (f"file://{local}", "memory://bucket/a.ome.zarr"):
        np.testing.assert_array_equal(open_image(uri).read(WINDOW, 0), PICTURE[WINDOW])
    tifffile.imwrite(tmp_path / "b.tif", PICTURE, tile=(64, 64))
    memory.put(str(tmp_path / "b.tif"), "/bucket/b.tif")
    np.testing.assert_array_equal(read_image("memory://bucket/b.tif").data, PICTURE)
    with pytest.raises(ModuleNotFoundError, match=r"path: abfs://.*adlfs"):
        open_image("abfs://bucket/b.tif")
    memory.rm("/bucket", recursive=True)


def test_an_object_store_is_read(tmp_path, monkeypatch):
    pytest.importorskip("s3fs", reason="needs s3fs")
    server = pytest.importorskip("moto.server", reason="needs moto[server]")

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    threaded = server.ThreadedMotoServer(port=0)
    threaded.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*threaded.get_host_and_port()))
    local = write(tmp_path / "a.ome.zarr", LEVELS)
    program = (
        "import s3fs, sys; from napari_busref import open_image\n"
        "bucket = s3fs.S3FileSystem(); bucket.mkdir('slides')\n"
        "bucket.put(sys.argv[1], 'slides/a.ome.zarr', recursive=True)\n"
        "image = open_image('s3://slides/a.ome.zarr')\n"
        "print(int(image[100:140, 3:190].astype(int).sum()), image.read(level=2).sum())"
    )
    try:  # its sessions stay open to the end of the process
        found = subprocess.run(
            [sys.executable, "-c", program, str(local)], capture_output=True, check=True
        )
    finally:
        threaded.stop()
    expected = PICTURE[WINDOW].astype(int).sum(), LEVELS[2].sum()
    assert tuple(map(int, found.stdout.split())) == expected


def test_a_path_object_of_a_url_is_that_url(tmp_path):
    from pathlib import Path

    assert to_uri(Path("s3://bucket/a.zarr")) == "s3://bucket/a.zarr"
    assert local_path("file:///tmp/a.zarr") == Path("/tmp/a.zarr")
    assert local_path("C:/a.zarr") == Path("C:/a.zarr")


# -- bad input ----------------------------------------------------------------------------------


def edited(path, change):
    """Change the metadata of the group."""
    file = path / "zarr.json"
    group = json.loads(file.read_text())
    change(group["attributes"]["ome"])
    file.write_text(json.dumps(group))
    return path


def test_levels_that_do_not_belong_together_are_named(tmp_path):
    for name, other in (("a", PICTURE[::2, ::3]), ("b", LEVELS[1].astype(np.uint16))):
        path = write(tmp_path / f"{name}.zarr", [PICTURE, other])
        with pytest.raises(ValueError, match="do not belong together: level 1 is"):
            open_image(path)
    path = write(tmp_path / "c.zarr", LEVELS)
    edited(path, lambda ome: ome["multiscales"][0]["datasets"].reverse())
    with pytest.raises(ValueError, match="do not belong together"):
        open_image(path)


def test_there_is_no_such_level_and_no_step(tmp_path):
    image = open_image(write(tmp_path / "a.zarr", LEVELS))
    with pytest.raises(ValueError, match="level: got 3, need 0 to 2"):
        image.read(level=3)
    with pytest.raises(ValueError, match=r"window: .* without a step"):
        image.read((slice(0, 9, 2), slice(0, 9)))


def test_nothing_outside_the_folder_is_opened(tmp_path):
    secret = write(tmp_path / "secret.zarr", [PICTURE])
    escapes = write(tmp_path / "a.zarr", [PICTURE])
    edited(
        escapes, lambda ome: ome["multiscales"][0]["datasets"][0].update(path="../secret.zarr/0")
    )
    with pytest.raises(Refused, match="outside the folder"):
        open_image(escapes)
    linked = write(tmp_path / "b.zarr", LEVELS)
    chunk = linked / "0" / "c" / "0" / "0"
    chunk.unlink()
    chunk.symlink_to(secret / "0" / "c" / "0" / "0")
    with pytest.raises(Refused, match="symbolic link"):
        open_image(linked).read()


def test_declared_sizes_are_held_against_the_limit(tmp_path):
    path = write(tmp_path / "a.zarr", [np.zeros((4000, 4000), np.uint8)], chunks=(4000, 4000))
    with pytest.raises(Refused, match=r"a chunk of .* above the limit"):
        open_image(path, memory_limit=0.01)
    small = write(tmp_path / "b.zarr", [np.zeros((4000, 4000), np.uint8)])
    image = open_image(small, memory_limit=0.01)
    assert image[:64, :64].sum() == 0
    with pytest.raises(Refused, match="above the limit"):
        read_image(small, memory_limit=0.01)


@pytest.mark.parametrize("codec", ["gzip", "zstd", "blosc"])
@pytest.mark.parametrize("sharded", [False, True])
def test_a_chunk_inflates_to_no_more_than_it_declares(tmp_path, codec, sharded):
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    compressors = {"gzip": GzipCodec(), "zstd": ZstdCodec(), "blosc": BloscCodec()}[codec]

    def made(name, side):
        shards = {"shards": (2 * side, 2 * side)} if sharded else {}
        picture = np.ones((2 * side, 2 * side), np.uint8)
        options = {"compressors": compressors, "chunks": (side, side), **shards}
        return write(tmp_path / name, [picture], **options)

    small, large = made("small.zarr", 64), made("large.zarr", 512)
    np.testing.assert_array_equal(open_image(small).read(), 1)
    chunk = ("0", "c", "0", "0")
    small.joinpath(*chunk).write_bytes(large.joinpath(*chunk).read_bytes())
    for window in (None, (slice(0, 9), slice(0, 9))):
        with pytest.raises(Refused, match="holds more than a chunk declares"):
            open_image(small).read(window)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ome: ome.pop("multiscales"), "no OME-Zarr image"),
        (lambda ome: ome.update(multiscales=[]), "damaged"),
        (lambda ome: ome["multiscales"][0].update(axes=[{"name": "y"}]), "damaged|axes"),
        (lambda ome: ome["multiscales"][0]["datasets"][0].update(path="9"), "damaged"),
    ],
)
def test_damaged_metadata_is_one_line(tmp_path, change, words):
    path = edited(write(tmp_path / "a.zarr", LEVELS), change)
    with pytest.raises(ValueError, match=words):
        open_image(path)


def test_what_is_no_large_image(tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(ValueError, match="no zarr group"):
        open_image(tmp_path / "empty.zarr")
    with pytest.raises(FileNotFoundError):
        open_image(tmp_path / "none.ome.zarr")
    with pytest.raises(ValueError, match="no large image, need one of"):
        open_image(tmp_path / "a.png")
    (tmp_path / "text.tif").write_text("no picture")
    with pytest.raises(ValueError, match="cannot be read as TIFF"):
        open_image(tmp_path / "text.tif")


def test_the_description_is_the_public_type(tmp_path):
    assert isinstance(open_image(write(tmp_path / "a.zarr", LEVELS)), LargeImage)
