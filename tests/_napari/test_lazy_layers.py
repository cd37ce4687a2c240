"""Reading within a budget and warping on demand, with a count of the chunks read."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip("napari")

import dask.array as da
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_busref._napari.layers import reading
from napari_busref._napari.layers.lazy import Source, lazy_array, warp_window
from napari_busref._napari.layers.planes import shown_plane
from napari_busref._napari.layers.reading import Reading, choose_reading
from napari_busref._napari.register.masks import mask_on
from napari_busref.runtime.progress import Cancelled
from napari_busref.transforms.grids import Grid
from napari_busref.transforms.transform import Transform


class Counted:
    """A chunked array that records every read."""

    def __init__(self, data, chunk=64):
        self.data, self.shape, self.dtype, self.ndim = data, data.shape, data.dtype, data.ndim
        self.chunk, self.reads, self.lock = chunk, [], threading.Lock()

    def __getitem__(self, index):
        piece = self.data[index]
        with self.lock:
            self.reads.append(piece.size)
        return piece

    def dask(self):
        return da.from_array(self, chunks=self.chunk, asarray=False, lock=False)


def plane_of(data, **kwargs):
    levels = isinstance(data, list)
    kind = Labels if kwargs.pop("labels", False) else Image
    if kind is Image:
        kwargs.setdefault("contrast_limits", (0, 255))
    layer = kind(data, multiscale=levels, **kwargs)
    viewer = ViewerModel()
    viewer.add_layer(layer)
    return shown_plane(layer, viewer)


def picture(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(np.uint8)


def means(image, step):
    rows, cols = (size // step for size in image.shape[:2])
    cut = image[: rows * step, : cols * step].astype(float)
    return cut.reshape(rows, step, cols, step, *image.shape[2:]).mean((1, 3))


# -- reading ----------------------------------------------------------------------------------


def test_the_finest_level_within_the_budget_is_chosen():
    full = picture((64, 96))
    plane = plane_of([full, full[::2, ::2], full[::4, ::4]])
    for budget, level in ((64 * 96, 0), (64 * 96 - 1, 1), (500, 2)):
        chosen = choose_reading(plane, budget)
        assert (chosen.level, chosen.step) == (level, 1)
        assert chosen.grid.step == (2.0**level, 2.0**level)
    further = choose_reading(plane, 100)
    assert (further.level, further.step) == (2, 2)
    assert further.grid == Grid((8, 12), (8.0, 8.0))


@pytest.mark.parametrize("budget", [1, 7, 100, 5000, 64 * 96])
def test_no_reading_exceeds_its_budget(budget):
    plane = plane_of(picture((64, 96)))
    chosen = choose_reading(plane, budget)
    assert chosen.read().shape == chosen.grid.shape
    assert np.prod(chosen.grid.shape) <= budget


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_reduced_reading_is_the_mean(channels, monkeypatch):
    monkeypatch.setattr(reading, "PIXEL_BUDGET", 4 * 20 * 20)
    image = picture((50, 77, *channels))
    plane = plane_of(image, rgb=True) if channels else plane_of(image)
    found = Reading(plane, 0, 3).read()
    assert found.dtype == np.uint8
    assert found.shape == (16, 25, *channels)
    np.testing.assert_array_equal(found, np.rint(means(image, 3)))


def test_a_nearest_reading_keeps_labels():
    labels = np.repeat(np.repeat(np.arange(12).reshape(3, 4) * 1000, 5, 0), 5, 1)
    plane = plane_of(labels, labels=True)
    np.testing.assert_array_equal(Reading(plane, 0, 5).read("nearest"), labels[2::5, 2::5])


def test_a_large_lazy_plane_is_read_once_in_small_pieces(monkeypatch):
    monkeypatch.setattr(reading, "PIXEL_BUDGET", 128 * 128)
    stored = Counted(picture((512, 768)))
    plane = plane_of(stored.dask())
    chosen = choose_reading(plane, 128 * 128)
    stored.reads.clear()
    found = chosen.read()
    np.testing.assert_array_equal(found, np.rint(means(stored.data, chosen.step)))
    assert chosen.step == 5
    # chunks of 64 and blocks of 5 share no edges: no chunk is read more than four times
    assert sum(stored.reads) < 4 * stored.data.size
    assert max(stored.reads) <= 64 * 64


def test_pieces_end_where_chunks_end_if_they_can(monkeypatch):
    monkeypatch.setattr(reading, "PIXEL_BUDGET", 256 * 256)
    stored = Counted(picture((512, 768)))
    plane = plane_of(stored.dask())
    stored.reads.clear()
    Reading(plane, 0, 4).read()
    assert sum(stored.reads) == stored.data.size  # each chunk once


def test_a_plane_of_a_lazy_stack_reads_no_other_plane():
    stored = Counted(picture((5, 128, 128)), chunk=(1, 64, 64))
    plane = plane_of(stored.dask())
    stored.reads.clear()
    Reading(plane.at((3,)), 0, 2).read()
    assert sum(stored.reads) == 128 * 128


def test_fewer_planes_on_a_coarser_level():
    full = np.arange(8, dtype=np.uint8)[:, None, None] * np.ones((1, 32, 32), np.uint8)
    plane = plane_of([full, full[::2, ::2, ::2]]).at((6,))
    assert (Reading(plane, 1, 1).read() == 6).all()


def test_reading_can_be_cancelled():
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        Reading(plane_of(picture((32, 32))), 0, 2).read(cancel=cancel)


# -- warping ----------------------------------------------------------------------------------


def warp_of(fixed_shape, moving_shape, seed=0):
    rng = np.random.default_rng(seed)
    affine = [[1.02, 0.03, 4.0], [-0.04, 0.97, -3.0], [0, 0, 1]]
    field = rng.normal(0, 2, (2, *fixed_shape)).astype(np.float32)
    return Transform(affine, field, fixed_shape=fixed_shape, moving_shape=moving_shape)


@pytest.mark.parametrize("dtype", [np.uint8, ">u2", np.float32, bool])
@pytest.mark.parametrize("order", [0, 1])
def test_block_by_block_is_the_same_as_at_once(dtype, order):
    image = (picture((70, 90)) % 2).astype(bool) if dtype is bool else picture((70, 90))
    plane = plane_of(image.astype(dtype))
    transform = warp_of((60, 50), (70, 90))
    expected = transform.apply(image.astype(dtype), order=order)
    for window in ((slice(0, 60), slice(0, 50)), (slice(13, 40), slice(30, 50))):
        found = warp_window(Source(plane), transform, Grid((60, 50)), window, order=order)
        assert found.dtype == expected.dtype
        # a window rounds float32 coordinates differently in the last digits
        part = expected[window].astype(float)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(part))
        error = np.nanmax(np.abs(found.astype(float) - part))
        assert error <= (1 if found.dtype.kind != "f" else 0.05)
        assert (found.astype(float) == part).mean() > 0.99 or found.dtype.kind == "f"


def test_only_the_source_of_a_block_is_read():
    stored = Counted(picture((2048, 2048)), chunk=128)
    plane = plane_of(stored.dask())
    shift = [[1, 0, 300.0], [0, 1, -200.0], [0, 0, 1]]
    shape = (2048, 2048)
    transform = Transform(shift, fixed_shape=shape, moving_shape=shape)
    warped = lazy_array(
        shape,
        (0, 1),
        lambda _, window: warp_window(Source(plane), transform, Grid(shape), window, nested=True),
        np.uint8,
    )
    stored.reads.clear()
    corner = warped[:512, 512:1024].compute()
    np.testing.assert_array_equal(corner, transform.apply(stored.data)[:512, 512:1024])
    # rows 300..812 and columns 312..824 lie in 5 x 5 chunks
    assert len(stored.reads) <= 6 * 6
    assert sum(stored.reads) <= 36 * 128 * 128


def test_a_block_without_a_source_reads_nothing():
    stored = Counted(picture((256, 256)), chunk=64)
    plane = plane_of(stored.dask())
    away = Transform(
        [[1, 0, 5000.0], [0, 1, 0], [0, 0, 1]], fixed_shape=(64, 64), moving_shape=(256, 256)
    )
    stored.reads.clear()
    window = (slice(0, 64), slice(0, 64))
    found = warp_window(Source(plane), away, Grid((64, 64)), window, cval=7)
    assert (found == 7).all()
    assert found.dtype == np.uint8
    assert not stored.reads


def test_coarse_levels_come_from_coarse_levels():
    full = picture((512, 512))
    levels = [Counted(full), Counted(full[::2, ::2]), Counted(full[::4, ::4])]
    plane = plane_of([level.dask() for level in levels])
    transform = Transform.identity((512, 512))
    for number, level in enumerate(levels):
        for one in levels:
            one.reads.clear()
        side = 512 // 2**number
        window = (slice(0, side), slice(0, side))
        grid = Grid.over((side, side), (512, 512))
        found = warp_window(Source(plane), transform, grid, window)
        np.testing.assert_array_equal(found, level.data)
        assert [bool(one.reads) for one in levels] == [one is level for one in levels]


def test_a_copy_in_memory_saves_reading():
    stored = Counted(picture((512, 512)))
    plane = plane_of(stored.dask())
    copy = np.rint(means(stored.data, 4)).astype(np.uint8)
    grid = Grid((128, 128), (4.0, 4.0))
    stored.reads.clear()
    transform = Transform.identity((512, 512))
    window = (slice(0, 128), slice(0, 128))
    found = warp_window(Source(plane, ((grid, copy),)), transform, grid, window)
    np.testing.assert_array_equal(found, copy)
    assert not stored.reads
    # without the copy: the mean, not every fourth pixel
    found = warp_window(Source(plane), transform, grid, window)
    np.testing.assert_array_equal(found, copy)


def test_the_array_of_a_stack_knows_its_planes():
    asked = []

    def compute(position, window):
        asked.append((position, window))
        shape = [part.stop - part.start for part in window]
        return np.full((*shape, 3), position[0], np.uint8)

    array = lazy_array((20, 4, 600), (0, 2), compute, np.uint8, (3,))
    assert array.shape == (20, 4, 600, 3)
    assert not asked
    assert (array[:, 2].compute() == 2).all()
    assert {position for position, _ in asked} == {(2,)}
    assert {(window[1].start, window[1].stop) for _, window in asked} == {(0, 512), (512, 600)}


# -- masks ------------------------------------------------------------------------------------


def test_labels_on_another_grid_come_through_the_world():
    labels = np.zeros((10, 10), int)
    labels[2:4, 5:9] = 3
    mask_plane = plane_of(labels, labels=True, scale=(4, 4), translate=(1.5, 1.5))
    image = plane_of(picture((40, 40)))
    mask = mask_on(mask_plane, image, Grid((40, 40)))
    expected = np.zeros((40, 40), bool)
    expected[8:16, 20:36] = True
    np.testing.assert_array_equal(mask, expected)
    half = mask_on(mask_plane, image, Grid((20, 20), (2.0, 2.0)))
    np.testing.assert_array_equal(half, expected[::2, ::2])


def test_labels_end_where_their_layer_ends():
    labels = np.ones((10, 10), int)
    image = plane_of(picture((40, 40)))
    mask = mask_on(plane_of(labels, labels=True, translate=(5, 7)), image, Grid((40, 40)))
    expected = np.zeros((40, 40), bool)
    expected[5:15, 7:17] = True
    np.testing.assert_array_equal(mask, expected)


def test_labels_beside_the_image_are_refused():
    image = plane_of(picture((40, 40)), name="ir")
    for labels in (
        plane_of(np.zeros((40, 40), int), labels=True, name="empty"),
        plane_of(np.ones((40, 40), int), labels=True, name="empty", translate=(100, 0)),
    ):
        with pytest.raises(ValueError, match="'empty' marks nothing of image layer 'ir'"):
            mask_on(labels, image, Grid((40, 40)))
