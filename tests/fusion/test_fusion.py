from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import color, data
from torch import nn

from napari_busref import Cancelled, Transform, fuse, list_models
from napari_busref.data.samples import thermal_scene
from napari_busref.fusion.emphasis import more_detail, more_infrared
from napari_busref.fusion.tasks import TASKS, model_for
from napari_busref.metrics.fusion import spatial_frequency
from napari_busref.models.fusion.refusion import PRIORS, ReFusion, ReFusionConfig

SHAPE = (90, 110)


class Mean(nn.Module):
    """Returns the mean of both, or the output of `answer`."""

    def __init__(self, answer=lambda visible, infrared: (visible + infrared) / 2):
        super().__init__()
        self.answer = answer
        self.seen = None

    def forward(self, visible, infrared):
        self.seen = visible, infrared
        for image in self.seen:
            assert torch.isfinite(image).all()
            assert 0 <= image.min() <= image.max() <= 1
        return self.answer(visible, infrared)


def texture(seed=0, smooth=3.0, shape=SHAPE):
    image = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), smooth)
    return (image - image.min()) / np.ptp(image)


def disk(radius=30):
    rows, cols = np.indices(SHAPE)
    return np.hypot(rows - 45, cols - 55) < radius


def test_grey_uint8():
    visible, infrared = (texture() * 255).astype(np.uint8), (texture(1) * 255).astype(np.uint8)
    copies = visible.copy(), infrared.copy()
    fused = fuse(visible, infrared, model=Mean(), device="cpu").fused
    assert fused.dtype == np.uint8
    expected = (visible.astype(float) + infrared) / 2
    np.testing.assert_allclose(fused, expected, atol=0.51)
    assert np.array_equal(visible, copies[0])
    assert np.array_equal(infrared, copies[1])


def test_colour_keeps_its_chroma():
    visible = data.astronaut()[:90, :110]
    infrared = np.full(SHAPE, 128, np.uint8)
    fused = fuse(visible, infrared, model=Mean(), device="cpu").fused
    assert fused.shape == visible.shape
    assert fused.dtype == np.uint8
    before, after = color.rgb2ycbcr(visible), color.rgb2ycbcr(fused)
    inside = ((fused > 0) & (fused < 255)).all(-1)  # not clipped
    assert inside.mean() > 0.5
    np.testing.assert_allclose(after[inside][:, 1:], before[inside][:, 1:], atol=1)
    luma = (after[..., 0] - 16) / 219 * 255
    expected = ((before[..., 0] - 16) / 219 * 255 + 128) / 2
    np.testing.assert_allclose(luma[inside], expected[inside], atol=1)


def test_nothing_to_add_changes_nothing():
    visible = data.astronaut()[:90, :110]
    same = Mean(lambda visible, infrared: visible)
    assert np.array_equal(fuse(visible, texture(), model=same, device="cpu").fused, visible)


def test_alpha_is_kept_and_transparent_pixels_stay():
    rgba = np.dstack([data.astronaut()[:90, :110], np.full(SHAPE, 200, np.uint8)])
    rgba[:20, :, 3] = 0
    fused = fuse(rgba, texture(), model=Mean(), device="cpu", feather=0).fused
    assert np.array_equal(fused[..., 3], rgba[..., 3])
    assert np.array_equal(fused[:20], rgba[:20])
    assert not np.array_equal(fused[20:], rgba[20:])


@pytest.mark.parametrize(
    "dtype", ["bool", ">u2", "<u2", "i2", "u4", "i8", "f2", "<f4", ">f8", "g"]
)
@pytest.mark.parametrize("channels", [(), (3,)])
def test_own_type_and_range(dtype, channels):
    dtype = np.dtype(dtype)
    low, high = {"b": (0, 1), "f": (-30, 90)}.get(dtype.kind, (3000, 9000))
    visible = texture() > 0.5 if dtype.kind == "b" else low + (high - low) * texture()
    visible = np.broadcast_to(visible[(..., *[None] * len(channels))], SHAPE + channels)
    visible = visible.astype(dtype)
    fused = fuse(visible, texture(1) * 7, model=Mean(), device="cpu").fused
    assert fused.dtype == dtype.newbyteorder("=")
    assert fused.shape == visible.shape
    if dtype.kind == "b":
        return
    # halfway between the two, in the visible image's own range (stretched by percentiles)
    expected = (visible.astype(float).T + (low + (high - low) * texture(1).T)) / 2
    np.testing.assert_allclose(fused.T.astype(float), expected, atol=0.04 * (high - low))


def test_unit_floats_stay_in_their_range():
    fused = fuse(
        texture(), texture(1), model=Mean(lambda visible, infrared: visible + 2), device="cpu"
    ).fused
    assert fused.max() == 1
    assert fused.min() >= 0


def test_highlights_beyond_the_range_of_the_model_survive():
    visible = texture() * 1000
    visible[10, 10] = 9000
    fused = fuse(visible, texture(), model=Mean(lambda visible, infrared: visible), device="cpu")
    np.testing.assert_allclose(fused.fused, visible)


def test_outside_the_mask_is_visible_to_the_bit():
    visible = np.random.default_rng(0).integers(0, 2**60, SHAPE)  # more than a float64 holds
    mask = disk()
    fused = fuse(visible, texture(1), model=Mean(), mask=mask, device="cpu").fused
    assert np.array_equal(fused[~mask], visible[~mask])
    assert (fused[disk(15)] != visible[disk(15)]).mean() > 0.9
    rgb = data.astronaut()[:90, :110]
    fused = fuse(rgb, texture(1), model=Mean(), mask=mask.astype(float), device="cpu").fused
    assert np.array_equal(fused[~mask], rgb[~mask])


def test_no_seam_at_the_border_of_the_mask():
    visible = np.uint8(51 + 25 * texture(smooth=6))
    infrared = np.uint8(204 + 25 * texture(1, smooth=6))
    mask = disk(40)
    infrared[~mask] = 0  # as in a warped image

    def steps(image):
        return max(np.abs(np.diff(image / 255, axis=axis)).max() for axis in (0, 1))

    feathered = fuse(visible, infrared, model=Mean(), mask=mask, feather=16, device="cpu").fused
    # fading a difference of 0.3 over 16 px changes a pixel by at most 1.5 * 0.3 / 17
    allowed = steps(visible) + steps(infrared[30:60, 40:70]) + (1.5 * 0.35 / 17) + 1 / 255
    assert steps(feathered) < allowed
    abrupt = fuse(visible, infrared, model=Mean(), mask=mask, feather=0, device="cpu").fused
    assert steps(abrupt) > 0.25
    expected = (visible.astype(float) + infrared)[disk(20)] / 2
    np.testing.assert_allclose(abrupt[disk(20)], expected, atol=0.51)  # rounded


def test_the_model_sees_no_edge_where_the_infrared_ends():
    infrared = np.full(SHAPE, 200, np.uint8)
    mask = disk()
    infrared[~mask] = 0
    model = Mean()
    fuse(texture(), infrared, model=model, mask=mask, device="cpu")
    assert model.seen[1].min() == model.seen[1].max()


def test_the_edge_of_the_image_is_no_border():
    fused = fuse(texture(), texture(1), model=Mean(), mask=np.ones(SHAPE), device="cpu").fused
    np.testing.assert_allclose(fused, (texture() + texture(1)) / 2, atol=1e-6)
    left = np.indices(SHAPE)[1] < 60
    brighter = np.full(SHAPE, 0.3), np.full(SHAPE, 0.5)
    fused = fuse(*brighter, model=Mean(), mask=left, device="cpu").fused
    assert np.ptp(fused, axis=0).max() < 1e-6  # along the border nothing changes
    assert fused[:, 0].min() > 0.35


def test_nan():
    visible, infrared = texture(), texture(1) * 50
    visible[40:50, 20:30] = np.nan
    visible[5, 5] = np.inf
    infrared[60:70, 80:90] = np.nan
    fused = fuse(visible, infrared, model=Mean(), feather=0, device="cpu").fused
    assert np.array_equal(np.isnan(fused), np.isnan(visible))
    assert fused[5, 5] == np.inf
    assert np.array_equal(fused[60:70, 80:90], visible[60:70, 80:90])
    assert (fused[:40, 40:] != visible[:40, 40:]).mean() > 0.9


def test_empty_border_is_found_without_a_mask():
    infrared = (200 * texture(1) + 20).astype(np.uint8)
    infrared[:, :30] = 0
    fused = fuse(texture(), infrared, model=Mean(), device="cpu")
    assert np.array_equal(fused.fused[:, :30], texture()[:, :30])
    assert fused.parameters["mask"] == "found"


def test_a_mask_of_nothing_is_refused():
    with pytest.raises(ValueError, match="mask: no pixel is valid, need at least one"):
        fuse(texture(), texture(1), model=Mean(), mask=np.zeros(SHAPE), device="cpu")


@pytest.mark.parametrize("value", [0, 7, 0.5])
def test_constant_images(value):
    flat = np.full(SHAPE, value, float)
    assert np.isfinite(fuse(flat, texture(), model=Mean(), device="cpu").fused).all()
    assert np.isfinite(fuse(texture(), flat, model=Mean(), device="cpu").fused).all()
    assert np.isfinite(fuse(flat, flat, model=Mean(), device="cpu").fused).all()


@pytest.mark.parametrize("alpha", [0, 1])
def test_colour_infrared_is_read_as_grey(alpha):
    moving = np.dstack([texture(1)] * 3 + [np.ones(SHAPE)] * alpha)
    fused = fuse(texture(), moving, model=Mean(), device="cpu").fused
    np.testing.assert_allclose(fused, (texture() + texture(1)) / 2, atol=1e-6)


def test_progress_and_cancel():
    seen = []
    fuse(texture(), texture(1), model=Mean(), progress=lambda *s: seen.append(s), device="cpu")
    fractions = [fraction for _, fraction in seen]
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert fractions == sorted(fractions)
    for at in range(len(seen)):
        cancel = threading.Event()
        count = []

        def progress(stage, fraction, at=at, cancel=cancel, count=count):
            count.append(stage)
            if len(count) == at:
                cancel.set()

        if at == 0:
            cancel.set()
        with pytest.raises(Cancelled):
            fuse(texture(), texture(1), model=Mean(), progress=progress, cancel=cancel)
        assert len(count) == at


def test_a_network_is_left_between_its_layers():
    cancel = threading.Event()

    class Layer(torch.nn.Module):
        def forward(self, x):
            assert not cancel.is_set(), "the layer after the click ran"
            cancel.set()
            return x

    class Deep(Mean):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(Layer(), Layer())

        def forward(self, visible, infrared):
            return super().forward(self.layers(visible), infrared)

    with pytest.raises(Cancelled):
        fuse(texture(), texture(1), model=Deep(), cancel=cancel, device="cpu")


def test_parameters_and_timings():
    result = fuse(texture(), texture(1), model=Mean(), mask=disk(), device="cpu")
    assert set(result.timings) == {"prepare", "load", "model", "compose", "total"}
    assert result.parameters["model"] == "Mean"
    assert result.parameters["mask"] == "given"
    json.dumps(result.parameters, allow_nan=False)


@pytest.mark.parametrize("name", ["average", "maximum", "laplacian", "guided-filter"])
def test_controls_by_name(name, device):
    visible = data.astronaut()[:90, :111]
    fused = fuse(visible, texture(1, shape=(90, 111)), model=name, device=device).fused
    assert fused.shape == visible.shape
    assert not np.array_equal(fused, visible)
    assert name in list_models("fusion")


def test_gaf_by_name(device):
    visible = data.astronaut()[:91, :111]
    fused = fuse(visible, texture(1, shape=(91, 111)), device=device).fused
    assert fused.shape == visible.shape
    assert fused.std() > 10
    assert not np.array_equal(fused, visible)


def test_a_transform_in_place_of_a_registered_image():
    sample = thermal_scene(3, SHAPE)
    assert sample.fixed.shape[:2] == SHAPE
    options = {"model": "average", "device": "cpu", "feather": 0}
    got = fuse(sample.fixed, sample.moving, transform=sample.truth, **options)
    valid = sample.moving > 0
    mask = sample.truth.mask(valid)
    expected = fuse(sample.fixed, sample.truth.apply(sample.moving), mask=mask, **options)
    same = (got.fused == expected.fused).all(-1)
    assert same.mean() > 0.97  # black pixels inside the image are valid
    assert got.parameters["mask"] == "transform"
    narrower = np.zeros(SHAPE, bool)
    narrower[30:60, 30:60] = True
    got = fuse(sample.fixed, sample.moving, transform=sample.truth, mask=narrower, **options)
    assert np.array_equal(got.fused[~narrower], sample.fixed[~narrower])
    assert not np.array_equal(got.fused[narrower], sample.fixed[narrower])
    # the images may then differ in size
    grid = Transform.equal_field_of_view(SHAPE, (45, 55))
    small = np.full((45, 55), 200, np.uint8)
    fused = fuse(np.full(SHAPE, 100, np.uint8), small, transform=grid, **options).fused
    assert set(np.unique(fused)) <= {100, 150}
    assert (fused == 150).mean() > 0.9


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_model(task):
    visible, infrared = (texture(i) for i in (0, 1))
    result = fuse(visible, infrared, task=task, device="cpu")
    assert result.parameters["task"] == task
    assert result.parameters["model"] == model_for(task, None)
    assert set(TASKS[task].values()) <= set(list_models("fusion"))
    assert not np.array_equal(result.fused, visible)


def test_a_name_gets_the_weights_of_its_task(monkeypatch):
    monkeypatch.setitem(TASKS, "medical", {"some": "some-medical", "gaf": "gaf"})
    assert model_for("medical", None) == "some-medical"
    assert model_for("medical", "some") == "some-medical"
    assert model_for("infrared-visible", "some") == "some"
    assert model_for("medical", "average") == "average"
    model = Mean()
    assert model_for("medical", model) is model


def test_colours_of_both_images_are_shared_between_photographs():
    reddish, blue = (np.full((*SHAPE, 3), c) for c in ((0.6, 0.4, 0.4), (0.2, 0.2, 0.8)))
    options = {"model": "average", "device": "cpu"}
    alone = fuse(reddish, blue, **options).fused[0, 0]
    shared = fuse(reddish, blue, task="multi-focus", **options).fused[0, 0]
    weights = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(shared @ weights, alone @ weights, atol=1e-6)
    assert alone[0] > alone[2]
    assert shared[2] > shared[0]  # blue is the stronger colour
    first, second = (c[0, 0, ::2] - c[0, 0] @ weights for c in (reddish, blue))
    sizes = np.abs(first), np.abs(second)
    expected = (sizes[0] * first + sizes[1] * second) / (sizes[0] + sizes[1])
    np.testing.assert_allclose(shared[::2] - shared @ weights, expected, atol=1e-6)
    same = fuse(reddish, reddish, task="multi-exposure", **options).fused
    np.testing.assert_allclose(same, reddish, atol=1e-6)
    # invalid pixels of the other image contribute nothing
    mask = np.zeros(SHAPE, bool)
    mask[0, 0] = True
    kept = fuse(reddish, blue, task="multi-focus", mask=mask, **options).fused
    assert np.array_equal(kept[~mask], reddish[~mask])


@pytest.mark.parametrize("name", ["gaf", "laplacian", "average"])
def test_more_infrared_moves_the_base_from_one_source_to_the_other(name):
    sample = thermal_scene(1, (128, 160))
    visible = (sample.fixed @ [0.299, 0.587, 0.114] / 255).astype(np.float32)
    infrared = (sample.aligned / 255).astype(np.float32)
    pair = {"fixed": visible, "moving": infrared, "mask": np.ones(visible.shape)}
    fused = [
        fuse(**pair, model=name, infrared=amount, device="cpu").fused
        for amount in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert np.array_equal(fused[2], fuse(**pair, model=name, device="cpu").fused)
    smooth_v, smooth_r, *smooth = (
        ndimage.gaussian_filter(image, 8) for image in (visible, infrared, *fused)
    )
    share = [
        float(np.sum((s - smooth_v) * (smooth_r - smooth_v)) / np.sum((smooth_r - smooth_v) ** 2))
        for s in smooth
    ]
    assert share == sorted(share)
    assert share[0] < 0.1 and share[-1] > 0.9
    assert 0.1 < share[2] < 0.9


@pytest.mark.parametrize("name", ["gaf", "guided-filter"])
def test_more_detail_raises_every_fine_contrast(name):
    sample = thermal_scene(2, (96, 128))
    arguments = (sample.fixed, sample.aligned)
    options = {"model": name, "device": "cpu", "mask": np.ones((96, 128))}
    fused = [fuse(*arguments, detail=d, **options).fused for d in (0, 0.25, 0.5, 0.75, 1)]
    assert np.array_equal(fused[2], fuse(*arguments, **options).fused)
    lumas = [image @ [0.299, 0.587, 0.114] for image in fused]
    sharpness = [spatial_frequency(luma) for luma in lumas]
    assert sharpness == sorted(sharpness)
    assert sharpness[0] < 0.6 * sharpness[2] < 0.6 * sharpness[4]
    # large areas keep their brightness
    smooth = [ndimage.gaussian_filter(luma, 8) for luma in lumas]
    assert np.abs(smooth[0] - smooth[4]).max() < 8


def test_emphasis_of_what_is_known():
    visible, infrared = (np.full(SHAPE, v, np.float32) for v in (0.2, 0.9))
    fused = np.full(SHAPE, 0.4, np.float32)
    amounts = (0, 0.25, 0.5, 0.75, 1)
    values = [more_infrared(fused, visible, infrared, amount)[40, 50] for amount in amounts]
    np.testing.assert_allclose(values, [0.2, 0.3, 0.4, 0.65, 0.9], atol=1e-5)
    # a fine pattern stays when the base moves
    pattern = fused + 0.05 * (np.indices(SHAPE).sum(0) % 2 - 0.5).astype(np.float32)
    moved = more_infrared(pattern, visible, infrared, 1)
    np.testing.assert_allclose(moved - moved.mean(), pattern - pattern.mean(), atol=0.03)
    # the border of a warm object in the fused image gets no halo
    thing = np.where(disk(), 0.8, 0.3).astype(np.float32)
    led = more_infrared(thing, visible, np.where(disk(), 0.9, 0.2).astype(np.float32), 1)
    assert led[disk()].min() > 0.75 and led[~disk()].max() < 0.35
    impulse = fused.copy()
    impulse[45, 55] = 0.5
    smooth = ndimage.gaussian_filter(impulse, 2.0, mode="nearest")
    np.testing.assert_allclose(more_detail(impulse, 0), smooth, atol=1e-6)
    np.testing.assert_allclose(more_detail(impulse, 1), 2 * impulse - smooth, atol=1e-6)


@pytest.mark.parametrize("prior", list(PRIORS))
def test_learned_loss_weights_are_given_for_every_pixel(prior):
    torch.manual_seed(0)
    model = ReFusion(ReFusionConfig(width=8, heads=4, prior=prior))
    nn.init.normal_(model.proposal[-1].weight, std=0.3)
    visible, infrared, mask = texture(), texture(1), disk()
    arguments = {"fixed": visible, "moving": infrared, "model": model, "device": "cpu"}
    result = fuse(**arguments, loss_weights=True, mask=mask)
    weights = result.loss_weights
    assert list(weights) == ["visible", "infrared", "gradient"]
    assert all(w.shape == SHAPE and w.dtype == np.float32 for w in weights.values())
    assert all((w[~mask] == 0).all() for w in weights.values())
    np.testing.assert_allclose((weights["visible"] + weights["infrared"])[mask], 1, atol=1e-6)
    assert weights["infrared"][mask].std() > 0.01
    assert 0 < weights["gradient"][mask].min() <= weights["gradient"].max() < 2
    # the fused image does not change but by rounding, and tiles give the same weights
    plain = fuse(**arguments, mask=mask)
    assert plain.loss_weights is None
    np.testing.assert_allclose(plain.fused, result.fused, atol=1e-5)
    tiles = fuse(**arguments, mask=mask, loss_weights=True, tile=32).loss_weights
    for name, whole in weights.items():
        np.testing.assert_allclose(tiles[name], whole, atol=1e-5)


@pytest.mark.parametrize("name", ["gaf", "guided-filter"])
def test_bfloat16_stays_near_float32(name, device):
    sample = thermal_scene(0, (96, 128))
    pair = sample.fixed, sample.aligned
    exact = fuse(*pair, model=name, device=device)
    rounded = fuse(*pair, model=name, device=device, precision="bfloat16")
    assert rounded.parameters["precision"] == "bfloat16"
    assert rounded.fused.dtype == np.uint8
    difference = np.abs(exact.fused.astype(float) - rounded.fused)
    assert difference.mean() < 1.5
    assert (difference > 0).any()  # the precision has an effect


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"moving": texture(shape=(80, 110))},
            ValueError,
            "moving: got shape .*register the pair",
        ),
        ({"fixed": None}, TypeError, "fixed: got NoneType"),
        ({"moving": np.full(SHAPE, np.nan)}, ValueError, "moving: all pixels are NaN"),
        ({"mask": np.ones((4, 4))}, ValueError, "mask: got shape"),
        ({"feather": -1}, ValueError, "feather: got -1"),
        ({"feather": np.nan}, ValueError, "feather: got nan"),
        ({"feather": "wide"}, ValueError, "feather: got 'wide'"),
        ({"model": "nonsense"}, ValueError, "model.*nonsense"),
        ({"model": "identity"}, ValueError, "model.*identity.*registration"),
        ({"model": 3}, TypeError, "model: got int"),
        ({"task": "x-ray"}, ValueError, "task: got 'x-ray', need one of 'infrared-visible'"),
        ({"infrared": 1.5}, ValueError, r"infrared: got 1.5, need a number in \[0, 1\]"),
        ({"detail": "much"}, ValueError, "detail: got 'much'"),
        ({"precision": "float8"}, ValueError, "precision: got 'float8', need one of 'float32'"),
        ({"tile": 7}, ValueError, "tile: got 7, need 'auto', None or a side"),
        ({"tile": "small"}, ValueError, "tile: got 'small'"),
        ({"model": Mean(), "tile": 64}, ValueError, "tile: Mean needs the whole image"),
        ({"transform": np.eye(3)}, TypeError, "transform: got ndarray"),
        (
            {"transform": Transform.equal_field_of_view(SHAPE, (40, 50))},
            ValueError,
            "transform: made for images of shape",
        ),
        ({"model": Mean(lambda v, _: v[..., 1:])}, TypeError, "model: Mean returned"),
        ({"model": Mean(lambda *_: 3)}, TypeError, "model: Mean returned int"),
        ({"model": Mean(lambda v, _: v * torch.nan)}, ArithmeticError, "not finite"),
        ({"device": "cuda:77"}, ValueError, "device:"),
        ({"loss_weights": True}, ValueError, 'loss_weights: average has no .* model="refusion"'),
    ],
)
def test_bad_arguments(change, error, message):
    arguments = {"fixed": texture(), "moving": texture(1), "model": "average", "device": "cpu"}
    with pytest.raises(error, match=message):
        fuse(**{**arguments, **change})
