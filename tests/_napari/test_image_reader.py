"""The plugin's reader of images: napari shows what the command line reads."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Image, Layer
from napari.layers._source import layer_source
from napari_builtins.io import magic_imread
from PIL import Image as Picture
from skimage import data

from napari_busref._napari.files.image_reader import get_image_reader, read_images
from napari_busref._napari.files.open_pictures import add_pictures
from napari_busref._napari.layers.map_positions import map_place
from napari_busref._napari.layers.ome_tiff import write_ome_tiff
from napari_busref._napari.layers.orientation import stored_orientation, turn_upright
from napari_busref.images.io import read_image, write_image

GREY = data.camera()[100:164, 200:280]
RGB = data.astronaut()[100:164, 200:280]


def layers(path):
    reader = get_image_reader(str(path))
    assert reader is read_images
    return [Layer.create(*one) for one in reader(str(path)) if "channel_axis" not in one[1]]


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_sideways_pictures_open_upright(tmp_path, name):
    stored = np.rot90(RGB).copy()
    if name == "a.jpg":
        exif = Picture.Exif()
        exif[274] = 6
        Picture.fromarray(stored).save(tmp_path / name, exif=exif)
    else:
        tag = [(274, 3, 1, 6, True)]
        tifffile.imwrite(tmp_path / name, stored, photometric="rgb", extratags=tag)
    (layer,) = layers(tmp_path / name)
    assert layer.data.shape == RGB.shape
    assert layer.rgb


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
def test_missing_pixels_are_nan(tmp_path, dtype):
    image = GREY.astype(dtype)
    image[:9] = 3
    image[9:][image[9:] == 3] = 4
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=[(42113, 2, 0, "3", True)])
    (layer,) = layers(tmp_path / "a.tif")
    np.testing.assert_array_equal(np.isnan(layer.data[:9]), True)
    np.testing.assert_array_equal(layer.data[9:], image[9:])


def test_pixel_size_and_unit(tmp_path):
    stack = np.stack([GREY, GREY // 2])
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        stack,
        ome=True,
        metadata={
            "axes": "TYX",
            "PhysicalSizeX": 0.5,
            "PhysicalSizeY": 0.25,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeYUnit": "µm",
        },
    )
    (layer,) = layers(tmp_path / "a.ome.tif")
    np.testing.assert_allclose(layer.scale, (1, 0.25, 0.5))
    assert [str(unit) for unit in layer.units] == ["pixel", "micrometer", "micrometer"]
    np.testing.assert_array_equal(layer.data, stack)


def test_a_time_series_of_stacks_comes_back_with_its_units(tmp_path):
    stack = np.arange(2 * 3 * 20 * 30).reshape(2, 3, 20, 30).astype(np.uint16)
    units = ("pixel", "um", "um", "um")
    layer = Image(stack, name="a", scale=(1, 2, 0.25, 0.5), units=units)
    path = str(tmp_path / "a.ome.tif")
    write_ome_tiff(path, *layer.as_layer_data_tuple()[:2])
    (again,) = layers(path)
    np.testing.assert_array_equal(again.data, stack)
    np.testing.assert_allclose(again.scale, layer.scale)
    assert again.units == layer.units


def test_an_imagej_hyperstack_keeps_its_units(tmp_path):
    stack = np.arange(2 * 3 * 2 * 20 * 30).reshape(2, 3, 2, 20, 30).astype(np.uint16)
    metadata = {"axes": "TZCYX", "unit": "um", "spacing": 2.5}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, imagej=True, resolution=(4, 2), metadata=metadata)
    ((found, options, _),) = read_images(str(path))
    assert options["channel_axis"] == 2
    np.testing.assert_array_equal(found, stack)
    assert options["scale"] == (1.0, 2.5, 0.5, 0.25)
    assert options["units"] == ("pixel", *["micrometer"] * 3)


@pytest.mark.parametrize(
    ("labels", "order"),
    [(None, "TZCYX"), (("t", "c", "z", "y", "x"), "TCZYX"), (("a", "b", "c", "y", "x"), "TZCYX")],
)
def test_five_axes_come_back_with_their_units(tmp_path, labels, order):
    stack = np.arange(2 * 3 * 4 * 20 * 30).reshape(2, 3, 4, 20, 30).astype(np.uint16)
    z = order.index("Z")
    scale, units = [1.0, 1.0, 1.0, 0.25, 0.5], ["pixel"] * 3 + ["um"] * 2
    scale[z], units[z] = 2.0, "um"
    layer = Image(stack, name="a", scale=scale, units=units, axis_labels=labels)
    path = str(tmp_path / "a.ome.tif")
    write_ome_tiff(path, *layer.as_layer_data_tuple()[:2])
    with tifffile.TiffFile(path) as tiff:
        assert tiff.series[0].axes == order
    ((found, options, _),) = read_images(path)
    np.testing.assert_array_equal(found, stack)
    assert options["channel_axis"] == order.index("C")
    assert options["scale"] == tuple(one for i, one in enumerate(scale) if order[i] != "C")


def test_channels_become_layers(tmp_path):
    stack = np.stack([GREY, GREY // 2])
    path = tmp_path / "b.tif"
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "CYX"})
    ((found, options, kind),) = read_images(str(path))
    assert (options["channel_axis"], options["name"], kind) == (0, ["b 1", "b 2"], "image")
    np.testing.assert_array_equal(found, stack)


def test_other_files_are_left_to_napari(tmp_path):
    assert get_image_reader("a.svg") is None
    assert get_image_reader(["a.tif", "a.obj"]) is None


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_a_layer_of_napari_is_turned_upright(tmp_path, name, tag):
    """napari's own reader shows pictures as they are stored."""
    stored = RGB if tag == 1 else RGB[:, :60]
    if name == "a.jpg":
        exif = Picture.Exif()
        exif[274] = tag
        Picture.fromarray(stored).save(tmp_path / name, exif=exif, quality=100, subsampling=0)
    else:
        tifffile.imwrite(
            tmp_path / name, stored, photometric="rgb", extratags=[(274, 3, 1, tag, True)]
        )
    viewer = ViewerModel()
    with layer_source(path=str(tmp_path / name), reader_plugin="napari"):
        layer = viewer.add_image(magic_imread([str(tmp_path / name)]))
    assert layer.data.shape == stored.shape
    layer.scale = (2, 3)
    assert stored_orientation(layer) == tag
    turn_upright(layer)
    np.testing.assert_array_equal(layer.data, read_image(tmp_path / name).data)
    np.testing.assert_array_equal(layer.scale, (3, 2) if tag > 4 else (2, 3))
    assert stored_orientation(layer) == 1
    turn_upright(layer)
    np.testing.assert_array_equal(layer.data, read_image(tmp_path / name).data)
    add_pictures(viewer, str(tmp_path / name))
    assert stored_orientation(viewer.layers[-1]) == 1
    np.testing.assert_array_equal(viewer.layers[-1].data, layer.data)
    assert stored_orientation(viewer.add_image(stored)) == 1


@pytest.mark.parametrize("reader", ["napari", "busref"])
def test_layers_are_placed_by_the_map(tmp_path, reader):
    """A layer of 2 m in another projection, with its rows to the north, on one of 0.5 m."""
    rasterio = pytest.importorskip("rasterio")
    from rasterio import warp
    from rasterio.transform import Affine

    (x,), (y,) = warp.transform("EPSG:32632", "EPSG:3035", [691_050], [5_334_960])
    places = {
        "fixed": ("EPSG:32632", Affine(0.5, 0, 691_000, 0, -0.5, 5_335_000)),
        "moving": ("EPSG:3035", Affine(2, 0, x - 50, 0, 2, y - 40)),
    }
    sizes = {"fixed": (160, 200), "moving": (40, 50)}
    viewer = ViewerModel()
    for name, (crs, place) in places.items():
        (height, width), path = sizes[name], str(tmp_path / f"{name}.tif")
        profile = {"driver": "GTiff", "count": 1, "height": height, "width": width}
        with rasterio.open(path, "w", dtype="uint8", crs=crs, transform=place, **profile) as file:
            file.write(np.zeros((1, height, width), np.uint8))
        if reader == "busref":
            add_pictures(viewer, path)
        else:
            with layer_source(path=path, reader_plugin="napari"):
                viewer.add_image(magic_imread([path]), name=name)
    fixed, moving = viewer.layers
    fixed.scale, fixed.translate = (0.5, 0.5), (30, -20)
    found = map_place(viewer, fixed, moving)
    assert found.crs == "EPSG:3035 on EPSG:32632"
    assert found.words == (
        "moving: EPSG:3035, 2 metre a pixel; fixed: EPSG:32632, 0.5 metre a pixel"
    )
    found.move()
    for row, col in [(0, 0), (10, 39), (39, 20)]:
        east, north = warp.transform(
            "EPSG:3035", "EPSG:32632", [x - 49 + 2 * col], [y - 39 + 2 * row]
        )
        expected = [2 * (5_335_000 - north[0]) - 0.5, 2 * (east[0] - 691_000) - 0.5]
        world = moving.data_to_world((row, col))
        np.testing.assert_allclose(fixed.world_to_data(world), expected, atol=0.05)
    assert map_place(viewer, fixed, moving) is None  # it lies there now
    assert map_place(viewer, fixed, viewer.add_image(np.zeros((40, 50)))) is None


@pytest.mark.parametrize("channels", [(), (3,)])
def test_an_ome_zarr_opens_with_its_levels_unread(tmp_path, channels):
    pytest.importorskip("zarr", reason="needs napari-busref[large]")
    from napari_busref.images.large import LargeImage

    picture = np.random.default_rng(0).integers(0, 255, (1200, 900, *channels), np.uint8)
    path = write_image(tmp_path / "a.ome.zarr", picture, {"spacing": (0.5, 0.5), "unit": "µm"})
    reads, read = [], LargeImage.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LargeImage, "read", lambda self, *a: reads.append(a[-1]) or read(self, *a))
        (layer,) = layers(path)
        assert set(reads) <= {2}  # only the coarsest level, for the contrast limits
    assert [level.shape for level in layer.data] == [
        (1200, 900, *channels),
        (600, 450, *channels),
        (300, 225, *channels),
    ]
    assert layer.name == "a"
    assert tuple(map(float, layer.scale)) == (0.5, 0.5)
    np.testing.assert_array_equal(
        np.asarray(layer.data[0][500:600, 40:90]), picture[500:600, 40:90]
    )
