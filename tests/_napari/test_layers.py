"""Planes of layers, and layers of results, without Qt."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.components import ViewerModel
from napari.layers import Image, Labels, Vectors

from napari_busref._napari.files.transform_io import get_reader, read_transform, write_transform
from napari_busref._napari.layers.pair import (
    METADATA_KEY,
    expand,
    guess_pair,
    shown_plane,
    world_transform,
)
from napari_busref._napari.register.result_layers import (
    displacement_layer,
    result_layers,
    update_layers,
)
from napari_busref.transforms.transform import Transform

PLACED = {
    "scale": (0.5, 0.25),
    "translate": (10.0, -4.0),
    "rotate": 20.0,
    "shear": [0.1],
    "affine": [[0.9, 0.1, 3.0], [-0.1, 1.1, 5.0], [0, 0, 1]],
    "units": ("um", "um"),
    "axis_labels": ("y", "x"),
}


def viewer_of(*layers):
    viewer = ViewerModel()
    for layer in layers:
        viewer.add_layer(layer)
    return viewer


def planes(*layers):
    viewer = viewer_of(*layers)
    return [shown_plane(layer, viewer) for layer in layers]


def run_result(fixed, moving, shift=(2.0, -1.0), warped=None, fused=None):
    """Result of a run on two planes, with a constant displacement."""
    displacement = np.empty((2, *fixed.shape), np.float32)
    displacement[0], displacement[1] = shift
    start = world_transform(fixed, moving) or Transform.equal_field_of_view(
        fixed.shape, moving.shape
    )
    transform = Transform(
        start.affine, displacement, fixed_shape=fixed.shape, moving_shape=moving.shape
    )
    registration = SimpleNamespace(
        warped=transform.apply(moving.read()) if warped is None else warped,
        mask=transform.mask(),
        transform=transform,
        quality="quality",
        parameters={"model": "fake"},
        timings={"network": 0.1},
    )
    fusion = SimpleNamespace(
        fused=fixed.read() if fused is None else fused,
        parameters={"model": "fake"},
        timings={"network": 0.2},
    )
    return SimpleNamespace(registration=registration, fusion=fusion)


def image(shape=(20, 30), seed=0, dtype=np.uint8, **kwargs):
    data = np.random.default_rng(seed).integers(0, 2 if dtype is bool else 200, shape)
    return Image(data.astype(dtype), **kwargs)


# -- planes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float32, ">u2"])
def test_a_plain_layer_is_its_own_plane(dtype):
    layer = image(dtype=dtype)
    (plane,) = planes(layer)
    assert plane.shape == (20, 30)
    assert plane.axes == (0, 1)
    assert not plane.positioned
    np.testing.assert_array_equal(plane.read(), layer.data)
    np.testing.assert_allclose(plane.matrix, np.eye(3)[:2], atol=1e-12)


def test_rgb_keeps_its_channels():
    (plane,) = planes(image((20, 30, 3), rgb=True))
    assert plane.rgb
    assert plane.shape == (20, 30)
    assert plane.read().shape == (20, 30, 3)


def test_the_shown_plane_of_a_stack_is_taken():
    layer = image((4, 5, 20, 30), scale=(3, 2, 1, 1), translate=(7, 0, 0, 0))
    viewer = viewer_of(layer)
    viewer.dims.set_point(0, 7 + 3 * 3)
    viewer.dims.set_point(1, 2 * 1)
    plane = shown_plane(layer, viewer)
    assert plane.index[:2] == (3, 1)
    np.testing.assert_array_equal(plane.read(), layer.data[3, 1])


def test_the_shown_plane_follows_the_order_of_the_dimensions():
    layer = image((4, 20, 30))
    viewer = viewer_of(layer)
    viewer.dims.order = (1, 2, 0)  # columns are axis 0
    viewer.dims.set_point(1, 6)
    plane = shown_plane(layer, viewer)
    assert plane.axes == (0, 2)
    np.testing.assert_array_equal(plane.read(), layer.data[:, 6, :])


def test_the_position_is_converted_to_the_units_of_the_layer():
    fine = image((5, 20, 30), scale=(1000, 500, 500), units=("nm",) * 3)
    coarse = image((5, 20, 30), scale=(1, 0.5, 0.5), units=("um",) * 3)
    viewer = viewer_of(fine, coarse)
    assert viewer.layers.units is not None
    viewer.dims.set_current_step(0, 3)
    assert shown_plane(fine, viewer).index[0] == 3
    assert shown_plane(coarse, viewer).index[0] == 3


def test_multiscale_means_the_finest_level_read_only_on_demand():
    class Level:
        """An array that counts what is read of it."""

        def __init__(self, data):
            self.data, self.shape, self.dtype, self.ndim = data, data.shape, data.dtype, data.ndim
            self.size, self.read = data.size, 0

        def __getitem__(self, index):
            part = self.data[index]
            self.read += part.size
            return part

    full = np.arange(4 * 64 * 96, dtype=np.uint16).reshape(4, 64, 96)
    levels = [Level(full), Level(full[:, ::2, ::2])]
    layer = Image(levels, multiscale=True, contrast_limits=(0, 1000))
    viewer = viewer_of(layer)
    before = levels[0].read
    plane = shown_plane(layer, viewer)
    assert levels[0].read == before
    assert plane.shape == (64, 96)
    np.testing.assert_array_equal(plane.read(), full[plane.index[0]])
    assert levels[0].read == before + 64 * 96  # one plane and no more


def test_dask_is_computed_on_demand():
    dask = pytest.importorskip("dask.array")
    data = np.arange(600.0).reshape(20, 30)
    layer = Image(dask.from_array(data, chunks=10), contrast_limits=(0, 600))
    (plane,) = planes(layer)
    assert hasattr(plane.source, "compute")
    np.testing.assert_array_equal(plane.read(), data)


def test_what_cannot_be_a_plane_is_refused():
    stack, flat = image((4, 20, 30), name="stack"), image(name="flat")
    viewer = viewer_of(stack, flat)
    viewer.dims.order = (1, 2, 0)
    with pytest.raises(ValueError, match="'flat' has 2 dimensions"):
        shown_plane(flat, viewer)
    viewer.dims.order = (0, 1, 2)
    viewer.dims.ndisplay = 3
    with pytest.raises(ValueError, match="'stack': the viewer shows a volume"):
        shown_plane(stack, viewer)
    viewer.dims.ndisplay = 2
    longer = image((9, 20, 30))
    viewer.add_layer(longer)
    viewer.dims.set_point(0, 7)
    with pytest.raises(ValueError, match="'stack' has no plane at the viewer's position"):
        shown_plane(stack, viewer)


# -- initial transform ------------------------------------------------------------------------


def test_untouched_layers_of_one_size_start_at_the_identity():
    assert world_transform(*planes(image(), image(seed=1))) == Transform.identity((20, 30))


def test_untouched_layers_of_different_sizes_leave_the_start_open():
    assert world_transform(*planes(image(), image((40, 50)))) is None


def test_the_start_goes_through_the_world():
    fixed = image((20, 30), **PLACED)
    moving = image((60, 50), scale=(0.2, 0.2), rotate=-15, translate=(6, -2), units=("um", "um"))
    transform = world_transform(*planes(fixed, moving))
    points = np.array([[0.0, 0.0], [7.0, 3.0], [19.0, 29.0]])
    expected = [moving.world_to_data(fixed.data_to_world(point)) for point in points]
    np.testing.assert_allclose(transform.points(points), expected, atol=1e-9)


def test_the_start_converts_units():
    fixed = image((20, 30), scale=(1, 1), units=("um", "um"))
    moving = image((40, 60), scale=(500, 500), units=("nm", "nm"))
    transform = world_transform(*planes(fixed, moving))
    np.testing.assert_allclose(transform.affine, np.diag([2, 2, 1]), atol=1e-9)


def test_units_that_cannot_be_compared():
    unplaced = image((40, 60))
    calibrated = image((20, 30), scale=(0.5, 0.5), units=("um", "um"))
    assert world_transform(*planes(calibrated, unplaced)) is None
    placed_by_hand = image((40, 60), scale=(0.25, 0.25))
    transform = world_transform(*planes(calibrated, placed_by_hand))
    np.testing.assert_allclose(transform.affine, np.diag([2, 2, 1]), atol=1e-9)


def test_the_start_is_restricted_to_the_shown_dimensions():
    fixed = image((4, 20, 30), scale=(5, 1, 1), translate=(0, 2, 0))
    moving = image((20, 30), translate=(0, 3))
    viewer = viewer_of(fixed, moving)
    viewer.dims.set_current_step(0, 2)
    transform = world_transform(shown_plane(fixed, viewer), shown_plane(moving, viewer))
    np.testing.assert_allclose(transform.affine, [[1, 0, 2], [0, 1, -3], [0, 0, 1]], atol=1e-9)


def test_layers_that_do_not_overlap_are_refused():
    fixed, moving = image(name="here"), image(name="there", translate=(1000, 0))
    with pytest.raises(ValueError, match="'there' and 'here' do not overlap"):
        world_transform(*planes(fixed, moving))


# -- guessing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "rgb", "moving", "fixed"),
    [
        (("a", "b"), (False, False), "b", "a"),
        (("a", "b"), (False, True), "a", "b"),
        (("scene_VIS", "scene_IR"), (False, False), "scene_IR", "scene_VIS"),
        (("IR-01", "VIS-01"), (False, False), "IR-01", "VIS-01"),
        (("thermal", "colour"), (True, True), "thermal", "colour"),
    ],
)
def test_guess(names, rgb, moving, fixed):
    layers = [
        image((20, 30, 3) if colour else (20, 30), name=name, rgb=colour)
        for name, colour in zip(names, rgb, strict=True)
    ]
    assert [layer.name for layer in guess_pair(layers)] == [moving, fixed]


def test_guess_passes_over_results_and_other_kinds():
    first = image(name="first")
    labels = Labels(np.ones((20, 30), int))
    result = image(name="rgb", metadata={METADATA_KEY: {"role": "fused"}})
    assert guess_pair([labels, result]) == (None, None)
    assert guess_pair([first, labels, result]) == (None, first)


# -- results ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rgb", [False, True])
def test_results_lie_exactly_on_the_fixed_layer(rgb):
    fixed_layer = image((20, 30, 3) if rgb else (20, 30), name="vis", rgb=rgb, **PLACED)
    moving_layer = image(
        (40, 60), name="ir", colormap="inferno", contrast_limits=(5, 90), gamma=0.7, **PLACED
    )
    fixed, moving = planes(fixed_layer, moving_layer)
    warped, mask, fused, arrows = result_layers(run_result(fixed, moving), fixed, moving)
    assert [type(layer) for layer in (warped, mask, fused, arrows)] == [
        Image,
        Labels,
        Image,
        Vectors,
    ]
    assert [layer.name for layer in (warped, mask, fused, arrows)] == [
        "ir warped",
        "ir mask",
        "vis fused",
        "ir displacement",
    ]
    for layer in (warped, mask, fused, arrows):
        assert layer.units == fixed_layer.units
        assert layer.axis_labels == ("y", "x")
        for point in ((0, 0), (3, 17), (19, 29)):
            np.testing.assert_allclose(
                layer.data_to_world(point), fixed_layer.data_to_world(point), atol=1e-9
            )
    assert warped.colormap.name == "inferno"
    assert tuple(warped.contrast_limits) == (5, 90)
    assert warped.gamma == 0.7
    assert fused.rgb is rgb
    assert warped.data.dtype == np.uint8
    assert set(np.unique(mask.data)) <= {0, 1}


def test_every_result_layer_knows_everything():
    fixed, moving = planes(image(name="vis"), image(name="ir", seed=1))
    result = run_result(fixed, moving)
    for layer in result_layers(result, fixed, moving):
        known = layer.metadata[METADATA_KEY]
        assert known["transform"] is result.registration.transform
        assert known["quality"] == "quality"
        assert known["parameters"]["registration"] == {"model": "fake"}
        assert known["timings"]["fusion"] == {"network": 0.2}
        assert (known["fixed"], known["moving"]) == ("vis", "ir")
    roles = [
        layer.metadata[METADATA_KEY]["role"] for layer in result_layers(result, fixed, moving)
    ]
    assert roles == ["warped", "mask", "fused", "displacement"]


def test_the_doubt_lies_over_the_whole_fixed_layer_on_demand():
    fixed, moving = planes(image(scale=(2, 2), name="vis"), image(seed=1, name="ir"))
    result = run_result(fixed, moving)
    sure = np.array([[0.9, 0.2, np.nan], [0.8, 0.7, 0.6]], np.float32)
    result.registration.quality = SimpleNamespace(map=sure, map_px=7.3)
    (layer,) = result_layers(result, fixed, moving, roles=["doubt"])
    assert layer.name == "ir doubt (error over 7 px)"
    np.testing.assert_allclose(layer.data, 1 - sure)
    np.testing.assert_allclose(layer.scale, (20, 20))  # 10 x 10 fixed pixels of size 2
    np.testing.assert_allclose(layer.translate, (9, 9))
    result.registration.quality = SimpleNamespace(map=None, map_px=5.0)
    assert result_layers(result, fixed, moving, roles=["doubt"]) == []


def test_results_of_a_stack_lie_on_its_plane():
    fixed_layer = image(
        (4, 20, 30, 3),
        name="vis",
        rgb=True,
        scale=(5, 0.5, 0.25),
        rotate=[[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]],
        translate=(1, 2, 3),
        axis_labels=("z", "y", "x"),
    )
    moving_layer = image((20, 30), name="ir", scale=(0.5, 0.25))
    viewer = viewer_of(fixed_layer, moving_layer)
    fixed, moving = shown_plane(fixed_layer, viewer), shown_plane(moving_layer, viewer)
    number = fixed.index[0]
    layers = result_layers(run_result(fixed, moving), fixed, moving)
    for layer in layers:
        assert layer.ndim == 3
        assert layer.axis_labels == ("z", "y", "x")
        np.testing.assert_allclose(
            layer.data_to_world((0, 7, 9)), fixed_layer.data_to_world((number, 7, 9)), atol=1e-6
        )
    assert layers[0].data.shape == (1, 20, 30)
    assert layers[2].data.shape == (1, 20, 30, 3)
    assert layers[3].data.shape[1:] == (2, 3)
    assert not layers[3].data[..., 0].any()


def test_expand_puts_the_plane_into_any_two_dimensions():
    layer = image((4, 20, 30))
    viewer = viewer_of(layer)
    viewer.dims.order = (1, 2, 0)
    plane = shown_plane(layer, viewer)
    assert expand(plane.read(), plane).shape == (4, 1, 30)


def test_arrows_show_the_displacement_beyond_the_start():
    fixed, moving = planes(image((40, 60), scale=(1, 1)), image((80, 120), scale=(0.5, 0.5)))
    start = world_transform(fixed, moving)
    transform = run_result(fixed, moving, shift=(3.0, -4.0)).registration.transform
    arrows = displacement_layer(transform, start)
    np.testing.assert_allclose(arrows.data[:, 1], np.tile([3.0, -4.0], (len(arrows.data), 1)))
    np.testing.assert_allclose(arrows.features["magnitude"], 5.0, rtol=1e-5)
    assert str(arrows.vector_style) == "arrow"
    assert arrows.edge_width >= 1.5
    assert str(arrows.edge_color_mode).lower().endswith("colormap")


def test_arrows_are_few_whatever_the_size():
    for shape in ((16, 16), (100, 2000), (3000, 2000)):
        arrows = displacement_layer(Transform.identity(shape))
        assert 1 <= len(arrows.data) <= 33 * 33
        assert (arrows.data[:, 0] >= 0).all()
        assert (arrows.data[:, 0] < shape).all()
        assert not arrows.data[:, 1].any()
        assert arrows.edge_contrast_limits[1] > 0


def test_arrows_keep_to_the_mask():
    mask = np.zeros((100, 100), bool)
    mask[:, 50:] = True
    transform = Transform.identity((100, 100))
    assert displacement_layer(transform, None, mask).data[:, 0, 1].min() >= 50
    assert len(displacement_layer(transform, None, np.zeros_like(mask)).data) > 0


# -- adding and updating ----------------------------------------------------------------------


def test_a_second_run_updates_the_same_layers():
    first, second = image(name="vis"), image(name="ir", seed=1)
    viewer = viewer_of(first, second)
    fixed, moving = shown_plane(first, viewer), shown_plane(second, viewer)
    placed = update_layers(viewer.layers, result_layers(run_result(fixed, moving), fixed, moving))
    assert len(viewer.layers) == 6
    placed[0].colormap = "magma"
    placed[1].visible = True
    first.scale = second.scale = (2, 3)
    fixed, moving = shown_plane(first, viewer), shown_plane(second, viewer)
    again = result_layers(run_result(fixed, moving, shift=(0.0, 5.0)), fixed, moving)
    assert update_layers(viewer.layers, again) == placed
    assert len(viewer.layers) == 6
    assert placed[0].colormap.name == "magma"
    assert placed[1].visible
    np.testing.assert_array_equal(placed[3].data[:, 1, 1], 5.0)
    np.testing.assert_allclose(placed[3].features["magnitude"], 5.0)
    assert placed[3].edge_contrast_limits == again[3].edge_contrast_limits
    for layer in placed:
        np.testing.assert_array_equal(layer.scale, (2, 3))
        assert layer.metadata[METADATA_KEY]["transform"].displacement[1].max() == 5.0


def test_a_second_run_of_another_size_and_type_updates_too():
    first, second = image(name="vis"), image(name="ir", seed=1)
    viewer = viewer_of(first, second)
    fixed, moving = shown_plane(first, viewer), shown_plane(second, viewer)
    placed = update_layers(viewer.layers, result_layers(run_result(fixed, moving), fixed, moving))
    first.data = np.zeros((30, 30), np.uint8)
    second.data = np.random.default_rng(2).random((30, 30)).astype(np.float32)
    second.contrast_limits = (0, 1)
    fixed, moving = shown_plane(first, viewer), shown_plane(second, viewer)
    again = update_layers(viewer.layers, result_layers(run_result(fixed, moving), fixed, moving))
    assert again == placed
    assert placed[0].data.dtype == np.float32
    assert tuple(placed[0].contrast_limits) == (0, 1)
    assert placed[0].data.shape == placed[1].data.shape == (30, 30)


def test_a_layer_of_another_kind_is_replaced_where_it_was():
    first, second = image((20, 30), name="vis"), image(name="ir", seed=1)
    viewer = viewer_of(first, second)
    fixed, moving = shown_plane(first, viewer), shown_plane(second, viewer)
    placed = update_layers(viewer.layers, result_layers(run_result(fixed, moving), fixed, moving))
    colour = image((20, 30, 3), name="vis2", rgb=True)
    viewer.layers.remove(first)
    viewer.add_layer(colour)
    colour.name = "vis"
    fixed = shown_plane(colour, viewer)
    again = update_layers(viewer.layers, result_layers(run_result(fixed, moving), fixed, moving))
    assert len(viewer.layers) == 6
    assert again[2] is not placed[2]
    assert again[2].rgb
    assert again[2].name == "vis fused"
    assert list(viewer.layers).index(again[2]) == list(viewer.layers).index(placed[1]) + 1


def test_a_renamed_result_and_a_foreign_layer_are_left_alone():
    first, second = image(name="vis"), image(name="ir", seed=1)
    foreign = image(name="ir warped", seed=3)
    before = foreign.data.copy()
    viewer = viewer_of(first, second, foreign)
    fixed, moving = shown_plane(first, viewer), shown_plane(second, viewer)
    placed = update_layers(viewer.layers, result_layers(run_result(fixed, moving), fixed, moving))
    assert placed[0].name == "ir warped [1]"
    again = update_layers(viewer.layers, result_layers(run_result(fixed, moving), fixed, moving))
    assert again == placed
    placed[2].name = "the good one"
    third = update_layers(viewer.layers, result_layers(run_result(fixed, moving), fixed, moving))
    assert third[2] is not placed[2]
    assert placed[2] in viewer.layers
    np.testing.assert_array_equal(foreign.data, before)


def test_no_half_of_the_layers_stays_after_an_error():
    first, second = image(name="vis"), image(name="ir", seed=1)
    viewer = viewer_of(first, second)
    fixed, moving = shown_plane(first, viewer), shown_plane(second, viewer)
    new = result_layers(run_result(fixed, moving), fixed, moving)
    viewer.add_layer(new[3])  # napari adds a layer only once
    viewer.layers.remove(new[3])
    layers = BrokenList(viewer.layers)
    with pytest.raises(OSError, match="third"):
        update_layers(layers, new)
    assert list(layers) == [first, second]


class BrokenList(list):
    """Accepts two layers, then fails."""

    added = 0

    def append(self, layer):
        self.added += 1
        if self.added == 3:
            raise OSError("third")
        super().append(layer)


# -- files ------------------------------------------------------------------------------------


def test_reader_takes_only_its_own_extension(tmp_path):
    assert get_reader("a.h5") is None
    assert get_reader(["a.busref.h5", "b.tif"]) is None
    assert get_reader(str(tmp_path / "a.BUSREF.h5")) is read_transform


@pytest.mark.parametrize("dims", [2, 3])
def test_a_saved_displacement_comes_back_where_it_was(tmp_path, dims):
    if dims == 2:
        fixed_layer = image((20, 30), name="vis", **PLACED)
        moving_layer = image((40, 60), name="ir", **PLACED)
    else:
        fixed_layer = image((4, 20, 30), name="vis", scale=(3, 1, 1), units=("um",) * 3)
        moving_layer = image((20, 30), name="ir", scale=(1, 2), units=("um",) * 2)
    fixed, moving = planes(fixed_layer, moving_layer)
    start = world_transform(fixed, moving)
    result = run_result(fixed, moving)
    layer = result_layers(result, fixed, moving, start)[3]
    path = str(tmp_path / "found.busref.h5")
    data, meta, _ = layer.as_layer_data_tuple()
    assert write_transform(path, data, meta) == [path]
    ((read_data, read_meta, kind),) = get_reader(path)(path)
    assert kind == "vectors"
    back = Vectors(read_data, **read_meta)
    assert back.name == "found"
    known = back.metadata[METADATA_KEY]
    assert known["transform"] == result.registration.transform
    assert (known["fixed"], known["moving"]) == ("vis", "ir")
    assert known["parameters"]["registration"] == {"model": "fake"}
    np.testing.assert_allclose(back.data, layer.data, atol=1e-4)
    assert back.units == layer.units
    assert back.axis_labels == layer.axis_labels
    point = (0,) * (dims - 2) + (3, 4)
    np.testing.assert_allclose(back.data_to_world(point), layer.data_to_world(point))
    # and again from the layer that was read
    again = str(tmp_path / "again.busref.h5")
    write_transform(again, read_data, back.as_layer_data_tuple()[1])
    assert Transform.load(again) == result.registration.transform


def test_a_warped_layer_can_be_saved_too(tmp_path):
    fixed, moving = planes(image(name="vis"), image(name="ir", seed=1))
    result = run_result(fixed, moving)
    warped = result_layers(result, fixed, moving)[0]
    path = str(tmp_path / "w.busref.h5")
    write_transform(path, *warped.as_layer_data_tuple()[:2])
    assert Transform.load(path) == result.registration.transform


def test_a_transform_saved_from_python_is_read(tmp_path):
    path = Transform.equal_field_of_view((20, 30), (40, 60)).save(tmp_path / "t.busref.h5")
    ((data, meta, _),) = read_transform([str(path)])
    assert data.shape[1:] == (2, 2)
    np.testing.assert_allclose(data[:, 1], 0, atol=1e-5)
    assert Vectors(data, **meta).ndim == 2


def test_a_quality_comes_back_as_a_quality(tmp_path):
    from napari_busref.registration.quality import Quality

    quality = Quality(
        score=0.5,
        reliable=False,
        reasons=("little overlap",),
        overlap=0.2,
        min_jacobian=0.9,
        edge_agreement=0.3,
        edge_agreement_before=float("nan"),
        shift_px=3.0,
        rotation_deg=1.0,
        scale=1.1,
    )
    meta = {
        "name": "d",
        "metadata": {
            METADATA_KEY: {"transform": Transform.identity((20, 30)), "quality": quality}
        },
    }
    path = str(tmp_path / "q.busref.h5")
    write_transform(path, None, meta)
    ((_, read_meta, _),) = read_transform(path)
    back = read_meta["metadata"][METADATA_KEY]["quality"]
    assert isinstance(back, Quality)
    assert back.reasons == ("little overlap",)
    assert np.isnan(back.edge_agreement_before)


def test_what_cannot_be_saved_or_read_is_refused(tmp_path):
    meta = image(name="plain").as_layer_data_tuple()[1]
    with pytest.raises(ValueError, match="'plain' has no transform"):
        write_transform(str(tmp_path / "p.busref.h5"), None, meta)
    assert not list(tmp_path.iterdir())
    other = tmp_path / "other.busref.h5"
    other.write_bytes(b"not a transform")
    with pytest.raises(ValueError, match=r"other\.busref\.h5"):
        read_transform(str(other))
    with pytest.raises(FileNotFoundError):
        read_transform(str(tmp_path / "none.busref.h5"))
