from __future__ import annotations

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from napari_busref import Cancelled, Transform, list_models, list_samples, load_sample, register
from napari_busref.geometry import Estimate
from napari_busref.transforms.transform import read_metadata

SHAPE = (96, 120)


class Known(nn.Module):
    """A registration model that knows the answer, given in (row, col) pixels of the fixed grid."""

    def __init__(self, affine=None, displacement=None):
        super().__init__()
        self.affine = np.eye(3) if affine is None else np.asarray(affine, float)
        self.displacement = displacement
        self.seen = None

    def forward(self, fixed, moving, moving_valid=None, reporter=None):
        self.seen = (fixed, moving, moving_valid)
        for image in (fixed, moving):
            assert image.dtype == torch.float32
            assert image.ndim == 4
            assert torch.isfinite(image).all()
            assert 0 <= image.min() <= image.max() <= 1
        reporter.step("looking", 0.5)
        height, width = fixed.shape[-2:]
        to_pixel = np.array(
            [[0, height / 2, (height - 1) / 2], [width / 2, 0, (width - 1) / 2], [0, 0, 1]]
        )
        theta = np.linalg.inv(to_pixel) @ self.affine @ to_pixel
        phi = None
        if self.displacement is not None:
            row, col = self.displacement
            phi = torch.tensor(np.stack([col / (width / 2), row / (height / 2)]))[None].float()
        return Estimate(torch.tensor(theta[:2])[None], phi)


class Answers(nn.Module):
    """Returns what it was given."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, fixed, moving, moving_valid=None, reporter=None):
        return self.answer


def texture(shape=SHAPE, seed=0, smooth=2.5):
    image = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), smooth)
    return (image - image.min()) / np.ptp(image)


def bend(shape=SHAPE, size=2.0):
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    return (size * np.stack([np.sin(cols / 15), np.cos(rows / 20)])).astype(np.float32)


AFFINE = np.array([[1.03, 0.08, -3.0], [-0.07, 0.96, 5.0], [0, 0, 1]])
TRUTH = Transform(AFFINE, bend(), fixed_shape=SHAPE, moving_shape=SHAPE)


def pair():
    """A fixed image and the moving image that TRUTH brings back onto it."""
    fixed = texture()
    return fixed, TRUTH.inverse().apply(1 - fixed, cval=0)


def test_a_known_transform_comes_out():
    fixed, moving = pair()
    result = register(fixed, moving, model=Known(AFFINE, bend()), device="cpu")
    points = np.mgrid[5:90:7, 5:115:7].reshape(2, -1).T
    np.testing.assert_allclose(result.transform.points(points), TRUTH.points(points), atol=1e-3)
    inside = ndimage.binary_erosion(result.mask, iterations=6)
    assert np.abs(result.warped - (1 - fixed))[inside].max() < 0.03
    assert result.quality.reliable
    assert result.quality.edge_agreement > result.quality.edge_agreement_before
    assert result.quality.overlap == pytest.approx(result.mask.mean())


def test_warped_is_moving_at_the_flow():
    fixed, moving = pair()
    result = register(fixed, moving, model=Known(AFFINE, bend()), device="cpu")
    assert result.flow.dtype == np.float32
    assert result.flow.shape == (2, *SHAPE)
    assert np.array_equal(result.flow, result.transform.flow())
    grid = np.mgrid[: SHAPE[0], : SHAPE[1]]
    expected = ndimage.map_coordinates(moving, grid + result.flow, order=1)
    assert 0.5 < result.transform.mask().mean() < 1
    assert np.isnan(result.warped[~result.transform.mask()]).all()
    np.testing.assert_allclose(result.warped[result.mask], expected[result.mask], atol=1e-4)


@pytest.mark.parametrize("dtype", ["bool", "u1", ">u2", "i4", "f2", "<f4", ">f8"])
@pytest.mark.parametrize("channels", [(), (3,), (4,)])
def test_any_pair_of_types(dtype, channels):
    dtype = np.dtype(dtype)
    image = texture()
    if dtype.kind == "b":
        image = image > 0.5
    elif dtype.kind in "iu":
        image = image * 250
    image = np.broadcast_to(image[(..., *[None] * len(channels))], SHAPE + channels)
    image = image.astype(dtype)
    if channels == (4,):
        image[..., 3] = 1
    moving, fixed = image, np.flip(image, 0)
    copies = moving.copy(), fixed.copy()
    result = register(fixed, moving, model=Known(AFFINE), device="cpu")
    assert np.array_equal(moving, copies[0])
    assert np.array_equal(fixed, copies[1])
    assert result.warped.shape == moving.shape
    assert result.warped.dtype == dtype.newbyteorder("=")
    fill = np.nan if dtype.kind == "f" else 0
    np.testing.assert_array_equal(result.warped, result.transform.apply(moving, cval=fill))
    assert result.mask.dtype == bool


@pytest.mark.parametrize("dtype", ["u1", "i4", "f4"])
def test_fill_value_outside(dtype):
    moving = (texture() * 100).astype(dtype)
    options = {"model": Known(AFFINE), "device": "cpu"}
    outside = ~register(moving, moving, **options).transform.mask()
    assert 0 < outside.mean() < 1
    for value in (0, 7, np.int64(3), np.float32(5)):
        result = register(moving, moving, fill_value=value, **options)
        assert (result.warped[outside] == value).all()
    for value in ("0", True, 1j, [0], 1e300, *(() if dtype == "f4" else (np.nan, np.inf))):
        with pytest.raises(ValueError, match="fill_value: got"):
            register(moving, moving, fill_value=value, **options)


def test_what_a_type_cannot_hold_is_no_cval():
    transform = Transform.identity((20, 20))
    for dtype, value in (("u1", -1), ("u1", np.nan), ("i2", 1e5), ("f4", 1e300), (bool, 2)):
        for order in (0, 1):
            with pytest.raises(ValueError, match=r"cval: got .*, which .* cannot hold"):
                transform.apply(np.ones((20, 20), dtype), order, cval=value)


def test_different_sizes_share_their_field_of_view():
    scene = texture((192, 240), smooth=6)
    fixed = scene.reshape(96, 2, 120, 2).mean((1, 3))
    model = Known()
    result = register(fixed, scene, model=model, device="cpu")
    assert result.warped.shape == SHAPE
    assert result.transform == Transform.equal_field_of_view(SHAPE, (192, 240))
    assert result.parameters["initial"] == "equal field of view"
    np.testing.assert_allclose(result.warped, fixed, atol=0.02)
    # what the model sees lies on the fixed grid
    assert model.seen[1].shape == (1, 1, *SHAPE)
    small = register(scene, fixed, model=Known(), device="cpu")
    np.testing.assert_allclose(small.warped[small.mask], scene[small.mask], atol=0.03)


def test_fine_detail_of_moving_is_blurred_for_the_model_only():
    checker = np.indices((384, 480)).sum(0) % 2 * 1.0
    checker[:, :240] *= 0.5
    model = Known()
    start = Transform(
        [[4.5, 0, 0], [0, 4.5, 0], [0, 0, 1]], fixed_shape=(80, 100), moving_shape=(384, 480)
    )
    result = register(texture((80, 100)), checker, model=model, initial=start, device="cpu")
    seen = model.seen[1][0, 0].numpy()
    assert seen[2:-2, 2:45].std() < 0.02  # aliased, this is 0.25
    assert result.warped[:, :45].std() > 0.05
    assert np.array_equal(result.warped, start.apply(checker))


def test_initial_is_composed():
    # moving has pixels half as large and starts elsewhere; the model adds to that
    start = Transform(
        [[2, 0.1, 7], [-0.1, 2, -4], [0, 0, 1]], fixed_shape=SHAPE, moving_shape=(200, 260)
    )
    found = np.array([[1, 0, 1.5], [0, 1, -2.5], [0, 0, 1]])
    moving = texture((200, 260))
    model = Known(found, bend(size=1))
    result = register(texture(), moving, model=model, initial=start, device="cpu")
    points = np.mgrid[0:96:8, 0:120:8].reshape(2, -1).T
    step = Transform(found, bend(size=1), fixed_shape=SHAPE, moving_shape=SHAPE)
    expected = start.points(step.points(points))
    np.testing.assert_allclose(result.transform.points(points), expected, atol=0.02)
    assert result.transform.moving_shape == (200, 260)
    assert result.parameters["initial"] == "given"
    # judged relative to where it started
    assert result.quality.scale == pytest.approx(1, abs=1e-3)
    # and the model has seen moving where `initial` puts it
    blurred = ndimage.gaussian_filter(moving, 0.5)
    inner = ndimage.binary_erosion(start.mask(), iterations=2)
    seen, valid = (image[0, 0].numpy() for image in model.seen[1:])
    np.testing.assert_allclose(seen[inner], start.apply(blurred)[inner], atol=0.08)
    assert valid[inner].all()
    assert not valid[~start.mask()].any()


def test_nan_and_masks():
    fixed, moving = texture(), texture(seed=1) + 0.1
    moving[20:40, 30:60] = np.nan
    fixed = fixed.copy()
    fixed[50:60, 50:60] = np.inf
    moving_mask = np.ones(SHAPE, bool)
    moving_mask[70:80, 70:90] = False
    copies = fixed.copy(), moving.copy()
    model = Known(AFFINE)
    result = register(fixed, moving, model=model, moving_mask=moving_mask, device="cpu")
    assert np.array_equal(moving, copies[1], equal_nan=True)
    assert np.array_equal(fixed, copies[0], equal_nan=True)
    valid = moving_mask & np.isfinite(moving)
    assert np.array_equal(model.seen[2][0, 0].numpy() > 0, valid)
    assert not model.seen[1][0, 0].numpy()[~valid].any()
    assert np.array_equal(result.mask, result.transform.mask(valid))
    assert np.isfinite(result.warped[result.mask]).all()
    assert np.isnan(result.warped[~result.transform.mask()]).all()  # moving has NaN: so outside
    assert np.isfinite(result.flow).all()
    assert result.parameters["masks"] == ["moving"]


def test_empty_border_of_moving_is_not_reconstructible():
    moving = ndimage.rotate(texture() * 200 + 20, 12, reshape=False, order=1).astype(np.uint8)
    kept = ndimage.rotate(np.ones(SHAPE), 12, reshape=False, order=1)
    result = register(texture(), moving, model=Known(), device="cpu")
    assert result.mask[kept == 1].all()
    assert not result.mask[kept == 0].any()


def test_fixed_mask_hides_pixels_from_the_model():
    fixed = texture() * 0.5
    fixed[:, :60] += 0.5
    mask = np.ones(SHAPE)
    mask[:, :60] = 0
    model = Known()
    result = register(fixed, texture(), model=model, fixed_mask=mask, device="cpu")
    assert model.seen[0].max() <= 0.5
    assert result.mask.all()  # what moving shows there is known all the same


@pytest.mark.parametrize("which", ["fixed", "moving", "both"])
@pytest.mark.parametrize("value", [0, 0.5, 900])
def test_constant_images(which, value):
    images = {"fixed": texture(), "moving": texture((50, 60))}
    for name in images:
        if which in (name, "both"):
            images[name] = np.full(images[name].shape, value, float)
    model = Known(AFFINE)
    result = register(**images, model=model, device="cpu")
    assert model.seen is None
    assert result.transform == Transform.equal_field_of_view(SHAPE, (50, 60))
    assert not result.quality.reliable
    assert result.quality.score == 0
    assert "has no texture" in result.quality.reasons[0]
    assert np.isfinite(result.flow).all()


NAN = torch.full((1, 2, 3), torch.nan)
IDENTITY = torch.eye(2, 3)[None]


@pytest.mark.parametrize(
    "answer",
    [
        Estimate(NAN),
        Estimate(IDENTITY * torch.inf),
        Estimate(IDENTITY, torch.full((1, 2, 12, 15), torch.nan)),
        Estimate(IDENTITY, torch.full((1, 2, 12, 15), 1e38)),
        Estimate(torch.zeros(1, 2, 3)),
        Estimate(IDENTITY + torch.tensor([0, 0, 9.0])),
    ],
    ids=["nan", "inf", "nan field", "huge field", "singular", "moved apart"],
)
def test_unusable_estimates_never_come_out(answer):
    fixed, moving = pair()
    result = register(fixed, moving, model=Answers(answer), device="cpu")
    assert result.transform == Transform.identity(SHAPE)
    assert np.array_equal(result.warped, moving)
    assert not result.flow.any()
    assert result.mask.any()
    assert not result.quality.reliable
    assert "the initial transform is returned" in result.quality.reasons[0]


def test_nothing_to_go_by_leaves_the_start():
    fixed, moving = pair()
    outside = Transform([[1, 0, 500], [0, 1, 0], [0, 0, 1]], fixed_shape=SHAPE, moving_shape=SHAPE)
    for change, reason, start in (
        ({"moving_mask": np.zeros(SHAPE)}, "moving_mask leaves nothing", None),
        ({"fixed_mask": np.zeros(SHAPE)}, "fixed_mask leaves nothing", None),
        ({"initial": outside}, "covers no pixel", outside),
    ):
        result = register(fixed, moving, model=Known(AFFINE), device="cpu", **change)
        assert result.transform == (start or Transform.identity(SHAPE))
        assert not result.quality.reliable
        assert result.quality.score == 0
        assert reason in result.quality.reasons[0]


def test_a_bad_estimate_is_called_unreliable():
    fixed, moving = pair()
    wrong = np.array([[1, 0, 25.0], [0, 1, 30.0], [0, 0, 1]])
    result = register(fixed, moving, model=Known(wrong), device="cpu")
    assert not result.quality.reliable
    assert result.quality.score < 0.4


def test_other_answers_are_refused():
    with pytest.raises(TypeError, match=r"model: Answers returned str.*Estimate"):
        register(*pair(), model=Answers("left"), device="cpu")


def test_smallest_images():
    result = register(texture((16, 16)), texture((16, 40)), model=Known(), device="cpu")
    assert result.warped.shape == (16, 16)


def test_progress_goes_from_0_to_1():
    seen = []
    register(*pair(), model=Known(), progress=lambda *step: seen.append(step), device="cpu")
    stages, fractions = zip(*seen, strict=True)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert list(fractions) == sorted(fractions)
    assert list(dict.fromkeys(stages)) == [
        "reading the images",
        "loading the models",
        "finding the rough position",  # whatever words the network has
        "checking the result",
        "resampling the image",
        "registered",
    ]


@pytest.mark.parametrize("at", range(6))
def test_cancel_stops_at_the_next_stage(at):
    cancel = threading.Event()
    seen = []

    def progress(stage, fraction):
        seen.append(stage)
        if len(seen) == at:
            cancel.set()

    if at == 0:
        cancel.set()
    with pytest.raises(Cancelled):
        register(*pair(), model=Known(), progress=progress, cancel=cancel, device="cpu")
    assert len(seen) == at


@pytest.mark.parametrize("at", [("aligning the details", 8), ("checking the result", 1)])
def test_keeping_the_best_checks_nothing_after_the_click(at):
    cancel, stages = threading.Event(), []

    def progress(stage, fraction):
        stages.append(stage)
        if stages.count(at[0]) == at[1]:
            cancel.set()

    arguments = {"model": "identity", "refine": "affine", "device": "cpu"}
    kept = register(*pair(), progress=progress, cancel=cancel, on_cancel="best", **arguments)
    assert kept.quality.status == "cancelled"
    assert not kept.quality.reliable
    assert not np.array_equal(kept.transform.affine, np.eye(3))  # one look was taken
    assert "agreement" not in kept.timings
    assert "agreement" in register(*pair(), **arguments).timings


def test_keeping_the_best_waits_for_nothing_that_is_under_way(monkeypatch):
    cancel, released, over = (threading.Event() for _ in range(3))

    def endless(*arguments):
        cancel.set()
        released.wait(30)
        over.set()

    monkeypatch.setattr("napari_busref.registration.consistency.inverse_consistency", endless)
    arguments = {"model": "identity", "refine": "affine", "device": "cpu", "cancel": cancel}
    kept = register(*pair(), on_cancel="best", **arguments)
    assert kept.quality.status == "cancelled"
    assert not over.is_set()
    released.set()
    assert over.wait(30)


def test_errors_come_through_where_the_best_is_kept(monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr("napari_busref.registration.consistency.inverse_consistency", broken)
    with pytest.raises(ZeroDivisionError):
        register(*pair(), model="identity", refine="affine", device="cpu", on_cancel="best")


def test_timings_parameters_and_metadata(tmp_path):
    result = register(*pair(), model=Known(AFFINE), device="cpu")
    stages = {"prepare", "load", "Known", "agreement", "resample", "quality", "total"}
    assert set(result.timings) == stages
    assert all(seconds >= 0 for seconds in result.timings.values())
    assert result.timings["total"] >= max(result.timings.values())
    parameters = result.parameters
    assert parameters["model"] == "Known"
    assert parameters["device"].startswith("cpu")
    assert parameters["initial"] == "identity"
    assert parameters["fixed_shape"] == list(SHAPE)
    assert parameters["versions"]["torch"] == torch.__version__
    json.dumps(result.metadata(), allow_nan=False)
    path = result.transform.save(tmp_path / "pair.busref.h5", metadata=result.metadata())
    assert Transform.load(path) == result.transform
    assert read_metadata(path) == json.loads(json.dumps(result.metadata()))


def test_the_module_given_is_left_as_it_was():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(1))
    model.forward = lambda *_, **__: Estimate(IDENTITY)
    model.train()
    model[1].eval()
    register(*pair(), model=model, device="cpu")
    assert (model.training, model[0].training, model[1].training) == (True, True, False)


def test_modules_of_other_float_types():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))

        def forward(self, fixed, moving, moving_valid=None, reporter=None):
            assert fixed.dtype == moving.dtype == torch.bfloat16
            return Estimate(IDENTITY.to(torch.bfloat16), fixed.new_zeros(1, 2, 4, 5))

    result = register(*pair(), model=Half())
    assert result.transform.points([3, 4]) == pytest.approx(np.array([3, 4]), abs=0.05)


def test_a_model_of_both_directions_gives_the_inverse():
    """The network sees the moving image by the initial transform."""

    class Both(Known):
        def symmetric(self, *images, **options):
            back = Known(BACK, bend()).forward(*images, **options)
            return replace(self.forward(*images, **options), backward=back)

    BACK = np.array([[0.98, 0.05, 2.0], [-0.04, 1.02, -4.0], [0, 0, 1]])
    initial = Transform(
        [[2, 0.1, 5], [-0.1, 2, 3], [0, 0, 1]], fixed_shape=SHAPE, moving_shape=(200, 250)
    )
    moving = texture((200, 250))
    result = register(texture(), moving, model=Both(), initial=initial, device="cpu")
    assert result.inverse is not None
    assert (result.inverse.fixed_shape, result.inverse.moving_shape) == ((200, 250), SHAPE)
    points = np.array([[20.0, 30], [60, 100], [45, 70]])
    expected = Transform(BACK, bend(), fixed_shape=SHAPE, moving_shape=SHAPE).points(points)
    assert result.inverse.points(initial.points(points)) == pytest.approx(expected, abs=0.05)
    assert register(texture(), moving, model=Known(), device="cpu").inverse is None


def test_out_of_memory_is_a_memory_error():
    class Hungry(nn.Module):
        def forward(self, *_, **__):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryError, match=r"not enough memory on cpu.*smaller images"):
        register(*pair(), model=Hungry(), device="cpu")


def test_identity_by_name():
    fixed, moving = pair()
    result = register(fixed, moving, model="identity", device="cpu")
    assert np.array_equal(result.warped, moving)
    assert result.mask.sum() >= TRUTH.inverse().mask().sum() - 1
    assert result.parameters["model"] == "identity"


@pytest.mark.parametrize("name", list_samples())
def test_busref_by_name(device, name):
    sample = load_sample(name)
    result = register(sample.fixed, sample.moving, model="busref", device=device)
    assert np.isfinite(result.flow).all()
    assert result.parameters["working_shape"] is not None
    points = np.argwhere(sample.truth.mask())[::97]
    truth = sample.truth.points(points)
    found, start = (
        np.hypot(*(ends - truth).T).mean() for ends in (result.transform.points(points), points)
    )
    assert found < 0.5 * start


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fixed": None}, TypeError, "fixed: got NoneType"),
        ({"moving": np.zeros((2, 5, 40, 40))}, ValueError, "moving: got 4-D, shape .*one plane"),
        (
            {"moving": np.zeros((8, 40))},
            ValueError,
            "moving: got 8 x 40 px, need at least 16 x 16",
        ),
        ({"fixed": np.full((40, 40), np.nan)}, ValueError, "fixed: all pixels are NaN"),
        ({"moving": np.zeros((40, 40), complex)}, TypeError, "moving: got dtype complex"),
        ({"fixed_mask": np.ones((4, 4))}, ValueError, "fixed_mask: got shape"),
        ({"search": "far"}, ValueError, "search: got 'far', need one of"),
        ({"refine": True}, ValueError, "refine: got True, need one of"),
        ({"transform": "rigid"}, ValueError, "transform: got 'rigid'"),
        ({"on_cancel": "ignore"}, ValueError, "on_cancel: got 'ignore'"),
        ({"initial": (np.zeros((2, 2)), np.zeros((2, 2)))}, ValueError, "initial: .*three"),
        ({"initial": (np.zeros((4, 2)), np.zeros((3, 2)))}, ValueError, "initial: .*shapes"),
        ({"initial": np.eye(3)}, TypeError, "initial: got ndarray, need a Transform"),
        ({"initial": Transform.identity((9, 9))}, ValueError, "initial: made for images of shape"),
        ({"model": 3}, TypeError, "model: got int"),
        ({"model": "nonsense"}, ValueError, "model.*nonsense"),
        ({"model": "average"}, ValueError, "model.*average.*fusion"),
        ({"device": "abacus"}, ValueError, "device: got 'abacus'"),
    ],
)
def test_bad_arguments(change, error, message):
    fixed, moving = pair()
    with pytest.raises(error, match=message):
        register(
            **{"fixed": fixed, "moving": moving, "model": "identity", "device": "cpu", **change}
        )


def test_registered_models_can_be_asked_for():
    assert {"busref", "identity"} <= set(list_models("registration"))
