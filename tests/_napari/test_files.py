"""Readers and writers of napari, on layers without a viewer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.layers import Image, Labels, Layer, Points

from napari_busref import (
    ImageGrid,
    Quality,
    Transform,
    read_image,
    read_transform,
    write_transform,
)
from napari_busref._napari.apply_transform.api import apply_transform
from napari_busref._napari.apply_transform.known_transforms import known_transforms
from napari_busref._napari.files import transform_io
from napari_busref._napari.layers import ome_tiff
from napari_busref._napari.layers.image_grids import grid_of_layer, spatial_of_grid
from napari_busref._napari.layers.pair import METADATA_KEY as KEY
from napari_busref._napari.layers.result import PlaneResult
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.levels import from_levels

FIXED, MOVING = (20, 30), (12, 18)
AFFINE = np.array([[0.5, 0.1, 3.0], [-0.1, 0.6, -2.0], [0.0, 0.0, 1.0]])
POSITIONS = [
    {},
    {"scale": (2, 3), "translate": (5, -7), "units": ("um", "um")},
    {"scale": (2, 3), "rotate": 30, "shear": [0.2], "affine": [[0, 1, 4], [-2, 0, 1], [0, 0, 1]]},
]


@pytest.fixture
def transform():
    field = np.random.default_rng(0).normal(size=(2, *FIXED)) / 8  # folds nowhere
    return Transform(AFFINE, field, fixed_shape=FIXED, moving_shape=MOVING)


def layer_of(transform, **options):
    known = {"transform": transform, "axes": (0, 1), "fixed": "vis", "moving": "ir"}
    return Image(np.zeros(FIXED), metadata={KEY: known | options.pop("known", {})}, **options)


def save(layer, path, writer=transform_io.write_transform):
    data, meta, _ = layer.as_layer_data_tuple()
    return writer(str(path), data, meta)


@pytest.mark.parametrize("position", POSITIONS)
def test_grid_is_where_the_layer_draws_its_pixels(position):
    layer = Points(np.zeros((1, 2)), **position)
    grid = grid_of_layer(FIXED, layer.as_layer_data_tuple()[1], (0, 1))
    for pixel in [(0, 0), (3, 4), (19, 29)]:
        np.testing.assert_allclose((grid.matrix @ (*pixel, 1))[:2], layer.data_to_world(pixel))
    assert grid.unit == ("micrometer" if "units" in position else "pixel")
    again = Points(np.zeros((1, 2)), **spatial_of_grid(grid))
    np.testing.assert_allclose(again.data_to_world((3, 4)), layer.data_to_world((3, 4)))


def test_grid_of_two_axes_of_a_stack():
    layer = Image(
        np.zeros((3, *FIXED)), scale=(9, 2, 4), translate=(1, 5, 6), units=("s", "um", "nm")
    )
    grid = grid_of_layer(FIXED, layer.as_layer_data_tuple()[1], (-2, -1))
    assert grid == ImageGrid(FIXED, (2.0, 0.004), (5.0, 0.006), unit="um")
    layer.units = ("s", "um", "pixel")  # napari draws plain numbers
    grid = grid_of_layer(FIXED, layer.as_layer_data_tuple()[1], (1, 2))
    assert grid == ImageGrid(FIXED, (2.0, 4.0), (5.0, 6.0))


@pytest.mark.parametrize("position", POSITIONS)
def test_a_layer_is_saved_with_its_grids_and_comes_back(tmp_path, transform, position):
    quality = Quality(0.9, True, (), 0.8, 0.9, 0.5, 0.2, 3.0, 1.0, 1.0)
    moving = ImageGrid(MOVING, (4.0, 5.0), unit="mm")
    layer = layer_of(
        transform, **position, known={"quality": quality, "moving_grid": moving.as_dict()}
    )
    path = tmp_path / "a.busref.h5"
    assert save(layer, path) == [str(path)]
    stored = read_transform(path)
    assert stored.moving == moving
    np.testing.assert_allclose((stored.fixed.matrix @ (3, 4, 1))[:2], layer.data_to_world((3, 4)))
    ((data, meta, kind),) = transform_io.get_reader(str(path))(str(path))
    assert kind == "vectors" and data.shape[1:] == (2, 2)
    known = meta["metadata"][KEY]
    assert known["transform"] == transform and known["quality"] == quality
    assert (known["fixed"], known["moving"]) == ("vis", "ir")
    np.testing.assert_allclose(meta["scale"], layer.scale)
    np.testing.assert_allclose(meta["translate"], layer.translate)
    again = tmp_path / "again.busref.h5"
    assert transform_io.write_transform(str(again), data, meta) == [str(again)]
    assert read_transform(again).moving == moving
    assert read_transform(again).metadata["quality"] == quality.as_dict()


def test_files_made_without_napari_lie_where_they_say(tmp_path, transform):
    upright = ImageGrid(FIXED, (0.5, 0.25), (7.0, -3.0), unit="µm")
    turned = ImageGrid(FIXED, (0.5, 0.25), direction=((0.8, -0.6), (0.6, 0.8)))
    for grid in (upright, turned):
        path = write_transform(tmp_path / "a.busref.h5", transform, fixed=grid)
        ((data, meta, _),) = transform_io.read_transform(str(path))
        layer = Points(data[:, 0], **{key: meta[key] for key in ("scale", "translate", "affine")})
        np.testing.assert_allclose(
            layer.data_to_world((3, 4)), (grid.matrix @ (3, 4, 1))[:2], atol=1e-9
        )
        assert str(meta["units"][0]) == grid.unit


@pytest.mark.parametrize("name", ["a.tfm", "a.nrrd", "a.nii.gz"])
def test_itk_files_are_saved_in_millimetres(tmp_path, transform, name):
    pytest.importorskip("SimpleITK")
    layer = layer_of(transform, scale=(2, 3), units=("um", "um"))
    save(layer, tmp_path / name)
    fixed = ImageGrid(FIXED, (0.002, 0.003), unit="mm")
    found = read_transform(tmp_path / name, fixed=fixed, moving=MOVING).transform
    np.testing.assert_allclose(found.points((3, 4)), transform.points((3, 4)), atol=1e-4)


def test_a_table_warns_of_what_it_leaves_out(tmp_path, transform, monkeypatch):
    notes = []
    monkeypatch.setattr(transform_io, "show_warning", notes.append)
    save(layer_of(transform, scale=(2, 3)), tmp_path / "a.csv")
    assert "displacement field is left out" in notes[0]
    found = read_transform(
        tmp_path / "a.csv", fixed=ImageGrid(FIXED, (2.0, 3.0)), moving=MOVING
    ).transform
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-12)


def test_a_transform_keeps_its_spacing(tmp_path, transform):
    """A field that was found on coarser pixels, here of step 2."""
    full = tuple(2 * size for size in FIXED), tuple(3 * size for size in MOVING)
    spaced = from_levels(transform, Grid.over(FIXED, full[0]), Grid.over(MOVING, full[1]), *full)
    moving = ImageGrid(full[1], (4.0, 5.0), unit="mm")
    known = {"transform": spaced, "axes": (0, 1), "moving_grid": moving.as_dict()}
    save(Image(np.zeros(full[0]), scale=(2, 3), metadata={KEY: known}), tmp_path / "a.busref.h5")
    found = read_transform(tmp_path / "a.busref.h5")
    assert (found.transform, found.moving) == (spaced, moving)
    ((data, meta, _),) = transform_io.read_transform(str(tmp_path / "a.busref.h5"))
    np.testing.assert_allclose(meta["scale"], (2, 3))  # where the layer was
    assert meta["metadata"][KEY]["transform"] == spaced
    transform_io.write_transform(str(tmp_path / "b.busref.h5"), data, meta)
    again = read_transform(tmp_path / "b.busref.h5")
    assert (again.transform, again.fixed, again.moving) == (spaced, found.fixed, moving)


def stack_of(transform):
    """A stack with a transform for each plane, one of them on coarser pixels."""
    whole = transform
    other = Transform(AFFINE, fixed_shape=FIXED, moving_shape=MOVING)
    quality = Quality(0.9, True, (), 0.8, 0.9, 0.5, 0.2, 3.0, 1.0, 1.0)
    planes = {
        (2,): PlaneResult(whole, quality, transform.mask()),
        (1,): PlaneResult(other, quality, transform.mask()),
        (3,): PlaneResult(whole.with_spacing(2), quality, transform.mask()),
    }
    known = {"transform": transform, "axes": (1, 2), "fixed": "vis", "moving": "ir"}
    known |= {"mode": "each", "planes": planes, "role": "warped"}
    return Image(
        np.zeros((5, *FIXED)),
        name="ir warped",
        scale=(10, 2, 3),
        units=("s", "um", "um"),
        metadata={KEY: known},
    )


def test_a_stack_is_saved_with_a_transform_for_each_plane(tmp_path, transform):
    layer = stack_of(transform)
    path = tmp_path / "stack.busref.h5"
    save(layer, path)
    ((data, meta, kind),) = transform_io.read_transform(str(path))
    again = tmp_path / "again.busref.h5"
    transform_io.write_transform(str(again), data, meta)
    assert kind == "vectors"
    assert set(np.unique(data[:, 0, 0])) == {1, 2, 3}  # arrows on each plane
    np.testing.assert_allclose(meta["scale"], (10, 2, 3))
    planes = layer.metadata[KEY]["planes"]
    for file in (path, again):
        known = transform_io.read_transform(str(file))[0][1]["metadata"][KEY]
        assert known["transform"] == transform and known["mode"] == "each"
        assert known["axes"] == (1, 2)
        assert list(known["planes"]) == [(2,), (1,), (3,)]
        for position, found in known["planes"].items():
            assert found.quality == planes[position].quality
            for point in ((3, 4), (11.5, 20)):
                np.testing.assert_allclose(
                    found.transform.points(np.array(point)),
                    planes[position].transform.points(np.array(point)),
                    atol=1e-6,
                )
    # each plane of a stack uses its transform
    opened = Layer.create(data, meta, kind)
    (one,) = known_transforms([opened])
    assert (one.axes, one.label) == ((-2, -1), "ir → vis")
    points = Points([[number, 3, 4] for number in range(5)])
    (new,) = apply_transform([points], one.transform, opened, planes=one.planes, axes=one.axes)
    for number, row in enumerate(new.data):
        found = planes.get((number,))
        there = (transform if found is None else found.transform).points(row[1:])
        np.testing.assert_allclose(there, (3, 4), atol=1e-3)
    assert np.abs(new.data[1, 1:] - new.data[2, 1:]).max() > 0.1
    # for layers of other pixel sizes
    given = ImageGrid(FIXED, (0.1, 0.1), unit="mm")
    found = read_transform(path, fixed=given)
    assert found.planes[1,].fixed == given
    np.testing.assert_allclose(found.planes[3,].transform.spacing, (2, 2))


def test_what_holds_one_transform_warns_about_a_stack(tmp_path, transform, monkeypatch):
    notes = []
    monkeypatch.setattr(transform_io, "show_warning", notes.append)
    save(stack_of(transform), tmp_path / "a.csv")
    assert "made by 3 transforms, one a plane" in notes[1]
    save(stack_of(transform), tmp_path / "a.busref.h5")
    assert len(notes) == 2


def test_a_fused_layer_of_coarser_pixels_does_not_say_where_the_fixed_one_is(tmp_path):
    affine = Transform(AFFINE, fixed_shape=FIXED, moving_shape=MOVING)
    known = {"role": "fused", "fixed_grid": ImageGrid(FIXED, (2.0, 3.0)).as_dict()}
    layer = layer_of(affine, known=known, scale=(4, 6))
    layer.data = np.zeros((10, 15))
    save(layer, tmp_path / "a.busref.h5")
    ((_, meta, _),) = transform_io.read_transform(str(tmp_path / "a.busref.h5"))
    np.testing.assert_allclose(meta["scale"], (2, 3))


def test_layers_without_a_transform_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'plain' has no transform"):
        save(Image(np.zeros(FIXED), name="plain"), tmp_path / "a.busref.h5")
    assert transform_io.get_reader("a.tif") is None


# -- OME-TIFF ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        Image(np.arange(12, dtype=np.uint16).reshape(3, 4)),
        Image(np.arange(36, dtype=np.uint8).reshape(3, 4, 3), rgb=True),
        Image(np.arange(12, dtype=np.float16).reshape(3, 4)),
        Image(np.arange(12, dtype=np.float32).reshape(1, 3, 4)),
        Image([np.arange(12, dtype=np.uint8).reshape(3, 4), np.zeros((2, 2), np.uint8)]),
        Labels(np.arange(12, dtype=np.int64).reshape(3, 4)),
        Labels(np.arange(24, dtype=np.int64).reshape(2, 3, 4)),
    ],
    ids=["grey", "rgb", "half", "plane", "pyramid", "labels", "stack"],
)
def test_ome_tiff_keeps_values_and_pixel_size(tmp_path, layer):
    layer.scale = (*[1] * (layer.ndim - 2), 0.5, 0.25)
    layer.units = (*["pixel"] * (layer.ndim - 2), "um", "um")
    layer.affine = np.diag([*[1] * (layer.ndim - 2), 2, 2, 1])
    path = tmp_path / "a.ome.tif"
    assert save(layer, path, ome_tiff.write_ome_tiff) == [str(path)]
    found = read_image(path)
    data = np.asarray(layer.data[0] if getattr(layer, "multiscale", False) else layer.data)
    np.testing.assert_array_equal(found.data, np.squeeze(data))
    assert (found.metadata["spacing"], found.metadata["unit"]) == ((1.0, 0.5), "µm")


@pytest.mark.parametrize(
    ("name", "spacing"), [("a.png", None), ("a.tif", None), ("a.ome.tif", (0.5, 0.5))]
)
def test_pictures_are_saved_beside_naparis_own_writers(npe2pm, tmp_path, name, spacing):
    """As File › Save Selected Layers, which tries all plugins."""
    import napari_builtins
    from napari.plugins.io import save_layers
    from npe2 import PluginManifest

    import napari_busref

    data = np.random.default_rng(0).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    layer = Image(data, rgb=True, scale=(0.5, 0.5), units=("um", "um"))
    ours = Path(napari_busref.__file__).with_name("napari.yaml")
    theirs = Path(napari_builtins.__file__).with_name("builtins.yaml")
    with (
        npe2pm.tmp_plugin(manifest=PluginManifest.from_file(theirs)),
        npe2pm.tmp_plugin(manifest=PluginManifest.from_file(ours)),
    ):
        (path,) = save_layers(str(tmp_path / name), [layer])
    found = read_image(path)
    np.testing.assert_array_equal(found.data, data)
    assert found.metadata.get("spacing") == spacing


def test_layers_are_saved_as_channels(npe2pm, tmp_path):
    import tifffile
    from napari.plugins.io import save_layers
    from npe2 import PluginManifest

    import napari_busref

    data = np.arange(24).reshape(2, 3, 4)
    known = {"scale": (1, 0.5, 0.25), "units": ("s", "um", "um"), "axis_labels": ("t", "y", "x")}
    first = Image(data.astype(np.uint8), name="DAPI", **known)
    second = Image(900 + data.astype(np.uint16), name="GFP", **known)
    ours = Path(napari_busref.__file__).with_name("napari.yaml")
    path = str(tmp_path / "a.ome.tif")
    with npe2pm.tmp_plugin(manifest=PluginManifest.from_file(ours)):
        assert save_layers(path, [first, second]) == [path]
    found = read_image(path)
    assert (found.axes, found.metadata["spacing"]) == ("TCYX", (0.5, 0.25))
    np.testing.assert_array_equal(found.data, np.stack([first.data, second.data], 1))
    np.testing.assert_array_equal(read_image(path, channel=2).data, second.data)
    with tifffile.TiffFile(path) as file:
        assert 'Name="GFP"' in file.ome_metadata


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Image(np.zeros((3, 5))), "'b' and 'a' differ in shape"),
        (Image(np.zeros((3, 4)), scale=(2, 2), units="um"), "or place"),
        (Image(np.zeros((3, 4)), translate=(1, 0)), "or place"),
        (Image(np.zeros((2, 3, 4))), "differ in shape"),
        (Image(np.zeros((3, 4, 3)), rgb=True), "differ in shape"),
    ],
)
def test_other_layers_are_no_channels(tmp_path, other, message):
    layers = [Image(np.zeros((3, 4)), name="a").as_layer_data_tuple()]
    other.name = "b"
    layers.append(other.as_layer_data_tuple())
    with pytest.raises(ValueError, match=message):
        ome_tiff.write_ome_channels(str(tmp_path / "a.ome.tif"), layers)
    with pytest.raises(ValueError, match=r"ends in \.ome\.tif"):
        ome_tiff.write_ome_channels(str(tmp_path / "a.tif"), layers)
    assert not list(tmp_path.iterdir())


def test_ome_tiff_without_units_says_no_size(tmp_path):
    path = tmp_path / "a.ome.tif"
    save(Image(np.zeros((3, 4), np.uint8), scale=(2, 2)), path, ome_tiff.write_ome_tiff)
    assert "spacing" not in read_image(path).metadata


def test_what_ome_tiff_cannot_hold_is_refused(tmp_path):
    huge = Labels(np.array([[0, 2**40]], np.int64))
    many = Image(np.zeros((2, 2, 2, 2, 3, 4), np.uint8))
    for layer, message in ((huge, "integers of 32 bits"), (many, "a stack along T, Z and C")):
        with pytest.raises(ValueError, match=message):
            save(layer, tmp_path / "a.ome.tif", ome_tiff.write_ome_tiff)
    with pytest.raises(ValueError, match=r"ends in \.ome\.tif"):
        save(many, tmp_path / "a.png", ome_tiff.write_ome_tiff)
    assert not list(tmp_path.iterdir())
