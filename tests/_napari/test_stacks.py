"""`register_stack`: stacks, pyramids, lazy arrays and masks, with a fake registration."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("napari")

import dask.array as da
from napari.components import ViewerModel
from napari.layers import Image, Labels, Shapes
from scipy import ndimage

from napari_busref import fusion, registration
from napari_busref._napari.layers import field_layers
from napari_busref._napari.layers.pair import METADATA_KEY, shown_plane, world_transform
from napari_busref._napari.layers.plane_pairs import stack_pairs
from napari_busref._napari.register import stack_fusion, stack_warp
from napari_busref._napari.register.result_layers import (
    FIELD_ROLES,
    ROLES,
    result_layers,
    show_field,
    update_layers,
)
from napari_busref._napari.register.run import RegisterRequest, run
from napari_busref._napari.register.settings import Settings
from napari_busref._napari.register.stacks import register_stack
from napari_busref.fusion import FusionResult
from napari_busref.registration import RegistrationResult
from napari_busref.registration.quality import unregistered
from napari_busref.runtime.progress import Cancelled
from napari_busref.transforms.transform import Transform


class Fake:
    """Stands in for `register` and `fuse`: returns a known shift, and records its arguments.

    Each plane's shift is the last digit of its first pixel, which tells planes apart.
    """

    def __init__(self):
        self.calls, self.fusions = [], 0
        self.unreliable_when_warm = False
        self.cancel_at = None
        self.lost = lambda moving: False  # whether nothing is found

    def register(self, fixed, moving, *, initial, progress, cancel, **options):
        self.calls.append({"fixed": fixed, "moving": moving, "initial": initial} | options)
        progress("matching", 0.5)
        if self.cancel_at == len(self.calls):
            cancel.set()
            if options["on_cancel"] == "raise":
                raise Cancelled
        shapes = {"fixed_shape": fixed.shape[:2], "moving_shape": moving.shape[:2]}
        start = initial or Transform.equal_field_of_view(*shapes.values())
        px = float(moving.flat[0]) % 10  # leaves an overlap
        shift = np.full((2, *fixed.shape[:2]), px, np.float32)
        affine = start.affine.copy()
        transform = Transform(affine, shift, **shapes)
        mask = transform.mask()
        warm = options.get("search") == "none"
        good = not (warm and self.unreliable_when_warm)
        quality = replace(
            unregistered(mask, "made up"),
            status="not registered" if self.lost(moving) else "registered",
            reliable=good and not self.lost(moving),
            score=0.9 if good else 0.1,
            shift_px=px,
            map=np.full((4, 5), 0.9, np.float32),
        )
        return RegistrationResult(
            transform.apply(moving), mask, transform, quality, {}, {"model": "f"}
        )

    def fuse(self, fixed, moving, *, mask, progress, cancel, **options):
        self.fusions += 1
        self.options = options
        assert fixed.shape[:2] == moving.shape[:2] == mask.shape
        fused = np.array(fixed) + 1
        if not options.get("loss_weights"):
            return FusionResult(fused, {"model": "f"}, {})
        weights = {"infrared": np.full(mask.shape, self.fusions / 10, np.float32)}
        return SimpleNamespace(fused=fused, parameters={}, timings={}, loss_weights=weights)


@pytest.fixture
def fake(monkeypatch):
    fake = Fake()
    monkeypatch.setattr(registration, "register", fake.register)
    monkeypatch.setattr(fusion, "fuse", fake.fuse)
    return fake


def planes(*layers, **point):
    viewer = ViewerModel()
    for layer in layers:
        viewer.add_layer(layer)
    for axis, step in point.items():
        viewer.dims.set_current_step(int(axis[1:]), step)
    return [shown_plane(layer, viewer) for layer in layers]


def image(shape, seed=0, **kwargs):
    data = np.random.default_rng(seed).integers(10, 200, shape).astype(np.uint8)
    kwargs.setdefault("contrast_limits", (0, 255))
    return Image(data, **kwargs)


def stack(count=5, size=(32, 40), **kwargs):
    """Planes whose first pixel is the number of the plane."""
    layer = image((count, *size), **kwargs)
    layer.data[:, 0, 0] = np.arange(count)
    return layer


# -- one plane --------------------------------------------------------------------------------


def test_a_pair_of_pictures_is_registered_as_it_is(fake):
    fixed, moving = planes(image((32, 40), name="vis"), image((64, 80), 1, name="ir"))
    result = register_stack(fixed, moving, model="some", device="cpu")
    (call,) = fake.calls
    assert call["initial"] is None
    assert (call["model"], call["device"]) == ("some", "cpu")
    np.testing.assert_array_equal(call["moving"], moving.source)
    assert result.warped is result.registration.warped or np.shares_memory(
        result.warped, result.registration.warped
    )
    np.testing.assert_array_equal(result.fused, fixed.source + 1)
    assert result.transform is result.registration.transform
    assert not result.cancelled


def test_the_start_is_where_the_layers_are_or_what_is_given(fake):
    fixed, moving = planes(image((32, 40)), image((32, 40), 1, translate=(3, -2)))
    register_stack(fixed, moving, fuse=False)
    np.testing.assert_allclose(fake.calls[0]["initial"].affine[:2, 2], (-3, 2))
    given = Transform.identity((32, 40))
    assert register_stack(fixed, moving, fuse=False, initial=given).initial is given
    assert fake.calls[1]["initial"] == given
    assert fake.fusions == 0


def test_what_cannot_be_registered_is_refused(fake):
    dot, large = planes(image((1, 1), name="dot"), image((32, 40), name="large"))
    with pytest.raises(ValueError, match="layer 'dot' has 1 x 1 px; registration needs at least"):
        register_stack(large, dot)
    with pytest.raises(ValueError, match="mode: got 'all'"):
        register_stack(large, large, mode="all")
    with pytest.raises(ValueError, match="mode: neither 'large' nor 'large' is a stack"):
        register_stack(large, large, mode="one")
    with pytest.raises(ValueError, match="initial: made for images of shape"):
        register_stack(large, large, initial=Transform.identity((8, 8)))
    with pytest.raises(ValueError, match="initial: got 'here'"):
        register_stack(large, large, initial="here")
    assert not fake.calls


def test_an_empty_stack_is_refused():
    viewer = ViewerModel()
    with np.errstate(invalid="ignore"):  # napari divides by the number of planes
        layer = Image(np.zeros((0, 20, 30)), name="none", contrast_limits=(0, 1))
        viewer.add_layer(layer)
    with pytest.raises(ValueError, match="'none' is empty: it has shape"):
        shown_plane(layer, viewer)


def test_units_of_different_kinds_are_refused():
    fixed, moving = planes(
        image((32, 40), name="vis", units=("um", "um")),
        image((32, 40), name="ir", units=("s", "s")),
    )
    with pytest.raises(ValueError, match="'vis' is measured in micrometer and layer 'ir' in sec"):
        world_transform(fixed, moving)


def test_a_small_picture_within_a_large_one_overlaps_it():
    large, small = planes(
        Image(np.zeros((4000, 4000), np.uint8), name="large"),
        image((16, 16), name="small", translate=(2030, 2030)),
    )
    assert world_transform(large, small) is not None
    assert world_transform(small, large) is not None
    corner, turned = planes(
        image((100, 100), name="corner"),
        image((100, 100), 1, name="turned", rotate=45, translate=(120, 180)),
    )
    with pytest.raises(ValueError, match="do not overlap"):  # only their bounding boxes do
        world_transform(corner, turned)


# -- large ones -------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
def test_a_large_picture_is_registered_small_and_warped_whole(fake, lazy):
    layers = image((200, 240), name="vis"), image((200, 240), 1, name="ir")
    if lazy:
        for layer in layers:
            layer.data = da.from_array(layer.data, chunks=64)
    fixed, moving = planes(*layers)
    pixels = np.asarray(moving.source)
    result = register_stack(fixed, moving, pixels=2000)
    assert fake.calls[0]["fixed"].shape == (40, 48)
    shift = 5 * (float(fake.calls[0]["moving"][0, 0]) % 10)  # at full resolution
    assert result.quality.shift_px == shift
    full = result.transform
    np.testing.assert_allclose(full.points([[0.0, 0.0]]), [[shift, shift]], rtol=1e-5)
    whole = result.warped if isinstance(result.warped, np.ndarray) else result.warped[0]
    assert isinstance(whole, da.Array) is lazy
    np.testing.assert_allclose(np.asarray(whole).astype(float), full.apply(pixels), atol=1)
    assert result.fused.shape == (200, 240)
    layers = {
        layer.metadata[METADATA_KEY]["role"]: layer
        for layer in result_layers(result, fixed, moving, roles=ROLES)
    }
    assert layers["mask"].data.shape == (40, 48)
    for role in ("warped", "mask", "fused", "magnitude"):
        extent, half = layers[role].extent.world, layers[role].scale / 2
        edges = extent + np.array([-half, half])
        np.testing.assert_allclose(edges, [[-0.5, -0.5], [199.5, 239.5]], atol=1e-9)
    assert layers["warped"].metadata[METADATA_KEY]["transform"].fixed_shape == (200, 240)
    assert layers["warped"].metadata[METADATA_KEY]["reading"]["fixed"]["step"] == 5


def test_a_pyramid_is_registered_at_a_level_and_warped_at_all(fake):
    data = image((256, 320)).data
    levels = [data, data[::2, ::2], data[::4, ::4]]
    place = {"scale": (0.5, 0.5), "translate": (7, 8), "units": ("um", "um")}
    fixed_layer, moving_layer = (
        Image(levels, multiscale=True, name=name, contrast_limits=(0, 255), **place)
        for name in ("vis", "ir")
    )
    fixed, moving = planes(fixed_layer, moving_layer)
    result = register_stack(fixed, moving, pixels=70 * 90)
    assert fake.calls[0]["fixed"].shape == (64, 80)
    warped = result_layers(result, fixed, moving, roles=["warped"])[0]
    assert warped.multiscale
    assert [level.shape for level in warped.data] == [(256, 320), (128, 160), (64, 80)]
    assert [isinstance(level, da.Array) for level in warped.data] == [True, True, False]
    assert warped.units == fixed_layer.units
    np.testing.assert_allclose(warped.data_to_world((3, 4)), fixed_layer.data_to_world((3, 4)))
    np.testing.assert_array_equal(
        np.asarray(warped.data[2]), result.registration.warped
    )  # the level that was registered


def test_a_fusion_that_would_be_too_large_is_made_where_it_was_registered(fake, monkeypatch):
    monkeypatch.setattr(stack_fusion, "FUSION_BUDGET", 1000)
    fixed, moving = planes(image((64, 80), name="vis"), image((64, 80), 1, name="ir"))
    result = register_stack(fixed, moving, pixels=40 * 40)
    fused = result_layers(result, fixed, moving, roles=["fused"])[0]
    assert fused.data.shape == (32, 40)
    np.testing.assert_allclose(fused.scale, (2, 2))
    np.testing.assert_allclose(fused.translate, (0.5, 0.5))


# -- stacks -----------------------------------------------------------------------------------


def test_the_plane_alone(fake):
    fixed, moving = planes(stack(name="vis"), stack(name="ir", seed=1), d0=3)
    result = register_stack(fixed, moving)
    assert len(fake.calls) == fake.fusions == 1
    assert result.warped.shape == (1, 32, 40)
    assert result.transform.displacement[0, 0, 0] == 3


def test_one_transform_for_all_planes(fake):
    fixed, moving = planes(stack(name="vis"), stack(name="ir", seed=1), d0=3)
    result = register_stack(fixed, moving, mode="one")
    assert len(fake.calls) == 1
    assert fake.fusions == 5
    (warped,) = result.warped
    assert isinstance(warped, da.Array)
    for number in range(5):
        expected = result.registration.transform.apply(moving.source[number])
        np.testing.assert_array_equal(np.asarray(warped[number]), expected)
        np.testing.assert_array_equal(result.fused[number], fixed.source[number] + 1)
    layers = result_layers(result, fixed, moving, roles=ROLES)
    for layer in layers:
        assert layer.ndim == 3
    by_role = {layer.metadata[METADATA_KEY]["role"]: layer for layer in layers}
    assert by_role["mask"].data.shape == by_role["magnitude"].data.shape == (5, 32, 40)
    assert set(by_role["displacement"].data[:, 0, 0]) == {0, 1, 2, 3, 4}
    assert {path[0, 0] for path in by_role["grid"].data} == {3}


@pytest.mark.parametrize("mode", ["plane", "one", "each"])
def test_where_nothing_is_found_nothing_is_fused(fake, mode):
    fixed, moving = planes(stack(name="vis"), stack(name="ir", seed=1), d0=2)
    fake.lost = lambda moving: True
    result = register_stack(fixed, moving, mode=mode)
    assert fake.fusions == 0 and result.fused is None
    assert len(fake.calls) == (5 if mode == "each" else 1)


def test_planes_that_are_not_found_keep_the_visible_picture(fake):
    """Also where the shown plane is one of them."""
    fixed, moving = planes(stack(name="vis"), stack(name="ir", seed=1), d0=2)
    lost = {int(moving.source[number].flat[0]) for number in (1, 2)}
    fake.lost = lambda moving: int(moving.flat[0]) in lost
    result = register_stack(fixed, moving, mode="each")
    assert fake.fusions == 3 and result.fusion is not None
    for number in range(5):
        added = 0 if number in (1, 2) else 1  # as the fake fuses
        np.testing.assert_array_equal(result.fused[number], fixed.source[number] + added)


def test_one_transform_a_plane_each_started_from_its_neighbour(fake):
    fixed, moving = planes(stack(name="vis"), stack(name="ir", seed=1), d0=2)
    result = register_stack(fixed, moving, mode="each", search="wide")
    assert list(result.planes) == [(2,), (1,), (3,), (0,), (4,)]
    assert [call["moving"][0, 0] for call in fake.calls] == [2, 1, 3, 0, 4]
    starts = [call["initial"].displacement for call in fake.calls]
    assert starts[0] is None
    assert [start[0, 0, 0] for start in starts[1:]] == [2, 2, 1, 3]
    assert [call["search"] for call in fake.calls] == ["wide"] * 5  # as requested
    for number in range(5):
        transform = result.planes[(number,)].transform
        assert transform.displacement[0, 0, 0] == number
        np.testing.assert_array_equal(
            np.asarray(result.warped[0][number]), transform.apply(moving.source[number])
        )
    mask, arrows = result_layers(result, fixed, moving, roles=["mask", "displacement"])
    assert (mask.data[4].sum(), mask.data[1].sum()) == (28 * 36, 31 * 39)
    shifts = arrows.data[:, 1, 1]
    np.testing.assert_allclose(shifts, arrows.data[:, 0, 0], atol=1e-5)  # plane 3: 3 px


def test_a_neighbour_that_misleads_is_not_followed(fake):
    fake.unreliable_when_warm = True
    fixed, moving = planes(stack(3, name="vis"), stack(3, name="ir", seed=1), d0=0)
    result = register_stack(fixed, moving, mode="each")
    # each further plane starts from its neighbour without a search, then from the beginning
    assert [call.get("search") for call in fake.calls] == [None, "none", None, "none", None]
    assert [call["initial"].displacement is None for call in fake.calls[1:]] == [False, True] * 2
    assert all(found.quality.reliable for found in result.planes.values())


def test_a_plane_beside_the_drift_is_registered_again(fake):
    """From where its neighbours are; a result that comes again stays."""
    pair = stack(12, name="vis"), stack(12, name="ir", seed=1)
    pair[1].data[:, 0, 0] = 1
    pair[1].data[5, 0, 0] = 8
    fixed, moving = planes(*pair, d0=2)
    result = register_stack(fixed, moving, mode="each")
    *others, last = fake.calls
    assert len(others) == fake.fusions == 12  # the picture of plane 5 stays, too
    assert last["moving"][0, 0] == 8 and last["search"] == "none"
    np.testing.assert_allclose(last["initial"].points([9, 9]), [10, 10], atol=1e-6)
    assert result.planes[(5,)].transform.displacement[0, 0, 0] == 8


def test_a_plane_without_a_result_is_interpolated(fake):
    fixed, moving = planes(stack(6, name="vis"), stack(6, name="ir", seed=1), d0=1)
    fake.lost = lambda moving: moving.flat[0] == 3
    found = register_stack(fixed, moving, mode="each").planes[(3,)]
    np.testing.assert_allclose(found.transform.points(np.array([[9.0, 9]])), [[12, 12]])
    assert "interpolated" in found.quality.reasons[-1] and not found.mask.any()


@pytest.mark.parametrize("keep", [False, True])
def test_cancel_keeps_the_planes_that_are_done_if_wanted(fake, keep):
    fake.cancel_at = 3
    fixed, moving = planes(stack(name="vis"), stack(name="ir", seed=1), d0=2)
    options = {"mode": "each", "cancel": threading.Event()}
    if not keep:
        with pytest.raises(Cancelled):
            register_stack(fixed, moving, **options)
        return
    result = register_stack(fixed, moving, on_cancel="best", **options)
    assert result.cancelled
    assert list(result.planes) == [(2,), (1,)]
    layers = result_layers(result, fixed, moving)
    assert [layer.metadata[METADATA_KEY]["role"] for layer in layers] == [
        "warped",
        "mask",
        "fused",
        "displacement",
    ]
    done = [bool(np.asarray(layers[0].data[number]).any()) for number in range(5)]
    assert done == [False, True, True, False, False]


def test_cancelled_in_the_only_plane_the_best_so_far_is_there(fake):
    fake.cancel_at = 1
    fixed, moving = planes(image((32, 40), name="vis"), image((32, 40), 1, name="ir"))
    result = register_stack(fixed, moving, on_cancel="best", cancel=threading.Event())
    assert result.cancelled
    assert result.fusion is None
    assert fake.fusions == 0
    roles = [
        layer.metadata[METADATA_KEY]["role"] for layer in result_layers(result, fixed, moving)
    ]
    assert roles == ["warped", "mask", "displacement"]


def test_progress_names_the_plane_and_never_goes_back(fake):
    fixed, moving = planes(stack(name="vis"), stack(name="ir", seed=1), d0=2)
    seen = []
    register_stack(fixed, moving, mode="each", progress=lambda *what: seen.append(what))
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    stages = [stage for stage, _ in seen]
    assert "matching" in stages  # of the shown plane
    assert "plane 5 of 5: matching" in stages


def test_planes_belong_together_that_lie_at_the_same_place():
    fixed = stack(4, name="vis", scale=(2, 1, 1), units=("um",) * 3)
    moving = stack(9, name="ir", scale=(1000, 1000, 1000), units=("nm",) * 3, seed=1)
    moving.translate = (1000, 0, 0)
    viewer = ViewerModel()
    for layer in (fixed, moving):
        viewer.add_layer(layer)
    unit = viewer.layers.units[0]
    viewer.dims.set_point(0, (4 * fixed.units[0]).to(unit).magnitude)
    pairs = stack_pairs(*(shown_plane(layer, viewer) for layer in (fixed, moving)))
    # visible planes at 0, 2, 4 and 6 µm; the infrared ones begin at 1 µm
    assert pairs.shown == (2,)
    found = {where: other.position for where, (_, other) in pairs.by_position.items()}
    assert found == {(1,): (1,), (2,): (3,), (3,): (5,)}
    assert pairs.sizes == (4, 32, 40)
    np.testing.assert_array_equal(pairs.spatial["scale"], (2, 1, 1))


def test_a_flat_visible_picture_and_a_stack_of_infrared_ones(fake):
    fixed_layer = image((32, 40), name="vis", scale=(0.5, 0.25), rotate=30, axis_labels=("y", "x"))
    moving_layer = stack(
        3,
        name="ir",
        seed=1,
        scale=(10, 0.5, 0.25),
        rotate=[[1, 0, 0], [0, 0.8660254, -0.5], [0, 0.5, 0.8660254]],
        translate=(100, 0, 0),
        axis_labels=("t", "y", "x"),
    )
    fixed, moving = planes(fixed_layer, moving_layer)
    result = register_stack(fixed, moving, mode="each")
    assert sorted(result.planes) == [(0,), (1,), (2,)]
    warped, _, fused, _ = result_layers(result, fixed, moving)
    assert warped.data.shape == fused.data.shape == (3, 32, 40)
    assert warped.axis_labels == ("t", "y", "x")
    where = warped.data_to_world((2, 7, 9))
    np.testing.assert_allclose(where[0], 120)
    np.testing.assert_allclose(where[1:], fixed_layer.data_to_world((7, 9)))


def test_a_stack_of_visible_pictures_and_one_infrared_one(fake):
    fixed, moving = planes(stack(3, name="vis"), image((32, 40), 1, name="ir"))
    result = register_stack(fixed, moving, mode="one", fuse=False)
    assert result.warped[0].shape == (3, 32, 40)
    first, last = np.asarray(result.warped[0][0]), np.asarray(result.warped[0][2])
    np.testing.assert_array_equal(first, last)


def test_time_and_depth(fake):
    fixed = image((2, 3, 32, 40), name="vis")
    moving = image((2, 3, 32, 40), 1, name="ir")
    moving.data[..., 0, 0] = np.arange(6).reshape(2, 3)
    pair = planes(fixed, moving, d0=1, d1=1)
    result = register_stack(*pair, mode="each")
    assert next(iter(result.planes)) == (1, 1)
    assert len(result.planes) == 6
    for position, found in result.planes.items():
        number = 3 * position[0] + position[1]
        assert found.transform.displacement[0, 0, 0] == number
        expected = found.transform.apply(moving.data[position])
        np.testing.assert_array_equal(np.asarray(result.warped[0][position]), expected)


def test_a_stack_turned_into_the_plane_is_refused():
    tilted = stack(3, name="ir", shear=[0.01, 0, 0])
    with pytest.raises(ValueError, match="layer 'ir' is rotated or sheared along -3"):
        stack_pairs(*planes(image((32, 40), name="vis"), tilted))


def test_rgb_stacks_keep_their_colours(fake):
    fixed_layer = image((3, 32, 40, 3), name="vis", rgb=True)
    moving_layer = image((3, 32, 40, 3), 1, name="ir", rgb=True)
    fixed, moving = planes(fixed_layer, moving_layer)
    result = register_stack(fixed, moving, mode="one")
    warped, _, fused, _ = result_layers(result, fixed, moving)
    assert warped.rgb
    assert fused.rgb
    assert warped.data.shape == fused.data.shape == (3, 32, 40, 3)


def test_the_weights_of_a_learned_loss_are_a_layer_like_the_fused_one(fake, monkeypatch):
    fixed, moving = planes(
        stack(3, name="vis", scale=(2, 1, 1)), stack(3, name="ir", scale=(2, 1, 1))
    )
    options = {"model": "refusion", "infrared": 0.75, "loss_weights": True}
    result = register_stack(fixed, moving, mode="one", fusion=options, device="cpu")
    assert fake.options == options | {"device": "cpu"}
    assert result.weights.shape == (3, 32, 40)
    # the shown plane, in the middle, is the first to be fused
    assert result.weights[:, 0, 0] == pytest.approx([0.2, 0.1, 0.3])
    (layer,) = result_layers(result, fixed, moving, roles=["weights"])
    assert layer.name == "ir weights of the loss"
    assert tuple(layer.contrast_limits) == (0, 1)
    assert layer.colorbar.visible
    np.testing.assert_array_equal(layer.scale, (2, 1, 1))
    without = register_stack(fixed, moving, mode="one", device="cpu")
    assert result_layers(without, fixed, moving, roles=["weights"]) == []
    # the weights count towards the budget; beyond it only the shown plane is fused
    monkeypatch.setattr(stack_fusion, "STACK_BUDGET", 3 * 32 * 40)
    assert register_stack(fixed, moving, mode="one").fused.shape == (3, 32, 40)
    assert register_stack(fixed, moving, mode="one", fusion=options).weights.shape == (1, 32, 40)


def test_a_stack_too_large_to_be_fused_is_fused_where_it_is_shown(fake, monkeypatch):
    monkeypatch.setattr(stack_fusion, "STACK_BUDGET", 4 * 32 * 40)
    fixed, moving = planes(stack(name="vis"), stack(name="ir", seed=1), d0=3)
    result = register_stack(fixed, moving, mode="one")
    assert fake.fusions == 1
    (fused,) = result_layers(result, fixed, moving, roles=["fused"])
    assert fused.data.shape == (1, 32, 40)
    np.testing.assert_allclose(fused.data_to_world((0, 0, 0)), (3, 0, 0))


# -- masks ------------------------------------------------------------------------------------


def test_labels_restrict_what_is_compared(fake):
    vis, ir = stack(3, name="vis"), stack(3, name="ir", seed=1)
    everywhere = np.zeros((16, 20), int)
    everywhere[4:8] = 1
    for_vis = Labels(everywhere, scale=(2, 2), translate=(0.5, 0.5), name="a")
    by_plane = np.zeros((3, 32, 40), int)
    by_plane[0, :10] = by_plane[1, 20:] = by_plane[2, :, 5:9] = 2
    for_ir = Labels(by_plane, name="b")
    fixed, moving, first, second = planes(vis, ir, for_vis, for_ir, d0=1)
    register_stack(fixed, moving, mode="each", fixed_mask=first, moving_mask=second)
    order = [int(call["moving"][0, 0]) for call in fake.calls]
    for number, call in zip(order, fake.calls, strict=True):
        assert call["fixed_mask"][8:16].all()
        assert call["fixed_mask"].sum() == 8 * 40
        np.testing.assert_array_equal(call["moving_mask"], by_plane[number] > 0)


# -- layers -----------------------------------------------------------------------------------


def test_layers_say_what_made_them(fake):
    fixed, moving = planes(image((32, 40), name="vis"), image((32, 40), 1, name="ir"))
    result = register_stack(fixed, moving, fusion={"loss_weights": True})
    layers = result_layers(result, fixed, moving, roles=ROLES)
    assert [layer.metadata[METADATA_KEY]["role"] for layer in layers] == list(ROLES)
    for layer in layers:
        known = layer.metadata[METADATA_KEY]
        assert set(known["versions"]) == {"napari-busref", "napari", "torch"}
        assert known["versions"]["napari"] != "unknown"
        assert known["quality"].reliable
        assert known["mode"] == "plane"
        assert known["parameters"]["registration"] == {"model": "f"}
    with pytest.raises(ValueError, match="roles: got \\['arrows'\\]"):
        result_layers(result, fixed, moving, roles=["arrows"])


def test_the_displacement_is_drawn_in_three_ways_of_which_one_shows(fake):
    fixed, moving = planes(image((40, 50), name="vis"), image((40, 50), 1, name="ir"))
    moving.source[0, 0] = 4
    result = register_stack(fixed, moving)
    layers = result_layers(result, fixed, moving, roles=ROLES)
    assert [layer.visible for layer in layers] == ["fused" in layer.name for layer in layers]
    lengths, grid = layers[4:6]
    np.testing.assert_allclose(lengths.data, 4 * np.sqrt(2), rtol=1e-5)
    assert lengths.colorbar.visible
    assert "px" in lengths.name
    np.testing.assert_allclose(grid.features["magnitude"], 4 * np.sqrt(2), rtol=1e-5)
    for path in grid.data:  # a straight line, shifted
        assert np.ptp(path, axis=0).min() < 1e-9
    np.testing.assert_allclose(np.concatenate(grid.data).min(0), (4, 4), atol=1e-5)
    np.testing.assert_allclose(np.concatenate(grid.data).max(0), (43, 53), atol=1e-4)
    for role in FIELD_ROLES:
        assert [show_field(layers, role)[0].metadata[METADATA_KEY]["role"]] == [role]
        assert sum(layer.visible for layer in layers[3:]) == 1
    assert layers[2].visible
    assert show_field(layers, None) == []
    with pytest.raises(ValueError, match="role: got 'warped'"):
        show_field(layers, "warped")


def test_the_grid_is_made_of_few_paths_whatever_the_size():
    for shape in ((16, 16), (100, 2000), (3000, 2000)):
        paths = field_layers.grid_layer(Transform.identity(shape)).data
        assert 1 <= len(paths) <= 450


def test_a_further_run_updates_every_kind_of_layer(fake):
    viewer = ViewerModel()
    first, second = stack(name="vis"), stack(name="ir", seed=1)
    for layer in (first, second):
        viewer.add_layer(layer)
    pair = [shown_plane(layer, viewer) for layer in (first, second)]
    learned = {"loss_weights": True}
    plane = register_stack(*pair, fusion=learned)
    placed = update_layers(viewer.layers, result_layers(plane, *pair, roles=ROLES))
    placed[0].colormap = "magma"
    everything = register_stack(*pair, mode="one", fusion=learned)
    again = update_layers(viewer.layers, result_layers(everything, *pair, roles=ROLES))
    assert len(viewer.layers) == 2 + len(ROLES)
    assert again[0] is placed[0]
    assert again[0].data.shape == (5, 32, 40)
    assert again[0].colormap.name == "magma"
    assert isinstance(again[6], Shapes)
    order = [layer.metadata[METADATA_KEY]["role"] for layer in list(viewer.layers)[2:]]
    assert order == list(ROLES)


def test_a_pyramid_takes_the_place_of_a_flat_layer(fake):
    viewer = ViewerModel()
    flat = [image((64, 80), name="vis"), image((64, 80), 1, name="ir")]
    for layer in flat:
        viewer.add_layer(layer)
    pair = [shown_plane(layer, viewer) for layer in flat]
    update_layers(viewer.layers, result_layers(register_stack(*pair), *pair, roles=["warped"]))
    levels = [flat[0].data, flat[0].data[::2, ::2]]
    pyramid = Image(levels, multiscale=True, name="other", contrast_limits=(0, 255))
    viewer.layers.remove(flat[0])
    viewer.add_layer(pyramid)
    pyramid.name = "vis"
    pair = [shown_plane(layer, viewer) for layer in (pyramid, flat[1])]
    update_layers(viewer.layers, result_layers(register_stack(*pair), *pair, roles=["warped"]))
    (warped,) = [layer for layer in viewer.layers if METADATA_KEY in layer.metadata]
    assert warped.multiscale


def test_cancelled_while_it_is_warped_it_is_made_on_demand(fake, monkeypatch):
    monkeypatch.setattr(stack_warp, "BLOCK", 16)
    fixed, moving = planes(image((64, 80), name="vis"), image((64, 80), 1, name="ir"))
    cancel = threading.Event()

    def stop(stage, fraction):
        if stage == "resampling the image":
            cancel.set()

    options = {"pixels": 2000, "cancel": cancel, "progress": stop}
    result = register_stack(fixed, moving, on_cancel="best", **options)
    assert result.cancelled
    (warped,) = result.warped
    assert isinstance(warped, da.Array)
    assert warped.shape == (64, 80)


def test_with_the_real_registration_and_fusion():
    vis, ir = stack(2, (48, 64), name="vis"), stack(2, (48, 64), name="ir", seed=0)
    ir.translate = (0, 2, -3)
    labels = Labels(np.ones((24, 32), int), scale=(2, 2), translate=(0.5, 0.5), name="part")
    fixed, moving, part = planes(vis, ir, labels)
    result = register_stack(
        fixed,
        moving,
        mode="each",
        fixed_mask=part,
        model="identity",
        fusion={"model": "average"},
        device="cpu",
        pixels=24 * 32,
    )
    assert len(result.planes) == 2
    for found in result.planes.values():
        points = np.array([[10.0, 20.0], [30.0, 7.0]])
        np.testing.assert_allclose(
            found.transform.points(points), points + np.array([-2, 3]), atol=1e-4
        )
    assert "fixed" in result.registration.parameters["masks"]
    assert result.fused.shape == (2, 48, 64)
    warped = np.asarray(result.warped[0][0])
    np.testing.assert_array_equal(warped[2:, :61], ir.data[0, :46, 3:])


@pytest.mark.parametrize("keep", ["best", "nothing"])
def test_cancelled_in_a_real_refinement(keep):
    """As in the panel: the best so far, or nothing."""
    cancel = threading.Event()
    stages = []

    def progress(stage, fraction):
        stages.append(stage)
        if stages.count("aligning the details") == 8:  # after the first level
            cancel.set()

    smooth = ndimage.gaussian_filter(image((64, 80)).data, 2)
    fixed, moving = planes(Image(smooth, name="vis"), Image(np.roll(smooth, 2, 1), name="ir"))
    settings = Settings(model="identity", refine="affine", device="cpu", on_cancel=keep)
    request = RegisterRequest(fixed, moving, world_transform(fixed, moving), settings)
    if keep == "nothing":
        with pytest.raises(Cancelled):
            run(request, progress=progress, cancel=cancel)
        assert stages[-1] == "aligning the details"
        return
    outcome = run(request, progress=progress, cancel=cancel)
    assert outcome.result.cancelled and outcome.result.quality.status == "cancelled"
    assert outcome.result.fusion is None
    assert stages[-1] == "registered"
    roles = [layer.metadata[METADATA_KEY]["role"] for layer in outcome.layers]
    assert roles == ["warped", "mask", "displacement"]
