"""Pairs that are registered in tiles; the limits are lowered here, so that small ones suffice."""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from napari_busref import register
from napari_busref.data.samples import thermal_scene
from napari_busref.images.block_means import block_means
from napari_busref.registration import large, tile_levels
from napari_busref.registration.joined_field import NODES, _least_jacobian, join, outlying
from napari_busref.registration.large import LargeRegistrationResult, register_large
from napari_busref.registration.tiles import Source, Tile, TileFit, fit_tile
from napari_busref.runtime.progress import Cancelled
from napari_busref.transforms.transform import Transform

SHAPE = (400, 520)


def bent(shape=SHAPE, length=3.0):
    """A map from the fixed to the moving image, with bends that a coarse level misses."""
    rng = np.random.default_rng(1)
    field = np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), 40) for _ in range(2)])
    field *= length / np.hypot(*field).max()
    shift = [[1, 0, 3], [0, 1, -2], [0, 0, 1]]
    return Transform(shift, field, fixed_shape=shape, moving_shape=shape)


@pytest.fixture(scope="module")
def pair():
    """The street in the visible and the infrared; the infrared one is bent by `bent`."""
    sample = thermal_scene(0, SHAPE)
    aligned = sample.truth.apply(sample.moving, cval=0)
    return sample.fixed, bent().inverse().apply(aligned, cval=0), bent()


def error(found, truth, margin=40):
    grid = np.stack(np.mgrid[margin : SHAPE[0] - margin : 20, margin : SHAPE[1] - margin : 20], -1)
    return np.linalg.norm(found.points(grid) - truth.points(grid), axis=-1)


def registered(pair, monkeypatch, finest="full", **options):
    monkeypatch.setattr(tile_levels, "SIDE", 256)
    fixed, moving, _ = pair
    return register_large(fixed, moving, finest, whole=register, side=128, device="cpu", **options)


class Unread:
    """An image in a file: it may not be read as a whole."""

    def __init__(self, array, most):
        self.array, self.shape, self.dtype, self.most = array, array.shape, array.dtype, most

    def __getitem__(self, window):
        part = self.array[window]
        assert part.size <= self.most
        return part


def test_tiles_find_what_the_coarse_level_misses(pair, monkeypatch):
    truth = pair[2]
    coarse = registered(pair, monkeypatch, "none")
    found = registered(pair, monkeypatch)
    before, after = error(coarse.transform, truth), error(found.transform, truth)
    assert before.mean() > 1.0
    assert after.mean() < 0.7 * before.mean()
    assert (after - before).max() < 1.0
    assert [level["step"] for level in found.parameters["levels"]] == [4.0, 2, 1]
    assert set(found.timings) == {"coarse level", "tiles", "total"}
    assert found.agreement.shape == (2, 3)
    assert np.nanmin(found.agreement) > 0.3
    assert found.transform.spacing == (32.0, 32.0)


def test_the_images_are_read_window_by_window_and_warped_on_use(pair, monkeypatch):
    fixed, moving, _ = pair
    monkeypatch.setattr("napari_busref.images.block_means._STRIP", 1 << 17)
    unread = Unread(fixed, 3 * 300 * 300), Unread(moving, 140_000)
    result = registered((*unread, None), monkeypatch, "half")
    assert "warped" not in vars(result)
    monkeypatch.setattr(large, "_BLOCK", 256)
    np.testing.assert_array_equal(result.warped, result.transform.apply(moving))
    assert result.warped is result.warped
    assert result.mask.shape == SHAPE and 0.9 < result.mask.mean() <= 1
    assert "score" in repr(result)
    again = registered(pair, monkeypatch, "half")
    assert again.transform == result.transform


def test_register_continues_in_tiles_beyond_a_limit(pair, monkeypatch):
    fixed, moving, _ = pair
    assert not isinstance(register(fixed, moving, device="cpu"), LargeRegistrationResult)
    monkeypatch.setattr(large, "LARGE", 400 * 500)
    monkeypatch.setattr(large, "_WHOLE", 256)
    result = register(fixed, moving, device="cpu", search="none", refine="affine")
    assert isinstance(result, LargeRegistrationResult)
    assert [level["step"] for level in result.parameters["levels"]] == [2.0]
    assert result.agreement is None
    with pytest.raises(ValueError, match="finest: got 'most', need one of 'full', 'half'"):
        register(fixed, moving, finest="most")


def test_progress_is_even_and_cancel_works_between_tiles(pair, monkeypatch):
    cancel, fractions = threading.Event(), []

    def progress(stage, fraction):
        fractions.append(fraction)
        if "tile 3 of" in stage:
            cancel.set()

    with pytest.raises(Cancelled):
        registered(pair, monkeypatch, progress=progress, cancel=cancel)
    assert fractions == sorted(fractions)
    cancel.clear()
    best = registered(pair, monkeypatch, progress=progress, cancel=cancel, on_cancel="best")
    assert [level["step"] for level in best.parameters["levels"]] == [4.0, 2]


@pytest.fixture(scope="module")
def coarse(pair):
    """The pair on its coarse level alone."""
    options = {"whole": register, "side": 128, "device": "cpu", "search": "none"}
    return register_large(*pair[:2], "none", **options)


def refined(pair, monkeypatch, coarse, first, **options):
    monkeypatch.setattr(tile_levels, "SIDE", 128)
    monkeypatch.setattr(large, "_WHOLE", 128)
    return large.refine_large(*pair[:2], coarse.transform, first, device="cpu", **options)


def test_the_part_in_view_is_refined_first_and_stays(pair, coarse, monkeypatch):
    truth, part = pair[2], np.s_[40:200, 40:200]
    monkeypatch.setattr(tile_levels, "_TOGETHER", 4)
    stages = []
    found = list(
        refined(pair, monkeypatch, coarse, part, progress=lambda *said: stages.append(said))
    )
    (view, complete), *others = found
    assert complete and [is_last for _, is_last in others].index(True) == len(others) - 1
    assert len(others) > 2  # what is done of the rest comes piece by piece

    def near(transform, rows, cols):
        grid = np.stack(np.mgrid[rows, cols], -1)
        return np.linalg.norm(transform.points(grid) - truth.points(grid), axis=-1).mean()

    inside, outside = (slice(60, 180, 20),) * 2, (slice(280, 360, 20), slice(300, 480, 20))
    start, first, last = coarse.transform, view.transform, others[-1][0].transform
    assert near(first, *inside) < 0.7 * near(start, *inside)
    assert near(last, *inside) < near(first, *inside) + 0.1
    assert near(last, *outside) < 0.7 * near(start, *outside)
    assert error(last, truth).mean() < 0.7 * error(start, truth).mean()
    fractions = [fraction for _, fraction in stages]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_the_tiles_of_a_part_alone_are_fitted_before_it_is_shown(pair, coarse, monkeypatch):
    fitted, cancel = [], threading.Event()
    inner = tile_levels.fit_tile
    monkeypatch.setattr(tile_levels, "fit_tile", lambda t: fitted.append(t) or inner(t))
    parts = refined(pair, monkeypatch, coarse, np.s_[10:100, 10:100], cancel=cancel)
    next(parts)
    assert [(tile.step, tile.core[0].start, tile.core[1].start) for tile in fitted] == [
        (2, 0, 0),
        (1, 0, 0),
    ]
    cancel.set()
    with pytest.raises(Cancelled):
        next(parts)
    assert len(fitted) == 3


def test_masks_and_an_initial_transform_speak_of_full_resolution(pair, monkeypatch):
    fixed, moving, truth = pair
    wide = np.zeros((600, 700), moving.dtype)
    wide[150 : 150 + SHAPE[0], 100 : 100 + SHAPE[1]] = moving
    mask = wide > 0
    away = np.array([[1, 0, 150.0], [0, 1, 100.0], [0, 0, 1]])
    initial = Transform(away, fixed_shape=SHAPE, moving_shape=wide.shape)
    result = registered(
        (fixed, wide, None), monkeypatch, "half", initial=initial, moving_mask=mask, search="none"
    )
    shifted = Transform(away, fixed_shape=SHAPE, moving_shape=wide.shape)
    assert error(result.transform, truth.compose(shifted)).mean() < 1.3


def test_nothing_to_register_gives_the_initial_transform(monkeypatch):
    flat = np.full(SHAPE, 9, np.uint8)
    result = registered((flat, flat, None), monkeypatch)
    assert result.quality.status == "not registered"
    assert result.transform == Transform.identity(SHAPE)


def source(image):
    return Source(image, None, prepared(image).scale, np.ones((1, 1), bool))


def prepared(image):
    from napari_busref.images.preprocess import prepare

    return prepare(image, "image")


def test_a_tile_is_a_function_of_what_can_be_pickled(pair):
    fixed, moving, truth = pair
    start = Transform(truth.affine, fixed_shape=SHAPE, moving_shape=SHAPE)
    tile = Tile(source(fixed), source(moving), start, 1, np.s_[100:356, 100:356])
    fit, again = fit_tile(tile), fit_tile(pickle.loads(pickle.dumps(tile)))
    assert (fit.moment == again.moment).all()
    assert (fit.position >= 100).all() and (fit.position < 356).all()
    wanted = truth.displacement[:, 100:356, 100:356].mean((1, 2))
    np.testing.assert_allclose(fit.move(start), wanted, atol=0.6)


def test_tiles_without_texture_or_content_are_left_out(pair):
    fixed, moving, _ = pair
    flat = np.full_like(moving, 40)
    noisy = flat + np.random.default_rng(0).normal(0, 2, SHAPE).astype(np.uint8)
    window = np.s_[100:356, 100:356]
    start = Transform.identity(SHAPE)
    assert fit_tile(Tile(source(fixed), source(noisy), start, 1, window)) is None
    away = Transform([[1, 0, 900], [0, 1, 0], [0, 0, 1]], fixed_shape=SHAPE, moving_shape=SHAPE)
    assert fit_tile(Tile(source(fixed), source(moving), away, 1, window)) is None


def test_blocks_without_texture_say_nothing(pair):
    fixed, moving, _ = pair
    half = moving.copy()
    half[:, 260:] = 40 + np.random.default_rng(0).normal(0, 1, half[:, 260:].shape)
    start = Transform.identity(SHAPE)
    fit = fit_tile(Tile(source(fixed), source(half), start, 1, np.s_[0:400, 0:520]))
    assert fit.position[:, 1].max() < 275
    assert fit.position[:, 0].max() > 380  # the border of the image counts


def test_what_a_tile_says_does_not_depend_on_where_it_started(pair):
    fixed, moving, truth = pair
    starts = [Transform(truth.affine, fixed_shape=SHAPE, moving_shape=SHAPE)]
    wave = 2 * np.sin(np.mgrid[:400, :520] / 40).astype(np.float32)
    starts.append(Transform(truth.affine, wave, fixed_shape=SHAPE, moving_shape=SHAPE))
    one, two = (
        fit_tile(Tile(source(fixed), source(moving), start, 1, np.s_[100:356, 100:356]))
        for start in starts
    )
    wanted = truth.displacement[:, 100:356, 100:356].mean((1, 2))
    for fit in (one, two):
        np.testing.assert_allclose(fit.move(starts[0]), wanted, atol=0.6)
    np.testing.assert_allclose(one.move(starts[0]), two.move(starts[0]), atol=0.3)


def fit_of(move, top=0, left=0, side=512):
    """Blocks that all say the same, as sure as 0.5 px."""
    rows, cols = np.mgrid[top + 8 : top + side : 16, left + 8 : left + side : 16]
    position = np.stack([rows.ravel(), cols.ravel()], 1).astype(float)
    information = np.broadcast_to(4 * np.eye(2), (len(position), 2, 2))
    return TileFit(position, information, 4 * np.broadcast_to(move, position.shape), 1.0)


def test_the_least_determinant_of_joined_moves():
    rows, cols = np.mgrid[:6, :8] * float(NODES)
    move = np.stack([0.2 * rows + 0.5 * cols, -0.3 * rows - 0.4 * cols])
    assert _least_jacobian(move) == pytest.approx(1.2 * 0.6 + 0.5 * 0.3)


def test_joined_moves_are_those_of_the_tiles_and_small_beside_them():
    shape = (1024, 1024)
    fits = [fit_of((2.0, -1.0), 0, 0), fit_of((2.0, -1.0), 0, 512)]
    moves, median = join(fits, Transform.identity(shape), 1, np.ones((64, 64), bool))
    found = moves.points([[100, 100], [250, 700], [1000, 500]])
    np.testing.assert_allclose(found[:2] - [[100, 100], [250, 700]], [[2, -1]] * 2, atol=0.05)
    assert np.linalg.norm(found[2] - [1000, 500]) < 1.5
    assert 0.5 < median < 2.3


@pytest.mark.parametrize("textured", [True, False])
def test_a_gap_keeps_the_transform_before_only_where_that_can_tell(textured):
    """All around a gap, blocks say that nothing is displaced; the start is, in the gap."""
    shape = (2048, 2048)
    rows, cols = np.mgrid[:64, :64]
    bump = 6 * np.exp(-((rows - 31.5) ** 2 + (cols - 31.5) ** 2) / 200)
    start = Transform(
        displacement=np.stack([bump, 0 * bump]), fixed_shape=shape, moving_shape=shape, spacing=32
    )
    fit = fit_of((0.0, 0.0), side=2048)
    outside = (abs(fit.position - 1023.5) > 500).any(1)
    fit = TileFit(fit.position[outside], fit.information[outside], fit.moment[outside], 1.0)
    found, _ = join([fit], start, 2, np.full((64, 64), textured))
    displaced = found.points([1023.5, 1023.5]) - 1023.5
    assert displaced[1] == pytest.approx(0, abs=0.05)
    assert (displaced[0] > 3.5) if textured else (abs(displaced[0]) < 0.3)


def test_joined_moves_do_not_fold():
    opposite = [fit_of((200.0, 0.0), 0, 0, 256), fit_of((-200.0, 0.0), 256, 0, 256)]
    moves, _ = join(opposite, Transform.identity((512, 512)), 1, np.zeros((64, 64), bool))
    assert moves.jacobian_determinant().min() > 0.05


def test_a_tile_that_moves_unlike_those_around_it_is_left_out():
    fits = {
        (row, col): fit_of((1 + 0.1 * row, 0.5), 512 * row, 512 * col)
        for row in range(3)
        for col in range(3)
    }
    start = Transform.identity((1536, 1536))
    assert not outlying(fits, start, 1)
    fits[1, 1] = fit_of((7.0, 0.5), 512, 512)
    assert outlying(fits, start, 1) == {(1, 1)}
    assert not outlying(fits, start, 8)  # on a coarse level it is not that far


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_block_means_are_means(dtype, monkeypatch):
    image = (np.random.default_rng(0).random((50, 41, 3)) * 200).astype(dtype)
    found = block_means(image, 4)
    assert found.shape == (13, 11, 3) and found.dtype == dtype
    wanted = image[8:12, 20:24].mean((0, 1))
    np.testing.assert_allclose(found[2, 5], wanted, atol=0.5 if dtype != np.float32 else 1e-4)
    np.testing.assert_allclose(found[12, 10].astype(float), image[48:, 40:].mean((0, 1)), atol=0.5)
    monkeypatch.setattr("napari_busref.images.block_means._STRIP", 1)
    np.testing.assert_array_equal(block_means(image, 4, np.s_[3:9, 2:5]), found[3:9, 2:5])


def test_block_means_leave_out_missing_pixels():
    image = np.full((8, 8), 10.0)
    image[0, 0] = image[4:, 4:] = np.nan
    found = block_means(image, 4)
    assert found[0, 0] == 10 and np.isnan(found[1, 1])
    masked = block_means(np.where(np.isnan(image), -9999, image).astype(np.int16), 4, nodata=-9999)
    np.testing.assert_array_equal(masked.mask, [[0, 0], [0, 1]])
    assert masked[0, 0] == 10


def test_block_means_use_the_levels_that_a_file_has():
    class Levelled(Unread):
        levels = ()

    full = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    half = block_means(full, 2)
    image = Levelled(full, 0)  # its full resolution may not be read
    image.levels = (image, Unread(half, 1e6))
    np.testing.assert_allclose(block_means(image, 4), block_means(full, 4), rtol=1e-5)


def test_a_mask_of_a_coarse_level_speaks_of_the_pixels_it_covers():
    """The mask has a third of the sides; pixel (1, 2) lies over rows 3 to 5, columns 6 to 8."""
    image = np.random.default_rng(0).random((30, 36)).astype(np.float32)
    valid = np.ones((10, 12), bool)
    valid[1, 2] = False
    side = replace(source(image), valid=valid)
    known = side.prepared(1, np.s_[0:30, 0:36]).valid
    expected = np.ones((30, 36), bool)
    expected[3:6, 6:9] = False
    np.testing.assert_array_equal(known, expected)
    np.testing.assert_array_equal(side.prepared(1, np.s_[4:20, 7:30]).valid, expected[4:20, 7:30])
    # of a level of a third, it is the mask itself
    np.testing.assert_array_equal(side.prepared(3, np.s_[0:10, 0:12]).valid, valid)


def test_a_tile_places_its_blocks_in_pixels_of_the_level(pair):
    """A tile whose texture is in one corner says nothing elsewhere, wide or tall."""
    fixed, moving, _ = pair
    start = Transform.identity(SHAPE)
    noise = np.random.default_rng(0).normal(0, 1, moving.shape)
    flat = np.clip(40 + noise, 0, 255).astype(moving.dtype)
    for window in (np.s_[100:200, 40:440], np.s_[40:360, 100:200]):
        part = flat.copy()
        corner = np.s_[: window[0].start + 80, : window[1].start + 80]
        part[corner] = moving[corner]
        fit = fit_tile(Tile(source(fixed), source(part), start, 1, window))
        rows, cols = fit.position.T
        assert rows.max() < window[0].start + 95 and cols.max() < window[1].start + 95
        assert rows.min() < window[0].start + 40 and cols.min() < window[1].start + 40


@pytest.mark.parametrize("window", [np.s_[30:330, 60:480], np.s_[20:380, 200:400]])
def test_blocks_say_where_they_lie(pair, window):
    """The scene is larger by 4 %, so a block that says 41 px elsewhere is wrong by 1.6 px."""
    fixed, moving, truth = pair
    aligned = truth.apply(moving, cval=0)
    affine = np.diag([1.04, 1.04, 1])
    affine[:2, 2] = -8.0
    larger = Transform(affine, fixed_shape=SHAPE, moving_shape=SHAPE)
    start = Transform.identity(SHAPE)
    part = larger.inverse().apply(aligned, cval=0)
    fit = fit_tile(Tile(source(fixed), source(part), start, 1, window))
    said = np.linalg.solve(fit.information + 1e-6 * np.eye(2), fit.moment[..., None])[..., 0]
    sure = np.linalg.det(fit.information) > np.median(np.linalg.det(fit.information))
    wanted = fit.position * 0.04 - 8
    # the bias over the window, along rows and columns
    apart = (said - wanted)[sure]
    assert np.abs(np.median(apart, 0)).max() < 0.6
    slope = [np.polyfit(fit.position[sure, axis], said[sure, axis], 1)[0] for axis in (0, 1)]
    np.testing.assert_allclose(slope, 0.04, atol=0.02)
