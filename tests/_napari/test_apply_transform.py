"""Transforms applied to layers of every type, and layers placed by them, without Qt."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest

pytest.importorskip("napari")

from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Points, Shapes, Surface, Tracks, Vectors

from napari_busref._napari.apply_transform.api import apply_transform
from napari_busref._napari.apply_transform.known_transforms import known_transforms, put_layers
from napari_busref._napari.apply_transform.placing import place_on
from napari_busref.runtime.progress import Cancelled
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.levels import from_levels
from napari_busref.transforms.transform import Transform

KEY = "napari-busref"
FIXED, MOVING = (48, 64), (40, 50)
AFFINE = np.array([[0.7, 0.1, 3.0], [-0.08, 0.75, 4.0], [0, 0, 1]])
PLACED = {
    "scale": (0.5, 0.25),
    "translate": (10.0, -4.0),
    "rotate": 20.0,
    "shear": [0.1],
    "affine": [[0.9, 0.1, 3.0], [-0.1, 1.1, 5.0], [0, 0, 1]],
    "units": ("um", "um"),
    "axis_labels": ("y", "x"),
}


def elastic():
    """A smooth transform with a displacement field and without folds."""
    row, col = np.mgrid[: FIXED[0], : FIXED[1]]
    displacement = np.stack([2.5 * np.sin(col / 12), 2 * np.cos(row / 10)]).astype(np.float32)
    return Transform(AFFINE, displacement, fixed_shape=FIXED, moving_shape=MOVING)


def affine_only():
    return Transform(AFFINE, fixed_shape=FIXED, moving_shape=MOVING)


def fixed_layer(**kwargs):
    return Image(np.zeros(FIXED, np.uint8), name="vis", **kwargs)


def moving_layer(**kwargs):
    return Image(np.zeros(MOVING, np.uint8), name="ir", **kwargs)


def applied(layer, transform, fixed=None, moving=None, **kwargs):
    (new,) = apply_transform([layer], transform, fixed or fixed_layer(), moving, **kwargs)
    assert new.name == f"{layer.name} on {'ir' if kwargs.get('inverse') else 'vis'}"
    return new


def inside(count=12, seed=0, shape=FIXED):
    margin = 8
    return np.random.default_rng(seed).uniform(margin, np.array(shape) - margin, (count, 2))


def same_place(layer, other, points=((0, 0), (5, 11), (30, 2))):
    for point in points:
        np.testing.assert_allclose(
            layer.data_to_world(point), other.data_to_world(point), atol=1e-9
        )
    assert layer.units == other.units
    assert layer.axis_labels == other.axis_labels


# -- direction of the transform ---------------------------------------------------------------


@pytest.mark.parametrize("transform", [affine_only(), elastic()], ids=["affine", "elastic"])
def test_all_types_go_to_the_same_place(transform):
    """An object in layers of every type on the moving image stays one object on the fixed one."""
    (place,) = transform.points(np.array([[20.0, 30.0]]))  # of fixed pixel (20, 30)
    row, col = np.mgrid[: MOVING[0], : MOVING[1]]
    blob = np.exp(-((row - place[0]) ** 2 + (col - place[1]) ** 2) / 8)
    square = place + np.array([[-2, -2], [-2, 2], [2, 2], [2, -2]])
    image, rgb, labels, points, shapes, vectors, tracks = apply_transform(
        [
            Image(blob),
            Image(np.stack([blob] * 3, -1), rgb=True),
            Labels((blob > 0.5).astype(np.uint16) * 7),
            Points([place]),
            Shapes([square], shape_type="polygon"),
            Vectors([[place, [1.0, 2.0]]]),
            Tracks([[1, 0, *place], [1, 1, *(place + 1)]]),
        ],
        transform,
        fixed_layer(),
    )
    for found in (
        np.array(np.unravel_index(np.nanargmax(image.data), FIXED)),
        np.array(np.unravel_index(np.nanargmax(rgb.data[..., 1]), FIXED)),
        np.argwhere(labels.data == 7).mean(0),
        points.data[0],
        shapes.data[0].mean(0),
        vectors.data[0, 0],
        tracks.data[0, 2:],
    ):
        np.testing.assert_allclose(found, (20, 30), atol=0.6)
    np.testing.assert_allclose(points.data, [[20, 30]], atol=1e-4)
    end = vectors.data[0].sum(0)
    np.testing.assert_allclose(transform.points(end) - place, (1, 2), atol=1e-3)
    np.testing.assert_allclose(transform.points(tracks.data[1, 2:]), place + 1, atol=1e-3)


def test_images_and_labels_are_what_the_transform_gives():
    transform, rng = elastic(), np.random.default_rng(1)
    picture = rng.random(MOVING).astype(np.float32)
    labels = rng.integers(0, 2**40, MOVING)
    colour = rng.integers(0, 255, (*MOVING, 4)).astype(np.uint8)
    new = applied(Image(picture, name="a"), transform)
    np.testing.assert_array_equal(new.data, transform.apply(picture))
    assert new.data.dtype == np.float32
    new = applied(Labels(labels, name="b"), transform)
    np.testing.assert_array_equal(new.data, transform.apply(labels, order=0))
    assert new.data.dtype == labels.dtype
    new = applied(Image(colour, name="c", rgb=True), transform)
    np.testing.assert_array_equal(new.data, transform.apply(colour))
    assert new.rgb
    picture[3, 4] = np.nan
    new = applied(Image(picture, name="d"), transform)
    assert np.isnan(new.data[~transform.mask()]).all()


@pytest.mark.parametrize("transform", [affine_only(), elastic()], ids=["affine", "elastic"])
def test_the_inverse_brings_things_to_the_moving_image(transform):
    fixed, moving = fixed_layer(), moving_layer(scale=(2, 2), translate=(5, 5))
    there = inside()
    points = applied(Points(there, name="p"), transform, fixed, moving, inverse=True)
    np.testing.assert_allclose(points.data, transform.points(there), atol=1e-9)
    same_place(points, moving)
    back = applied(points, transform, fixed, moving)
    np.testing.assert_allclose(back.data, there, atol=1e-3)
    same_place(back, fixed)
    row, col = np.mgrid[: FIXED[0], : FIXED[1]].astype(float)
    image = applied(Image(row + 3 * col, name="i"), transform, fixed, moving, inverse=True)
    assert image.data.shape == MOVING
    same_place(image, moving)
    pixels = inside(20, 3, MOVING).round()
    source = transform.points(pixels, inverse=True)
    seen = ((source > 1) & (source < np.array(FIXED) - 2)).all(1)
    assert seen.sum() > 5
    np.testing.assert_allclose(
        image.data[tuple(pixels[seen].astype(int).T)], source[seen] @ (1, 3), atol=0.05
    )
    vector = Vectors([[there[0], [2.0, -1.0]]], name="v")
    data = applied(vector, transform, fixed, moving, inverse=True).data[0]
    np.testing.assert_allclose(data[0], transform.points(there[0]), atol=1e-5)
    np.testing.assert_allclose(data.sum(0), transform.points(there[0] + (2, -1)), atol=1e-5)


# -- positions in the world -------------------------------------------------------------------


def test_results_lie_where_the_fixed_layer_does():
    fixed = fixed_layer(**PLACED)
    moving = moving_layer(scale=(3, 2), translate=(1, 1))
    for layer in (
        Image(np.zeros(MOVING), scale=(3, 2), translate=(1, 1)),
        Points([[5, 5]], scale=(3, 2), translate=(1, 1)),
        Shapes([[[5, 5], [9, 9]]], shape_type="line", scale=(3, 2), translate=(1, 1)),
        Vectors([[[5, 5], [1, 1]]], scale=(3, 2), translate=(1, 1)),
        Labels(np.zeros(MOVING, int), scale=(3, 2), translate=(1, 1)),
    ):
        new = applied(layer, elastic(), fixed, moving)
        same_place(new, fixed)
        np.testing.assert_allclose(new.scale, (0.5, 0.25))
        np.testing.assert_allclose(new.translate, (10, -4))


def test_other_pixel_grids_go_through_the_world():
    """A channel of half the pixels, and points in nm, of a moving layer in µm."""
    transform = affine_only()
    units = ("um", "um")
    moving = moving_layer(scale=(2, 2), translate=(7, 9), units=units)
    fixed = fixed_layer(units=units)
    row, col = np.mgrid[: MOVING[0] // 2, : MOVING[1] // 2].astype(float)
    # its pixel (0, 0) covers moving pixels (0, 0) to (1, 1), so its centre is at (0.5, 0.5)
    half = Image(row + 100 * col, name="half", scale=(4, 4), translate=(8, 10), units=units)
    new = applied(half, transform, fixed, moving)
    source = (transform.points(np.argwhere(np.ones(FIXED))) - 0.5) / 2
    limit = np.array(half.data.shape) - 1
    seen = ((source > 0) & (source < limit)).all(1).reshape(FIXED)
    assert seen.mean() > 0.3
    expected = (source @ (1, 100)).reshape(FIXED)
    np.testing.assert_allclose(new.data[seen], expected[seen], atol=1e-6)
    places = inside(5, 4, MOVING)
    nano = (places * 2 + (7, 9)) * 1000
    points = Points(nano, name="nano", units=("nm", "nm"))
    np.testing.assert_allclose(
        applied(points, transform, fixed, moving).data,
        transform.points(places, inverse=True),
        atol=1e-6,
    )


def test_an_unplaced_layer_of_the_same_pixels_is_taken_pixel_by_pixel():
    """A second channel stays at the default position when the moving layer is dragged."""
    transform = elastic()
    data = np.random.default_rng(2).integers(0, 9, MOVING)
    moving = moving_layer(scale=(2, 2), translate=(100, 50))
    new = applied(Labels(data, name="second"), transform, fixed_layer(), moving)
    np.testing.assert_array_equal(new.data, transform.apply(data, order=0))
    placed = Labels(data, name="elsewhere", translate=(2, 4))
    new = applied(placed, transform, fixed_layer(), moving)
    assert not new.data.any()  # its position is far from the moving layer


def test_without_the_moving_layer_pixels_are_counted():
    transform = elastic()
    places = inside(4, 5, MOVING)
    points = applied(Points(places, name="p"), transform)
    np.testing.assert_allclose(transform.points(points.data), places, atol=1e-3)
    with pytest.raises(ValueError, match=r"'big' has 80 x 100 pixels.*choose the moving layer"):
        applied(Image(np.zeros((80, 100)), name="big"), transform)
    with pytest.raises(ValueError, match=r"'p' has a position.*choose the moving layer"):
        applied(Points(places, name="p", scale=(2, 2)), transform)


# -- stacks and lazy arrays -------------------------------------------------------------------


def test_a_stack_goes_plane_by_plane():
    transform = elastic()
    data = np.random.default_rng(3).integers(0, 99, (3, 2, *MOVING, 3)).astype(np.uint8)
    stack = Image(
        data,
        name="stack",
        rgb=True,
        scale=(5, 4, 1, 1),
        translate=(1, 2, 0, 0),
        axis_labels=("t", "z", "y", "x"),
        units=("s", "um", "pixel", "pixel"),
    )
    fixed = fixed_layer(**PLACED)
    moving = moving_layer()
    new = applied(stack, transform, fixed, moving)
    assert new.data.shape == (3, 2, *FIXED, 3)
    for index in np.ndindex(3, 2):
        np.testing.assert_array_equal(new.data[index], transform.apply(data[index]))
    np.testing.assert_allclose(new.scale[:2], (5, 4))
    np.testing.assert_allclose(new.translate[:2], (1, 2))
    assert new.axis_labels == ("t", "z", "y", "x")
    assert [str(unit) for unit in new.units] == [
        "second",
        "micrometer",
        "micrometer",
        "micrometer",
    ]
    for point in ((0, 0), (7, 30)):
        world = new.data_to_world((2, 1, *point))
        np.testing.assert_allclose(world[:2], (11, 6))
        np.testing.assert_allclose(world[2:], fixed.data_to_world(point))
    points = Points(np.column_stack([[0, 2], [1, 1], inside(2, 6, MOVING)]), name="4d")
    new = applied(points, transform, fixed, moving)
    np.testing.assert_array_equal(new.data[:, :2], [[0, 1], [2, 1]])
    np.testing.assert_allclose(transform.points(new.data[:, 2:]), points.data[:, 2:], atol=1e-3)


def test_a_stack_registered_plane_by_plane_takes_the_transform_of_each_plane():
    one, other = affine_only(), elastic()
    planes = {
        (number,): SimpleNamespace(transform=transform)
        for number, transform in ((0, one), (1, other))
    }
    rng = np.random.default_rng(8)
    data, places = rng.random((3, *MOVING)), inside(3, 9, MOVING)
    layers = [
        Image(data, name="i"),
        Image(da.from_array(data, chunks=(1, *MOVING)), name="d", contrast_limits=(0, 1)),
        Points(np.column_stack([[0, 1, 2], places]), name="p"),
        Vectors([[[1, *places[0]], [0, 1, 2]]], name="v"),
        Tracks(np.column_stack([[1, 1, 1], [0, 1, 2], places]), name="t"),
        Labels(data[0].round().astype(int), name="flat"),
    ]
    image, lazy, points, vectors, tracks, flat = apply_transform(
        layers, one, fixed_layer(), planes=planes
    )
    for number, transform in enumerate((one, other, one)):
        np.testing.assert_allclose(image.data[number], transform.apply(data[number]))
        np.testing.assert_allclose(np.asarray(lazy.data[number]), transform.apply(data[number]))
        for there in (points.data[number, 1:], tracks.data[number, 2:]):
            np.testing.assert_allclose(transform.points(there), places[number], atol=1e-3)
    end = vectors.data[0].sum(0)
    np.testing.assert_allclose(other.points(end[1:]), places[0] + [1, 2], atol=1e-3)
    np.testing.assert_array_equal(flat.data, one.apply(layers[-1].data, order=0))
    known = {"transform": one, "mode": "each", "planes": planes, "axes": (1, 2)}
    result = Image(np.zeros((3, *FIXED)), metadata={KEY: known})
    assert known_transforms([result])[0].planes is planes
    back = apply_transform(
        [points, image], one, result, moving_layer(), inverse=True, planes=planes
    )
    np.testing.assert_allclose(back[0].data[:, 1:], places, atol=1e-3)
    np.testing.assert_allclose(back[1].data[1], other.inverse().apply(image.data[1]))


def test_a_field_too_large_for_all_pixels_is_used_as_it_was_found(monkeypatch):
    """Layers of more than 4096 x 4096 pixels keep the transform on the registration grid."""
    monkeypatch.setattr("napari_busref._napari.apply_transform.pixel_mapping.FIELD_BUDGET", 1000)
    found = elastic()
    fixed_shape, moving_shape = (96, 192), (120, 50)
    grids = Grid.over(FIXED, fixed_shape), Grid.over(MOVING, moving_shape)
    spaced = from_levels(found, *grids, fixed_shape, moving_shape)
    dense = spaced.with_spacing(1)  # too large a field for large layers
    known = {"transform": spaced, "axes": (0, 1)}
    result = Image(np.zeros(fixed_shape), name="vis", metadata={KEY: known})
    mask = Labels(np.zeros(FIXED, int), scale=grids[0].step, metadata={KEY: known})
    (one,) = known_transforms([result, mask])  # the mask has coarser pixels
    assert one.layer is result and one.transform is spaced
    moving = Image(np.zeros(moving_shape, np.uint8), name="ir")
    rng = np.random.default_rng(5)
    image = Image(rng.random(moving_shape), name="i")
    labels = Labels(rng.integers(0, 9, moving_shape), name="l")
    places = inside(5, 3, moving_shape)
    layers = [
        image,
        labels,
        Points(places, name="p"),
        Shapes([places[:4]], shape_type="polygon", name="s"),
    ]
    new = apply_transform(layers, one.transform, result, moving)
    np.testing.assert_allclose(np.asarray(new[0].data), dense.apply(image.data), atol=1e-6)
    np.testing.assert_array_equal(np.asarray(new[1].data), dense.apply(labels.data, order=0))
    np.testing.assert_allclose(dense.points(new[2].data), places, atol=0.1)
    assert not isinstance(new[0].data, np.ndarray)  # computed on demand
    back = apply_transform([new[0], new[2]], one.transform, result, moving, inverse=True)
    np.testing.assert_allclose(back[1].data, places, atol=0.1)
    middle = (slice(30, 90), slice(15, 35))
    blurred = np.asarray(back[0].data)[middle]  # interpolated twice
    assert np.corrcoef(blurred.ravel(), image.data[middle].ravel())[0, 1] > 0.5
    left = place_on([moving], one.transform, result, moving)
    assert 0.5 < left < 20
    seen = result.world_to_data(moving.data_to_world(dense.points((50, 90))))
    assert np.hypot(*(seen - np.array((50, 90)))) <= left + 1


def test_a_fixed_stack_gives_its_plane():
    """Results of plane 2 of a stack are (1, H, W); flat layers lie on all planes."""
    fixed = Image(np.zeros((1, *FIXED)), name="vis", scale=(5, 2, 3), translate=(10, 1, 1))
    new = applied(Labels(np.ones(MOVING, int), name="flat"), affine_only(), fixed)
    assert new.data.shape == FIXED
    np.testing.assert_allclose(new.scale, (2, 3))
    np.testing.assert_allclose(new.translate, (1, 1))


def test_rows_and_columns_need_not_be_the_last_dimensions():
    transform = elastic()
    data = np.random.default_rng(4).random((MOVING[0], 3, MOVING[1]))
    fixed = Image(np.zeros((FIXED[0], 1, FIXED[1])), name="vis")
    new = applied(Image(data, name="s"), transform, fixed, axes=(-3, -1))
    assert new.data.shape == (FIXED[0], 3, FIXED[1])
    np.testing.assert_array_equal(new.data[:, 1], transform.apply(data[:, 1]))
    with pytest.raises(ValueError, match="'flat' has 2 dimensions"):
        applied(Points([[1, 1]], name="flat"), transform, fixed, axes=(-3, -1))


@pytest.mark.parametrize("kind", [Image, Labels])
def test_dask_arrays_are_carried_when_they_are_looked_at(kind):
    transform, seen = elastic(), []
    data = np.random.default_rng(5).integers(0, 99, (4, *MOVING))

    def plane(block_info=None):
        index = block_info[None]["array-location"][0][0]
        seen.append(int(index))
        return data[index : index + 1]

    lazy = da.map_blocks(
        plane, chunks=((1,) * 4, (MOVING[0],), (MOVING[1],)), dtype=data.dtype, meta=data[:0]
    )
    layer = kind(lazy, name="lazy", **({"contrast_limits": (0, 99)} if kind is Image else {}))
    seen.clear()
    new = applied(layer, transform)
    assert isinstance(new.data, da.Array)
    assert new.data.dtype == data.dtype
    assert len(seen) <= 1  # napari draws a thumbnail of the first plane
    seen.clear()
    result = np.asarray(new.data[2])
    assert set(seen) == {2}
    np.testing.assert_array_equal(result, transform.apply(data[2], order=int(kind is Image)))


def test_a_pyramid_is_carried_at_full_resolution():
    transform = Transform(np.diag([0.5, 0.5, 1]), fixed_shape=(40, 60), moving_shape=(40, 60))
    full = np.random.default_rng(6).random((40, 60))
    pyramid = Image([full, full[::2, ::2]], name="pyramid", multiscale=True)
    new = applied(pyramid, transform, Image(np.zeros((40, 60)), name="vis"))
    assert not new.multiscale
    np.testing.assert_allclose(np.asarray(new.data), transform.apply(full), atol=1e-6)


# -- what is kept -----------------------------------------------------------------------------


def test_how_an_image_looks_is_kept():
    layer = Image(
        np.random.default_rng(7).random(MOVING),
        name="look",
        colormap="magma",
        contrast_limits=(0.2, 0.7),
        gamma=0.8,
        opacity=0.4,
        blending="additive",
        metadata={"mine": 1, KEY: {"role": "warped", "transform": affine_only()}},
    )
    new = applied(layer, elastic())
    assert (new.colormap.name, new.gamma, new.opacity) == ("magma", 0.8, 0.4)
    assert tuple(new.contrast_limits) == (0.2, 0.7)
    assert new.blending == "additive"
    assert new.metadata["mine"] == 1
    known = new.metadata[KEY]
    assert (known["role"], known["source"], known["fixed"]) == ("transformed", "look", "vis")
    assert "transform" not in known  # the source's belongs to another pair
    assert layer.metadata[KEY]["role"] == "warped"


def test_points_keep_all_but_their_place():
    layer = Points(
        inside(3, 8, MOVING),
        name="marks",
        features={"cell": ["a", "b", "c"], "size": [1.0, 2.0, 3.0]},
        symbol=["disc", "cross", "star"],
        face_color=["red", "lime", "blue"],
        border_color=["white", "black", "cyan"],
        size=[4, 6, 8],
        shown=[True, False, True],
        text={"string": "{cell}", "size": 9},
    )
    new = applied(layer, affine_only())
    assert list(new.features["cell"]) == ["a", "b", "c"]
    assert list(new.symbol) == list(layer.symbol)
    np.testing.assert_array_equal(new.face_color, layer.face_color)
    np.testing.assert_array_equal(new.border_color, layer.border_color)
    np.testing.assert_array_equal(new.shown, [True, False, True])
    assert list(new.text.values) == ["a", "b", "c"]
    # fixed pixels of equal area
    larger = np.sqrt(1 / np.linalg.det(AFFINE[:2, :2]))
    np.testing.assert_allclose(new.size, np.array([4, 6, 8]) * larger, rtol=1e-5)
    new.features.loc[0, "cell"] = "changed"
    assert layer.features["cell"][0] == "a"


def test_shapes_stay_what_they_are_under_an_affine_map():
    box = np.array([[5, 6], [5, 20], [18, 20], [18, 6]], float)
    kinds = ["rectangle", "ellipse", "polygon", "line", "path"]
    data = [box, box + 3, box[:3], box[:2], box[[0, 2, 3]]]
    layer = Shapes(
        data,
        shape_type=kinds,
        name="rois",
        features={"name": list("abcde")},
        edge_color=["red", "lime", "blue", "cyan", "white"],
        edge_width=[1, 2, 3, 1, 1],
    )
    transform = affine_only()
    new = applied(layer, transform)
    assert list(new.shape_type) == kinds
    for before, after in zip(layer.data, new.data, strict=True):
        np.testing.assert_allclose(transform.points(after), before, atol=1e-6)
    assert list(new.features["name"]) == list("abcde")
    np.testing.assert_array_equal(new.edge_color, layer.edge_color)
    larger = np.sqrt(1 / np.linalg.det(AFFINE[:2, :2]))
    np.testing.assert_allclose(new.edge_width, np.array([1, 2, 3, 1, 1]) * larger, rtol=1e-5)


def test_shapes_are_bent_where_the_map_is():
    box = np.array([[8, 8], [8, 36], [30, 36], [30, 8]], float)
    kinds = ["rectangle", "ellipse", "polygon", "line", "path"]
    data = [box, box, box[:3], box[[0, 2]], box[[0, 2, 3]]]
    layer = Shapes(data, shape_type=kinds, name="rois", face_color=["red"] * 5)
    transform = elastic()
    new = applied(layer, transform)
    assert list(new.shape_type) == ["polygon", "polygon", "polygon", "path", "path"]
    np.testing.assert_array_equal(new.face_color, layer.face_color)
    # every point of the new outline lies on the old one
    ellipse = along(new.data[1], closed=True)
    middle, radii = box.mean(0), np.array([11, 14])
    off = np.hypot(*((transform.points(ellipse) - middle) / radii).T) - 1
    assert np.abs(off).max() * 14 < 0.2
    line = transform.points(along(new.data[3], closed=False)) - box[0]
    direction = (box[2] - box[0]) / np.linalg.norm(box[2] - box[0])
    assert np.abs(line @ (-direction[1], direction[0])).max() < 0.2
    rectangle = transform.points(along(new.data[0], closed=True))
    border = np.abs(np.abs(rectangle - middle) / radii - 1).min(1)
    assert border.max() * 14 < 0.2
    straight_line = along(transform.points(box[[0, 2]], inverse=True), closed=False)
    direct = transform.points(straight_line) - box[0]
    assert np.abs(direct @ (-direction[1], direction[0])).max() > 0.5  # it bends
    assert max(map(len, new.data)) < 120


def along(outline, closed):
    ends = np.roll(outline, -1, axis=0) if closed else outline[1:]
    starts = outline if closed else outline[:-1]
    return np.concatenate(
        [
            start + np.linspace(0, 1, 9)[:, None] * (end - start)
            for start, end in zip(starts, ends, strict=True)
        ]
    )


def test_tracks_keep_ids_and_graph():
    tracks = np.array(
        [[t, time, 10 + t + time, 12 + 2 * time] for t in (1, 2, 5) for time in range(3)], float
    )
    layer = Tracks(
        tracks,
        name="cells",
        graph={2: [1], 5: [1]},
        features={"speed": np.arange(9.0)},
        tail_length=7,
    )
    transform = elastic()
    new = applied(layer, transform)
    np.testing.assert_array_equal(new.data[:, :2], tracks[:, :2])
    np.testing.assert_allclose(transform.points(new.data[:, 2:]), tracks[:, 2:], atol=1e-3)
    assert new.graph == {2: [1], 5: [1]}
    np.testing.assert_array_equal(new.features["speed"], np.arange(9.0))
    assert new.tail_length == 7
    back = applied(new, transform, fixed_layer(), moving_layer(), inverse=True)
    np.testing.assert_allclose(back.data, tracks, atol=1e-3)


@pytest.mark.parametrize("kind", [Points, Shapes, Vectors])
def test_empty_layers_stay_empty(kind):
    new = applied(kind(ndim=2, name="none"), elastic())
    assert len(new.data) == 0


def test_what_was_given_stays_as_it_is():
    places = inside(3, 9, MOVING)
    layer = Points(places.copy(), name="p", size=5)
    applied(layer, elastic())
    np.testing.assert_array_equal(layer.data, places)
    np.testing.assert_array_equal(layer.size, 5)


# -- placing without resampling ---------------------------------------------------------------


@pytest.mark.parametrize("spatial", [{}, PLACED], ids=["plain", "placed"])
def test_place_on_makes_a_layer_lie_on_the_fixed_one(spatial):
    transform = affine_only()
    fixed = fixed_layer(**spatial)
    units = {"units": ("nm", "nm")} if spatial else {}
    moving = moving_layer(scale=(3, 2), translate=(5, 1), **units)
    points = Points([[3, 4]], scale=(3, 2), translate=(5, 1), **units)
    labels = Labels(np.zeros(MOVING, int))
    stack = Image(np.zeros((5, *MOVING)), scale=(7, 3, 2), translate=(9, 5, 1))
    viewer = ViewerModel()
    for layer in (fixed, moving, points, labels, stack):
        viewer.add_layer(layer)
    data = moving.data
    assert place_on([moving, points, labels, stack], transform, fixed, moving) == 0
    factor = 1000.0 if spatial else 1.0  # world coordinates of a layer in nm
    for pixel in inside(4, 10):
        world = np.array(fixed.data_to_world(pixel))
        source = transform.points(pixel)
        np.testing.assert_allclose(moving.data_to_world(source), world * factor, rtol=1e-6)
        np.testing.assert_allclose(points.data_to_world(source), world * factor, rtol=1e-6)
        np.testing.assert_allclose(labels.data_to_world(source), world, rtol=1e-6)
        there = np.array(stack.data_to_world((2, *source)))
        np.testing.assert_allclose(there, (23, *world), rtol=1e-6)
    assert moving.data is data
    np.testing.assert_array_equal(moving.scale, (3, 2))
    assert labels.units == fixed.units  # pixels cannot be compared with micrometres


def test_placing_twice_is_placing_once():
    transform, fixed = affine_only(), fixed_layer()
    moving, other = moving_layer(), Labels(np.zeros(MOVING, int), scale=(0.5, 0.5))
    place_on([other], transform, fixed, moving)
    once = np.array(other.affine.affine_matrix)
    place_on([other], transform, fixed, moving)
    np.testing.assert_allclose(other.affine.affine_matrix, once)
    place_on([moving, other], transform, fixed, moving)
    np.testing.assert_allclose(other.affine.affine_matrix, once)
    new = applied(Image(np.ones(MOVING), name="x"), transform, fixed, moving)
    np.testing.assert_array_equal(new.data, transform.apply(np.ones(MOVING)))
    # pixels map the same way after `place_on`
    data = np.random.default_rng(1).integers(0, 9, MOVING)
    other.data, other.scale = data, (1, 1)
    np.testing.assert_array_equal(
        applied(other, transform, fixed, moving).data, transform.apply(data, order=0)
    )


def test_the_affine_part_of_a_bent_transform_is_the_nearest():
    transform = elastic()
    fixed, moving = fixed_layer(), moving_layer()
    left = place_on([moving], transform, fixed, moving)
    grid = np.argwhere(np.ones(FIXED)).astype(float)
    there = transform.points(grid)
    seen = ((there >= 0) & (there <= np.array(MOVING) - 1)).all(1)
    moved = np.array([moving.data_to_world(point) for point in there[seen][::7]])
    off = np.hypot(*(moved - grid[seen][::7]).T)
    assert 0.5 < off.max() < left * 1.05
    plain = affine_only().points(there[seen], inverse=True)
    assert np.hypot(*(plain - grid[seen]).T).mean() > off.mean()


def test_placing_on_the_moving_image():
    transform = affine_only()
    fixed, moving = fixed_layer(), moving_layer(scale=(2, 2))
    labels = Labels(np.zeros(FIXED, int))
    place_on([labels], transform, fixed, moving, inverse=True)
    np.testing.assert_allclose(
        labels.data_to_world((20, 30)), moving.data_to_world(transform.points([20, 30]))
    )


# -- in a viewer ------------------------------------------------------------------------------


def test_known_transforms_are_listed_once():
    one, other = affine_only(), elastic()

    def result(name, transform, **known):
        return Image(np.zeros(FIXED), name=name, metadata={KEY: {"transform": transform, **known}})

    pair = {"fixed": "vis", "moving": "ir", "axes": (0, 1)}
    layers = [
        fixed_layer(),
        result("ir warped", one, **pair),
        result("vis fused", one, **pair),
        result("loaded", other),
        Image(np.zeros(FIXED), metadata={KEY: {"truth": one}}),
    ]
    found = known_transforms(layers)
    assert [one.label for one in found] == ["loaded", "ir → vis"]
    assert found[0].transform is other
    assert found[0].axes == (-2, -1)
    assert found[1].layer is layers[2]


def test_a_second_time_replaces_what_the_first_gave():
    viewer = ViewerModel()
    layer = viewer.add_labels(np.ones(MOVING, int), name="cells")
    first = apply_transform([layer], affine_only(), fixed_layer())
    put_layers(viewer.layers, first)
    viewer.add_points([[0, 0]], name="above")
    put_layers(viewer.layers, apply_transform([layer], elastic(), fixed_layer()))
    assert [one.name for one in viewer.layers] == ["cells", "cells on vis", "above"]
    assert viewer.layers[1] is not first[0]
    viewer.layers[1].name = "kept"
    put_layers(viewer.layers, apply_transform([layer], elastic(), fixed_layer()))
    assert [one.name for one in viewer.layers] == ["cells", "kept", "above", "cells on vis"]


def test_progress_is_told_and_a_stack_can_be_cancelled():
    cancel, seen = threading.Event(), []

    def progress(stage, fraction):
        seen.append((stage, fraction))
        if fraction > 0.4:
            cancel.set()

    stack = Image(np.zeros((10, *MOVING)), name="s")
    with pytest.raises(Cancelled):
        apply_transform([stack], affine_only(), fixed_layer(), progress=progress, cancel=cancel)
    assert seen[0] == ("applying the transform to s", 0.0)
    assert len(seen) < 8


# -- bad input --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_what_cannot_be_carried_is_refused_in_words():
    transform = elastic()
    surface = Surface((np.eye(3), np.array([[0, 1, 2]])), name="mesh")
    with pytest.raises(ValueError, match=r"'mesh' is a Surface layer; accepted are Image, Labels"):
        apply_transform([surface], transform, fixed_layer())
    with pytest.raises(ValueError, match=r"moving: needed to apply the inverse transform"):
        apply_transform([], transform, fixed_layer(), inverse=True)
    wrong = Image(np.zeros((9, 9)), name="wrong")
    with pytest.raises(ValueError, match=r"fixed: layer 'wrong' has 9 x 9 pixels.*48 x 64"):
        apply_transform([], transform, wrong)
    with pytest.raises(ValueError, match=r"moving: layer 'wrong' has 9 x 9 pixels.*40 x 50"):
        apply_transform([], transform, fixed_layer(), wrong)
    turned = Points([[1, 1, 1]], name="turned", rotate=(30, 20, 10))
    with pytest.raises(ValueError, match="'turned' is turned out of the plane"):
        apply_transform([turned], transform, fixed_layer(), moving_layer())
    flat = Points([[1, 1]], name="flat", affine=[[1, 0, 0], [1e-15, 1e-15, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match="'flat' is seen edge-on"):
        apply_transform([flat], transform, fixed_layer(), moving_layer())
    with pytest.raises(ValueError, match="axes: got"):
        apply_transform([], transform, fixed_layer(), axes=(0, 1))


def test_a_fold_is_refused_for_positions_and_not_for_images():
    fold = np.zeros((2, *FIXED), np.float32)
    fold[1] = -2.0 * (np.arange(FIXED[1]) % 16)
    transform = Transform(AFFINE, fold, fixed_shape=FIXED, moving_shape=MOVING)
    assert applied(Image(np.ones(MOVING), name="i"), transform).data.any()
    grid = np.stack(np.meshgrid(np.arange(2.0, 38), np.arange(2.0, 48)), -1).reshape(-1, 2)
    with pytest.raises(ValueError, match="folds over itself"):
        applied(Points(grid, name="p"), transform)


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_nothing_is_changed_when_one_layer_cannot_be_placed():
    good = Labels(np.zeros(MOVING, int))
    turned = Points([[1, 1, 1]], rotate=(30, 20, 10))
    with pytest.raises(ValueError, match="turned out"):
        place_on([good, turned], affine_only(), fixed_layer(), moving_layer())
    np.testing.assert_array_equal(good.affine.affine_matrix, np.eye(3))
    assert isinstance(good, Layer)


@pytest.mark.parametrize("lazy", [False, True])
def test_nothing_is_invented_outside_the_source(lazy):
    """Floats are NaN, integers and labels 0, unless a value is given."""
    down = [[1, 0, 6], [0, 1, 0], [0, 0, 1]]
    shape = (20, 30)
    transform = Transform(down, fixed_shape=shape, moving_shape=shape)
    outside = ~transform.mask()
    fixed = Image(np.zeros(shape), name="vis")
    pixels = {"celsius": np.full(shape, 21.5, np.float32), "raw": np.full(shape, 9, np.uint16)}
    layers = [
        Image(da.from_array(data) if lazy else data, name=name) for name, data in pixels.items()
    ]
    layers.append(Labels(np.full(shape, 3), name="cells"))
    for given, expected in ((None, (np.nan, 0, 0)), (7, (7, 7, 0)), (np.nan, (np.nan, None, 0))):
        if expected[1] is None:
            with pytest.raises(ValueError, match="fill_value: got nan, which uint16 cannot hold"):
                apply_transform(layers, transform, fixed, fill_value=given)
            continue
        for new, value in zip(
            apply_transform(layers, transform, fixed, fill_value=given), expected, strict=True
        ):
            data = np.asarray(new.data)
            np.testing.assert_array_equal(data[outside], np.full(outside.sum(), value))
            assert (data[~outside] > 0).all()
