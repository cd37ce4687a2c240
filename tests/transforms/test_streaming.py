"""Warping block by block, into OME-Zarr and TIFF: the values of the whole, resumed, never half."""

from __future__ import annotations

import errno
import json
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_busref import Transform, open_image, read_image, write_image, write_mask, write_warped
from napari_busref.images import pyramid
from napari_busref.runtime.holding import held
from napari_busref.runtime.progress import Cancelled

pytest.importorskip("zarr", reason="needs napari-busref[large]")

SHAPE, MOVING = (300, 421), (350, 400)
RNG = np.random.default_rng(0)
ROWS, COLS = np.indices(SHAPE)
BENT = Transform(
    [[1.02, 0.05, 4.3], [-0.04, 0.98, -6.1], [0, 0, 1]],
    np.stack([4 * np.sin(COLS / 60), 3 * np.cos(ROWS / 50)]),
    fixed_shape=SHAPE,
    moving_shape=MOVING,
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 128 px, so that a small picture has several."""
    monkeypatch.setattr(pyramid, "BLOCK", 128)
    monkeypatch.setattr(pyramid, "_CHUNK", 64)


def picture(dtype="uint8", channels=()):
    values = RNG.uniform(0, 200, (*MOVING, *channels))
    return values.astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "channels"),
    [
        ("uint8", ()),
        ("uint16", ()),
        ("float32", ()),
        ("uint8", (3,)),
        ("uint8", (4,)),
        ("int16", ()),
    ],
)
@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
def test_blocks_have_the_values_of_the_whole(tmp_path, dtype, channels, suffix):
    moving = picture(dtype, channels)
    path = write_warped(tmp_path / f"a{suffix}", moving, BENT)
    whole = BENT.apply(moving)
    made = open_image(path)
    np.testing.assert_array_equal(np.ma.filled(made.read(), 0), whole)
    assert made.shape == whole.shape
    assert not list(tmp_path.glob("*.part"))


def test_levels_are_means_of_2_x_2(tmp_path):
    moving = picture()
    made = open_image(write_warped(tmp_path / "a.ome.zarr", moving, BENT))
    assert made.sides == ((300, 421), (150, 211), (75, 106), (38, 53))
    fine = BENT.apply(moving).astype(float)
    expected = (fine[::2, :-1:2] + fine[1::2, :-1:2] + fine[::2, 1::2] + fine[1::2, 1::2]) / 4
    np.testing.assert_allclose(made.read(level=1)[:, :210], expected, atol=0.5)
    np.testing.assert_allclose(
        made.read(level=1)[:, 210], fine[:, 420].reshape(-1, 2).mean(1), atol=0.5
    )


def test_labels_keep_their_values_at_every_level(tmp_path):
    labels = RNG.integers(0, 2, MOVING).astype(np.uint16) * 1000
    made = open_image(write_warped(tmp_path / "a.ome.zarr", labels, BENT, order=0))
    for level in range(len(made.levels)):
        assert set(np.unique(made.read(level=level))) <= {0, 1000}


def test_missing_pixels_are_never_mixed_with_content(tmp_path):
    moving = np.full(MOVING, 100, np.int16)
    moving[100:140, 90:150] = -9999
    write_image(tmp_path / "m.tif", moving, {"nodata": -9999.0})
    masked = np.ma.masked_equal(moving, -9999)
    made = open_image(write_warped(tmp_path / "a.ome.zarr", tmp_path / "m.tif", BENT))
    assert made.nodata == -9999
    for level in range(len(made.levels)):
        assert set(np.unique(np.ma.getdata(made.read(level=level)))) == {-9999, 100}
    whole = BENT.apply(masked)
    np.testing.assert_array_equal(np.ma.getmaskarray(made.read()), np.ma.getmaskarray(whole))
    mask = open_image(write_mask(tmp_path / "mask.tif", tmp_path / "m.tif", BENT)).read()
    np.testing.assert_array_equal(mask == 255, BENT.mask(~np.ma.getmaskarray(masked)))
    holes = np.where(moving < 0, np.nan, 1).astype(np.float32)
    path = write_warped(tmp_path / "b.ome.zarr", holes, BENT)
    np.testing.assert_array_equal(open_image(path).read(), BENT.apply(holes))
    assert np.isfinite(open_image(path).read(level=2)).mean() > 0.8


def test_it_conforms_to_ome_zarr(tmp_path):
    models = pytest.importorskip("ome_zarr_models", reason="needs ome-zarr-models")
    import zarr

    for name, channels in (("grey", ()), ("colour", (3,))):
        metadata = {"spacing": (0.5, 0.25), "unit": "µm"}
        path = write_warped(
            tmp_path / f"{name}.ome.zarr", picture("uint8", channels), BENT, metadata=metadata
        )
        image = models.open_ome_zarr(zarr.open_group(path, mode="r"))
        assert type(image).__name__ == "Image"
        scales = image.attributes.ome.multiscales[0].datasets[1].coordinateTransformations
        assert scales[0].scale[-2:] == [1.0, 0.5]
        assert scales[1].translation[-2:] == [0.25, 0.125]
        assert open_image(path).metadata == metadata | ({})
    array = zarr.open_group(path, mode="r")["0"]
    assert (array.shards, array.chunks) == ((3, 128, 128), (3, 64, 64))


def test_a_tiff_is_a_pyramid_in_tiles_with_its_tags(tmp_path):
    keys = [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632]
    geo = {"33550": [2.0, 2.0, 0.0], "33922": [0, 0, 0, 5e5, 5e6, 0], "34735": keys}
    path = write_warped(tmp_path / "a.tif", picture(), BENT, metadata={"geotiff": geo})
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
        assert [level.shape for level in tiff.series[0].levels] == [
            (300, 421),
            (150, 211),
            (75, 106),
            (38, 53),
        ]
        assert tiff.pages.first.tile == (64, 64)
    assert {**read_image(path).metadata["geotiff"]} == geo
    pytest.importorskip("rasterio", reason="needs napari-busref[geo]")
    cog = write_warped(tmp_path / "c.tif", picture(), BENT, metadata={"geotiff": geo}, cloud=True)
    import rasterio

    with rasterio.open(cog) as opened:
        assert opened.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert opened.transform.to_gdal() == (5e5, 2, 0, 5e6, 0, -2)


# -- stopped ------------------------------------------------------------------------------------


def stop_after(count, cancel):
    """A progress that cancels at its step of this number."""
    steps = iter(range(1000))

    def progress(words, fraction):
        if next(steps) == count:
            cancel.set()

    return progress


class Counted:
    """An array that counts its reads."""

    def __init__(self, data):
        self.data, self.shape, self.dtype, self.reads = data, data.shape, data.dtype, 0

    def __getitem__(self, index):
        self.reads += 1
        return self.data[index]

    def __array__(self, dtype=None, copy=None):
        return self.data


@pytest.mark.parametrize("stop", [1, 5, 11, 14])
def test_a_stopped_warp_is_resumed(tmp_path, stop):
    path, moving, cancel = tmp_path / "a.ome.zarr", Counted(picture()), threading.Event()
    with pytest.raises(Cancelled):
        write_warped(path, moving, BENT, progress=stop_after(stop, cancel), cancel=cancel)
    assert not path.exists()
    first, moving.reads = moving.reads, 0
    write_warped(path, moving, BENT, resume=True)
    assert first + moving.reads == 12  # blocks
    np.testing.assert_array_equal(open_image(path).read(), BENT.apply(moving.data))


def test_other_arguments_begin_again(tmp_path):
    path, moving, cancel = tmp_path / "a.ome.zarr", Counted(picture()), threading.Event()
    with pytest.raises(Cancelled):
        write_warped(path, moving, BENT, progress=stop_after(5, cancel), cancel=cancel)
    moving.reads = 0
    write_warped(path, moving, BENT, fill_value=7, resume=True)
    assert moving.reads == 12


def test_nothing_is_replaced_unasked(tmp_path):
    path = write_warped(tmp_path / "a.ome.zarr", picture(), BENT)
    with pytest.raises(FileExistsError, match=r"path: .* exists"):
        write_warped(path, picture(), BENT)
    write_warped(path, picture("uint16"), BENT, overwrite=True)
    assert open_image(path).dtype == np.uint16


def test_an_output_that_another_run_holds_is_refused(tmp_path):
    (tmp_path / "a.ome.zarr.part").mkdir()
    with (
        held(tmp_path / "a.ome.zarr.part"),
        pytest.raises(BlockingIOError, match=r"path: another run .* writes to"),
    ):
        write_warped(tmp_path / "a.ome.zarr", picture(), BENT)


@pytest.fixture
def full_disk(tmp_path, monkeypatch):
    """A folder on a file system of 200 KiB, or one that says that it is full."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(pyramid.PyramidWriter, "write", full)
    yield folder
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_leaves_no_half_image(full_disk):
    path = full_disk / "a.ome.zarr"
    with pytest.raises(OSError, match=r"the disk is full.*--resume"):
        write_warped(path, picture("float32"), BENT)
    assert not path.exists()


def test_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"path: got a.png, need a name that ends in .ome.zarr"):
        write_warped(tmp_path / "a.png", picture(), BENT)
    with pytest.raises(ValueError, match=r"moving: got shape .* need"):
        write_warped(tmp_path / "a.tif", picture()[:-1], BENT)
    with pytest.raises(TypeError, match="moving: got int"):
        write_warped(tmp_path / "a.tif", 3, BENT)
    with pytest.raises(TypeError, match="transform: got"):
        write_warped(tmp_path / "a.tif", picture(), np.eye(3))
    with pytest.raises(ValueError, match=r"cloud-optimised GeoTIFF ends in .tif"):
        write_warped(tmp_path / "a.ome.zarr", picture(), BENT, cloud=True)


def test_how_it_was_made_is_in_the_metadata(tmp_path):
    path = write_warped(tmp_path / "a.ome.zarr", picture(), BENT)
    own = json.loads((Path(path) / "zarr.json").read_text())["attributes"]["napari-busref"]
    assert own["function"] == "write_warped"
    assert len(own["transform"]) == 64
